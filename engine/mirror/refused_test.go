package mirror_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"drayage/blobstore"
	"drayage/engine/internal/limits"
	"drayage/engine/mirror"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
)

// pin gives names to an image of the store.
func (g *guarded) pin(t *testing.T, name string, names ...string) {
	t.Helper()
	lease, err := g.store.Lease()
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Close()
	for _, n := range names {
		if err := lease.Pin(blobstore.Root{Name: n, Target: g.images[name].Descriptor, Blobs: []digest.Digest{g.images[name].Descriptor.Digest}}); err != nil {
			t.Fatal(err)
		}
	}
}

// Each request that is refused is told of once, with the reason that its answer has; one that is
// answered isn't, nor is what just isn't there, or is malformed.
func TestRefusalsAreToldOnce(t *testing.T) {
	g := guard(t, "r.example/team=ann", "docker.io/both=ann")
	g.pin(t, openName, "docker.io/library/both:1", "t.example/both:1")
	secret, open := g.images[secretName], g.images[openName]
	layer := "/v2/library/open/blobs/" + open.Layers[0].Digest.String()
	many := "bytes=" + strings.TrimSuffix(strings.Repeat("0-0,", limits.Ranges+1), ",")
	for _, c := range []struct {
		method, path, ranges string
		status               int
		told                 string
	}{
		{"GET", "/v2/r.example/team/secret/manifests/1", "", 404, "private r.example/team/secret:1"},
		{"GET", "/v2/r.example/team/secret/manifests/absent", "", 404, "private r.example/team/secret:absent"},
		{"GET", "/v2/r.example/team/secret/tags/list", "", 404, "private r.example/team/secret:latest"},
		{"GET", "/v2/r.example/team/secret/blobs/" + secret.Layers[1].Digest.String(), "", 404, "private r.example/team/secret@" + secret.Layers[1].Digest.String()},
		{"GET", "/v2/library/open/blobs/" + secret.Layers[1].Digest.String(), "", 404, "private docker.io/library/open@" + secret.Layers[1].Digest.String()},
		{"GET", "/v2/library/open/manifests/" + secret.Descriptor.Digest.String(), "", 404, "private docker.io/library/open@" + secret.Descriptor.Digest.String()},
		{"GET", "/v2/r.example/team/secret/referrers/" + secret.Descriptor.Digest.String(), "", 200, ""},
		{"GET", "/v2/both/manifests/1", "", 200, ""}, // that of another registry
		{"GET", "/v2/both/tags/list", "", 200, ""},
		{"GET", "/v2/docker.io/library/both/manifests/1", "", 404, "private docker.io/library/both:1"},
		{"GET", "/v2/library/open/manifests/absent", "", 404, ""},
		{"GET", "/v2/library/open/blobs/" + digest.FromString("absent").String(), "", 404, ""},
		{"GET", "/v2/absent/tags/list", "", 404, ""},
		{"GET", "/v2/UPPER/manifests/1", "", 400, ""},
		{"GET", "/v2/_catalog?n=x", "", 400, ""},
		{"GET", layer, "bytes=0-9", 206, ""},
		{"GET", layer, "bytes=99999-", 416, ""},
		{"GET", layer, "nonsense", 416, ""},
		{"GET", layer, many, 416, "ranges " + layer},
		{"PUT", "/v2/library/open/manifests/1", "", 405, "method /v2/library/open/manifests/1"},
		{"GET", "/v2/?" + strings.Repeat("a", limits.QueryBytes+1), "", 414, "query /v2/"},
	} {
		g.mu.Lock()
		g.refused = nil
		g.mu.Unlock()
		header := []string{"User", "eve"}
		if c.ranges != "" {
			header = append(header, "Range", c.ranges)
		}
		resp, body := ask(t, c.method, g.url+c.path, header...)
		var want []string
		if c.told != "" {
			want = []string{"eve " + c.told}
		}
		g.mu.Lock()
		if resp.StatusCode != c.status || !slices.Equal(g.refused, want) {
			t.Errorf("%s %.100s: %d, told of %q, want %d, %q: %.200s", c.method, c.path, resp.StatusCode, g.refused, c.status, want, body)
		}
		g.mu.Unlock()
		if resp.StatusCode == 416 && resp.Header.Get("Content-Range") != fmt.Sprintf("bytes */%d", open.Layers[0].Size) {
			t.Errorf("%.30s: Content-Range %q", c.ranges, resp.Header.Get("Content-Range"))
		}
	}
}

// unhurried is an upstream that answers when who asks has gone.
type unhurried struct{ mirror.Upstream }

func (unhurried) Manifest(ctx context.Context, _ reference.Image) (mirror.Manifest, error) {
	<-ctx.Done()
	return mirror.Manifest{}, context.Cause(ctx)
}

func (unhurried) Holds(ctx context.Context, _ reference.Image, _ digest.Digest, _ bool) error {
	<-ctx.Done()
	return fmt.Errorf("%w: %w", mirror.ErrUnknown, context.Cause(ctx))
}

func (unhurried) Blob(ctx context.Context, _ reference.Image, _ digest.Digest) (mirror.Blob, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

// A client that has gone before its answer is no fault of the server, nor refused.
func TestClientsThatLeaveAreNoFaults(t *testing.T) {
	store, err := blobstore.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	for _, private := range []*mirror.Private{nil, rules(t, "r.example=ann")} {
		h := mirror.New(mirror.Options{
			Store: store, Upstream: unhurried{}, Allowed: func(string) bool { return true }, Private: private,
			Refused: func(_ context.Context, user, why, what string) { t.Errorf("told of %s %s %s", user, why, what) },
		})
		for _, path := range []string{"manifests/1", "manifests/" + digest.FromString("x").String(), "blobs/" + digest.FromString("x").String()} {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			w := httptest.NewRecorder()
			h.Serve(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/v2/app/"+path, nil), "eve")
			if w.Code != 499 {
				t.Errorf("%s: %d", path, w.Code)
			}
		}
	}
}

// What a registry is called in the store is found by its other names; what may be another server isn't.
func TestRegistriesByOtherNames(t *testing.T) {
	g := guard(t)
	g.pin(t, openName, "u.example:443/app:1", "V.Example/app:1", "w.example:80/app:1", "x.example:443/app:1", "x.example/app:2")
	for path, want := range map[string]int{
		"/v2/u.example/app/manifests/1": 200, "/v2/u.example:443/app/manifests/1": 200, "/v2/U.EXAMPLE/app/manifests/1": 200, "/v2/app/manifests/1?ns=u.example": 200,
		"/v2/v.example/app/manifests/1": 200, "/v2/V.Example/app/manifests/1": 200, "/v2/v.example:443/app/manifests/1": 200,
		"/v2/w.example/app/manifests/1": 404, "/v2/w.example:80/app/manifests/1": 200, "/v2/u.example:80/app/manifests/1": 404,
		"/v2/x.example:443/app/manifests/1": 200, "/v2/x.example/app/manifests/2": 200, "/v2/x.example/app/manifests/1": 404,
	} {
		if resp, body := ask(t, http.MethodGet, g.url+path); resp.StatusCode != want {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
}
