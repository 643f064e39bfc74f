package pullthrough_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"drayage/engine/chaos/chaostest"
	"drayage/engine/registry/registrytest"

	"github.com/opencontainers/go-digest"
)

// lists reports whether an image of the store lists a blob.
func (r *relay) lists(name string, d digest.Digest) bool {
	r.t.Helper()
	root, err := r.store.Root(name)
	if err != nil {
		r.t.Fatal(err)
	}
	return slices.Contains(root.Blobs, d)
}

// A blob becomes part of the images of those repositories alone that have it, whichever it came
// from, and whatever manifests say.
func TestThroughKeepsABlobWithThoseAloneThatHaveIt(t *testing.T) {
	for _, has := range []bool{false, true} {
		r := newFrontOf(t, 2, time.Hour, 0, time.Minute)
		img := registrytest.Build("linux/amd64", registrytest.Random(1, 1<<20))
		layer := img.Layers[0].Digest
		for _, s := range r.others {
			s.Push("team/app", "1", img)
		}
		if !has {
			r.others[0].DropBlob("team/app", layer)
		}
		for i := range r.others {
			r.get(r.of(i, "team/app/manifests/1"))
		}
		first, second := r.others[0].Host()+"/team/app:1", r.others[1].Host()+"/team/app:1"
		begun, release := make(chan struct{}, 100), make(chan struct{})
		r.others[0].Break("/blobs/", registrytest.Always, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				begun <- struct{}{}
				<-release
				next.ServeHTTP(w, req)
			})
		})
		want := http.StatusNotFound
		if has {
			want = http.StatusOK
		}
		var client sync.WaitGroup
		client.Go(func() {
			if resp, _ := r.get(r.of(0, "team/app/blobs/"+layer.String())); resp.StatusCode != want {
				t.Errorf("the one that was asked first: %d, want %d", resp.StatusCode, want)
			}
		})
		<-begun
		if resp, _ := r.get(r.of(1, "team/app/blobs/"+layer.String())); resp.StatusCode != http.StatusOK {
			t.Errorf("the one that joined: %d", resp.StatusCode)
		}
		// Clients have the last byte before that.
		until(t, "the blob is kept", func() bool { return r.through.InFlight() == 0 && r.lists(second, layer) })
		if r.lists(first, layer) {
			t.Error("it is part of an image whose repository has said nothing yet")
		}
		close(release)
		client.Wait()
		r.through.Wait()
		if r.lists(first, layer) != has {
			t.Errorf("it is part of the first one's image: %v", !has)
		}
	}
}

// crawls sends the beginning of something and then a byte now and then, until release is closed, at
// the first GET of a blob, and nothing to others. Then they are answered as they should be.
func crawls(beginning []byte, release <-chan struct{}, begun chan<- struct{}) chaostest.Fault {
	var gets atomic.Int64
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			select {
			case <-release:
				next.ServeHTTP(w, req)
				return
			default:
			}
			if req.Method == http.MethodHead || gets.Add(1) > 1 {
				if req.Method == http.MethodGet {
					select {
					case <-release:
					case <-req.Context().Done():
					}
				}
				next.ServeHTTP(w, req)
				return
			}
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, req)
			rest := rec.Body.Bytes()
			w.Header().Set("Content-Length", fmt.Sprint(len(rest)))
			_, _ = w.Write(beginning)
			rest = rest[len(beginning):]
			begun <- struct{}{}
			for len(rest) > 0 {
				_, _ = w.Write(rest[:1])
				rest = rest[1:]
				_ = http.NewResponseController(w).Flush()
				select {
				case <-release: // the connection ends with the handler
					return
				case <-req.Context().Done():
					return
				case <-time.After(20 * time.Millisecond):
				}
			}
		})
	}
}

// gave tells of each blob that a registry has given, as a fault of it has it.
func gave(to chan<- string, f chaostest.Fault) chaostest.Fault {
	return func(next http.Handler) http.Handler {
		other := f(next)
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.Method == http.MethodHead {
				next.ServeHTTP(w, req)
				return
			}
			other.ServeHTTP(w, req)
			_ = http.NewResponseController(w).Flush()
			to <- req.URL.Path
		})
	}
}

