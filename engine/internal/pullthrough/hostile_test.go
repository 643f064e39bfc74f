package pullthrough_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"drayage/blobstore"
	"drayage/blobstore/quota"
	"drayage/engine"
	"drayage/engine/chaos/chaostest"
	"drayage/engine/image"
	"drayage/engine/internal/limits"
	"drayage/engine/internal/retry"
	"drayage/engine/internal/schedule"
	"drayage/engine/limitstest"
	"drayage/engine/mirror"
	"drayage/engine/registry"
	"drayage/engine/registry/registrytest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// until waits for what happens in other goroutines and tells nobody. It fails the test when that
// doesn't happen within a minute, and then returns.
func until(t *testing.T, what string, happens func() bool) {
	t.Helper()
	const patience, often = time.Minute, time.Millisecond
	for end := time.Now().Add(patience); !happens(); time.Sleep(often) {
		if time.Now().After(end) {
			t.Errorf("waited a minute, and not: %s", what)
			return
		}
	}
}

// front is a mirror before several registries.
type front struct {
	*relay
	others []*registrytest.Server
}

// newFront makes a mirror before so many registries, with options of its own. The store is kept
// below a budget if that isn't 0.
func newFront(t *testing.T, registries int, fresh time.Duration, budget int64) *front {
	t.Helper()
	return newFrontOf(t, registries, fresh, budget, 2*time.Second)
}

// newFrontOf is newFront with so much patience.
func newFrontOf(t *testing.T, registries int, fresh time.Duration, budget int64, patience time.Duration) *front {
	t.Helper()
	f := &front{relay: &relay{t: t}}
	var hosts []string
	for range registries {
		s := registrytest.New()
		t.Cleanup(s.Close)
		f.others = append(f.others, s)
		hosts = append(hosts, s.Host())
	}
	f.upstream = f.others[0]
	var err error
	if f.store, err = blobstore.Open(filepath.Join(t.TempDir(), "store")); err != nil {
		t.Fatal(err)
	}
	policy := retry.Policy{Patience: patience}
	client, manifests := registry.New(registry.Options{Retry: policy, PerHost: 100}), registry.New(registry.Options{Retry: policy, PerHost: 100})
	t.Cleanup(client.Close)
	t.Cleanup(manifests.Close)
	o := engine.Options{Store: f.store, Registry: client, Retry: policy, Limits: schedule.Limits{Jobs: limits.FetchesAtOnce, PerHost: limits.FetchesPerRegistry + 1}}
	if budget > 0 {
		o.Budget = quota.New(f.store, budget, nil)
	}
	f.through = engine.NewPullThrough(context.Background(), o, manifests, fresh)
	t.Cleanup(f.through.Close)
	server := httptest.NewServer(mirror.New(mirror.Options{
		Store: f.store, Registry: f.upstream.Host(), Upstream: f.through, Allowed: func(name string) bool { return slices.Contains(hosts, name) },
	}))
	t.Cleanup(server.Close)
	f.url = server.URL
	return f
}

// of is a path at the mirror for something of the nth registry.
func (f *front) of(nth int, rest string) string {
	return "/v2/" + f.others[nth].Host() + "/" + rest
}

// drip answers with the beginning of what should come and then a byte now and then, until the
// client has gone, which closes gone.
func drip(first int, gone chan<- struct{}) chaostest.Fault {
	var once sync.Once
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead {
				next.ServeHTTP(w, r)
				return
			}
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, r)
			for k, v := range rec.Header() {
				w.Header()[k] = v
			}
			w.Header().Set("Content-Length", fmt.Sprint(rec.Body.Len()))
			w.WriteHeader(rec.Code)
			body := rec.Body.Bytes()
			_, _ = w.Write(body[:min(first, len(body))])
			body = body[min(first, len(body)):]
			for len(body) > 1 {
				_ = http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
					once.Do(func() { close(gone) })
					return
				case <-time.After(20 * time.Millisecond):
				}
				_, _ = w.Write(body[:1])
				body = body[1:]
			}
			<-r.Context().Done()
			once.Do(func() { close(gone) })
		})
	}
}

