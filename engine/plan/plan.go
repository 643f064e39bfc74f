// Package plan works out what images need: which manifests a name leads to,
// which blobs there are below them, each once, what is here already, and where
// the rest can come from. It knows neither network nor disk.
package plan

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"drayage/engine/fault"
	"drayage/engine/image"
	"drayage/engine/internal/limits"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Manifests is where manifests and indexes come from: those of ref's
// repository, by tag or digest, verified.
type Manifests interface {
	Manifest(ctx context.Context, ref reference.Image, tagOrDigest string) (image.Document, error)
	// Size is the size of a blob in bytes, which schema 1 manifests don't tell.
	Size(ctx context.Context, ref reference.Image, d digest.Digest) (int64, error)
}

// Image is what a name stands for: an image for one platform or for several,
// and what is to go along with it.
type Image struct {
	Ref reference.Image
	// Documents are the manifests and indexes that the image needs, each once.
	// The first is what the name resolved to.
	Documents []image.Document
	// Variants are the manifests, at least one. The first is the one for the
	// platform wanted most.
	Variants []Variant
	// Several is set when more than one platform was asked for, and the name
	// stands for an index: then it goes by an index, even if only one is there.
	Several bool
	// Whole is set when all that the index lists is there.
	Whole bool
	// Referrers are manifests that refer to the image, such as signatures.
	Referrers []Variant
}

// Variant is a manifest with what its index says of it.
type Variant struct {
	image.Document
	// Platform is what the index says of the manifest, or nil when no index
	// led to it.
	Platform *ocispec.Platform
	// Config and Layers are what the manifest needs. Config has no digest for a
	// schema 1 manifest.
	Config ocispec.Descriptor
	Layers []ocispec.Descriptor
	// Tag is the tag that the manifest was found by, for one of Referrers.
	Tag string
}

// Runnable reports whether the variant is a container image.
func (v *Variant) Runnable() bool { return v.Schema1 != nil || image.IsImage(v.Manifest) }

// Descriptor describes the variant's manifest, with its platform.
func (v *Variant) Descriptor() ocispec.Descriptor {
	d := v.Document.Descriptor
	d.Platform = v.Platform
	return d
}

// blobs lists the config and the layers.
func (v *Variant) blobs() []ocispec.Descriptor {
	if v.Config.Digest == "" {
		return v.Layers
	}
	return append([]ocispec.Descriptor{v.Config}, v.Layers...)
}

// Target describes what the name resolved to, an index or a manifest.
func (i *Image) Target() ocispec.Descriptor { return i.Documents[0].Descriptor }

// Main is the variant for the platform wanted most.
func (i *Image) Main() *Variant { return &i.Variants[0] }

// all lists the variants and what goes beside them.
func (i *Image) all() []Variant { return append(slices.Clone(i.Variants), i.Referrers...) }

// Blobs are the configs and the layers, each once.
func (i *Image) Blobs() []ocispec.Descriptor {
	var all []ocispec.Descriptor
	seen := make(map[digest.Digest]bool)
	for _, v := range i.all() {
		for _, d := range v.blobs() {
			if !seen[d.Digest] {
				seen[d.Digest] = true
				all = append(all, d)
			}
		}
	}
	return all
}

// Configs are those of Blobs that are configs.
func (i *Image) Configs() []ocispec.Descriptor {
	var out []ocispec.Descriptor
	for _, v := range i.all() {
		if v.Config.Digest != "" {
			out = append(out, v.Config)
		}
	}
	return out
}

// Digests lists all that the image needs, manifests included.
func (i *Image) Digests() []digest.Digest {
	var out []digest.Digest
	for _, doc := range i.Documents {
		out = append(out, doc.Descriptor.Digest)
	}
	for _, d := range i.Blobs() {
		out = append(out, d.Digest)
	}
	return out
}

// ManifestSize is the number of bytes of the manifests and indexes.
func (i *Image) ManifestSize() int64 {
	var n int64
	for _, doc := range i.Documents {
		n += doc.Descriptor.Size
	}
	return n
}

// ErrSize is wrapped when two descriptors, or a descriptor and the content,
// differ about the size of the same digest.
var ErrSize = fault.New(fault.Content, "wrong size in a descriptor")

func sizeError(d ocispec.Descriptor, has int64) error {
	return fmt.Errorf("%w: %s is described with %d bytes and has %d", ErrSize, d.Digest, d.Size, has)
}

// Selection says which of an index's images are wanted.
type Selection struct {
	Platform image.Platform   // the one wanted most
	Others   []image.Platform // and these
	All      bool             // and all that there is
	// Present, with All, leaves out what can't be had with an error that it
	// accepts, in place of failing.
	Present func(error) bool
}

