package mirror_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"drayage/blobstore"
	"drayage/engine/internal/limits"
	"drayage/engine/limitstest"
	"drayage/engine/mirror"
	"drayage/engine/registry/registrytest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestManyRangesAreRefused(t *testing.T) {
	base, images := serve(t)
	img := images["docker.io/library/alpine:3"]
	path := base + "/v2/library/alpine/blobs/" + img.Layers[0].Digest.String()
	list := func(n int, r string) string { return "bytes=" + strings.TrimSuffix(strings.Repeat(r+",", n), ",") }
	for rng, want := range map[string]int{
		list(limits.Ranges, "0-0"):             http.StatusPartialContent,
		list(limits.Ranges+1, "0-0"):           http.StatusRequestedRangeNotSatisfiable,
		list(5000, "0-0"):                      http.StatusRequestedRangeNotSatisfiable,
		list(3000, "0-9999"):                   http.StatusRequestedRangeNotSatisfiable, // overlapping
		list(3000, "-1"):                       http.StatusRequestedRangeNotSatisfiable,
		list(limits.Ranges, "0-9999"):          http.StatusOK, // more than the whole: the whole
		"bytes=" + strings.Repeat(",", 9000):   http.StatusRequestedRangeNotSatisfiable,
		"bytes=0-" + strings.Repeat("9", 9000): http.StatusPartialContent,
	} {
		resp, body := ask(t, http.MethodGet, path, "Range", rng)
		if resp.StatusCode != want || len(body) > 12_000 {
			t.Errorf("%.40q: %d with %d bytes", rng, resp.StatusCode, len(body))
		}
	}
}

func TestParameters(t *testing.T) {
	base, _ := serve(t)
	long := strings.Repeat("a", 3000)
	for query, want := range map[string]int{
		"?n=99999999999999999999": 200, "?n=+1": 400, "?n=%2B1": 200, "?n=1e3": 400, "?n=-99999999999999999999": 400, "?n=0": 200, "?n=%00": 400, "?n=١": 400,
		"?last=" + long: 200, "?last=%ff%00": 200, "?n=1&n=2": 200, "?" + strings.Repeat("a=&", 1000): 200, "?ns=" + strings.Repeat("x", limits.QueryBytes): 414,
		"?" + strings.Repeat("a", limits.QueryBytes): 200, "?" + strings.Repeat("a", limits.QueryBytes+1): 414, "?%zz": 200, "?a;b=c": 200,
	} {
		resp, body := ask(t, http.MethodGet, base+"/v2/_catalog"+query)
		if resp.StatusCode != want || len(body) > 1000 {
			t.Errorf("%.40s: %d %.200s", query, resp.StatusCode, body)
		}
		for _, path := range []string{"/v2/library/alpine/tags/list", "/v2/library/alpine/manifests/3", "/v2/library/alpine/referrers/" + digest.FromString("x").String()} {
			if resp, _ := ask(t, http.MethodGet, base+path+query); resp.StatusCode >= 500 {
				t.Errorf("%s%.40s: %d", path, query, resp.StatusCode)
			}
		}
	}
	// What a parameter says comes back in the link as a parameter.
	resp, _ := ask(t, http.MethodGet, base+"/v2/library/alpine/tags/list?n=1&ns="+url.QueryEscape(`docker.io`))
	if link := resp.Header.Get("Link"); link != `</v2/library/alpine/tags/list?last=3&n=1&ns=docker.io>; rel="next"` {
		t.Errorf("Link: %s", link)
	}
}

// pages follows a list's links, and returns how many entries each page has.
func pages(t *testing.T, base, path string, count func(body []byte) int) (sizes []int) {
	t.Helper()
	for len(sizes) < 10 {
		resp, body := ask(t, http.MethodGet, base+path)
		if resp.StatusCode != http.StatusOK || len(body) > limits.PageBytes {
			t.Fatalf("%s: %d with %d bytes", path, resp.StatusCode, len(body))
		}
		sizes = append(sizes, count(body))
		link := resp.Header.Get("Link")
		if link == "" {
			break
		}
		path = strings.TrimPrefix(strings.TrimSuffix(link, `>; rel="next"`), "<")
	}
	return sizes
}