// An index that lists one manifest again and again, which lists one layer again and again, costs
// what it has of different ones.
func TestThroughVisitsEachDigestOnce(t *testing.T) {
	r := newRelay(t, 0)
	const times = 3000
	layer := registrytest.Random(1, 1000)
	img := registrytest.Build("linux/amd64", layer)
	r.upstream.Push("team/app", "", img)
	many := func(d ocispec.Descriptor) (out []ocispec.Descriptor) {
		for range times {
			out = append(out, d)
		}
		return out
	}
	wrong := img.Layers[0]
	wrong.Size++
	manifest, err := json.Marshal(ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: img.Config, Layers: append(many(img.Layers[0]), many(wrong)...)})
	if err != nil {
		t.Fatal(err)
	}
	child := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(manifest), Size: int64(len(manifest)), Platform: &ocispec.Platform{OS: "linux", Architecture: "amd64"}}
	r.upstream.PushManifest("team/app", "", ocispec.MediaTypeImageManifest, manifest)
	r.upstream.PushManifest("team/app", "1", ocispec.MediaTypeImageIndex, registrytest.Index(ocispec.MediaTypeImageIndex, many(child)...))
	for range 2 { // at first nothing below it is here, then all
		for _, path := range []string{"manifests/1", "manifests/" + child.Digest.String(), "blobs/" + img.Layers[0].Digest.String(), "blobs/" + img.Config.Digest.String()} {
			if resp, _ := r.get("/v2/team/app/" + path); resp.StatusCode != http.StatusOK {
				t.Errorf("%s: %d", path, resp.StatusCode)
			}
		}
		r.through.Wait()
	}
	root, err := r.store.Root(r.upstream.Host() + "/team/app:1")
	if err != nil || len(root.Blobs) != 4 {
		t.Errorf("it lists %d blobs, %v", len(root.Blobs), err)
	}
}

// A question to upstream goes on as long as anybody waits for the answer.
func TestThroughQuestionsEndWithTheirLastClient(t *testing.T) {
	for _, what := range []string{"manifests/1", "tags/list", "referrers/" + digest.FromString("x").String(), "blobs/" + digest.FromString("x").String()} {
		t.Run(strings.Split(what, "/")[0], func(t *testing.T) {
			r := newFront(t, 1, 0, 0)
			asked, gone := make(chan struct{}, 10), make(chan struct{}, 10)
			r.upstream.Break("", registrytest.Always, func(http.Handler) http.Handler {
				return http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
					if req.URL.Path == "/v2/" {
						return
					}
					asked <- struct{}{}
					<-req.Context().Done()
					gone <- struct{}{}
				})
			})
			first, leave := context.WithCancel(t.Context())
			second, leaveToo := context.WithCancel(t.Context())
			defer leaveToo()
			var all sync.WaitGroup
			for _, ctx := range []context.Context{first, second} {
				all.Go(func() { _, _, _ = r.try(ctx, "/v2/team/app/"+what) })
			}
			<-asked
			until(t, "both wait", func() bool { return r.through.Waiting() == 2 })
			leave()
			until(t, "one has left", func() bool { return r.through.Waiting() <= 1 })
			select {
			case <-gone:
				t.Error("it ended with the first of two clients")
			case <-asked: // nor is it asked again
				t.Error("upstream was asked twice")
			default: // the second one waits on
			}
			leaveToo()
			<-gone
			all.Wait()
			r.through.Wait()
		})
	}
}

// A blob that nobody waits for any more is left where it is, and continued by who asks next.
func TestThroughFetchesEndWithTheirLastClient(t *testing.T) {
	r := newFront(t, 1, time.Hour, 0)
	r.through.Grace(0)
	const size, half = 4 << 20, 2 << 20
	img := registrytest.Build("linux/amd64", registrytest.Random(1, size))
	r.upstream.Push("team/app", "1", img)
	r.get("/v2/team/app/manifests/1")
	path, content := r.blob(img, 0)
	gone := make(chan struct{})
	r.upstream.Break("/blobs/", 1, drip(half, gone))
	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, resp.Body, half-200<<10); err != nil {
		t.Fatal(err)
	}
	leave()
	resp.Body.Close()
	<-gone
	r.through.Wait()
	if r.store.Partial(img.Layers[0].Digest) == 0 {
		t.Error("nothing was kept of it")
	}
	r.upstream.Forget()
	if resp, body := r.get(path); resp.StatusCode != http.StatusOK || !bytes.Equal(body, content) {
		t.Errorf("%d, %d bytes", resp.StatusCode, len(body))
	}
	if sent := r.upstream.Sent(); sent > size-half+512<<10 {
		t.Errorf("%d bytes were sent for the second half of %d", sent, size)
	}
}

// ingests are the partial blobs of a store.
func (r *relay) ingests() []string {
	r.t.Helper()
	entries, err := os.ReadDir(filepath.Join(r.store.Dir(), "ingest"))
	if err != nil {
		r.t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// Whoever announces more than the disk or the budget has room for is refused at once, and takes
// nothing from the others.
func TestThroughRefusesWhatHasNoRoom(t *testing.T) {
	const budget = 8 << 20
	for _, within := range []int64{0, budget} {
		r := newFront(t, 1, time.Hour, within)
		announced := fmt.Sprint(int64(1) << 50)
		if within > 0 {
			announced = fmt.Sprint(budget + 1)
		}
		var gets atomic.Int64
		evil := digest.FromString("there is no such thing")
		r.upstream.Break(evil.String(), registrytest.Always, func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				w.Header().Set("Content-Length", announced)
				if req.Method == http.MethodGet {
					gets.Add(1)
				}
			})
		})
		if resp, _ := r.get("/v2/team/app/blobs/" + evil.String()); resp.StatusCode != http.StatusInsufficientStorage {
			t.Errorf("%s bytes, within %d: %d", announced, within, resp.StatusCode)
		}
		if left := r.ingests(); len(left) > 0 || gets.Load() > 0 {
			t.Errorf("%q are left, and %d times it was begun", left, gets.Load())
		}
		img := registrytest.Build("linux/amd64", registrytest.Random(1, 5<<20))
		r.upstream.Push("team/app", "1", img)
		r.get("/v2/team/app/manifests/1")
		path, content := r.blob(img, 0)
		if resp, body := r.get(path); resp.StatusCode != http.StatusOK || !bytes.Equal(body, content) {
			t.Errorf("a good one: %d, %d bytes", resp.StatusCode, len(body))
		}
	}
}

