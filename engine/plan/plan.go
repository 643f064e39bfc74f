// Package plan works out what images need: which manifests a name leads to,
// which blobs there are below them, each once, what is here already, and where
// the rest can come from. It knows neither network nor disk.
package plan

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"drayage/engine/image"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Manifests is where manifests and indexes come from: those of ref's
// repository, by tag or digest, verified.
type Manifests interface {
	Manifest(ctx context.Context, ref reference.Image, tagOrDigest string) (image.Document, error)
}

// Image is what a name stands for: one image for one platform.
type Image struct {
	Ref      reference.Image
	Path     []image.Document // from what the name resolved to down to the manifest
	Manifest *ocispec.Manifest
	// Platform is what the index says of the manifest, or nil when no index
	// led to it.
	Platform *ocispec.Platform
}

// Target describes what the name resolved to, an index or a manifest.
func (i *Image) Target() ocispec.Descriptor { return i.Path[0].Descriptor }

// Descriptor describes the image's manifest.
func (i *Image) Descriptor() ocispec.Descriptor {
	d := i.Path[len(i.Path)-1].Descriptor
	d.Platform = i.Platform
	return d
}

// Blobs are the config and the layers, each once.
func (i *Image) Blobs() []ocispec.Descriptor {
	all := append([]ocispec.Descriptor{i.Manifest.Config}, i.Manifest.Layers...)
	seen := make(map[digest.Digest]bool, len(all))
	return slices.DeleteFunc(all, func(d ocispec.Descriptor) bool {
		again := seen[d.Digest]
		seen[d.Digest] = true
		return again
	})
}

// Digests lists all that the image needs, manifests included.
func (i *Image) Digests() []digest.Digest {
	var out []digest.Digest
	for _, doc := range i.Path {
		out = append(out, doc.Descriptor.Digest)
	}
	for _, d := range i.Blobs() {
		out = append(out, d.Digest)
	}
	return out
}

// ManifestSize is the number of bytes of the manifests on the image's path.
func (i *Image) ManifestSize() int64 {
	var n int64
	for _, doc := range i.Path {
		n += doc.Descriptor.Size
	}
	return n
}

// SizeError says that two descriptors, or a descriptor and the content, differ
// about the size of the same digest.
type SizeError struct {
	Digest    digest.Digest
	Says, Has int64 // bytes
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("%s is described with %d bytes, and has %d", e.Digest, e.Says, e.Has)
}

// maxDepth is how deep indexes may be nested.
const maxDepth = 4

// maxChildren is how many manifests are fetched in search of one image.
const maxChildren = 100

// Resolve finds the image that ref names for a platform: the manifest itself,
// or the best of an index and the indexes in it. When there is none the error
// is an *image.NoPlatformError with all that there is.
func Resolve(ctx context.Context, from Manifests, ref reference.Image, p image.Platform) (*Image, error) {
	doc, err := from.Manifest(ctx, ref, ref.Wanted())
	if err != nil {
		return nil, err
	}
	img := &Image{Ref: ref, Path: []image.Document{doc}}
	if err := img.descend(ctx, from, p, make(map[digest.Digest]bool)); err != nil {
		return nil, err
	}
	return img, nil
}