// A page is bounded whatever is asked for, and the rest follows.
func TestPagesAreBounded(t *testing.T) {
	store, err := blobstore.OpenWith(filepath.Join(t.TempDir(), "store"), blobstore.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	lease, err := store.Lease()
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Close()
	img := registrytest.Build("linux/amd64")
	subject := img.Descriptor
	first := blobstore.Root{Name: "docker.io/team/app:first", Target: subject, Blobs: []digest.Digest{subject.Digest}}
	const large, each = 75, 60 << 10
	for i := range large {
		raw, err := json.Marshal(ocispec.Manifest{
			MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/x", Config: ocispec.DescriptorEmptyJSON, Layers: []ocispec.Descriptor{ocispec.DescriptorEmptyJSON},
			Subject: &subject, Annotations: map[string]string{"text": fmt.Sprint(i) + strings.Repeat("x", each)},
		})
		if err != nil {
			t.Fatal(err)
		}
		raw = append([]byte(`{"schemaVersion":2,`), raw[len(`{"schemaVersion":0,`):]...)
		d := registrytest.Describe(ocispec.MediaTypeImageManifest, raw)
		if err := lease.Put(t.Context(), d, raw); err != nil {
			t.Fatal(err)
		}
		first.Blobs, first.Beside = append(first.Blobs, d.Digest), append(first.Beside, d)
	}
	roots := []blobstore.Root{first}
	for i := range limits.PageEntries + 5 {
		roots = append(roots, blobstore.Root{Name: fmt.Sprintf("docker.io/team/app:%d", i), Target: subject, Blobs: []digest.Digest{subject.Digest}})
	}
	if err := lease.Pin(roots...); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(mirror.New(mirror.Options{Store: store}))
	defer server.Close()
	tags := func(body []byte) int {
		var v struct{ Tags []string }
		if err := json.Unmarshal(body, &v); err != nil {
			t.Fatal(err)
		}
		return len(v.Tags)
	}
	for _, n := range []string{"", "?n=1000000000", "?n=10000", "?n=99999999999999999999"} {
		if got := pages(t, server.URL, "/v2/team/app/tags/list"+n, tags); len(got) != 2 || got[0] != limits.PageEntries || got[1] != 6 {
			t.Errorf("pages of tags for %q: %v", n, got)
		}
	}
	referrers := func(body []byte) int {
		var v ocispec.Index
		if err := json.Unmarshal(body, &v); err != nil {
			t.Fatal(err)
		}
		return len(v.Manifests)
	}
	for _, filter := range []string{"", "?artifactType=application/x"} {
		if got := pages(t, server.URL, "/v2/team/app/referrers/"+subject.Digest.String()+filter, referrers); len(got) != 2 || got[0]+got[1] != large {
			t.Errorf("pages of referrers%s: %v", filter, got)
		}
	}
	limitstest.Within(t, 64<<20, func() {
		for range 5 {
			pages(t, server.URL, "/v2/team/app/referrers/"+subject.Digest.String(), referrers)
			pages(t, server.URL, "/v2/_catalog", func([]byte) int { return 0 })
		}
	})
}

// A referrer that wasn't there when it was first looked for is found once it is.
func TestReferrersThatComeLater(t *testing.T) {
	store, err := blobstore.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	lease, err := store.Lease()
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Close()
	img := registrytest.Build("linux/amd64")
	signature := registrytest.Artifact("application/signature", &img.Descriptor, []byte("signature"))
	server := httptest.NewServer(mirror.New(mirror.Options{Store: store}))
	defer server.Close()
	path := server.URL + "/v2/team/app/referrers/" + img.Descriptor.Digest.String()
	if _, body := ask(t, http.MethodGet, path); strings.Contains(string(body), signature.Descriptor.Digest.String()) {
		t.Fatal("it isn't there yet")
	}
	if err := lease.Put(t.Context(), signature.Descriptor, signature.Manifest); err != nil {
		t.Fatal(err)
	}
	if err := lease.Pin(blobstore.Root{Name: "docker.io/team/app:1", Target: img.Descriptor, Blobs: []digest.Digest{signature.Descriptor.Digest}, Beside: []ocispec.Descriptor{signature.Descriptor}}); err != nil {
		t.Fatal(err)
	}
	if _, body := ask(t, http.MethodGet, path); !strings.Contains(string(body), signature.Descriptor.Digest.String()) {
		t.Errorf("%s", body)
	}
	if err := store.Remove("docker.io/team/app:1"); err != nil {
		t.Fatal(err)
	}
	if _, body := ask(t, http.MethodGet, path); strings.Contains(string(body), signature.Descriptor.Digest.String()) {
		t.Error("it is of no image any more")
	}
}

// Lists follow what other processes do to the store.
func TestListsAreThoseOfNow(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	store, err := blobstore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(mirror.New(mirror.Options{Store: store}))
	defer server.Close()
	other, err := blobstore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	lease, err := other.Lease()
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Close()
	img := registrytest.Build("linux/amd64")
	for i := range 30 {
		name := fmt.Sprintf("docker.io/team/app%d:1", i%3)
		if err := lease.Pin(blobstore.Root{Name: name, Target: img.Descriptor, Blobs: []digest.Digest{img.Descriptor.Digest}}); err != nil {
			t.Fatal(err)
		}
		repo := strings.TrimSuffix(strings.TrimPrefix(name, "docker.io/"), ":1")
		if _, body := ask(t, http.MethodGet, server.URL+"/v2/_catalog"); !strings.Contains(string(body), `"`+repo+`"`) {
			t.Fatalf("%s was pinned: %s", repo, body)
		}
		if err := other.Remove(name); err != nil {
			t.Fatal(err)
		}
		if _, body := ask(t, http.MethodGet, server.URL+"/v2/_catalog"); strings.Contains(string(body), `"`+repo+`"`) {
			t.Fatalf("%s was removed: %s", repo, body)
		}
	}
}

// FuzzPrivate: whatever somebody asks who may not see a private image, nothing of it is shown.
func FuzzPrivate(f *testing.F) {
	store, err := blobstore.OpenWith(filepath.Join(f.TempDir(), "store"), blobstore.Options{NoSync: true})
	if err != nil {
		f.Fatal(err)
	}
	lease, err := store.Lease()
	if err != nil {
		f.Fatal(err)
	}
	defer lease.Close()
	content := []byte("a blob that a private image has alone")
	d := registrytest.Describe("", content)
	if err := lease.Put(f.Context(), d, content); err != nil {
		f.Fatal(err)
	}
	if err := lease.Pin(blobstore.Root{Name: "r.example/secret/app:1", Target: d, Blobs: []digest.Digest{d.Digest}}); err != nil {
		f.Fatal(err)
	}
	private, err := mirror.ParsePrivate([]string{"r.example/secret=ann"})
	if err != nil {
		f.Fatal(err)
	}
	h := mirror.New(mirror.Options{Store: store, Private: private})
	for _, path := range []string{"/v2/", "/v2/_catalog?n=3&last=x", "/v2/r.example/secret/app/tags/list", "/r.example/v2/secret/app/manifests/1", "/v2/secret/app/blobs/" + d.Digest.String() + "?ns=r.example", "/v2/x/referrers/" + d.Digest.String(), "/v2/%2e%2e/blobs/sha256:%2f"} {
		f.Add(path, "bytes=0-1,-3,5-")
	}
	f.Fuzz(func(t *testing.T, target, ranges string) {
		u, err := url.ParseRequestURI(target)
		if err != nil || !strings.HasPrefix(target, "/") {
			return
		}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.URL = u
		r.Header.Set("Range", ranges)
		w := httptest.NewRecorder()
		h.Serve(w, r, "eve")
		if w.Code >= 500 || strings.Contains(w.Body.String(), string(content)) || strings.Contains(w.Body.String(), "secret/app\"]") {
			t.Errorf("%q with %q: %d %s", target, ranges, w.Code, w.Body)
		}
	})
}