// A store stays within its budget, whatever is asked for; what is used most goes last.
func TestThroughStaysWithinItsBudget(t *testing.T) {
	const budget, size, images = 6 << 20, 1 << 20, 12
	r := newFront(t, 1, 0, budget)
	for i := range uint64(images) {
		img := registrytest.Build("linux/amd64", registrytest.Random(i, size))
		repo := fmt.Sprint("team/app", i)
		r.upstream.Push(repo, "1", img)
		r.get("/v2/" + repo + "/manifests/1")
		if resp, _ := r.get("/v2/" + repo + "/blobs/" + img.Layers[0].Digest.String()); resp.StatusCode != http.StatusOK {
			t.Errorf("image %d: %d", i, resp.StatusCode)
		}
		r.through.Wait()
		usage, err := r.store.Usage(t.Context())
		if err != nil || usage.Bytes+usage.PartialSize > budget {
			t.Errorf("after image %d: %d bytes, %v", i, usage.Bytes+usage.PartialSize, err)
		}
	}
	if _, err := r.store.Root(r.upstream.Host() + "/team/app0:1"); err == nil {
		t.Error("what was used longest ago is still there")
	}
	if _, err := r.store.Root(r.upstream.Host() + fmt.Sprintf("/team/app%d:1", images-1)); err != nil {
		t.Error(err)
	}
}

// Manifests count against the budget as blobs do.
func TestThroughManifestsStayWithinTheBudget(t *testing.T) {
	const budget, manifests = 24 << 20, 20
	r := newFront(t, 1, time.Hour, budget)
	for i := range manifests {
		raw := registrytest.Index(ocispec.MediaTypeImageIndex, ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint(i)), Size: 1000,
			Annotations: map[string]string{"a": strings.Repeat("x", image.MaxSize-1000)},
		})
		r.upstream.PushManifest("team/app", fmt.Sprint(i), ocispec.MediaTypeImageIndex, raw)
		if resp, body := r.get("/v2/team/app/manifests/" + fmt.Sprint(i)); resp.StatusCode != http.StatusOK || !bytes.Equal(body, raw) {
			t.Errorf("manifest %d: %d, %d bytes", i, resp.StatusCode, len(body))
		}
		usage, err := r.store.Usage(t.Context())
		if err != nil || usage.Bytes+usage.PartialSize > budget {
			t.Errorf("after manifest %d: %d bytes, %v", i, usage.Bytes+usage.PartialSize, err)
		}
	}
	// One for which there is no room is refused.
	r = newFront(t, 1, time.Hour, 2<<20)
	raw := registrytest.Index(ocispec.MediaTypeImageIndex, ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 1000, Annotations: map[string]string{"a": strings.Repeat("x", 3<<20)},
	})
	r.upstream.PushManifest("team/app", "1", ocispec.MediaTypeImageIndex, raw)
	if resp, body := r.get("/v2/team/app/manifests/1"); resp.StatusCode != http.StatusInsufficientStorage {
		t.Errorf("one that is larger than the budget: %d, %d bytes", resp.StatusCode, len(body))
	}
}

// Blobs that come by drops, whoever sends them, keep no other from having its room.
func TestThroughDripsKeepNobodyOutOfTheBudget(t *testing.T) {
	const budget, drips, size = 160 << 20, 12, 18 << 20
	r := newFront(t, 2, time.Hour, budget)
	evil := func(n int) string { return digest.FromString(fmt.Sprint("evil ", n)).String() }
	begun := make(chan struct{}, 100)
	r.others[0].Break("evil/app/blobs/", registrytest.Always, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(64<<20))
			if req.Method == http.MethodHead {
				return
			}
			begun <- struct{}{}
			for req.Context().Err() == nil {
				_, _ = w.Write([]byte("x"))
				_ = http.NewResponseController(w).Flush()
				select {
				case <-req.Context().Done():
				case <-time.After(50 * time.Millisecond):
				}
			}
		})
	})
	ctx, leave := context.WithCancel(t.Context())
	var attackers sync.WaitGroup
	defer attackers.Wait()
	defer leave()
	var n atomic.Int64
	for range drips {
		attackers.Go(func() {
			for ctx.Err() == nil {
				_, _, _ = r.try(ctx, r.of(0, "evil/app/blobs/"+evil(int(n.Add(1)))))
			}
		})
	}
	for range 8 {
		<-begun
	}
	for i, registry := range []int{1, 0} { // another one's blob, and one of the registry that drips
		img := registrytest.Build("linux/amd64", registrytest.Random(uint64(i), size))
		r.others[registry].Push("team/app", "1", img)
		r.get(r.of(registry, "team/app/manifests/1"))
		_, content := r.blob(img, 0)
		if resp, body := r.get(r.of(registry, "team/app/blobs/"+img.Layers[0].Digest.String())); resp.StatusCode != http.StatusOK || !bytes.Equal(body, content) {
			t.Errorf("of registry %d: %d, %d bytes, %.300s", registry, resp.StatusCode, len(body), body)
		}
	}
}

