package compose_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"drayage/blobstore"
	"drayage/engine/compose"
	"drayage/engine/image"
	"drayage/engine/plan"
	"drayage/engine/reference"
	"drayage/engine/registry/registrytest"
	"drayage/tarwriter"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// fixture is a store with a lease.
type fixture struct {
	store *blobstore.Store
	lease *blobstore.Lease
}

func setup(t *testing.T) fixture {
	t.Helper()
	s, err := blobstore.OpenWith(filepath.Join(t.TempDir(), "store"), blobstore.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.Lease()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return fixture{s, l}
}

// put stores an image, less some blobs, and returns it as a plan has it.
func (f fixture) put(t *testing.T, img registrytest.Image, less ...digest.Digest) *plan.Image {
	t.Helper()
	ref, err := reference.Parse("docker.io/team/app:1")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := image.Decode(img.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	blobs := map[digest.Digest][]byte{img.Descriptor.Digest: img.Manifest}
	for d, b := range img.Blobs {
		blobs[d] = b
	}
	for _, d := range less {
		delete(blobs, d)
	}
	for d, b := range blobs {
		if err := f.lease.Put(t.Context(), ocispec.Descriptor{Digest: d, Size: int64(len(b))}, b); err != nil {
			t.Fatal(err)
		}
	}
	return &plan.Image{Ref: ref, Documents: []image.Document{doc}, Variants: []plan.Variant{{Document: doc, Config: doc.Manifest.Config, Layers: doc.Manifest.Layers}}}
}

func (f fixture) compose(t *testing.T, o compose.Options, img *plan.Image) ([]tarwriter.Image, error) {
	t.Helper()
	return compose.Images(t.Context(), f.lease, compose.InStore{Store: f.store}, o, []compose.Named{{Name: "docker.io/team/app:1", RepoTag: "team/app:1", Image: img}})
}

func TestLayersAreConvertedOnceAndHeldAgainstTheConfig(t *testing.T) {
	f := setup(t)
	img := f.put(t, registrytest.Build("linux/amd64", registrytest.Layer(1, 50_000), registrytest.ZstdLayer(2, 50_000)))
	var first digest.Digest
	for range 2 {
		made := 0
		got, err := f.compose(t, compose.Options{Layers: compose.Tar, Made: func(string, digest.Digest, digest.Digest, string) { made++ }}, img)
		if err != nil || made != 1 {
			t.Fatalf("%v, %d told", err, made)
		}
		v := got[0].Manifests[0]
		if v.Config.Digest != img.Main().Config.Digest || v.Descriptor.Annotations[compose.AnnotationOriginal] != img.Target().Digest.String() {
			t.Errorf("%+v", v)
		}
		raw, err := f.store.Read(v.Config.Digest, image.MaxSize)
		if err != nil {
			t.Fatal(err)
		}
		diffIDs, err := image.DiffIDs(raw)
		if err != nil {
			t.Fatal(err)
		}
		for i, l := range v.Layers {
			if l.Digest != diffIDs[i] || l.MediaType != ocispec.MediaTypeImageLayer {
				t.Errorf("layer %d is %+v, want %s", i, l, diffIDs[i])
			}
		}
		if first != "" && first != v.Descriptor.Digest {
			t.Errorf("another manifest the second time: %s and %s", first, v.Descriptor.Digest)
		}
		first = v.Descriptor.Digest
		// The second time the originals aren't looked at.
		for _, l := range img.Main().Layers {
			if err := os.Remove(filepath.Join(f.store.Dir(), "blobs", "sha256", l.Digest.Encoded())); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
	}
}

// never has blobs that don't come until ctx is done.
type never struct {
	compose.InStore
	of digest.Digest
}

func (n never) Open(ctx context.Context, d digest.Digest) (*os.File, error) {
	if d == n.of {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	return n.InStore.Open(ctx, d)
}

// A layer that is wrong ends it at once, whatever is still awaited.
func TestAWrongLayerIsToldWithoutWaitingForOthers(t *testing.T) {
	f := setup(t)
	wrong, late := registrytest.ZstdLayer(3, 1000), registrytest.ZstdLayer(4, 1000)
	made := registrytest.Build("linux/amd64", registrytest.ZstdLayer(2, 1000), late)
	var m ocispec.Manifest
	if err := json.Unmarshal(made.Manifest, &m); err != nil {
		t.Fatal(err)
	}
	m.Layers[0] = registrytest.Describe(m.Layers[0].MediaType, wrong) // which the config doesn't know
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	made.Manifest, made.Descriptor = raw, registrytest.Describe(made.Descriptor.MediaType, raw)
	made.Blobs[m.Layers[0].Digest] = wrong
	img := f.put(t, made, m.Layers[1].Digest)
	_, err = compose.Images(t.Context(), f.lease, never{compose.InStore{Store: f.store}, m.Layers[1].Digest}, compose.Options{Layers: compose.Tar},
		[]compose.Named{{Name: "x", RepoTag: "x:1", Image: img}})
	var diff *compose.DiffIDError
	if !errors.As(err, &diff) || diff.Layer != m.Layers[0].Digest {
		t.Errorf("%v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(f.store.Dir(), "ingest", "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// With layers as they are nothing is made.
func TestKeepingLayersMakesNothing(t *testing.T) {
	f := setup(t)
	img := f.put(t, registrytest.Build("linux/amd64", registrytest.ZstdLayer(2, 1000)))
	got, err := f.compose(t, compose.Options{Made: func(string, digest.Digest, digest.Digest, string) { t.Error("told of something made") }}, img)
	if err != nil || len(got) != 1 || got[0].Target.Digest != img.Target().Digest {
		t.Errorf("%+v, %v", got, err)
	}
	if _, exact, err := compose.Expected(f.store, true, []compose.Named{{Image: img}}); err != nil || !exact {
		t.Errorf("the size is not exact: %v", err)
	}
}
