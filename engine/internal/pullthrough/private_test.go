package pullthrough_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"drayage/blobstore"
	"drayage/engine"
	"drayage/engine/chaos/chaostest"
	"drayage/engine/internal/retry"
	"drayage/engine/internal/schedule"
	"drayage/engine/mirror"
	"drayage/engine/registry"
	"drayage/engine/registry/registrytest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// guarded is a relay whose registry has repositories under secret/ that are ann's alone. A
// request's user stands in its header.
func newGuarded(t *testing.T) (r *relay, get func(user, path string, header ...string) (answer, []byte)) {
	t.Helper()
	r = &relay{t: t, upstream: registrytest.New()}
	t.Cleanup(r.upstream.Close)
	var err error
	if r.store, err = blobstore.Open(filepath.Join(t.TempDir(), "store")); err != nil {
		t.Fatal(err)
	}
	private, err := mirror.ParsePrivate([]string{r.upstream.Host() + "/secret=ann"})
	if err != nil {
		t.Fatal(err)
	}
	policy := retry.Policy{Patience: 2 * time.Second}
	client, manifests := registry.New(registry.Options{Retry: policy}), registry.New(registry.Options{Retry: policy})
	t.Cleanup(client.Close)
	t.Cleanup(manifests.Close)
	r.through = engine.NewPullThrough(context.Background(), engine.Options{Store: r.store, Registry: client, Retry: policy, Limits: schedule.Limits{Jobs: 4, PerHost: 4}}, manifests, time.Hour)
	t.Cleanup(r.through.Close)
	h := mirror.New(mirror.Options{Store: r.store, Registry: r.upstream.Host(), Upstream: r.through, Private: private, Allowed: func(name string) bool { return name == r.upstream.Host() }})
	r.through.Withheld = h.Withheld
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { h.Serve(w, q, q.Header.Get("User")) }))
	t.Cleanup(server.Close)
	r.url = server.URL
	return r, func(user, path string, header ...string) (answer, []byte) {
		t.Helper()
		return r.get(path, append([]string{"User", user}, header...)...)
	}
}

// refused asks for all of an image by its digests under a name, and wants none of it given.
func refused(t *testing.T, get func(user, path string, header ...string) (answer, []byte), img registrytest.Image, repo string) {
	t.Helper()
	all := append([]ocispec.Descriptor{img.Descriptor, img.Config}, img.Layers...)
	for _, d := range all {
		for _, path := range []string{"/manifests/", "/blobs/"} {
			for _, header := range [][]string{{}, {"Range", "bytes=0-0"}, {"Range", "bytes=-1"}} {
				if resp, body := get("eve", "/v2/"+repo+path+d.Digest.String(), header...); resp.StatusCode != http.StatusNotFound || bytes.Contains(body, []byte("secret")) {
					t.Errorf("%s%s%s: %d %s", repo, path, d.Digest, resp.StatusCode, body)
				}
			}
		}
	}
}

// What is private isn't fetched for others, nor told apart from what isn't there.
func TestPrivateIsNotFetchedForOthers(t *testing.T) {
	r, get := newGuarded(t)
	img := registrytest.Build("linux/amd64", registrytest.Random(1, 10_000))
	r.upstream.Push("secret/app", "1", img)
	r.upstream.HaveReferrers()
	for _, path := range []string{"/manifests/1", "/tags/list", "/manifests/" + img.Descriptor.Digest.String(), "/blobs/" + img.Layers[0].Digest.String(), "/referrers/" + img.Descriptor.Digest.String()} {
		for _, user := range []string{"", "eve"} {
			got, body := get(user, "/v2/secret/app"+path)
			want, wantBody := get(user, "/v2/absent/app"+path)
			if got.StatusCode != want.StatusCode || !bytes.Equal(body, wantBody) || got.Header.Get("Warning") != want.Header.Get("Warning") {
				t.Errorf("%s by %q: %d %s; of nothing: %d %s", path, user, got.StatusCode, body, want.StatusCode, wantBody)
			}
		}
	}
	if n := r.upstream.Count("/v2/secret/"); n > 0 {
		t.Errorf("%d requests upstream for who may not see it", n)
	}
	if resp, body := get("ann", "/v2/secret/app/manifests/1"); resp.StatusCode != http.StatusOK || !bytes.Equal(body, img.Manifest) {
		t.Errorf("for who may: %d", resp.StatusCode)
	}
	refused(t, get, img, "secret/app")
}

