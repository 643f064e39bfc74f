package mirror_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"drayage/blobstore"
	"drayage/engine/mirror"
	"drayage/engine/registry/registrytest"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func rules(t *testing.T, texts ...string) *mirror.Private {
	t.Helper()
	p, err := mirror.ParsePrivate(texts)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPrivateRules(t *testing.T) {
	p := rules(t, "ghcr.io/team=ann,bob", "ghcr.io/team/open=*", "ghcr.io/team=eve", "R.Example:5000=ann", "docker.io/corp=ann", "index.docker.io/alpine=bob", "registry-1.docker.io/a/b/=ann", "other.example/x=ann", "other.example=bob", "[::1]=bob")
	for _, c := range []struct {
		registry, repository string
		who                  string // of ann, bob, eve and nobody
	}{
		{"ghcr.io", "team", "ann bob eve"},
		{"ghcr.io", "team/app", "ann bob eve"},
		{"GHCR.io", "team/app", "ann bob eve"},
		{"ghcr.io:443", "team/app", "ann bob eve"},
		{"ghcr.io", "teams", "ann bob eve nobody"},
		{"ghcr.io", "team/open/x", "ann bob eve"},
		{"ghcr.io", "team/opened", "ann bob eve"},
		{"ghcr.io", "x/team", "ann bob eve nobody"},
		{"r.example:5000", "any/thing", "ann"},
		{"R.EXAMPLE:5000", "any", "ann"},
		{"r.example:05000", "any", "ann"},
		{"[::1]:443", "x", "bob"},
		{"[::1]", "x", "bob"},
		{"[::1]:444", "x", "ann bob eve nobody"},
		{"r.example", "any", "ann bob eve nobody"},
		{"docker.io", "corp/app", "ann"},
		{"docker.io", "library/corp", "ann"},
		{"docker.io", "library/alpine", "bob"},
		{"docker.io", "library/alpine2", "ann bob eve nobody"},
		{"index.docker.io", "corp/app", "ann"},
		{"registry-1.docker.io", "corp/app", "ann"},
		{"registry-1.docker.io:443", "a/b/c", "ann"},
		{"docker.io", "a/c", "ann bob eve nobody"},
		{"other.example", "x/y", "ann"},
		{"other.example", "y", "bob"},
	} {
		var may []string
		for _, user := range []string{"ann", "bob", "eve", ""} {
			if p.May(user, c.registry, c.repository) {
				may = append(may, map[bool]string{true: "nobody", false: user}[user == ""])
			}
		}
		if got := strings.Join(may, " "); got != c.who {
			t.Errorf("%s/%s is seen by %q, want %q", c.registry, c.repository, got, c.who)
		}
	}
	if p.Everything("ann") || !(*mirror.Private)(nil).Everything("") || !rules(t, "ghcr.io=*").Everything("ann") || rules(t, "ghcr.io=*").Everything("") {
		t.Error("who may see everything")
	}
	for _, bad := range []string{"", "ghcr.io", "=ann", "ghcr.io=", "ghcr.io=ann,,bob", "ghcr.io=a:b", "ghcr/team=ann", "https://ghcr.io=ann", "ghcr.io/Team=ann", "ghcr.io/*=ann", "ghcr.io//x=ann", "ghcr.io/../x=ann"} {
		if _, err := mirror.ParsePrivate([]string{bad}); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// guarded is a mirror of a store with private and public images, whose users are named by a header.
type guarded struct {
	store   *blobstore.Store
	url     string
	images  map[string]registrytest.Image
	mu      sync.Mutex
	refused []string
}

const secretName, sharedName, openName, otherName = "r.example/team/secret:1", "r.example/team/shared:1", "docker.io/library/open:1", "s.example/secret/app:1"

func guard(t *testing.T, texts ...string) *guarded {
	t.Helper()
	g := &guarded{images: make(map[string]registrytest.Image)}
	var err error
	if g.store, err = blobstore.Open(filepath.Join(t.TempDir(), "store")); err != nil {
		t.Fatal(err)
	}
	lease, err := g.store.Lease()
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Close()
	base := registrytest.Random(10, 5000)
	g.images[secretName] = registrytest.Build("linux/amd64", base, registrytest.Random(11, 3000))
	g.images[sharedName] = registrytest.Build("linux/amd64", registrytest.Random(12, 3000))
	g.images[openName] = registrytest.Build("linux/amd64", base, registrytest.Random(13, 3000))
	g.images[otherName] = registrytest.Build("linux/amd64", registrytest.Random(14, 3000))
	signature := registrytest.Artifact("application/signature", ptr(g.images[secretName].Descriptor), []byte("signature"))
	for name, img := range g.images {
		r := blobstore.Root{Name: name, Target: img.Descriptor, Blobs: []digest.Digest{img.Descriptor.Digest}}
		all := []registrytest.Image{img}
		if name == secretName {
			all = append(all, signature)
			r.Beside = []ocispec.Descriptor{signature.Descriptor}
		}
		for _, i := range all {
			for _, raw := range append(slices.Collect(maps.Values(i.Blobs)), i.Manifest) {
				d := registrytest.Describe("", raw)
				if err := lease.Put(t.Context(), d, raw); err != nil {
					t.Fatal(err)
				}
				r.Blobs = append(r.Blobs, d.Digest)
			}
		}
		if err := lease.Pin(r); err != nil {
			t.Fatal(err)
		}
	}
	g.images["signature"] = signature
	o := mirror.Options{Store: g.store, Refused: func(_ context.Context, user, why, what string) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.refused = append(g.refused, user+" "+why+" "+what)
	}}
	if len(texts) > 0 {
		o.Private = rules(t, texts...)
	}
	h := mirror.New(o)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.Serve(w, r, r.Header.Get("User")) }))
	t.Cleanup(server.Close)
	g.url = server.URL
	return g
}

