package pullthrough_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"drayage/engine/chaos/chaostest"
	"drayage/engine/internal/limits"
	"drayage/engine/limitstest"
	"drayage/engine/mirror"
	"drayage/engine/reference"
	"drayage/engine/registry"
	"drayage/engine/registry/registrytest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func parse(t *testing.T, name string) reference.Image {
	t.Helper()
	ref, err := reference.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// Whoever asks at the same time whether a repository has something shares one request, which goes
// on as long as anybody waits for it.
func TestHoldsAsksOnceForAll(t *testing.T) {
	const clients = 100
	for _, manifest := range []bool{false, true} {
		r := newFront(t, 1, 0, 0)
		img := registrytest.Build("linux/amd64", registrytest.Random(1, 1000))
		r.upstream.Push("team/app", "1", img)
		ref, d, part := parse(t, r.upstream.Host()+"/team/app:1"), img.Layers[0].Digest, "/blobs/"
		if manifest {
			d, part = img.Descriptor.Digest, "/manifests/"
		}
		release := make(chan struct{})
		r.upstream.Break(part, registrytest.Always, chaostest.Hold(release))
		var all sync.WaitGroup
		for range clients {
			all.Go(func() {
				if err := r.through.Holds(t.Context(), ref, d, manifest); err != nil {
					t.Error(err)
				}
			})
		}
		until(t, "all ask", func() bool { return r.through.Proving() == clients })
		close(release)
		all.Wait()
		if n := r.upstream.Count(part); n != 1 {
			t.Errorf("%d requests for one answer, of a manifest: %v", n, manifest)
		}
		if err := r.through.Holds(t.Context(), ref, d, manifest); err != nil || r.upstream.Count(part) != 1 {
			t.Errorf("asked again: %v", err)
		}
	}
}

func TestHoldsEndsWithItsLastClient(t *testing.T) {
	r := newFront(t, 1, 0, 0)
	asked, gone := make(chan struct{}, 10), make(chan struct{}, 10)
	r.upstream.Break("/blobs/", registrytest.Always, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
			asked <- struct{}{}
			<-req.Context().Done()
			gone <- struct{}{}
		})
	})
	ref, d := parse(t, r.upstream.Host()+"/team/app:1"), digest.FromString("x")
	var all sync.WaitGroup
	var leave []context.CancelFunc
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		leave = append(leave, cancel)
		all.Go(func() {
			if err := r.through.Holds(ctx, ref, d, false); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	<-asked
	until(t, "all ask", func() bool { return r.through.Proving() == len(leave) })
	for i, cancel := range leave {
		select {
		case <-gone:
			t.Error("the question ended before its last client left")
		default:
		}
		cancel()
		until(t, "one has left", func() bool { return r.through.Proving() <= max(1, len(leave)-i-1) })
	}
	all.Wait()
	<-gone
	r.through.Wait()
	if known, _ := r.through.Proven(ref, d); known {
		t.Error("what nobody waited for counts as an answer")
	}
}

// What a repository doesn't have as a blob it may have as a manifest.
func TestHoldsTellsManifestsFromBlobs(t *testing.T) {
	r := newFront(t, 1, 0, 0)
	img := registrytest.Build("linux/amd64", registrytest.Random(1, 1000))
	r.upstream.Push("team/app", "1", img)
	ref, d := parse(t, r.upstream.Host()+"/team/app:1"), img.Descriptor.Digest
	if err := r.through.Holds(t.Context(), ref, d, false); !errors.Is(err, mirror.ErrUnknown) {
		t.Errorf("as a blob: %v", err)
	}
	if err := r.through.Holds(t.Context(), ref, d, true); err != nil {
		t.Errorf("as a manifest: %v", err)
	}
	if err := r.through.Holds(t.Context(), ref, d, false); !errors.Is(err, mirror.ErrUnknown) {
		t.Errorf("as a blob, after that: %v", err)
	}
}

// A registry that doesn't answer, or drips, takes its own turns alone, and none for ever.
func TestHoldsOfASilentRegistryHoldUpNoOther(t *testing.T) {
	r := newFront(t, 2, 0, 0)
	img := registrytest.Build("linux/amd64", registrytest.Random(1, 1000))
	r.others[1].Push("team/app", "1", img)
	var now, most atomic.Int64
	r.others[0].Break("/v2/team", registrytest.Always, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
			n := now.Add(1)
			defer now.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			<-req.Context().Done()
		})
	})
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	const each = 50
	silent, other := parse(t, r.others[0].Host()+"/team/app:1"), parse(t, r.others[1].Host()+"/team/app:1")
	var all sync.WaitGroup
	for i := range each {
		for _, manifest := range []bool{false, true} {
			all.Go(func() { _ = r.through.Holds(ctx, silent, digest.FromString(fmt.Sprint(i)), manifest) })
		}
	}
	until(t, "all ask", func() bool { return r.through.Proving() == 2*each && now.Load() >= limits.QuestionsPerRegistry })
	if err := errors.Join(r.through.Holds(t.Context(), other, img.Layers[0].Digest, false), r.through.Holds(t.Context(), other, img.Descriptor.Digest, true)); err != nil {
		t.Error(err)
	}
	leave()
	all.Wait()
	r.through.Wait()
	if most.Load() > limits.QuestionsPerRegistry {
		t.Errorf("%d questions to one registry at once", most.Load())
	}

	// One that drips gets no more time than one that is silent.
	r.through.Within(200 * time.Millisecond)
	gone := make(chan struct{})
	r.others[1].Break("/manifests/", registrytest.Always, func(next http.Handler) http.Handler {
		dripping := drip(1, gone)(next)
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.Method == http.MethodHead {
				w.WriteHeader(http.StatusMethodNotAllowed) // it tells nothing: GET does
				return
			}
			dripping.ServeHTTP(w, req)
		})
	})
	second := registrytest.Build("linux/amd64", registrytest.Random(2, 1000))
	r.others[1].Push("team/app", "2", second)
	if err := r.through.Holds(t.Context(), other, second.Descriptor.Digest, true); !errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("one that drips: %v", err)
	}
	<-gone
}

