package web_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"drayage/blobstore"
	"drayage/cmd/drayage/internal/web"
	"drayage/engine/limitstest"
	"drayage/engine/registry/registrytest"

	"github.com/opencontainers/go-digest"
)

// site serves a store with so many images.
func site(t *testing.T, images int, o web.Options) string {
	t.Helper()
	server := httptest.NewServer(handler(t, images, o))
	t.Cleanup(server.Close)
	return server.URL
}

// handler is that of a store with so many images.
func handler(t *testing.T, images int, o web.Options) http.Handler {
	t.Helper()
	store, err := blobstore.OpenWith(filepath.Join(t.TempDir(), "store"), blobstore.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	lease, err := store.Lease()
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Close()
	target := registrytest.Build("linux/amd64").Descriptor
	var roots []blobstore.Root
	for i := range images {
		roots = append(roots, blobstore.Root{Name: fmt.Sprintf("r.example/app-%d:1", i), Target: target, Blobs: []digest.Digest{target.Digest}})
	}
	if err := lease.Pin(roots...); err != nil {
		t.Fatal(err)
	}
	o.Store, o.Metrics = store, web.NewMetrics()
	return web.Handler(o)
}

// answerTo is a handler's answer to a GET.
func answerTo(ctx context.Context, h http.Handler, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil))
	return w
}

func get(t *testing.T, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// However many ask at once, one looks.
func TestOneLooksForAll(t *testing.T) {
	var now, most, looks atomic.Int64
	url := site(t, 1, web.Options{Groups: func() []web.Group {
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		looks.Add(1)
		return []web.Group{{Name: "g", Ready: true, Images: 1}}
	}})
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if got := get(t, url+"/warm/g"); got != "complete and fresh\n" {
				t.Errorf("%s", got)
			}
		})
	}
	all.Wait()
	if most.Load() != 1 || looks.Load() > 50 {
		t.Errorf("%d at once, %d looks", most.Load(), looks.Load())
	}
}

// However many images there are, a health check costs next to nothing: it reads none of them again.
func TestHealthChecksDoNotReadAllImages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // in which nothing takes time, so that each check looks for itself
		h := handler(t, 10_000, web.Options{})
		for range 3 { // until what was read is believed
			answerTo(t.Context(), h, "/readyz")
			time.Sleep(time.Minute)
		}
		answerTo(t.Context(), h, "/readyz")
		const runs, most = 100, 100
		if n := testing.AllocsPerRun(runs, func() {
			if w := answerTo(t.Context(), h, "/readyz"); w.Code != http.StatusOK {
				t.Errorf("%d: %s", w.Code, w.Body)
			}
		}); n > most {
			t.Errorf("a check takes %.0f allocations, and may take %d", n, most)
		}
	})
}

// The page of a large store is no larger than a person can read, and takes little memory.
func TestThePageIsBounded(t *testing.T) {
	h := handler(t, 10_000, web.Options{})
	const memory, size = 64 << 20, 1 << 20
	limitstest.Within(t, memory, func() {
		for range 10 {
			page := answerTo(t.Context(), h, "/").Body.String()
			if n := strings.Count(page, "r.example/app-"); n != 1000 || !strings.Contains(page, "and 9000 more") || !strings.Contains(page, "<dd>10000</dd>") {
				t.Errorf("%d images on the page", n)
			}
			if len(page) > size {
				t.Errorf("the page has %d bytes", len(page))
			}
		}
	})
	if got := answerTo(t.Context(), h, "/metrics").Body.String(); !strings.Contains(got, "drayage_store_images 10000") {
		t.Error("the metrics don't tell of the images")
	}
}

// What is foreign on the page and in /warm turns no text round, and has no control of a terminal.
func TestForeignTextsAreShownWithEscapes(t *testing.T) {
	const foreign = "\u202egone\x1b[31m\u009b"
	h := handler(t, 1, web.Options{Groups: func() []web.Group { return []web.Group{{Name: "g", Images: 1, Problem: foreign}} }})
	for _, path := range []string{"/", "/warm/g"} {
		text := answerTo(t.Context(), h, path).Body.String()
		if strings.ContainsAny(text, "\u202e\x1b\u009b") || !strings.Contains(text, "gone") {
			t.Errorf("%s:\n%q", path, text)
		}
	}
}

// Who leaves before there is an answer is no fault of the server.
func TestWhoLeavesIsNoError(t *testing.T) {
	var out lines
	h := handler(t, 3, web.Options{Log: out.logger(), Mirror: answering(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/fault" {
			panic("a fault")
		}
		w.WriteHeader(http.StatusBadGateway)
	})})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for path, want := range map[string]int{"/": 499, "/v2/app": 499, "/v2/fault": 500} {
		answerTo(gone, h, path)
		if text := fmt.Sprintf("path=%s status=%d", path, want); !strings.Contains(out.String(), text) {
			t.Errorf("no %q in\n%s", text, &out)
		}
	}
	answerTo(t.Context(), h, "/v2/app")
	counts := answerTo(t.Context(), h, "/metrics").Body.String()
	for _, want := range []string{`kind="page",status="499"} 1`, `kind="api",status="499"} 1`, `kind="api",status="500"} 1`, `kind="api",status="502"} 1`} {
		if !strings.Contains(counts, "drayage_serve_requests_total{"+want) {
			t.Errorf("%s isn't counted", want)
		}
	}
}
