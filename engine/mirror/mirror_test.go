package mirror_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"drayage/blobstore"
	"drayage/engine/mirror"
	"drayage/engine/registry/registrytest"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// serve is a mirror of a store with some images.
func serve(t *testing.T) (url string, images map[string]registrytest.Image) {
	t.Helper()
	store, err := blobstore.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	lease, err := store.Lease()
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Close()
	images = map[string]registrytest.Image{
		"docker.io/library/alpine:3":    registrytest.Build("linux/amd64", registrytest.Random(1, 10_000)),
		"docker.io/library/alpine:edge": registrytest.BuildDocker("linux/amd64", registrytest.Random(2, 100)),
		"docker.io/team/app:1":          registrytest.Build("linux/amd64", registrytest.Random(3, 100)),
		"r.example/a/b/c:v1":            registrytest.Build("linux/amd64", registrytest.Random(4, 100)),
		"r.example:5000/d:v1":           registrytest.Build("linux/amd64", registrytest.Random(5, 100)),
	}
	signature := registrytest.Artifact("application/signature", ptr(images["r.example/a/b/c:v1"].Descriptor), []byte("signature"))
	for name, img := range images {
		r := blobstore.Root{Name: name, Target: img.Descriptor, Blobs: []digest.Digest{img.Descriptor.Digest}}
		all := []registrytest.Image{img}
		if name == "r.example/a/b/c:v1" {
			all = append(all, signature)
			r.Beside = []ocispec.Descriptor{signature.Descriptor}
		}
		for _, i := range all {
			put := func(raw []byte, kind string) {
				d := registrytest.Describe(kind, raw)
				if err := lease.Put(t.Context(), d, raw); err != nil {
					t.Fatal(err)
				}
				r.Blobs = append(r.Blobs, d.Digest)
			}
			put(i.Manifest, i.Descriptor.MediaType)
			for _, raw := range i.Blobs {
				put(raw, "")
			}
		}
		if err := lease.Pin(r); err != nil {
			t.Fatal(err)
		}
	}
	server := httptest.NewServer(mirror.New(mirror.Options{Store: store}))
	t.Cleanup(server.Close)
	return server.URL, images
}

func ptr[T any](v T) *T { return &v }

// answer is an answer without its body.
type answer struct {
	StatusCode    int
	Header        http.Header
	ContentLength int64
}

func ask(t *testing.T, method, url string, header ...string) (answer, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, resp.ContentLength}, body
}

// The image of a request is named by ns, by the first part of the repository, or by
// default.
func TestManifestsByAllNames(t *testing.T) {
	url, images := serve(t)
	for path, name := range map[string]string{
		"/v2/library/alpine/manifests/3":              "docker.io/library/alpine:3",
		"/v2/alpine/manifests/3":                      "docker.io/library/alpine:3",
		"/v2/library/alpine/manifests/3?ns=docker.io": "docker.io/library/alpine:3",
		"/v2/docker.io/library/alpine/manifests/edge": "docker.io/library/alpine:edge",
		"/v2/team/app/manifests/1":                    "docker.io/team/app:1",
		"/v2/r.example/a/b/c/manifests/v1":            "r.example/a/b/c:v1",
		"/v2/a/b/c/manifests/v1?ns=r.example":         "r.example/a/b/c:v1",
		"/v2/r.example:5000/d/manifests/v1":           "r.example:5000/d:v1",
		"/v2/d/manifests/v1?ns=r.example:5000":        "r.example:5000/d:v1",

		// Hosts are compared without case, port 443 goes without saying, and Docker Hub has several names.
		"/v2/REGISTRY-1.docker.io:443/library/alpine/manifests/3": "docker.io/library/alpine:3",
		"/v2/library/alpine/manifests/3?ns=Index.Docker.IO":       "docker.io/library/alpine:3",
		"/registry-1.docker.io:443/v2/team/app/manifests/1":       "docker.io/team/app:1",
		"/v2/R.EXAMPLE/a/b/c/manifests/v1":                        "r.example/a/b/c:v1",
		"/R.Example:443/v2/a/b/c/manifests/v1":                    "r.example/a/b/c:v1",
		"/v2/R.example:05000/d/manifests/v1":                      "r.example:5000/d:v1",
	} {
		img := images[name]
		for _, p := range []string{path, strings.Replace(path, "/manifests/"+strings.SplitAfter(name, ":")[strings.Count(name, ":")], "/manifests/"+img.Descriptor.Digest.String(), 1)} {
			resp, body := ask(t, http.MethodGet, url+p)
			if resp.StatusCode != http.StatusOK || !bytes.Equal(body, img.Manifest) || resp.Header.Get("Content-Type") != img.Descriptor.MediaType ||
				resp.Header.Get("Docker-Content-Digest") != img.Descriptor.Digest.String() {
				t.Errorf("%s: %d, %v", p, resp.StatusCode, resp.Header)
			}
			head, none := ask(t, http.MethodHead, url+p)
			if head.StatusCode != http.StatusOK || len(none) != 0 || head.ContentLength != int64(len(img.Manifest)) {
				t.Errorf("HEAD %s: %d, %v", p, head.StatusCode, head.Header)
			}
			if same, _ := ask(t, http.MethodGet, url+p, "If-None-Match", resp.Header.Get("Etag")); same.StatusCode != http.StatusNotModified {
				t.Errorf("%s, unchanged: %d", p, same.StatusCode)
			}
		}
	}
}

