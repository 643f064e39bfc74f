package pullthrough_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"drayage/blobstore"
	"drayage/engine"
	"drayage/engine/chaos/chaostest"
	"drayage/engine/internal/retry"
	"drayage/engine/internal/schedule"
	"drayage/engine/mirror"
	"drayage/engine/reference"
	"drayage/engine/registry"
	"drayage/engine/registry/registrytest"
)

// relay is a mirror before a registry.
type relay struct {
	t        *testing.T
	upstream *registrytest.Server
	store    *blobstore.Store
	through  *engine.PullThrough
	url      string
}

func newRelay(t *testing.T, fresh time.Duration) *relay {
	t.Helper()
	return newRelayOf(t, fresh, 4)
}

// newRelayOf is newRelay with so many connections upstream.
func newRelayOf(t *testing.T, fresh time.Duration, perHost int) *relay {
	t.Helper()
	r := &relay{t: t, upstream: registrytest.New()}
	t.Cleanup(r.upstream.Close)
	var err error
	if r.store, err = blobstore.Open(filepath.Join(t.TempDir(), "store")); err != nil {
		t.Fatal(err)
	}
	policy := retry.Policy{Patience: 2 * time.Second}
	client, manifests := registry.New(registry.Options{Retry: policy}), registry.New(registry.Options{Retry: policy})
	t.Cleanup(client.Close)
	t.Cleanup(manifests.Close)
	r.through = engine.NewPullThrough(context.Background(), engine.Options{
		Store: r.store, Registry: client, Retry: policy, Limits: schedule.Limits{Jobs: perHost, PerHost: perHost},
	}, manifests, fresh)
	t.Cleanup(r.through.Close)
	server := httptest.NewServer(mirror.New(mirror.Options{
		Store: r.store, Registry: r.upstream.Host(), Upstream: r.through, Allowed: func(name string) bool { return name == r.upstream.Host() },
	}))
	t.Cleanup(server.Close)
	r.url = server.URL
	return r
}

// answer is an answer without its body.
type answer struct {
	StatusCode int
	Header     http.Header
}

// get asks the mirror for something, and returns the answer and its body.
func (r *relay) get(path string, header ...string) (answer, []byte) {
	r.t.Helper()
	resp, body, err := r.try(r.t.Context(), path, header...)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp, body
}

func (r *relay) try(ctx context.Context, path string, header ...string) (answer, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+path, nil)
	if err != nil {
		return answer{}, nil, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header}, body, err
}

func (r *relay) blob(img registrytest.Image, n int) (path string, content []byte) {
	d := img.Layers[n].Digest
	return "/v2/team/app/blobs/" + d.String(), img.Blobs[d]
}

// What isn't in the store comes from upstream, once for however many ask, and stays
// there with its image.
func TestThroughFetchesOnceForAll(t *testing.T) {
	r := newRelayOf(t, time.Hour, 1) // connections that help are cut off with bytes on the way
	img := registrytest.Build("linux/amd64", registrytest.Random(1, 5<<20), registrytest.Random(2, 1000))
	r.upstream.Push("team/app", "1", img)
	resp, body := r.get("/v2/team/app/manifests/1")
	if resp.StatusCode != http.StatusOK || !bytes.Equal(body, img.Manifest) || resp.Header.Get("Docker-Content-Digest") != img.Descriptor.Digest.String() {
		t.Fatalf("%d: %s", resp.StatusCode, body)
	}
	path, content := r.blob(img, 0)
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			header, want := []string{}, content
			if i%2 == 1 {
				header, want = []string{"Range", "bytes=1000000-1999999"}, content[1_000_000:2_000_000]
			}
			_, body, err := r.try(t.Context(), path, header...)
			if err != nil || !bytes.Equal(body, want) {
				t.Errorf("%d bytes, %v", len(body), err)
			}
		})
	}
	all.Wait()
	if sent, size := r.upstream.Sent(), int64(len(content)+len(img.Manifest)); sent != size {
		t.Errorf("upstream has sent %d bytes for %d", sent, size)
	}
	for _, n := range []string{"/v2/team/app/manifests/1", path} {
		r.upstream.Forget()
		if resp, _ := r.get(n); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", n, resp.StatusCode)
		}
		if got := len(r.upstream.Requests()); got != 0 {
			t.Errorf("%s: %d requests upstream for what is here", n, got)
		}
	}
	// Clients have the last byte before the image's record has the blob.
	var root blobstore.Root
	var err error
	until(t, "the record has the blob", func() bool {
		root, err = r.store.Root(r.upstream.Host() + "/team/app:1")
		return err != nil || len(root.Blobs) == 2
	})
	if err != nil || root.Target.Digest != img.Descriptor.Digest || len(root.Blobs) != 2 {
		t.Errorf("%+v, %v", root, err)
	}
	if resp, _ := r.get("/v2/team/app/blobs/" + registrytest.Describe("", []byte("absent")).Digest.String()); resp.StatusCode != http.StatusNotFound {
		t.Errorf("a blob that is nowhere: %d", resp.StatusCode)
	}
	if resp, _ := r.get("/v2/absent/manifests/1"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("an image that is nowhere: %d", resp.StatusCode)
	}
	if resp, _ := r.get("/v2/team/app/manifests/1?ns=other.example"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("a registry that may not be asked: %d", resp.StatusCode)
	}
}