// Whoever joins with other content than the digest says is found out, gets no part in what is
// fetched for others for a while, and its images don't list the blob.
func TestThroughExcludesGuestsThatSpoilWhatTheyJoin(t *testing.T) {
	r := newFrontOf(t, 2, time.Hour, 0, time.Minute)
	r.through.Grace(time.Hour)
	one, two := registrytest.Build("linux/amd64", registrytest.Random(1, 1<<20)), registrytest.Build("linux/amd64", registrytest.Random(2, 1<<20))
	for _, s := range r.others {
		s.Push("team/app", "1", one)
		s.Push("team/app", "2", two)
	}
	for i := range r.others {
		r.get(r.of(i, "team/app/manifests/1"))
		r.get(r.of(i, "team/app/manifests/2"))
	}
	asked := make(chan string, 100)
	r.others[1].Break("/blobs/", registrytest.Always, gave(asked, otherContent))
	fetch := func(img registrytest.Image, during func(), release chan struct{}) {
		t.Helper()
		begun := make(chan struct{}, 100)
		rest := "team/app/blobs/" + img.Layers[0].Digest.String()
		r.others[0].Break(rest, registrytest.Always, crawls(nil, release, begun))
		var clients sync.WaitGroup
		clients.Go(func() {
			const tries = 3 // one who was given bytes that turn out wrong is cut off, and asks again
			for n := range tries {
				resp, body, err := r.try(t.Context(), r.of(0, rest))
				if err == nil && resp.StatusCode == http.StatusOK && bytes.Equal(body, img.Blobs[img.Layers[0].Digest]) {
					break
				}
				if n == tries-1 {
					t.Errorf("the first client: %d, %d bytes, %v", resp.StatusCode, len(body), err)
				}
			}
		})
		<-begun
		ctx, leave := context.WithCancel(t.Context())
		clients.Go(func() { _, _, _ = r.try(ctx, r.of(1, rest)) })
		during()
		clients.Go(func() {
			until(t, "the fetch is over", func() bool { return r.through.InFlight() == 0 })
			leave()
		})
		clients.Wait()
		leave()
		until(t, "the fetch is over", func() bool { return r.through.InFlight() == 0 })
	}
	release := make(chan struct{})
	fetch(one, func() {
		<-asked
		close(release)
	}, release)
	if !r.lists(r.others[0].Host()+"/team/app:1", one.Layers[0].Digest) || r.lists(r.others[1].Host()+"/team/app:1", one.Layers[0].Digest) {
		t.Error("the wrong image lists the blob")
	}
	if !r.through.Excluded(r.others[1].Host()+"/team/app") || r.through.Excluded(r.others[0].Host()+"/team/app") {
		t.Error("another one is excluded than the one that sends other content")
	}
	for len(asked) > 0 {
		<-asked
	}
	release = make(chan struct{})
	fetch(two, func() {
		defer close(release)
		select {
		case path := <-asked:
			t.Errorf("it was asked again, for %s", path)
		case <-time.After(4 * time.Second): // twice what it would take
		}
	}, release)
}

// A guest whose content was right is not excluded for what the one that was first has spoiled.
func TestThroughExcludesNoGuestForWhatOthersSpoil(t *testing.T) {
	r := newFrontOf(t, 2, time.Hour, 0, time.Minute)
	r.through.Grace(time.Hour)
	img := registrytest.Build("linux/amd64", registrytest.Random(1, 1<<20))
	layer := img.Layers[0].Digest
	for i, s := range r.others {
		s.Push("team/app", "1", img)
		r.get(r.of(i, "team/app/manifests/1"))
	}
	begun := make(chan struct{}, 100)
	rest := "team/app/blobs/" + layer.String()
	given, release := make(chan string, 100), make(chan struct{})
	r.others[0].Break(rest, registrytest.Always, crawls(bytes.Repeat([]byte("x"), 200<<10), release, begun))
	r.others[1].Break(rest, registrytest.Always, gave(given, func(next http.Handler) http.Handler { return next }))
	var clients sync.WaitGroup
	clients.Go(func() { _, _, _ = r.try(t.Context(), r.of(0, rest)) })
	<-begun
	clients.Go(func() { _, _, _ = r.try(t.Context(), r.of(1, rest)) })
	<-given
	close(release)
	clients.Wait()
	until(t, "the fetch is over", func() bool { return r.through.InFlight() == 0 })
	r.through.Wait()
	if r.through.Excluded(r.others[1].Host()+"/team/app") || !r.lists(r.others[1].Host()+"/team/app:1", layer) {
		t.Error("it is excluded")
	}
}

// Whoever has spoiled one fetch is left out of those as well that it is taking part in.
func TestThroughExcludesGuestsFromWhatIsUnderWay(t *testing.T) {
	r := newFrontOf(t, 2, time.Hour, 0, time.Minute)
	r.through.Grace(time.Hour)
	images := []registrytest.Image{
		registrytest.Build("linux/amd64", registrytest.Random(1, 1<<20)), registrytest.Build("linux/amd64", registrytest.Random(2, 1<<20)),
	}
	for i, s := range r.others {
		for n, img := range images {
			s.Push("team/app", fmt.Sprint(n), img)
			r.get(r.of(i, "team/app/manifests/"+fmt.Sprint(n)))
		}
	}
	evil := r.others[1].Host() + "/team/app"
	var clients sync.WaitGroup
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	var release []chan struct{}
	asked, given := make(chan string, 100), make(chan string, 100)
	for n, img := range images {
		release = append(release, make(chan struct{}))
		rest, begun := "team/app/blobs/"+img.Layers[0].Digest.String(), make(chan struct{}, 100)
		r.others[0].Break(rest, registrytest.Always, crawls(nil, release[n], begun))
		r.others[1].Break(rest, registrytest.Always, func(next http.Handler) http.Handler {
			if n == 0 {
				return gave(given, otherContent)(next)
			}
			return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if req.Method == http.MethodHead {
					next.ServeHTTP(w, req)
					return
				}
				asked <- req.URL.Path
				until(t, "it is excluded", func() bool { return r.through.Excluded(evil) || req.Context().Err() != nil })
				otherContent(next).ServeHTTP(w, req)
			})
		})
		clients.Go(func() {
			resp, body, err := r.try(t.Context(), r.of(0, rest))
			if n == 1 && (err != nil || resp.StatusCode != http.StatusOK || !bytes.Equal(body, img.Blobs[img.Layers[0].Digest])) {
				t.Errorf("%d, %d bytes, %v", resp.StatusCode, len(body), err)
			}
		})
		<-begun
		clients.Go(func() { _, _, _ = r.try(ctx, r.of(1, rest)) })
	}
	<-given
	<-asked
	close(release[0])
	until(t, "it is excluded", func() bool { return r.through.Excluded(evil) })
	close(release[1])
	until(t, "the fetch is over", func() bool { return r.through.InFlight() == 0 })
	leave()
	clients.Wait()
}