// A transfer that a client of another registry has joined doesn't give way for what the first one
// has of the budget.
func TestThroughWhatIsJoinedDoesNotGiveWay(t *testing.T) {
	const budget, size = 40 << 20, 18 << 20
	r := newFront(t, 2, time.Hour, budget)
	img := registrytest.Build("linux/amd64", registrytest.Random(1, size), registrytest.Random(2, size), registrytest.Random(3, size))
	for i, s := range r.others {
		s.Push("team/app", "1", img)
		r.get(r.of(i, "team/app/manifests/1"))
	}
	rest := func(n int) string { return "team/app/blobs/" + img.Layers[n].Digest.String() }
	slowest, slow := make(chan struct{}), make(chan struct{})
	begun := []chan struct{}{make(chan struct{}, 1000), make(chan struct{}, 1000)} // of each blob
	for n, fault := range []chaostest.Fault{drip(100, slowest), drip(1000, slow)} {
		r.others[0].Break(img.Layers[n].Digest.String(), registrytest.Always, func(next http.Handler) http.Handler {
			next = fault(next)
			return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				begun[n] <- struct{}{}
				next.ServeHTTP(w, req)
			})
		})
	}
	joined, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	r.others[1].Break(img.Layers[0].Digest.String(), registrytest.Always, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.Method == http.MethodGet {
				once.Do(func() { close(joined) })
				<-release
			}
			next.ServeHTTP(w, req)
		})
	})
	ctx, leave := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer leave()
	for n := range 2 {
		all.Go(func() { _, _, _ = r.try(ctx, r.of(0, rest(n))) })
		<-begun[n]
	}
	// Transfers are judged by their age, and one that is joined counts as new: the other one is older.
	const older = 500 * time.Millisecond
	time.Sleep(older)
	all.Go(func() {
		resp, body, err := r.try(t.Context(), r.of(1, rest(0)))
		if err != nil || resp.StatusCode != http.StatusOK || !bytes.Equal(body, img.Blobs[img.Layers[0].Digest]) {
			t.Errorf("who had joined it: %d, %d bytes, %v", resp.StatusCode, len(body), err)
		}
	})
	<-joined
	all.Go(func() { <-slow; close(release) })
	if resp, body := r.get(r.of(1, rest(2))); resp.StatusCode != http.StatusOK || !bytes.Equal(body, img.Blobs[img.Layers[2].Digest]) {
		t.Errorf("who another one gave way to: %d, %d bytes", resp.StatusCode, len(body))
	}
}

// Blobs that fit into the budget together come together.
func TestThroughPullsInParallelNearTheBudget(t *testing.T) {
	const budget, size, blobs, times = 160 << 20, 18 << 20, 6, 3
	r := newFront(t, 1, time.Hour, budget)
	for n := range uint64(times) { // what came before goes for what comes
		var layers [][]byte
		for i := range uint64(blobs) {
			layers = append(layers, registrytest.Random(n*blobs+i, size))
		}
		img := registrytest.Build("linux/amd64", layers...)
		tag := fmt.Sprint(n)
		r.upstream.Push("team/app", tag, img)
		r.get("/v2/team/app/manifests/" + tag)
		var all sync.WaitGroup
		for i := range blobs {
			all.Go(func() {
				path, content := r.blob(img, i)
				resp, body, err := r.try(t.Context(), path)
				if err != nil || resp.StatusCode != http.StatusOK || !bytes.Equal(body, content) {
					t.Errorf("image %d, blob %d: %d, %d bytes, %v", n, i, resp.StatusCode, len(body), err)
				}
			})
		}
		all.Wait()
		r.through.Wait()
		usage, err := r.store.Usage(t.Context())
		if err != nil || usage.Bytes+usage.PartialSize > budget {
			t.Errorf("after image %d: %d bytes, %v", n, usage.Bytes+usage.PartialSize, err)
		}
	}
}