// A digest of what the store has for others opens nothing under another repository's name,
// whichever way it is made to be part of it.
func TestPrivateDigestsUnderOtherNames(t *testing.T) {
	r, get := newGuarded(t)
	base := registrytest.Random(1, 20_000)
	secret := registrytest.Build("linux/amd64", base, registrytest.Random(2, 10_000))
	r.upstream.Push("secret/app", "1", secret)
	open := registrytest.Build("linux/amd64", base, registrytest.Random(3, 10_000))
	r.upstream.Push("open/app", "1", open)
	whole := func(user, repo string, img registrytest.Image) {
		t.Helper()
		if resp, body := get(user, "/v2/"+repo+"/manifests/1"); resp.StatusCode != http.StatusOK || !bytes.Equal(body, img.Manifest) {
			t.Fatalf("%s for %s: %d %s", repo, user, resp.StatusCode, body)
		}
		for _, d := range append([]ocispec.Descriptor{img.Config}, img.Layers...) {
			if resp, body := get(user, "/v2/"+repo+"/blobs/"+d.Digest.String()); resp.StatusCode != http.StatusOK || !bytes.Equal(body, img.Blobs[d.Digest]) {
				t.Fatalf("%s of %s for %s: %d", d.Digest, repo, user, resp.StatusCode)
			}
		}
	}
	whole("ann", "secret/app", secret)
	for { // clients get the last byte before the image is told
		root, err := r.store.Root(r.upstream.Host() + "/secret/app:1")
		if err != nil {
			t.Fatal(err)
		}
		if len(root.Blobs) == 4 {
			break
		}
		runtime.Gosched()
	}

	own := registrytest.Build("linux/amd64", registrytest.Random(2, 10_000)) // the layer that only secret/app has
	own.Layers = own.Layers[:1]
	private := registrytest.Image{Descriptor: secret.Descriptor, Config: secret.Config, Layers: own.Layers}
	refused(t, get, private, "open/app")
	refused(t, get, private, "absent/app")

	// Manifests that list what their repository doesn't have.
	r.upstream.Push("evil/app", "1", own)
	r.upstream.DropBlob("evil/app", own.Layers[0].Digest)
	r.upstream.PushManifest("evil/app", "index", ocispec.MediaTypeImageIndex, registrytest.Index(ocispec.MediaTypeImageIndex, secret.Descriptor, own.Descriptor))
	for _, tag := range []string{"1", "index"} {
		if resp, _ := get("eve", "/v2/evil/app/manifests/"+tag); resp.StatusCode != http.StatusOK {
			t.Fatalf("evil/app:%s: %d", tag, resp.StatusCode)
		}
		refused(t, get, private, "evil/app")
		refused(t, get, private, "open/app")
	}

	// Who may see it asks for it under another name, which makes it no part of that.
	for _, path := range []string{"/manifests/" + secret.Descriptor.Digest.String(), "/blobs/" + own.Layers[0].Digest.String()} {
		if resp, _ := get("ann", "/v2/open/app"+path); resp.StatusCode != http.StatusOK {
			t.Errorf("%s for ann: %d", path, resp.StatusCode)
		}
	}
	refused(t, get, private, "open/app")

	// What a public image has, too, is given with it, whoever fetched it first.
	whole("eve", "open/app", open)
	roots, err := r.store.Roots()
	if err != nil {
		t.Fatal(err)
	}
	for _, root := range roots {
		if slices.ContainsFunc(root.Blobs, func(d digest.Digest) bool { return d == own.Layers[0].Digest || d == secret.Descriptor.Digest }) && root.Name != r.upstream.Host()+"/secret/app:1" {
			t.Errorf("%s lists what is another's", root.Name)
		}
	}
}

// What is on its way for one is not given to another, nor is what was left half-way.
func TestPrivateBlobsOnTheirWay(t *testing.T) {
	r, get := newGuarded(t)
	secret := registrytest.Build("linux/amd64", registrytest.Random(1, 3<<20))
	r.upstream.Push("secret/app", "1", secret)
	evil := registrytest.Build("linux/amd64", registrytest.Random(1, 3<<20), registrytest.Random(2, 100))
	r.upstream.Push("evil/app", "1", evil)
	layer := secret.Layers[0].Digest
	r.upstream.DropBlob("evil/app", layer)
	release := make(chan struct{})
	r.upstream.Break("/v2/secret/app/blobs/"+layer.String(), 1, chaostest.Hold(release))
	if resp, _ := get("ann", "/v2/secret/app/manifests/1"); resp.StatusCode != http.StatusOK {
		t.Fatal(resp.StatusCode)
	}
	ended := make(chan int, 1)
	go func() {
		resp, _, err := r.try(t.Context(), "/v2/secret/app/blobs/"+layer.String(), "User", "ann")
		if err != nil {
			t.Error(err)
		}
		ended <- resp.StatusCode
	}()
	if resp, _ := get("eve", "/v2/evil/app/manifests/1"); resp.StatusCode != http.StatusOK {
		t.Fatal(resp.StatusCode)
	}
	ask := func() {
		t.Helper()
		if resp, _ := get("eve", "/v2/evil/app/blobs/"+layer.String()); resp.StatusCode != http.StatusNotFound {
			t.Errorf("a blob of another's image: %d", resp.StatusCode)
		}
	}
	ask()
	close(release)
	if status := <-ended; status != http.StatusOK {
		t.Errorf("for who may see it: %d", status)
	}
	ask()
}
