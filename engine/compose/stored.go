package compose

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"drayage/blobstore"
	"drayage/engine/image"
	"drayage/engine/plan"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Stored finds an image of the store again as it was pulled or imported, with
// all its platforms that are there. platform is the one wanted most, if it is
// among them.
func Stored(ctx context.Context, store *blobstore.Store, root blobstore.Root, platform image.Platform) (*plan.Image, error) {
	name := root.Name
	ref, err := reference.Parse(name)
	if err != nil || digest.Digest(name).Validate() == nil { // one that has no name
		if ref, err = reference.Parse("unnamed@" + root.Target.Digest.String()); err != nil {
			return nil, err
		}
	}
	absent := func(err error) bool { return errors.Is(err, blobstore.ErrNotFound) }
	platform.Explicit = false
	img, err := plan.Resolve(ctx, stored{store, root}, ref, plan.Selection{Platform: platform, All: true, Present: absent})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var damaged error
	known := make(map[digest.Digest]int64)
	complete := slices.DeleteFunc(slices.Clone(img.Variants), func(v plan.Variant) bool {
		ok, err := has(store, v, known)
		damaged = cmp.Or(damaged, err)
		return !ok
	})
	img.Whole = img.Whole && len(complete) == len(img.Variants)
	img.Several = img.Several && (img.Whole || len(complete) > 1)
	if len(complete) == 0 && damaged != nil {
		return nil, fmt.Errorf("%s: %w: %w", name, blobstore.ErrNotFound, damaged)
	}
	if len(complete) == 0 {
		return nil, fmt.Errorf("%s: %w: some of its blobs are missing", name, blobstore.ErrNotFound)
	}
	img.Variants = complete
	if img.Documents[0].Index == nil {
		img.Main().Platform = root.Target.Platform
	}
	for _, d := range root.Beside {
		raw, err := store.Read(d.Digest, image.MaxSize)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		doc, err := image.DecodeVerified(raw, d.Digest)
		if err != nil || doc.Manifest == nil {
			return nil, errors.Join(fmt.Errorf("%s: a referrer of it is not a manifest", name), err)
		}
		img.Documents = append(img.Documents, doc)
		img.Referrers = append(img.Referrers, plan.Variant{
			Document: doc, Config: doc.Manifest.Config, Layers: doc.Manifest.Layers, Tag: d.Annotations[ocispec.AnnotationRefName],
		})
	}
	return img, nil
}

// has reports whether the store has all that a variant needs. The error says why something
// is there and of no use. known are the sizes of what was found, which is looked for once.
func has(store *blobstore.Store, v plan.Variant, known map[digest.Digest]int64) (bool, error) {
	for _, d := range append([]ocispec.Descriptor{v.Config}, v.Layers...) {
		if d.Digest == "" {
			continue
		}
		if size, ok := known[d.Digest]; ok && size == d.Size {
			continue
		}
		if ok, err := store.Has(d); err != nil || !ok {
			return false, err
		}
		known[d.Digest] = d.Size
	}
	return true, nil
}

// stored are the manifests of one image of a store.
type stored struct {
	store *blobstore.Store
	root  blobstore.Root
}

// Manifest implements plan.Manifests.
func (s stored) Manifest(_ context.Context, ref reference.Image, tagOrDigest string) (image.Document, error) {
	d := digest.Digest(tagOrDigest)
	if d.Validate() != nil || tagOrDigest == ref.Wanted() {
		d = s.root.Target.Digest
	}
	raw, err := s.store.Read(d, image.MaxSize)
	if err != nil {
		return image.Document{}, err
	}
	return image.DecodeVerified(raw, d)
}

// Size implements plan.Manifests.
func (s stored) Size(_ context.Context, _ reference.Image, d digest.Digest) (int64, error) {
	return s.store.Stat(d)
}