// What came of a blob stays when who asked has left, as long as there is room, and is gone on with.
func TestThroughGoesOnWithAPartialWithinTheBudget(t *testing.T) {
	const budget, size, first = 96 << 20, 24 << 20, 10 << 20
	r := newFront(t, 1, time.Hour, budget)
	r.through.Grace(0)
	img := registrytest.Build("linux/amd64", registrytest.Random(1, size), registrytest.Random(2, 30<<20))
	r.upstream.Push("team/app", "1", img)
	r.get("/v2/team/app/manifests/1")
	path, content := r.blob(img, 0)
	gone := make(chan struct{})
	r.upstream.Break(img.Layers[0].Digest.String(), 1, drip(first, gone))
	ctx, leave := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	reading.Go(func() {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+path, nil)
		if err != nil {
			t.Error(err)
			return
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		if _, err := io.CopyN(io.Discard, resp.Body, first); err != nil {
			t.Error(err)
		}
		leave()
	})
	reading.Wait()
	<-gone
	r.through.Wait()
	if usage, err := r.store.Usage(t.Context()); err != nil || usage.Partial != 1 {
		t.Errorf("%+v, %v", usage, err)
	}
	other, otherContent := r.blob(img, 1)
	if resp, body := r.get(other); resp.StatusCode != http.StatusOK || !bytes.Equal(body, otherContent) {
		t.Errorf("another one: %d, %d bytes", resp.StatusCode, len(body))
	}
	before := r.upstream.Sent()
	if resp, body := r.get(path); resp.StatusCode != http.StatusOK || !bytes.Equal(body, content) {
		t.Errorf("%d, %d bytes", resp.StatusCode, len(body))
	}
	r.through.Wait()
	if sent := r.upstream.Sent() - before; sent > size-first/2 {
		t.Errorf("%d of %d bytes came again", sent, size)
	}
}

// A manifest that says that a blob is larger than it is, or than anything can be, costs one
// failure: then the registry is asked.
func TestThroughAsksWhenManifestsLieAboutSizes(t *testing.T) {
	for _, lie := range []int64{1, 4999, 5001, 1 << 20, 1 << 44} {
		r := newFront(t, 1, time.Hour, 64<<20)
		img := registrytest.Build("linux/amd64", registrytest.Random(1, 5000))
		r.upstream.Push("team/app", "", img)
		path, content := r.blob(img, 0)
		text := strings.Replace(string(img.Manifest), `"size":5000`, fmt.Sprintf(`"size":%d`, lie), 1)
		if text == string(img.Manifest) {
			t.Fatal("the lie isn't one")
		}
		r.upstream.PushManifest("team/app", "1", img.Descriptor.MediaType, []byte(text))
		r.get("/v2/team/app/manifests/1")
		first, _, _ := r.try(t.Context(), path)
		if first.StatusCode == http.StatusInsufficientStorage {
			t.Errorf("a lie of %d bytes: %d", lie, first.StatusCode)
		}
		r.through.Wait()
		if resp, body := r.get(path); resp.StatusCode != http.StatusOK || !bytes.Equal(body, content) {
			t.Errorf("a lie of %d bytes, at the second time: %d, %d bytes", lie, resp.StatusCode, len(body))
		}
		// Two that don't agree are not believed at all.
		r.upstream.Push("team/app", "2", img)
		if err := r.store.Remove(r.upstream.Host() + "/team/app:1"); err != nil {
			t.Fatal(err)
		}
	}
}

// A registry that sends a blob byte by byte holds up nobody who has it from another one: the
// second registry is a source of what is under way.
func TestThroughASlowRegistryHoldsUpNoOther(t *testing.T) {
	for name, broken := range map[string]func(gone chan struct{}) chaostest.Fault{
		"drips":      func(gone chan struct{}) chaostest.Fault { return drip(100<<10, gone) },
		"is silent":  func(chan struct{}) chaostest.Fault { return silent },
		"sends else": func(chan struct{}) chaostest.Fault { return otherContent },
	} {
		t.Run(name, func(t *testing.T) {
			r := newFront(t, 2, time.Hour, 0)
			img := registrytest.Build("linux/amd64", registrytest.Random(1, 3<<20))
			for _, s := range r.others {
				s.Push("team/app", "1", img)
			}
			content := img.Blobs[img.Layers[0].Digest]
			rest := "team/app/blobs/" + img.Layers[0].Digest.String()
			r.get(r.of(0, "team/app/manifests/1"))
			gone, asked := make(chan struct{}), make(chan struct{}, 100)
			fault := broken(gone)
			r.others[0].Break("/blobs/", registrytest.Always, func(next http.Handler) http.Handler {
				next = fault(next)
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					if req.Method == http.MethodGet {
						asked <- struct{}{}
					}
					next.ServeHTTP(w, req)
				})
			})
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			var first sync.WaitGroup
			first.Go(func() { _, _, _ = r.try(ctx, r.of(0, rest)) })
			<-asked
			const tries = 3 // one who was given bytes that turn out wrong is cut off, and asks again
			for n := range tries {
				resp, body, err := r.try(t.Context(), r.of(1, rest))
				if err == nil && resp.StatusCode == http.StatusOK && bytes.Equal(body, content) {
					break
				}
				if n == tries-1 {
					t.Errorf("%d, %d bytes, %v", resp.StatusCode, len(body), err)
				}
			}
			leave()
			first.Wait()
		})
	}
}

