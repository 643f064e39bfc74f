package engine_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"drayage/engine/registry"
	"drayage/engine/registry/registrytest"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestURLsOfLayers: what a descriptor names besides the registry is asked for foreign layers
// alone, when that is wanted, and what it answers is told to nobody.
func TestURLsOfLayers(t *testing.T) {
	const foreign, other = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", ocispec.MediaTypeImageLayerGzip
	for _, c := range []struct {
		name, mediaType, url string
		wanted               bool // --foreign-layers
		asked                bool
		want                 string // in the error
	}{
		{"a foreign layer that isn't wanted", foreign, "", false, false, "--foreign-layers"},
		{"one of Docker's", "application/vnd.docker.image.rootfs.foreign.diff.tar", "", false, false, "--foreign-layers"},
		{"one that is wanted", foreign, "", true, true, "403 Forbidden"},
		{"any other layer", other, "", true, false, "404"},
		{"any other layer, not wanted", other, "", false, false, "404"},
		{"a name that only begins like one", "application/vnd.oci.image.layer.v1.tar+nondistributable", "", true, false, "404"},
		{"a cloud's metadata", foreign, "http://169.254.169.254/latest/meta-data", true, false, "169.254.0.0/16"},
		{"metadata in IPv6", foreign, "http://[::ffff:169.254.169.254]/x", true, false, "169.254.0.0/16"},
		{"a port that is none", foreign, "http://127.0.0.1:65536/x", true, false, "URL"},
		{"a file", foreign, "file:///etc/passwd", true, false, "URL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := setup(t)
			var asked atomic.Bool
			inside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				asked.Store(true)
				http.Error(w, "the inside answer", http.StatusForbidden)
			}))
			defer inside.Close()
			img := registrytest.Build("linux/amd64", registrytest.Layer(1, 1000))
			f.Push("app", "", img)
			f.DropBlob("app", img.Layers[0].Digest)
			var m ocispec.Manifest
			if err := json.Unmarshal(img.Manifest, &m); err != nil {
				t.Fatal(err)
			}
			if c.url == "" {
				c.url = inside.URL + "/secret"
			}
			m.Layers[0].MediaType, m.Layers[0].URLs = c.mediaType, []string{c.url}
			raw, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			f.opts.ForeignLayers = c.wanted
			_, failed := f.pull(t, f.PushManifest("app", "1", ocispec.MediaTypeImageManifest, raw))
			if len(failed) != 1 || !strings.Contains(failed[0].Error(), c.want) || strings.Contains(failed[0].Error(), "inside answer") {
				t.Errorf("%v, want %q", failed, c.want)
			}
			if c.want == "--foreign-layers" && !errors.Is(failed[0], registry.ErrNotFound) {
				t.Errorf("%v", failed)
			}
			if asked.Load() != c.asked {
				t.Errorf("it was asked: %v", asked.Load())
			}
		})
	}
}