func TestBlobsAndRanges(t *testing.T) {
	url, images := serve(t)
	img := images["docker.io/library/alpine:3"]
	d := img.Layers[0].Digest
	content := img.Blobs[d]
	n := len(content)
	path := url + "/v2/library/alpine/blobs/" + d.String()
	for rng, want := range map[string]struct {
		status int
		body   []byte
	}{
		"":                 {200, content},
		"bytes=0-99":       {206, content[:100]},
		"bytes=100-":       {206, content[100:]},
		"bytes=-100":       {206, content[n-100:]},
		"bytes=9000-99999": {206, content[9000:]},
		"bytes=99999-":     {416, nil},
		"nonsense":         {416, nil},
		"bytes=5-1":        {416, nil},
	} {
		resp, body := ask(t, http.MethodGet, path, "Range", rng)
		if resp.StatusCode != want.status || want.body != nil && !bytes.Equal(body, want.body) {
			t.Errorf("%q: %d with %d bytes", rng, resp.StatusCode, len(body))
		}
		if want.status < 300 && (resp.Header.Get("Docker-Content-Digest") != d.String() || resp.Header.Get("Accept-Ranges") != "bytes") {
			t.Errorf("%q: %v", rng, resp.Header)
		}
	}
	if resp, body := ask(t, http.MethodHead, path); resp.StatusCode != 200 || resp.ContentLength != int64(n) || len(body) != 0 {
		t.Errorf("HEAD: %d, %d", resp.StatusCode, resp.ContentLength)
	}
}