// silent never answers.
func silent(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			next.ServeHTTP(w, r)
			return
		}
		<-r.Context().Done()
	})
}

// otherContent sends as many bytes of something else.
func otherContent(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		_, _ = w.Write(bytes.Repeat([]byte("x"), rec.Body.Len()))
	})
}

// What is on its way for one repository is nothing that another one has.
func TestThroughGivesABlobToThoseAloneWhoseRepositoryHasIt(t *testing.T) {
	r := newFront(t, 2, time.Hour, 0)
	img := registrytest.Build("linux/amd64", registrytest.Random(1, 1<<20))
	secret := img.Layers[0]
	r.others[0].Push("team/secret", "1", img)
	r.get(r.of(0, "team/secret/manifests/1"))
	// The other registry has a manifest that lists it, and not the blob. One of its repositories
	// has none either.
	r.others[1].PushManifest("evil/app", "1", img.Descriptor.MediaType, img.Manifest)
	r.get(r.of(1, "evil/app/manifests/1"))
	r.others[0].PushManifest("evil/app", "1", img.Descriptor.MediaType, img.Manifest)
	r.get(r.of(0, "evil/app/manifests/1"))
	gone, begun := make(chan struct{}), make(chan struct{}, 10)
	fault := drip(900<<10, gone)
	r.others[0].Break("team/secret/blobs/", registrytest.Always, func(next http.Handler) http.Handler {
		next = fault(next)
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			begun <- struct{}{}
			next.ServeHTTP(w, req)
		})
	})
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	var first sync.WaitGroup
	first.Go(func() { _, _, _ = r.try(ctx, r.of(0, "team/secret/blobs/"+secret.Digest.String())) })
	<-begun
	for _, path := range []string{r.of(1, "evil/app"), r.of(0, "evil/app"), r.of(1, "evil/other")} {
		resp, body := r.get(path + "/blobs/" + secret.Digest.String())
		if resp.StatusCode != http.StatusNotFound || len(body) > 1000 {
			t.Errorf("%s: %d, %d bytes", path, resp.StatusCode, len(body))
		}
	}
	leave()
	first.Wait()
}

// A repository that has answered nothing yet gets nothing that came from elsewhere, and what it
// says in the end is its own.
func TestThroughWaitsForTheRepositorysOwnWord(t *testing.T) {
	r := newFront(t, 2, time.Hour, 0)
	img := registrytest.Build("linux/amd64", registrytest.Random(1, 1<<20))
	rest := "team/app/blobs/" + img.Layers[0].Digest.String()
	r.others[1].Push("team/app", "1", img)
	// It lists the blob, and doesn't have it; but that it says slowly.
	r.others[0].PushManifest("team/app", "1", img.Descriptor.MediaType, img.Manifest)
	r.get(r.of(0, "team/app/manifests/1"))
	begun, release := make(chan struct{}, 100), make(chan struct{})
	r.others[0].Break("/blobs/", registrytest.Always, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			begun <- struct{}{}
			<-release
			next.ServeHTTP(w, req)
		})
	})
	var first sync.WaitGroup
	first.Go(func() {
		resp, body := r.get(r.of(0, rest))
		if resp.StatusCode != http.StatusNotFound || len(body) > 1000 {
			t.Errorf("the repository without the blob: %d, %d bytes", resp.StatusCode, len(body))
		}
	})
	<-begun
	if resp, body := r.get(r.of(1, rest)); resp.StatusCode != http.StatusOK || len(body) != 1<<20 {
		t.Errorf("the one that has it: %d, %d bytes", resp.StatusCode, len(body))
	}
	close(release)
	first.Wait()
}

// An answer that comes byte by byte is waited for as long as any other.
func TestThroughDoesNotWaitForAnswersThatDrip(t *testing.T) {
	r := newFront(t, 2, 0, 0)
	img := registrytest.Build("linux/amd64", registrytest.Random(1, 100))
	for _, s := range r.others {
		s.Push("team/app", "1", img)
	}
	r.get(r.of(0, "team/app/manifests/1"))
	r.through.Within(200 * time.Millisecond)
	newer := registrytest.Build("linux/amd64", registrytest.Random(2, 100))
	r.others[0].Push("team/app", "1", newer)
	r.others[0].Push("team/app", "2", newer)
	gone := make(chan struct{})
	r.others[0].Break("/manifests/", registrytest.Always, drip(1, gone))
	r.others[0].Break("/tags/", registrytest.Always, drip(1, gone))
	if resp, body := r.get(r.of(0, "team/app/manifests/1")); resp.StatusCode != http.StatusOK || !bytes.Equal(body, img.Manifest) || resp.Header.Get("Drayage-Stale") == "" {
		t.Errorf("one that is here: %d, %v", resp.StatusCode, resp.Header)
	}
	for _, rest := range []string{"manifests/2", "manifests/" + newer.Descriptor.Digest.String()} {
		if resp, _ := r.get(r.of(0, "team/app/"+rest)); resp.StatusCode != http.StatusBadGateway {
			t.Errorf("%s: %d", rest, resp.StatusCode)
		}
	}
	if resp, _ := r.get(r.of(0, "team/app/tags/list")); resp.StatusCode != http.StatusOK || resp.Header.Get("Warning") == "" { // those of the store
		t.Errorf("tags: %d, %v", resp.StatusCode, resp.Header)
	}
	<-gone
	r.through.Within(time.Minute)
	if resp, _ := r.get(r.of(1, "team/app/manifests/1")); resp.StatusCode != http.StatusOK {
		t.Errorf("another registry: %d", resp.StatusCode)
	}
}