// What a user may not see is answered as if it weren't there: bytes and headers are those of
// something that isn't there.
func TestPrivateIsAsIfAbsent(t *testing.T) {
	g := guard(t, "r.example/team=ann", "s.example/secret/app=bob")
	secret := g.images[secretName]
	manifest, layer := secret.Descriptor.Digest.String(), secret.Layers[1].Digest.String()
	absent := digest.FromString("absent").String()
	for _, c := range []struct{ hidden, like string }{
		{"/v2/r.example/team/secret/manifests/1", "/v2/r.example/other/secret/manifests/1"},
		{"/v2/team/secret/manifests/1?ns=r.example", "/v2/other/secret/manifests/1?ns=r.example"},
		{"/r.example/v2/team/secret/manifests/1", "/r.example/v2/other/secret/manifests/1"},
		{"/v2/team/secret/manifests/1", "/v2/other/secret/manifests/1"}, // found elsewhere
		{"/v2/team/secret/manifests/1?ns=R.EXAMPLE", "/v2/other/secret/manifests/1?ns=R.EXAMPLE"},
		{"/v2/r.example/team/secret/manifests/" + manifest, "/v2/r.example/other/secret/manifests/" + absent},
		{"/v2/library/open/manifests/" + manifest, "/v2/library/open/manifests/" + absent},
		{"/v2/s.example/any/manifests/" + manifest, "/v2/s.example/any/manifests/" + absent},
		{"/v2/r.example/team/secret/blobs/" + layer, "/v2/r.example/other/secret/blobs/" + absent},
		{"/v2/library/open/blobs/" + layer, "/v2/library/open/blobs/" + absent},
		{"/v2/library/open/blobs/" + manifest, "/v2/library/open/blobs/" + absent},
		{"/v2/library/open/blobs/" + secret.Config.Digest.String(), "/v2/library/open/blobs/" + absent},
		{"/r.example/v2/team/secret/blobs/" + layer, "/r.example/v2/other/secret/blobs/" + absent},
		{"/v2/open/blobs/" + layer + "?ns=docker.io", "/v2/open/blobs/" + absent + "?ns=docker.io"},
		{"/v2/r.example/team/secret/tags/list", "/v2/r.example/other/secret/tags/list"},
		{"/v2/team/secret/tags/list", "/v2/other/secret/tags/list"},
		{"/v2/r.example/team/secret/referrers/" + manifest, "/v2/r.example/team/secret/referrers/" + absent},
		{"/v2/library/open/referrers/" + manifest, "/v2/library/open/referrers/" + absent},
		{"/v2/r.example/team/secret/manifests/" + g.images["signature"].Descriptor.Digest.String(), "/v2/r.example/other/secret/manifests/" + absent},
		{"/v2/secret/app/manifests/1", "/v2/other/app/manifests/1"},
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			for _, user := range []string{"", "eve", "ANN"} {
				for _, header := range [][]string{{}, {"Range", "bytes=0-9"}, {"Range", "bytes=-1"}, {"If-None-Match", `"` + manifest + `"`}} {
					header = append([]string{"User", user}, header...)
					got, body := ask(t, method, g.url+c.hidden, header...)
					want, wantBody := ask(t, method, g.url+c.like, header...)
					got.Header.Del("Date")
					want.Header.Del("Date")
					if diff := cmp.Diff(want, got); diff != "" || !bytes.Equal(body, wantBody) {
						t.Errorf("%s %s by %q with %v: %s %s", method, c.hidden, user, header, diff, body)
					}
				}
			}
		}
		if !strings.Contains(c.hidden, "secret/app") {
			if got, body := ask(t, http.MethodGet, g.url+c.hidden, "User", "ann"); got.StatusCode != http.StatusOK || strings.Contains(string(body), `"manifests":[]`) && strings.Contains(c.hidden, "/referrers/") {
				t.Errorf("%s by who may: %d %s", c.hidden, got.StatusCode, body)
			}
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !slices.ContainsFunc(g.refused, func(s string) bool { return s == "eve private r.example/team/secret:1" }) || slices.ContainsFunc(g.refused, func(s string) bool { return strings.HasPrefix(s, "ann ") }) {
		t.Errorf("told of %v", g.refused)
	}
}

// What a public image has, too, is no secret; and lists are of what a user may see.
func TestPrivateAndPublicBesideEachOther(t *testing.T) {
	g := guard(t, "r.example/team=ann", "s.example=bob")
	base := g.images[openName].Layers[0].Digest
	if base != g.images[secretName].Layers[0].Digest {
		t.Fatal("the images share nothing")
	}
	for _, user := range []string{"", "ann", "eve"} {
		if got, body := ask(t, http.MethodGet, g.url+"/v2/library/open/blobs/"+base.String(), "User", user); got.StatusCode != http.StatusOK || len(body) != 5000 {
			t.Errorf("a shared layer for %q: %d", user, got.StatusCode)
		}
		if got, _ := ask(t, http.MethodGet, g.url+"/v2/open/manifests/1", "User", user); got.StatusCode != http.StatusOK {
			t.Errorf("a public image for %q: %d", user, got.StatusCode)
		}
	}
	for user, want := range map[string]string{
		"":    `{"repositories":["library/open"]}`,
		"eve": `{"repositories":["library/open"]}`,
		"ann": `{"repositories":["library/open","r.example/team/secret","r.example/team/shared"]}`,
		"bob": `{"repositories":["library/open","s.example/secret/app"]}`,
	} {
		if _, body := ask(t, http.MethodGet, g.url+"/v2/_catalog", "User", user); string(body) != want {
			t.Errorf("the catalog of %q: %s", user, body)
		}
		n := strings.Count(want, `"`) / 2
		if resp, _ := ask(t, http.MethodGet, g.url+fmt.Sprintf("/v2/_catalog?n=%d", n-1), "User", user); resp.Header.Get("Link") != "" {
			t.Errorf("a page after the last, for %q", user)
		}
	}
}

// Which registries have a repository is told of those that one may see.
func TestPrivateElsewhere(t *testing.T) {
	g := guard(t, "r.example=ann", "s.example=bob")
	lease, err := g.store.Lease()
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Close()
	for _, name := range []string{"r.example/app:1", "s.example/app:1", "t.example/app:1", "u.example/app:1"} {
		if err := lease.Pin(blobstore.Root{Name: name, Target: g.images[openName].Descriptor, Blobs: []digest.Digest{g.images[openName].Descriptor.Digest}}); err != nil {
			t.Fatal(err)
		}
	}
	for user, want := range map[string]string{"ann": "r.example/app, t.example/app, u.example/app", "bob": "s.example/app, t.example/app, u.example/app", "": "t.example/app, u.example/app"} {
		for _, path := range []string{"manifests/1", "tags/list"} {
			// The name of one part is library/app at the default registry, and app at others.
			if resp, body := ask(t, http.MethodGet, g.url+"/v2/app/"+path, "User", user); resp.StatusCode != http.StatusNotFound || !strings.Contains(string(body), "request one of "+want) {
				t.Errorf("%s by %q: %s", path, user, body)
			}
		}
	}
	if err := g.store.Remove("u.example/app:1"); err != nil {
		t.Fatal(err)
	}
	if resp, _ := ask(t, http.MethodGet, g.url+"/v2/app/manifests/1"); resp.StatusCode != http.StatusOK {
		t.Errorf("the only one that everybody may see: %d", resp.StatusCode)
	}
}

// Images without a name are of no registry; a root whose name can't be read may be of any.
func TestPrivateAndNames(t *testing.T) {
	p := rules(t, "r.example=ann")
	for name, want := range map[string]bool{
		digest.FromString("x").String(): true, "alpine:3": true, "r.example/a:1": false, "R.EXAMPLE/a:1": false, "r.example:443/a@" + digest.FromString("x").String(): false, "UP/UP": false, "": false,
	} {
		if p.MayName("eve", name) != want || !p.MayName("ann", name) {
			t.Errorf("%q: %v", name, !want)
		}
	}
}