func TestLists(t *testing.T) {
	url, images := serve(t)
	for path, want := range map[string]string{
		"/v2/": `{}`, "/v2/_catalog": `{"repositories":["library/alpine","r.example/a/b/c","r.example:5000/d","team/app"]}`,
		"/v2/_catalog?n=2":                        `{"repositories":["library/alpine","r.example/a/b/c"]}`,
		"/v2/_catalog?n=2&last=r.example%2Fa%2Fb": `{"repositories":["r.example/a/b/c","r.example:5000/d"]}`,
		"/v2/_catalog?n=0":                        `{"repositories":[]}`,
		"/v2/library/alpine/tags/list":            `{"name":"library/alpine","tags":["3","edge"]}`,
		"/v2/library/alpine/tags/list?n=1":        `{"name":"library/alpine","tags":["3"]}`,
		"/v2/library/alpine/tags/list?last=3":     `{"name":"library/alpine","tags":["edge"]}`,
		"/v2/d/tags/list?ns=r.example:5000":       `{"name":"d","tags":["v1"]}`,
	} {
		resp, body := ask(t, http.MethodGet, url+path)
		var got, expected any
		if json.Unmarshal(body, &got) != nil || json.Unmarshal([]byte(want), &expected) != nil || !cmp.Equal(got, expected) || resp.StatusCode != 200 {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
	resp, _ := ask(t, http.MethodGet, url+"/v2/_catalog?n=2")
	if link := resp.Header.Get("Link"); link != `</v2/_catalog?last=r.example%2Fa%2Fb%2Fc&n=2>; rel="next"` {
		t.Errorf("Link: %s", link)
	}
	subject := images["r.example/a/b/c:v1"].Descriptor.Digest
	for query, want := range map[string]int{"": 1, "?artifactType=application/signature": 1, "?artifactType=other": 0} {
		resp, body := ask(t, http.MethodGet, url+"/v2/r.example/a/b/c/referrers/"+subject.String()+query)
		var index ocispec.Index
		if err := json.Unmarshal(body, &index); err != nil || len(index.Manifests) != want || resp.Header.Get("Content-Type") != ocispec.MediaTypeImageIndex {
			t.Errorf("referrers%s: %s", query, body)
		}
	}
	if resp, body := ask(t, http.MethodGet, url+"/v2/other/referrers/"+digest.FromString("nothing").String()); resp.StatusCode != 200 || !bytes.Contains(body, []byte(`"manifests":[]`)) {
		t.Errorf("referrers of nothing: %d %s", resp.StatusCode, body)
	}
}

// What isn't right is refused with the spec's errors, and never leaves the store.
func TestRefusals(t *testing.T) {
	url, images := serve(t)
	known := images["docker.io/library/alpine:3"].Layers[0].Digest.String()
	for _, c := range []struct {
		method, path string
		status       int
		code         string
	}{
		{"GET", "/v2/library/alpine/manifests/absent", 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/library/alpine/manifests/" + digest.FromString("x").String(), 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/library/alpine/manifests/" + known, 404, "MANIFEST_UNKNOWN"}, // a layer
		{"GET", "/v2/library/alpine/manifests/sha256:12", 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/library/alpine/manifests/%2e%2e", 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/absent/tags/list", 404, "NAME_UNKNOWN"},
		{"GET", "/v2/library/alpine/tags/other", 404, "UNSUPPORTED"},
		{"GET", "/v2/library/alpine/blobs/" + digest.FromString("x").String(), 404, "BLOB_UNKNOWN"},
		{"GET", "/v2/library/alpine/blobs/sha256:..%2f..%2fdrayage.json", 400, "DIGEST_INVALID"},
		{"GET", "/v2/library/alpine/blobs/sha256:%2e%2e/%2e%2e/drayage.json", 404, "UNSUPPORTED"},
		{"GET", "/v2/library/alpine/blobs/" + strings.Replace(known, "sha256:", "sha256%3A", 1), 400, "DIGEST_INVALID"},
		{"GET", "/v2/library/alpine/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", 400, "DIGEST_INVALID"},
		{"GET", "/v2/..%2f..%2fetc/manifests/1", 400, "NAME_INVALID"},
		{"GET", "/v2/../../etc/passwd/blobs/" + known, 400, "NAME_INVALID"},
		{"GET", "/v2/UPPER/manifests/1", 400, "NAME_INVALID"},
		{"GET", "/v2/" + strings.Repeat("a/", 200) + "a/manifests/1", 400, "NAME_INVALID"},
		{"GET", "/v2/a%00b/manifests/1", 400, "NAME_INVALID"},
		{"GET", "/v2//manifests/1", 400, "NAME_INVALID"},
		{"GET", "/v2/library/alpine/manifests/3?ns=../../x", 400, "NAME_INVALID"},
		{"GET", "/v2/_catalog?n=many", 400, "PAGINATION_NUMBER_INVALID"},
		{"GET", "/v2/_catalog?n=-1", 400, "PAGINATION_NUMBER_INVALID"},
		{"GET", "/v2/library/alpine/referrers/sha256:1", 400, "DIGEST_INVALID"},
		{"GET", "/v2/library", 404, "UNSUPPORTED"},
		{"GET", "/v1/x", 404, "UNSUPPORTED"},
		{"PUT", "/v2/library/alpine/manifests/3", 405, "UNSUPPORTED"},
		{"POST", "/v2/library/alpine/blobs/uploads/", 405, "UNSUPPORTED"},
		{"DELETE", "/v2/library/alpine/manifests/3", 405, "UNSUPPORTED"},
	} {
		resp, body := raw(t, url, c.method, c.path)
		var e struct {
			Errors []struct{ Code, Message string }
		}
		if err := json.Unmarshal(body, &e); err != nil || len(e.Errors) != 1 || resp.StatusCode != c.status || e.Errors[0].Code != c.code || e.Errors[0].Message == "" {
			t.Errorf("%s %s: %d %s", c.method, c.path, resp.StatusCode, body)
		}
	}
}

// raw sends a path as it is written, which clients would tidy up.
func raw(t *testing.T, url, method, path string) (answer, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", req.URL.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	req.URL.Opaque = path
	if path, query, ok := strings.Cut(path, "?"); ok {
		req.URL.Opaque, req.URL.RawQuery = path, query
	}
	req.Close = true
	if err := req.Write(conn); err != nil {
		t.Fatal(err)
	}
	return readResponse(t, conn, req)
}

func readResponse(t *testing.T, conn net.Conn, req *http.Request) (answer, []byte) {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, resp.ContentLength}, body
}