// One registry's questions are so many at once, and leave room for those of others.
func TestThroughBoundsWhatItAsksAtOnce(t *testing.T) {
	r := newFront(t, 2, 0, 0)
	img := registrytest.Build("linux/amd64", registrytest.Random(1, 100))
	r.others[1].Push("team/app", "1", img)
	release := make(chan struct{})
	var now, most, all atomic.Int64
	r.others[0].Break("/v2/team", registrytest.Always, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			all.Add(1)
			n := now.Add(1)
			defer now.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			<-release
			http.NotFound(w, req)
		})
	})
	var waiting sync.WaitGroup
	const each = 60
	for i := range each {
		for _, what := range []string{fmt.Sprint("manifests/", i), "blobs/" + digest.FromString(fmt.Sprint(i)).String()} {
			waiting.Go(func() { r.get(r.of(0, "team/app/"+what)) })
		}
	}
	for _, what := range []string{"manifests/1", "blobs/" + img.Layers[0].Digest.String()} {
		if resp, _ := r.get(r.of(1, "team/app/"+what)); resp.StatusCode != http.StatusOK {
			t.Errorf("%s of another registry: %d", what, resp.StatusCode)
		}
	}
	close(release)
	waiting.Wait()
	if m := most.Load(); m > limits.QuestionsPerRegistry+limits.DocumentsPerRegistry || all.Load() < 2*each {
		t.Errorf("%d of %d questions at once", m, all.Load())
	}
}

// Many large manifests at once take little memory beside what is sent to clients.
func TestThroughLargeManifestsTakeLittleMemory(t *testing.T) {
	r := newFront(t, 1, 0, 0)
	const documents, most = 30, 200 << 20
	var paths []string
	for n := range documents {
		var list []ocispec.Descriptor
		for i := range 4_000 {
			list = append(list, ocispec.Descriptor{
				MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint(n, i)), Size: 1000,
				Annotations: map[string]string{"a": strings.Repeat("x", 700)},
			})
		}
		raw := registrytest.Index(ocispec.MediaTypeImageIndex, list...)
		if len(raw) > image.MaxSize || len(raw) < image.MaxSize*3/4 {
			t.Fatalf("%d bytes", len(raw))
		}
		r.upstream.PushManifest("team/app", fmt.Sprint(n), ocispec.MediaTypeImageIndex, raw)
		paths = append(paths, "/v2/team/app/manifests/"+fmt.Sprint(n))
	}
	for _, what := range []string{"from upstream", "from the store"} {
		limitstest.Within(t, most, func() {
			var all sync.WaitGroup
			for _, path := range paths {
				all.Go(func() {
					req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+path, nil)
					if err != nil {
						t.Error(err)
						return
					}
					resp, err := http.DefaultClient.Do(req)
					if err != nil {
						t.Error(err)
						return
					}
					defer resp.Body.Close()
					if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
						t.Errorf("%s: %d, %v", what, resp.StatusCode, err)
					}
				})
			}
			all.Wait()
		})
	}
}

// Lists of tags are remembered as far as there is room for them.
func TestThroughRemembersListsWithinBounds(t *testing.T) {
	r := newFront(t, 1, time.Hour, 0)
	const repositories, tags = 40, 25_000
	var page bytes.Buffer
	page.WriteString(`{"name":"x","tags":["0"`)
	for i := range tags {
		fmt.Fprintf(&page, `,"%0120d"`, i)
	}
	page.WriteString(`]}`)
	r.upstream.Break("/tags/list", registrytest.Always, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(page.Bytes()) })
	})
	limitstest.Within(t, 96<<20, func() {
		for i := range repositories {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+fmt.Sprintf("/v2/team/app%d/tags/list?n=1", i), nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_, err = io.Copy(io.Discard, resp.Body)
			if resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("%d, %v", resp.StatusCode, err)
			}
		}
	})
}

