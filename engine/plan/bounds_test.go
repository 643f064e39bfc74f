package plan_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"drayage/engine/image"
	"drayage/engine/internal/limits"
	"drayage/engine/limitstest"
	"drayage/engine/plan"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// registry has documents by digest, and counts what is asked for.
type registry struct {
	docs  map[digest.Digest][]byte
	top   digest.Digest
	asked map[digest.Digest]int
}

func newRegistry() *registry {
	return &registry{docs: make(map[digest.Digest][]byte), asked: make(map[digest.Digest]int)}
}

// add adds a document, which is the top one then, and returns its descriptor's JSON.
func (r *registry) add(text string) string {
	d := digest.FromString(text)
	r.docs[d], r.top = []byte(text), d
	return fmt.Sprintf(`{"digest":"%s","size":%d}`, d, len(text))
}

func (r *registry) Manifest(_ context.Context, ref reference.Image, tagOrDigest string) (image.Document, error) {
	d := digest.Digest(tagOrDigest)
	if tagOrDigest == ref.Wanted() {
		d = r.top
	}
	r.asked[d]++
	raw, ok := r.docs[d]
	if !ok {
		return image.Document{}, errAbsent
	}
	return image.Decode(raw)
}

func (r *registry) Size(context.Context, reference.Image, digest.Digest) (int64, error) {
	return 1, nil
}

var errAbsent = errors.New("not there")

func (r *registry) resolve(t *testing.T, want plan.Selection) (*plan.Image, error) {
	t.Helper()
	ref, err := reference.Parse("team/app:1")
	if err != nil {
		t.Fatal(err)
	}
	if want.Platform, err = image.ParsePlatform("linux/amd64"); err != nil {
		t.Fatal(err)
	}
	want.Platform.Explicit = false
	return plan.Resolve(t.Context(), r, ref, want)
}

func manifestOf(layers ...string) string {
	return `{"config":` + descriptor("config", 6) + `,"layers":[` + strings.Join(layers, ",") + `]}`
}

func descriptor(text string, size int) string {
	return fmt.Sprintf(`{"digest":"%s","size":%d}`, digest.FromString(text), size)
}

func times(n int, s string) string { return strings.TrimSuffix(strings.Repeat(s+",", n), ",") }

// Whatever lists one a thousand times, it is asked for once.
func TestEachDigestIsVisitedOnce(t *testing.T) {
	r := newRegistry()
	layer := descriptor("layer", 5)
	m := r.add(manifestOf(times(9000, layer)))
	gone := descriptor("gone", 4)
	nested := r.add(`{"manifests":[` + times(9000, m) + `]}`)
	r.add(`{"manifests":[` + times(3000, m) + `,` + times(3000, nested) + `,` + times(3000, gone) + `]}`)
	img, err := r.resolve(t, plan.Selection{All: true, Present: func(err error) bool { return errors.Is(err, errAbsent) }})
	if err != nil {
		t.Fatal(err)
	}
	for d, n := range r.asked {
		if n != 1 && d != r.top {
			t.Errorf("%s was asked for %d times", d, n)
		}
	}
	if len(img.Variants) != 1 || len(img.Blobs()) != 2 || img.Whole {
		t.Errorf("%d variants, %d blobs, whole: %v", len(img.Variants), len(img.Blobs()), img.Whole)
	}
}

func TestImagesAreHeldToTheLimits(t *testing.T) {
	deep := func(n int) *registry {
		r := newRegistry()
		d := r.add(manifestOf())
		for range n {
			d = r.add(`{"manifests":[` + strings.Replace(d, `{`, `{"mediaType":"`+ocispec.MediaTypeImageIndex+`",`, 1) + `]}`)
		}
		return r
	}
	many := func(n int) *registry {
		r := newRegistry()
		var all []string
		for i := range n {
			all = append(all, r.add(manifestOf(descriptor(fmt.Sprint(i), 1))))
		}
		r.add(`{"manifests":[` + strings.Join(all, ",") + `]}`)
		return r
	}
	large := func(n, size int) *registry {
		r := newRegistry()
		var all []string
		for i := range n {
			all = append(all, r.add(`{"manifests":[],"annotations":{"a":"`+strings.Repeat("x", size)+fmt.Sprint(i)+`"}}`))
		}
		all = append(all, r.add(manifestOf()))
		r.add(`{"manifests":[` + strings.Join(all, ",") + `]}`)
		return r
	}
	all := plan.Selection{All: true}
	for _, c := range []struct {
		name string
		r    *registry
		want plan.Selection
		text string
	}{
		{"as deep as may be", deep(limits.Depth), all, ""},
		{"deeper", deep(limits.Depth + 1), all, "nested more than 4 deep"},
		{"deeper, for one platform", deep(limits.Depth + 1), plan.Selection{}, "nested more than 4 deep"},
		{"as many images as may be", many(limits.Platforms), all, ""},
		{"one more", many(limits.Platforms + 1), all, "more than 1000 manifests"},
		{"large indexes", large(2, 3<<20), all, ""},
		{"more of them", large(5, 3<<20), all, "more than 8 MiB together"},
	} {
		_, err := c.r.resolve(t, c.want)
		if c.text == "" && err != nil || c.text != "" && (!errors.Is(err, image.ErrInvalid) || !strings.Contains(err.Error(), c.text)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.text)
		}
	}
}

// Many large indexes in one: what is held of them is bounded.
func TestNestedIndexesTakeLittleMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes minutes on an emulated processor")
	}
	one := `{"digest":"` + digest.FromString("x").String() + `","size":1,"mediaType":"` + ocispec.MediaTypeImageManifest + `","platform":{"os":"x","architecture":"y"},"annotations":{"a":"b"}}`
	nested := []byte(`{"manifests":[` + times(9000, one) + `]}`)
	r := newRegistry()
	var all []string
	for i := range 20 {
		all = append(all, strings.Replace(r.add(strings.Replace(string(nested), `"b"`, fmt.Sprintf(`"%d"`, i), 1)), `{`, `{"mediaType":"`+ocispec.MediaTypeImageIndex+`",`, 1))
	}
	r.add(`{"manifests":[` + strings.Join(all, ",") + `]}`)
	for _, want := range []plan.Selection{{}, {All: true}} {
		limitstest.Within(t, limitstest.Most, func() {
			if _, err := r.resolve(t, want); !errors.Is(err, image.ErrInvalid) {
				t.Errorf("%v", err)
			}
		})
	}
}

// An index of a thousand manifests, each with thousands of the same layers.
func TestBlobsOfManyManifestsTakeLittleMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes minutes on an emulated processor")
	}
	img := new(plan.Image)
	layers := make([]ocispec.Descriptor, limits.Descriptors)
	for i := range layers {
		layers[i].Digest = digest.FromString("layer")
	}
	for range limits.Platforms {
		img.Variants = append(img.Variants, plan.Variant{Layers: layers})
	}
	limitstest.Within(t, limitstest.Most, func() {
		if n := len(img.Blobs()); n != 1 {
			t.Errorf("%d blobs", n)
		}
	})
}