// Resolve finds what ref names: the manifest itself, or the best of an index
// and the indexes in it for each platform. When there is none the error is an
// *image.NoPlatformError with all that there is.
func Resolve(ctx context.Context, from Manifests, ref reference.Image, want Selection) (*Image, error) {
	r := &resolver{
		from: from, img: &Image{Ref: ref}, docs: make(map[digest.Digest]found), sizes: make(map[digest.Digest]int64),
		added: make(map[digest.Digest]bool), variants: make(map[digest.Digest]bool),
	}
	doc, err := from.Manifest(ctx, ref, ref.Wanted())
	if err != nil {
		return nil, err
	}
	r.docs[doc.Descriptor.Digest] = found{doc, nil}
	r.bytes = doc.Descriptor.Size
	if err := r.choose(ctx, doc, want); err != nil {
		return nil, err
	}
	return r.img, nil
}

// resolver is a run of Resolve.
type resolver struct {
	from     Manifests
	img      *Image
	docs     map[digest.Digest]found // what was asked for
	bytes    int64                   // of docs, as they came
	sizes    map[digest.Digest]int64
	added    map[digest.Digest]bool // the image's documents
	variants map[digest.Digest]bool // and those that are variants
}

// found is a document, or why it can't be had.
type found struct {
	image.Document
	err error
}

// choose adds the variants that are wanted of what the name stands for.
func (r *resolver) choose(ctx context.Context, root image.Document, want Selection) error {
	r.add(root)
	if root.Index != nil && len(root.Index.Manifests) > 0 && len(image.Loose(root.Index)) == len(root.Index.Manifests) {
		if !want.All {
			return image.NotImage(root.Index)
		}
		r.img.Several, r.img.Whole = true, true
		r.loose(root)
		return nil
	}
	r.img.Several = root.Index != nil && (want.All || len(want.Others) > 0)
	for i, p := range append([]image.Platform{want.Platform}, want.Others...) {
		path, platform, err := r.descend(ctx, []image.Document{root}, p, make(map[digest.Digest]bool))
		var none *image.NoPlatformError
		if errors.As(err, &none) && want.All && i == 0 && !p.Explicit {
			continue // then another is the first
		}
		if want.Present != nil && err != nil && want.Present(err) {
			continue
		}
		if err != nil {
			return err
		}
		if err := r.variant(ctx, path, platform); err != nil {
			return err
		}
	}
	if want.All && root.Index != nil {
		r.img.Whole = true
		if err := r.rest(ctx, root, want.Present, 1); err != nil {
			return err
		}
	}
	// An attestation may be listed before the images.
	for i, v := range r.img.Variants {
		if v.Platform == nil || !image.IsUnknown(*v.Platform) {
			r.img.Variants = slices.Insert(slices.Delete(r.img.Variants, i, i+1), 0, v)
			break
		}
	}
	if len(r.img.Variants) == 0 {
		return &image.NoPlatformError{Want: want.Platform.String()}
	}
	return nil
}

// add adds a document, once.
func (r *resolver) add(doc image.Document) {
	if !r.added[doc.Descriptor.Digest] {
		r.added[doc.Descriptor.Digest] = true
		r.img.Documents = append(r.img.Documents, doc)
	}
}

// variant adds the manifest that a path ends with.
func (r *resolver) variant(ctx context.Context, path []image.Document, platform *ocispec.Platform) error {
	doc := path[len(path)-1]
	if r.variants[doc.Descriptor.Digest] {
		return nil // two platforms are served by one image
	}
	v := Variant{Document: doc, Platform: platform}
	if doc.Manifest != nil {
		v.Config, v.Layers = doc.Manifest.Config, doc.Manifest.Layers
	} else {
		for _, l := range doc.Schema1.Layers {
			size, known := r.sizes[l.Blob]
			if !known {
				var err error
				if size, err = r.from.Size(ctx, r.img.Ref, l.Blob); err != nil {
					return fmt.Errorf("layer %s: %w", l.Blob, err)
				}
				r.sizes[l.Blob] = size
			}
			v.Layers = append(v.Layers, ocispec.Descriptor{MediaType: image.DockerLayer, Digest: l.Blob, Size: size})
		}
	}
	for _, d := range path {
		r.add(d)
	}
	r.variants[doc.Descriptor.Digest] = true
	r.img.Variants = append(r.img.Variants, v)
	return nil
}

// loose adds the blobs that an index lists itself, as a variant without a config.
func (r *resolver) loose(ix image.Document) {
	if blobs := image.Loose(ix.Index); len(blobs) > 0 {
		r.img.Variants = append(r.img.Variants, Variant{Document: ix, Layers: blobs})
	}
}

