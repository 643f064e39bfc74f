package blobstore

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"drayage/blobstore/internal/layout"
	"drayage/blobstore/internal/stamps"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Images are the roots of a store at one moment, by name. They are shared by all who ask, so
// nothing in them may be changed. As long as no root changes, Store.Images gives the same
// pointer: what was worked out of them holds as long as the pointer does.
type Images struct{ Roots []Root }

// newImages makes the cache of the images in roots/.
func newImages(paths layout.Dir) *stamps.Cache[Root, Images] {
	read := func(path string) (Root, string, error) {
		r, err := readRoot(path)
		if errors.Is(err, ErrNotFound) {
			err = stamps.ErrNone
		}
		if err != nil {
			return r, "", err
		}
		switch filepath.Base(path) {
		case filepath.Base(paths.Root(r.Name)):
			return r, "", nil
		case filepath.Base(paths.OldRoot(r.Name)):
			return r, filepath.Base(paths.Root(r.Name)), nil
		}
		return r, "", stamps.ErrNone // it says that it is another
	}
	return stamps.NewCache(paths.Roots(), read, func(roots []Root) *Images {
		slices.SortFunc(roots, func(a, b Root) int { return cmp.Compare(a.Name, b.Name) })
		return &Images{roots}
	})
}

// Images is Roots for who asks often, and only reads: what didn't change since the last call is
// not read again, whichever process changes it.
func (s *Store) Images() (*Images, error) {
	images, err := s.images.Get()
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	return images, nil
}

// cloned are roots that share nothing with others. The digests of all of them are in one piece of
// memory, as there are many.
func cloned(roots []Root) []Root {
	out := slices.Clone(roots)
	total := 0
	for i := range roots {
		total += len(roots[i].Blobs)
	}
	all := make([]digest.Digest, 0, total)
	for i := range out {
		r := &out[i]
		own(&r.Target)
		if r.Blobs != nil {
			from := len(all)
			all = append(all, r.Blobs...)
			r.Blobs = all[from:len(all):len(all)]
		}
		if r.Beside == nil {
			continue
		}
		r.Beside = slices.Clone(r.Beside)
		for j := range r.Beside {
			own(&r.Beside[j])
		}
	}
	return out
}

// own makes a descriptor's parts its own. Most have none.
func own(d *ocispec.Descriptor) {
	if d.URLs != nil || d.Annotations != nil || d.Data != nil {
		d.URLs, d.Annotations, d.Data = slices.Clone(d.URLs), maps.Clone(d.Annotations), slices.Clone(d.Data)
	}
	if d.Platform != nil {
		p := *d.Platform
		p.OSFeatures = slices.Clone(p.OSFeatures)
		d.Platform = &p
	}
}