// What an archive has made of a name is not what its registry says: that is asked, however fresh
// the tag was, and the archive's is served only when it can't be.
func TestThroughTakesNoArchivesWordForFresh(t *testing.T) {
	r := newFront(t, 1, time.Hour, 0)
	right, planted := registrytest.Build("linux/amd64", registrytest.Random(1, 100)), registrytest.Build("linux/amd64", registrytest.Random(2, 100))
	r.upstream.Push("team/app", "1", right)
	name := r.upstream.Host() + "/team/app:1"
	plant := func() {
		t.Helper()
		lease, err := r.store.Lease()
		if err != nil {
			t.Fatal(err)
		}
		if err := lease.Put(t.Context(), planted.Descriptor, planted.Manifest); err != nil {
			t.Fatal(err)
		}
		err = lease.Pin(blobstore.Root{Name: name, Target: planted.Descriptor, Blobs: []digest.Digest{planted.Descriptor.Digest}, From: blobstore.Origin{Kind: blobstore.FromArchive, Where: "x.tar"}})
		if err = errors.Join(err, lease.Close()); err != nil {
			t.Fatal(err)
		}
	}
	r.get("/v2/team/app/manifests/1")
	plant()
	if resp, body := r.get("/v2/team/app/manifests/1"); resp.StatusCode != http.StatusOK || !bytes.Equal(body, right.Manifest) || resp.Header.Get("Drayage-Stale") != "" {
		t.Errorf("%d, %s", resp.StatusCode, body)
	}
	root, err := r.store.Root(name)
	if err != nil || root.From.Kind != blobstore.FromRegistry || root.Target.Digest != right.Descriptor.Digest {
		t.Errorf("%+v, %v", root, err)
	}
	plant()
	r.upstream.Break("", registrytest.Always, chaostest.Status(http.StatusServiceUnavailable))
	if resp, body := r.get("/v2/team/app/manifests/1"); resp.StatusCode != http.StatusOK || !bytes.Equal(body, planted.Manifest) || resp.Header.Get("Drayage-Stale") == "" {
		t.Errorf("when the registry is down: %d, %v", resp.StatusCode, resp.Header)
	}
}

// A registry that has all its turns taken by blobs that don't come holds up no blob that is to be
// had elsewhere.
func TestThroughTurnsOfOneRegistryAreNotThoseOfAnother(t *testing.T) {
	r := newFront(t, 2, time.Hour, 0)
	img := registrytest.Build("linux/amd64", registrytest.Random(1, 1<<20))
	for _, s := range r.others {
		s.Push("team/app", "1", img)
	}
	d := img.Layers[0].Digest
	r.get(r.of(0, "team/app/manifests/1"))
	begun := make(chan struct{}, 1000)
	r.others[0].Break("team/slow/blobs/", registrytest.Always, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Content-Length", "1000000")
			if req.Method == http.MethodHead {
				return
			}
			_ = http.NewResponseController(w).Flush()
			begun <- struct{}{}
			<-req.Context().Done()
		})
	})
	ctx, leave := context.WithCancel(t.Context())
	var slow sync.WaitGroup
	for i := range limits.FetchesPerRegistry {
		slow.Go(func() {
			_, _, _ = r.try(ctx, r.of(0, "team/slow/blobs/"+digest.FromString(fmt.Sprint(i)).String()))
		})
	}
	for range limits.FetchesPerRegistry {
		<-begun
	}
	slow.Go(func() { _, _, _ = r.try(ctx, r.of(0, "team/app/blobs/"+d.String())) })
	until(t, "it waits for its turn", func() bool { return r.through.InFlight() > limits.FetchesPerRegistry })
	if resp, body := r.get(r.of(1, "team/app/blobs/"+d.String())); resp.StatusCode != http.StatusOK || !bytes.Equal(body, img.Blobs[d]) {
		t.Errorf("%d, %d bytes", resp.StatusCode, len(body))
	}
	leave()
	slow.Wait()
}

// A registry that gives a digest another size holds up nobody either.
func TestThroughAWrongSizeElsewhereHoldsUpNobody(t *testing.T) {
	const size = 1 << 20
	for _, lie := range []int{size - 1, size + 1, 100 << 20} {
		r := newFront(t, 2, time.Hour, 0)
		img := registrytest.Build("linux/amd64", registrytest.Random(1, size))
		r.others[1].Push("team/app", "1", img)
		d := img.Layers[0].Digest
		rest := "team/app/blobs/" + d.String()
		begun := make(chan struct{}, 10)
		r.others[0].Break("/blobs/", registrytest.Always, func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				w.Header().Set("Content-Length", fmt.Sprint(lie))
				if req.Method == http.MethodHead {
					return
				}
				_, _ = w.Write(make([]byte, 1000))
				_ = http.NewResponseController(w).Flush()
				begun <- struct{}{}
				<-req.Context().Done()
			})
		})
		ctx, leave := context.WithCancel(t.Context())
		var first sync.WaitGroup
		first.Go(func() { _, _, _ = r.try(ctx, r.of(0, rest)) })
		<-begun
		if resp, body := r.get(r.of(1, rest)); resp.StatusCode != http.StatusOK || !bytes.Equal(body, img.Blobs[d]) {
			t.Errorf("beside one of %d bytes: %d, %d bytes", lie, resp.StatusCode, len(body))
		}
		leave()
		first.Wait()
	}
}