// A client gets what is there while the rest is on its way.
func TestThroughGivesWhatIsThere(t *testing.T) {
	r := newRelay(t, time.Hour)
	img := registrytest.Build("linux/amd64", registrytest.Random(1, 2<<20))
	r.upstream.Push("team/app", "1", img)
	r.get("/v2/team/app/manifests/1")
	path, content := r.blob(img, 0)
	release := make(chan struct{})
	r.upstream.Break(path, 1, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
			w.Write(content[:1<<20])
			http.NewResponseController(w).Flush()
			<-release
			w.Write(content[1<<20:])
		})
	})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	half := make([]byte, 1<<19)
	if _, err := io.ReadFull(resp.Body, half); err != nil || !bytes.Equal(half, content[:1<<19]) {
		t.Errorf("the first half while the second is held: %v", err)
	}
	close(release)
	rest, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(append(half, rest...), content) {
		t.Errorf("the whole: %d bytes, %v", len(half)+len(rest), err)
	}
}

// Nobody gets all of a blob that is not what it should be.
func TestThroughHoldsBackWhatIsWrong(t *testing.T) {
	r := newRelay(t, time.Hour)
	img := registrytest.Build("linux/amd64", registrytest.Random(1, 1<<20), registrytest.Random(2, 100))
	r.upstream.Push("team/app", "1", img)
	r.get("/v2/team/app/manifests/1")
	for n := range img.Layers {
		path, content := r.blob(img, n)
		r.upstream.SetBlob("team/app", img.Layers[n].Digest, registrytest.Random(9, len(content)))
		_, body, err := r.try(t.Context(), path)
		if err == nil && len(body) >= len(content) {
			t.Errorf("layer %d: all %d bytes of something else came", n, len(body))
		}
		r.upstream.SetBlob("team/app", img.Layers[n].Digest, content)
		// The fetch of what was wrong may be under way still: who asks then shares its end.
		const tries = 10
		for i := range tries {
			_, body, err := r.try(t.Context(), path)
			if err == nil && bytes.Equal(body, content) {
				break
			}
			if i == tries-1 {
				t.Errorf("layer %d, when it is right again: %v", n, err)
			}
		}
	}
}

// A tag is taken as it is for a time, then asked for; and when upstream is down, what it
// was is served, and marked.
func TestThroughIsFreshOrSaysSo(t *testing.T) {
	for _, fresh := range []time.Duration{0, time.Hour} {
		r := newRelay(t, fresh)
		one, two := registrytest.Build("linux/amd64", registrytest.Random(1, 100)), registrytest.Build("linux/amd64", registrytest.Random(2, 100))
		r.upstream.Push("team/app", "1", one)
		r.get("/v2/team/app/manifests/1")
		r.upstream.Push("team/app", "1", two)
		want := two
		if fresh > 0 {
			want = one
		}
		if _, body := r.get("/v2/team/app/manifests/1"); !bytes.Equal(body, want.Manifest) {
			t.Errorf("fresh for %s: another manifest", fresh)
		}
		r.upstream.Forget()
		resp, _ := r.get("/v2/team/app/manifests/1")
		gets := 0
		for _, q := range r.upstream.Requests() {
			if q.Method == http.MethodGet {
				gets++
			}
		}
		if gets > 0 || resp.Header.Get("Warning") != "" {
			t.Errorf("fresh for %s: %d GETs for an unchanged tag", fresh, gets)
		}
		if fresh > 0 {
			continue
		}
		r.upstream.Break("/manifests/", -1, chaostest.Status(http.StatusServiceUnavailable))
		resp, body := r.get("/v2/team/app/manifests/1")
		if resp.StatusCode != http.StatusOK || !bytes.Equal(body, two.Manifest) || !strings.HasPrefix(resp.Header.Get("Warning"), "110") {
			t.Errorf("upstream is down: %d, %q", resp.StatusCode, resp.Header.Get("Warning"))
		}
		if resp, _ := r.get("/v2/team/other/manifests/1"); resp.StatusCode != http.StatusBadGateway {
			t.Errorf("upstream is down, and nothing is here: %d", resp.StatusCode)
		}
	}
}

