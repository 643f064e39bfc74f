package web_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"drayage/blobstore"
	"drayage/cmd/drayage/web"
	"drayage/engine/registry/registrytest"

	"github.com/opencontainers/go-digest"
)

// site serves a store with so many images.
func site(t *testing.T, images int, o web.Options) string {
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
	server := httptest.NewServer(web.Handler(o))
	t.Cleanup(server.Close)
	return server.URL
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

// The page of a large store is no larger than a person can read.
func TestThePageIsBounded(t *testing.T) {
	url := site(t, 1100, web.Options{})
	page := get(t, url+"/")
	if n := strings.Count(page, "r.example/app-"); n != 1000 || !strings.Contains(page, "and 100 more") || !strings.Contains(page, "<dd>1100</dd>") {
		t.Errorf("%d images on the page", n)
	}
	if got := get(t, url+"/metrics"); !strings.Contains(got, "drayage_store_images 1100") {
		t.Error("the metrics don't tell of the images")
	}
}
