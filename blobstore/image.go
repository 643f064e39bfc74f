package blobstore

import (
	"cmp"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"drayage/blobstore/internal/layout"
	"drayage/blobstore/internal/stamps"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Root is a pulled image: a name, what it stands for, and all that it needs.
type Root struct {
	Name   string             `json:"name"` // with registry, and tag or digest
	Target ocispec.Descriptor `json:"target"`
	Blobs  []digest.Digest    `json:"blobs"` // Target's and everything below, as far as it was pulled
	// Beside are manifests among Blobs that refer to the image. A tag that one
	// was found by is in its annotation org.opencontainers.image.ref.name.
	Beside []ocispec.Descriptor `json:"beside,omitempty"`
	// From is where what the name stands for was last taken from; it is zero in records of older
	// versions. Of two that stand for the same, one from a registry counts.
	From Origin `json:"from,omitzero"`
}

// Origin is where the meaning of an image's name came from.
type Origin struct {
	Kind OriginKind `json:"kind"`
	// Where is the registry's host, or the archive's file name.
	Where string `json:"where,omitempty"`
}

// OriginKind is a kind of source, which says how far it is to be trusted for a name.
type OriginKind string

// The kinds.
const (
	FromRegistry OriginKind = "registry" // the registry that the name has, or a mirror that the user chose for it
	FromArchive  OriginKind = "archive"  // a file, whose names are its maker's word
)

// rootFile is a root as it lies on the disk.
type rootFile struct {
	Version int `json:"version"`
	Root
}

const rootVersion = 1

// readRoot reads a root's file. One that is damaged is as if absent.
func readRoot(path string) (Root, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return Root{}, err
	}
	return decodeRoot(raw)
}

func decodeRoot(raw []byte) (Root, error) {
	var f rootFile
	if err := json.Unmarshal(raw, &f); err != nil || f.Version != rootVersion || f.Name == "" {
		return Root{}, ErrNotFound
	}
	for _, b := range f.Beside {
		if b.Digest.Validate() != nil {
			return Root{}, ErrNotFound
		}
	}
	for _, d := range append(f.Blobs, f.Target.Digest) {
		if d.Validate() != nil {
			return Root{}, ErrNotFound
		}
	}
	return f.Root, nil
}

func setOf(list []digest.Digest) map[digest.Digest]bool {
	out := make(map[digest.Digest]bool, len(list))
	for _, d := range list {
		out[d] = true
	}
	return out
}

// all are the digests that a root lists, each once.
func (r Root) all() []digest.Digest {
	if slices.Contains(r.Blobs, r.Target.Digest) {
		return r.Blobs
	}
	return append(slices.Clone(r.Blobs), r.Target.Digest)
}

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
		layout.Own(&r.Target)
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
			layout.Own(&r.Beside[j])
		}
	}
	return out
}