// An upstream that gives no answer stays one that isn't waited for, until it has given one.
func TestThroughWaitsForASilentUpstreamOnce(t *testing.T) {
	r := newRelay(t, 0)
	r.upstream.Push("team/app", "1", registrytest.Build("linux/amd64", registrytest.Random(1, 100)))
	r.get("/v2/team/app/manifests/1")
	r.upstream.Break("", registrytest.Always, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }) // closes the connection
	})
	stale := func() {
		t.Helper()
		if resp, _ := r.get("/v2/team/app/manifests/1"); resp.StatusCode != http.StatusOK || resp.Header.Get("Drayage-Stale") == "" {
			t.Errorf("%d, %v", resp.StatusCode, resp.Header)
		}
	}
	stale()
	r.through.AgeDown()
	stale() // and it is found out beside whether it answers again
	r.through.Wait()
	r.upstream.Forget()
	stale()
	if n := len(r.upstream.Requests()); n > 0 {
		t.Errorf("an answer has waited for %d requests", n)
	}
}

// A client that goes away doesn't stop the others, nor what is fetched.
func TestThroughOutlivesItsClients(t *testing.T) {
	r := newRelay(t, time.Hour)
	img := registrytest.Build("linux/amd64", registrytest.Random(1, 1<<20))
	r.upstream.Push("team/app", "1", img)
	ref, err := reference.Parse(r.upstream.Host() + "/team/app:1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.through.Manifest(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	r.upstream.Break("/blobs/", 1, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			cancel() // who asked is gone
			<-release
			next.ServeHTTP(w, req)
		})
	})
	if _, err := r.through.Blob(ctx, ref, img.Layers[0].Digest); !errors.Is(err, context.Canceled) {
		t.Errorf("reading without a client: %v", err)
	}
	close(release)
	other, err := r.through.Blob(t.Context(), ref, img.Layers[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if got, err := io.ReadAll(other); err != nil || !bytes.Equal(got, img.Blobs[img.Layers[0].Digest]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if n := r.upstream.Count("/blobs/"); n != 1 {
		t.Errorf("%d requests for the blob", n)
	}
}

// An image keeps what it needs, however the blobs came, and an older one that its tag
// stood for doesn't come back.
func TestThroughKeepsImagesTogether(t *testing.T) {
	r := newRelay(t, 0)
	base := registrytest.Random(1, 1000)
	one, two := registrytest.Build("linux/amd64", base, registrytest.Random(2, 1000)), registrytest.Build("linux/amd64", base, registrytest.Random(3, 1000))
	other := registrytest.Build("linux/amd64", base, registrytest.Random(4, 1000))
	pull := func(img registrytest.Image, tag string, layers ...int) {
		t.Helper()
		if tag != "" {
			r.get("/v2/team/app/manifests/" + tag)
		}
		r.get("/v2/team/app/blobs/" + img.Config.Digest.String())
		for _, n := range layers {
			path, _ := r.blob(img, n)
			r.get(path)
		}
		r.through.Wait()
	}
	r.upstream.Push("team/app", "1", one)
	pull(one, "1", 0)
	r.upstream.Push("team/app", "1", two)
	pull(two, "1", 0, 1)
	pull(one, "", 1) // by who had the older one's manifest
	r.upstream.Push("team/app", "other", other)
	pull(other, "other", 0, 1)
	images, err := r.store.ImageUsages()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]registrytest.Image{r.upstream.Host() + "/team/app:1": two, r.upstream.Host() + "/team/app:other": other}
	for _, i := range images {
		img, ok := want[i.Name]
		if !ok || i.Target.Digest != img.Descriptor.Digest || len(i.Missing) > 0 || len(i.Blobs) != 4 {
			t.Errorf("%s: %+v", i.Name, i)
		}
	}
	if len(images) != 2 {
		t.Errorf("%d images", len(images))
	}
	// One that is asked for by its digest alone is an image, too.
	alone := registrytest.Build("linux/amd64", registrytest.Random(5, 1000))
	r.upstream.Push("team/app", "", alone)
	r.get("/v2/team/app/manifests/" + alone.Descriptor.Digest.String())
	pull(alone, "", 0)
	if root, err := r.store.Root(r.upstream.Host() + "/team/app@" + alone.Descriptor.Digest.String()); err != nil || len(root.Blobs) != 3 {
		t.Errorf("by its digest: %+v, %v", root, err)
	}
	// What was removed doesn't come back with a late blob.
	if err := r.store.Remove(r.upstream.Host() + "/team/app:1"); err != nil {
		t.Fatal(err)
	}
	pull(one, "", 1)
	if _, err := r.store.Root(r.upstream.Host() + "/team/app:1"); err == nil {
		t.Error("an image that was removed is back")
	}
}

// Faults upstream are told as what they are, and HEAD fetches nothing.
func TestThroughTellsOfFaults(t *testing.T) {
	r := newRelay(t, time.Hour)
	img := registrytest.Build("linux/amd64", registrytest.Random(1, 1<<20))
	r.upstream.Push("team/app", "1", img)
	r.get("/v2/team/app/manifests/1")
	path, content := r.blob(img, 0)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodHead, r.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.ContentLength != int64(len(content)) || r.upstream.Count("/blobs/") != 0 {
		t.Errorf("HEAD: %d, %d bytes, %d requests upstream", resp.StatusCode, resp.ContentLength, r.upstream.Count("/blobs/"))
	}
	for status, want := range map[int]int{http.StatusNotFound: http.StatusNotFound, http.StatusForbidden: http.StatusForbidden, http.StatusInternalServerError: http.StatusBadGateway} {
		r := newRelay(t, time.Hour)
		r.upstream.Push("team/app", "1", img)
		r.get("/v2/team/app/manifests/1")
		r.upstream.Break(path, -1, chaostest.Status(status))
		if resp, _ := r.get(path); resp.StatusCode != want {
			t.Errorf("upstream says %d: %d, want %d", status, resp.StatusCode, want)
		}
	}
}

// A manifest that lies about sizes gets nobody less than the blob, nor more.
func TestThroughWithLyingManifests(t *testing.T) {
	r := newRelay(t, time.Hour)
	img := registrytest.Build("linux/amd64", registrytest.Random(1, 5000))
	r.upstream.Push("team/app", "1", img)
	path, content := r.blob(img, 0)
	lie := strings.Replace(string(img.Manifest), fmt.Sprintf(`"size":%d}]`, len(content)), `"size":0}]`, 1)
	if lie == string(img.Manifest) {
		t.Fatal("the lie isn't one")
	}
	r.upstream.PushManifest("team/app", "zero", img.Descriptor.MediaType, []byte(lie))
	r.upstream.PushManifest("evil/app", "1", img.Descriptor.MediaType, []byte(strings.Replace(lie, `"size":0}]`, `"size":100}]`, 1)))
	r.get("/v2/evil/app/manifests/1")
	r.get("/v2/team/app/manifests/zero")
	if resp, body := r.get(path); resp.StatusCode != http.StatusOK || !bytes.Equal(body, content) {
		t.Errorf("%d with %d bytes", resp.StatusCode, len(body))
	}
	// Places that a manifest names are not asked.
	asked := false
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer elsewhere.Close()
	foreign := registrytest.Build("linux/amd64", registrytest.Random(2, 5000))
	text := strings.Replace(string(foreign.Manifest), `"size":`+fmt.Sprint(foreign.Layers[0].Size)+`}]`, `"size":`+fmt.Sprint(foreign.Layers[0].Size)+`,"urls":["`+elsewhere.URL+`"]}]`, 1)
	r.upstream.PushManifest("team/app", "foreign", foreign.Descriptor.MediaType, []byte(text))
	r.get("/v2/team/app/manifests/foreign")
	if resp, _ := r.get("/v2/team/app/blobs/" + foreign.Layers[0].Digest.String()); resp.StatusCode != http.StatusNotFound || asked || text == string(foreign.Manifest) {
		t.Errorf("%d, asked elsewhere: %v", resp.StatusCode, asked)
	}
}