// rest adds all that an index lists and that isn't there yet, attestations
// included.
func (r *resolver) rest(ctx context.Context, ix image.Document, present func(error) bool, depth int) error {
	if depth > limits.Depth {
		return tooDeep()
	}
	defer r.loose(ix)
	loose := make(map[digest.Digest]bool)
	for _, d := range image.Loose(ix.Index) {
		loose[d.Digest] = true
	}
	for _, child := range ix.Index.Manifests {
		if loose[child.Digest] {
			continue
		}
		doc, err := r.child(ctx, child)
		if err != nil && present != nil && present(err) {
			r.img.Whole = false
			continue
		}
		if err != nil {
			return err
		}
		if doc.Index != nil {
			known := len(r.img.Documents)
			r.add(doc)
			if known < len(r.img.Documents) { // an index may list one a thousand times
				err = r.rest(ctx, doc, present, depth+1)
			}
		} else {
			err = r.variant(ctx, []image.Document{doc}, child.Platform)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// child fetches what an index lists, once.
func (r *resolver) child(ctx context.Context, d ocispec.Descriptor) (image.Document, error) {
	got, ok := r.docs[d.Digest]
	if !ok {
		if len(r.docs) > limits.Platforms {
			return got.Document, fmt.Errorf("%w: more than %d manifests in one image", image.ErrInvalid, limits.Platforms)
		}
		if r.bytes+d.Size > limits.ImageBytes {
			return got.Document, fmt.Errorf("%w: its manifests and indexes have more than %d MiB together", image.ErrInvalid, limits.ImageBytes>>20)
		}
		got.Document, got.err = r.from.Manifest(ctx, r.img.Ref, d.Digest.String())
		if got.err == nil {
			r.bytes += got.Descriptor.Size // which may be another than the index says
		}
		r.docs[d.Digest] = got
	}
	if got.err != nil {
		return got.Document, fmt.Errorf("manifest %s of the index: %w", d.Digest, got.err)
	}
	if got.Descriptor.Size != d.Size {
		return got.Document, sizeError(d, got.Descriptor.Size)
	}
	return got.Document, nil
}

func tooDeep() error {
	return fmt.Errorf("%w: indexes nested more than %d deep", image.ErrInvalid, limits.Depth)
}

// descend goes from the last document of a path to a manifest for a platform,
// and returns the path to it and what its index says of its platform. seen are
// the children that were looked at: an index may list one a thousand times, and so
// may the ones below it.
func (r *resolver) descend(ctx context.Context, path []image.Document, p image.Platform, seen map[digest.Digest]bool) ([]image.Document, *ocispec.Platform, error) {
	doc := path[len(path)-1]
	if doc.Index == nil {
		return path, nil, nil
	}
	if len(path) > limits.Depth {
		return nil, nil, tooDeep()
	}
	none := &image.NoPlatformError{Want: p.String(), Have: image.Platforms(doc.Index)}
	for _, d := range image.Untold(doc.Index) {
		if len(none.Untold) < limits.Platforms {
			none.Untold = append(none.Untold, r.img.Ref.At(d.Digest).String())
		}
	}
	for _, child := range image.Choose(doc.Index, p) {
		if seen[child.Digest] {
			continue
		}
		seen[child.Digest] = true
		if len(seen) > limits.Searched {
			return nil, nil, fmt.Errorf("%w: more than %d manifests to look at for one image", image.ErrInvalid, limits.Searched)
		}
		below, err := r.child(ctx, child)
		if err != nil {
			return nil, nil, err
		}
		found, platform, err := r.descend(ctx, append(slices.Clone(path), below), p, seen)
		if below.Index == nil {
			platform = child.Platform
		}
		var deeper *image.NoPlatformError
		if !errors.As(err, &deeper) {
			return found, platform, err
		}
		// That index had nothing for us; another may.
		none.Have = append(none.Have, deeper.Have...)
		none.Untold = append(none.Untold, deeper.Untold[:min(len(deeper.Untold), limits.Platforms-len(none.Untold))]...)
	}
	slices.Sort(none.Have)
	none.Have = slices.Compact(none.Have)
	return nil, nil, none
}

// Blob is a config or layer that images of a plan need.
type Blob struct {
	ocispec.Descriptor
	Here     bool // it was in the store when the plan met it
	Excluded bool // it isn't, and need not be fetched
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
// different sizes is an ErrSize for the later one, which is not added.
func (p *Plan) Add(img *Image, here func(ocispec.Descriptor) (bool, error)) ([]Blob, error) {
	blobs := img.Blobs()
	fresh := make(map[digest.Digest]bool)
	for _, d := range blobs {
		if known := p.blobs[d.Digest]; known != nil {
			if known.Size != d.Size {
				return nil, sizeError(d, known.Size)
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

// Exclude marks a blob as one that others have, and that need not be fetched.
func (p *Plan) Exclude(d digest.Digest) {
	if b := p.blobs[d]; b != nil {
		b.Excluded = true
	}
}

// Totals are the blobs of the plan, each counted once.
type Totals struct {
	Blobs      int
	Size       int64 // bytes
	Here       int64 // bytes of them that the store has
	Excluded   int64 // bytes of others, which are in none of these
	ZstdLayers int
}

// Totals adds up the plan.
func (p *Plan) Totals() Totals {
	var t Totals
	for _, b := range p.blobs {
		if b.Excluded {
			t.Excluded += b.Size
			continue
		}
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