// descend goes from the last document of the path to a manifest. seen are the
// children that were looked at: an index may list one a thousand times, and so
// may the ones below it.
func (i *Image) descend(ctx context.Context, from Manifests, p image.Platform, seen map[digest.Digest]bool) error {
	doc := i.Path[len(i.Path)-1]
	if doc.Manifest != nil {
		i.Manifest = doc.Manifest
		return nil
	}
	if len(i.Path) > maxDepth {
		return fmt.Errorf("%w: indexes nested more than %d deep", image.ErrInvalid, maxDepth)
	}
	none := &image.NoPlatformError{Want: p.String(), Have: image.Platforms(doc.Index)}
	for _, child := range image.Choose(doc.Index, p) {
		if seen[child.Digest] {
			continue
		}
		seen[child.Digest] = true
		if len(seen) > maxChildren {
			return fmt.Errorf("%w: more than %d manifests to look at for one image", image.ErrInvalid, maxChildren)
		}
		below, err := from.Manifest(ctx, i.Ref, child.Digest.String())
		if err != nil {
			return fmt.Errorf("manifest %s of the index: %w", child.Digest, err)
		}
		if below.Descriptor.Size != child.Size {
			return &SizeError{Digest: child.Digest, Says: child.Size, Has: below.Descriptor.Size}
		}
		i.Path = append(i.Path, below)
		if below.Manifest != nil {
			i.Platform = child.Platform
		}
		err = i.descend(ctx, from, p, seen)
		var deeper *image.NoPlatformError
		if !errors.As(err, &deeper) {
			return err
		}
		// That index had nothing for us; another may.
		i.Path = i.Path[:len(i.Path)-1]
		none.Have = append(none.Have, deeper.Have...)
	}
	slices.Sort(none.Have)
	none.Have = slices.Compact(none.Have)
	return none
}

// Blob is a config or layer that images of a plan need.
type Blob struct {
	ocispec.Descriptor
	Here bool // it was in the store when the plan met it
	// Images need the blob, in the order in which they came to the plan. Each
	// one's repository is a place to fetch it from.
	Images []*Image
}

// Plan is what the images added so far need. The zero value is an empty plan.
// It is for one goroutine at a time.
type Plan struct {
	blobs map[digest.Digest]*Blob
}

// Add adds an image's blobs and returns those that the plan did not have yet.
// here tells what is in the store. A blob that two images describe with
// different sizes is a *SizeError for the later one, which is not added.
func (p *Plan) Add(img *Image, here func(ocispec.Descriptor) (bool, error)) ([]Blob, error) {
	blobs := img.Blobs()
	fresh := make(map[digest.Digest]bool)
	for _, d := range blobs {
		if known := p.blobs[d.Digest]; known != nil {
			if known.Size != d.Size {
				return nil, &SizeError{Digest: d.Digest, Says: d.Size, Has: known.Size}
			}
			continue
		}
		has, err := here(d)
		if err != nil {
			return nil, err
		}
		fresh[d.Digest] = has
	}
	var added []Blob
	for _, d := range blobs {
		known := p.blobs[d.Digest]
		if known == nil {
			known = &Blob{Descriptor: d, Here: fresh[d.Digest]}
			if p.blobs == nil {
				p.blobs = make(map[digest.Digest]*Blob)
			}
			p.blobs[d.Digest] = known
			added = append(added, *known)
		}
		known.Images = append(known.Images, img)
	}
	return added, nil
}

// Blobs lists the blobs of the plan, in no order.
func (p *Plan) Blobs() []Blob {
	out := make([]Blob, 0, len(p.blobs))
	for _, b := range p.blobs {
		out = append(out, *b)
	}
	return out
}

// Needing lists the images that need a blob, as far as they are known now.
func (p *Plan) Needing(d digest.Digest) []*Image {
	if b := p.blobs[d]; b != nil {
		return b.Images
	}
	return nil
}

// Remove forgets a blob that could not be had. An image that is added later
// and needs it brings it back: it may know another place.
func (p *Plan) Remove(d digest.Digest) { delete(p.blobs, d) }

// Totals are the blobs of the plan, each counted once.
type Totals struct {
	Blobs      int
	Size       int64 // bytes
	Here       int64 // bytes of them that the store has
	ZstdLayers int
}

// Totals adds up the plan.
func (p *Plan) Totals() Totals {
	var t Totals
	for _, b := range p.blobs {
		t.Blobs++
		t.Size += b.Size
		if b.Here {
			t.Here += b.Size
		}
		if image.IsZstd(b.MediaType) {
			t.ZstdLayers++
		}
	}
	return t
}
