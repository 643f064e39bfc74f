package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"drayage/engine/image"
	"drayage/engine/plan"
	"drayage/engine/registry"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// cosignTags end the tags by which cosign files what it says of a manifest, after
// the manifest's digest with a dash for its colon.
var cosignTags = [...]string{".sig", ".att", ".sbom"}

// maxReferrerDepth is how far what refers to an image is followed: a signature of a
// bill of materials of an image is two steps away.
const maxReferrerDepth = 3

// maxReferrers is how many manifests an image may bring along in all.
const maxReferrers = 1000

// addReferrers adds to an image what refers to its index and manifests: by the
// referrers API, its tags, and cosign's tags.
func (o Options) addReferrers(ctx context.Context, m *manifests, img *plan.Image) error {
	var subjects []digest.Digest
	for _, doc := range img.Documents {
		subjects = append(subjects, doc.Descriptor.Digest)
	}
	seen := make(map[digest.Digest]bool)
	for _, d := range subjects {
		seen[d] = true
	}
	for step := 0; step < maxReferrerDepth && len(subjects) > 0; step++ {
		var next []digest.Digest
		for _, subject := range subjects {
			found, err := o.referring(ctx, m, img, subject)
			if err != nil {
				return fmt.Errorf("referrers of %s: %w", subject, err)
			}
			for _, v := range found {
				d := v.Document.Descriptor.Digest
				if !seen[d] {
					seen[d] = true
					if len(img.Referrers) >= maxReferrers {
						return fmt.Errorf("referrers of the image: %w: more than %d manifests", image.ErrInvalid, maxReferrers)
					}
					next = append(next, d)
					img.Referrers = append(img.Referrers, v)
					img.Documents = append(img.Documents, v.Document)
				}
			}
		}
		subjects = next
	}
	return nil
}

// referring finds the manifests that refer to one.
func (o Options) referring(ctx context.Context, m *manifests, img *plan.Image, subject digest.Digest) ([]plan.Variant, error) {
	listed, err := o.Registry.Referrers(ctx, img.Ref, subject)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(listed, func(a, b ocispec.Descriptor) int { return cmp.Compare(a.Digest, b.Digest) })
	var out []plan.Variant
	for _, d := range listed {
		doc, err := m.Manifest(ctx, img.Ref, d.Digest.String())
		if errors.Is(err, registry.ErrNotFound) || errors.Is(err, image.ErrUnsupported) {
			continue // the list is older than what it lists
		}
		if err != nil {
			return nil, err
		}
		if doc.Manifest != nil {
			out = append(out, plan.Variant{Document: doc, Config: doc.Manifest.Config, Layers: doc.Manifest.Layers})
		}
	}
	for _, kind := range cosignTags {
		tag := subject.Algorithm().String() + "-" + subject.Encoded() + kind
		doc, err := m.opts.Registry.Manifest(ctx, img.Ref, tag)
		if errors.Is(err, registry.ErrNotFound) {
			continue
		}
		if err == nil && m.keep != nil {
			err = m.keep(ctx, doc)
		}
		if err != nil {
			return nil, err
		}
		m.fetched += doc.Descriptor.Size
		if doc.Manifest != nil {
			out = append(out, plan.Variant{Document: doc, Config: doc.Manifest.Config, Layers: doc.Manifest.Layers, Tag: tag})
		}
	}
	return out, nil
}

// referrers describes what refers to an image, for the store's record.
func referrers(img *plan.Image) []ocispec.Descriptor {
	var out []ocispec.Descriptor
	for _, v := range img.Referrers {
		d := v.Document.Descriptor
		if v.Tag != "" {
			d.Annotations = map[string]string{ocispec.AnnotationRefName: v.Tag}
		}
		out = append(out, d)
	}
	return out
}
