package engine

import (
	"context"
	"errors"

	"drayage/blobstore"
	"drayage/engine/image"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
)

// manifests gives an image's manifests, out of the store where it can, and
// counts which bytes came from where.
type manifests struct {
	opts            Options
	keep            func(context.Context, image.Document) error // nil: don't
	discard         func(digest.Digest) error                   // of a damaged one; nil: don't
	answered        func()                                      // called when a registry has answered; nil: don't
	fetched, reused int64
}

// heard reports that a registry has answered.
func (m *manifests) heard() {
	if m.answered != nil {
		m.answered()
	}
}

// Manifest implements plan.Manifests with the fewest requests: none for a
// digest that the store has; for a tag that was pulled before, the question
// whether it still stands for the same; else one GET.
func (m *manifests) Manifest(ctx context.Context, ref reference.Image, tagOrDigest string) (image.Document, error) {
	want := digest.Digest(tagOrDigest)
	if want.Validate() != nil {
		want = ""
		if _, err := m.opts.Store.Root(ref.Tagged()); err == nil {
			d, err := m.opts.Registry.Head(ctx, ref, tagOrDigest)
			if err != nil {
				return image.Document{}, err
			}
			m.heard()
			want = d
		}
	}
	if want != "" {
		tagOrDigest = want.String()
		raw, err := m.opts.Store.Read(want, image.MaxSize)
		if err == nil {
			m.reused += int64(len(raw))
			return image.DecodeVerified(raw, want)
		}
		damaged := errors.Is(err, blobstore.ErrDamaged) && m.discard != nil
		if damaged {
			if err := m.discard(want); err != nil {
				return image.Document{}, err
			}
		} else if !errors.Is(err, blobstore.ErrNotFound) {
			return image.Document{}, err
		}
	}
	doc, err := m.opts.Registry.Manifest(ctx, ref, tagOrDigest)
	if err != nil {
		return image.Document{}, err
	}
	m.heard()
	m.fetched += doc.Descriptor.Size
	if m.keep != nil {
		err = m.keep(ctx, doc)
	}
	return doc, err
}

// Size implements plan.Manifests.
func (m *manifests) Size(ctx context.Context, ref reference.Image, d digest.Digest) (int64, error) {
	size, err := m.opts.Store.Stat(d)
	if !errors.Is(err, blobstore.ErrNotFound) {
		return size, err
	}
	return m.opts.Registry.BlobSize(ctx, ref, d)
}