// A manifest that lists much that has to be asked for is given all the same, and soon.
func TestTakesWithinItsTime(t *testing.T) {
	r := newFront(t, 1, 0, 0)
	var layers [][]byte
	for i := range uint64(20) {
		layers = append(layers, registrytest.Random(i, 100))
	}
	img := registrytest.Build("linux/amd64", layers...)
	r.upstream.Push("team/secret", "1", img)
	r.get("/v2/team/secret/manifests/1")
	for _, d := range append(img.Layers, img.Config) {
		if resp, _ := r.get("/v2/team/secret/blobs/" + d.Digest.String()); resp.StatusCode != http.StatusOK {
			t.Fatal(resp.StatusCode)
		}
	}
	r.through.Wait()
	r.through.Withheld = func(ref reference.Image, _ digest.Digest) bool { return ref.Repository() != "team/secret" }
	r.through.Taking(100 * time.Millisecond)
	r.upstream.PushManifest("evil/app", "1", img.Descriptor.MediaType, img.Manifest)
	r.upstream.PushManifest("evil/app", "2", ocispec.MediaTypeImageIndex, registrytest.Index(ocispec.MediaTypeImageIndex, img.Descriptor))
	r.upstream.Break("evil/app/blobs/", registrytest.Always, silentAlways)
	for _, tag := range []string{"1", "2"} {
		if resp, _ := r.get("/v2/evil/app/manifests/" + tag); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", tag, resp.StatusCode)
		}
	}
	if n := r.upstream.Count("evil/app/blobs/"); n != 1 {
		t.Errorf("%d questions of a registry that answers none", n)
	}
	root, err := r.store.Root(r.upstream.Host() + "/evil/app:1")
	if err != nil || len(root.Blobs) != 1 {
		t.Errorf("it lists %d blobs, %v", len(root.Blobs), err)
	}
}

// silentAlways answers nothing.
func silentAlways(http.Handler) http.Handler {
	return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
}

// What is remembered of registries' answers is bounded in bytes.
func TestProofsTakeLittleMemory(t *testing.T) {
	r := newFront(t, 1, 0, 0)
	const answers, text = 300_000, 4000
	long := parse(t, r.upstream.Host()+"/"+strings.Repeat("a", 200)+":1")
	limitstest.Within(t, 3*limits.MemoryBytes, func() {
		for i := range answers {
			var err error
			if i%2 == 0 {
				err = fmt.Errorf("%w: %s", mirror.ErrUnknown, strings.Repeat("x", text))
			}
			r.through.Prove(long, digest.FromString(fmt.Sprint(i)), err)
		}
	})
	for i := answers - 2; i < answers; i++ {
		known, err := r.through.Proven(long, digest.FromString(fmt.Sprint(i)))
		if !known || errors.Is(err, mirror.ErrUnknown) != (i%2 == 0) {
			t.Errorf("the last answers: %v, %v", known, err)
		}
	}
}
