package mirror_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"drayage/blobstore"
	"drayage/engine/mirror"
	"drayage/engine/registry/registrytest"

	"github.com/opencontainers/go-digest"
)

// Lists of a store of 10,000 images that doesn't change.
func BenchmarkLists(b *testing.B) {
	store, err := blobstore.OpenWith(filepath.Join(b.TempDir(), "store"), blobstore.Options{NoSync: true})
	if err != nil {
		b.Fatal(err)
	}
	lease, err := store.Lease()
	if err != nil {
		b.Fatal(err)
	}
	defer lease.Close()
	target := registrytest.Build("linux/amd64").Descriptor
	var roots []blobstore.Root
	for i := range 10_000 {
		r := blobstore.Root{Name: fmt.Sprintf("docker.io/team-%d/app:%d", i/10, i), Target: target}
		for j := range 8 {
			r.Blobs = append(r.Blobs, digest.FromString(fmt.Sprint(i, j)))
		}
		roots = append(roots, r)
	}
	if err := lease.Pin(roots...); err != nil {
		b.Fatal(err)
	}
	private, err := mirror.ParsePrivate([]string{"docker.io/team-7=ann"})
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name, path string
		private    *mirror.Private
	}{
		{"catalog", "/v2/_catalog?n=100", nil}, {"tags", "/v2/team-5/app/tags/list", nil}, {"referrers", "/v2/team-5/app/referrers/" + target.Digest.String(), nil}, {"elsewhere", "/v2/nothing/manifests/1", nil},
		{"private-catalog", "/v2/_catalog?n=100", private}, {"private-blob", "/v2/team-5/app/blobs/" + digest.FromString("absent").String(), private},
	} {
		h := mirror.New(mirror.Options{Store: store, Private: c.private})
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				h.Serve(httptest.NewRecorder(), httptest.NewRequestWithContext(b.Context(), http.MethodGet, c.path, nil), "eve")
			}
		})
	}
}
