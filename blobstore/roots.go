package blobstore

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"drayage/blobstore/internal/layout"

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

// Pin records images as pulled, all or those before a failure, and replaces
// roots of the same names. One with the same target keeps what it had beyond that, such as
// other platforms, and is still there. The blobs should be in the store, under this
// lease.
func (l *Lease) Pin(roots ...Root) error {
	s := l.store
	unlock, err := s.lock()
	if err != nil {
		return fmt.Errorf("pinning: %w", err)
	}
	defer unlock()
	for _, r := range roots {
		if r, err = l.joined(r); err != nil {
			return fmt.Errorf("pinning %s: %w", r.Name, err)
		}
		raw, err := json.Marshal(rootFile{Version: rootVersion, Root: r})
		if err != nil {
			return fmt.Errorf("pinning %s: %w", r.Name, err)
		}
		if old, err := os.ReadFile(s.paths.Root(r.Name)); err == nil && string(old) == string(raw) {
			if err := s.Use(r.Name); err != nil {
				return err
			}
			continue
		}
		if err := s.replaceFile(s.paths.Root(r.Name), raw); err != nil {
			return fmt.Errorf("pinning %s: %w", r.Name, err)
		}
	}
	if err := s.syncFolder(s.paths.Roots()); err != nil { // once for all of them
		return fmt.Errorf("pinning: %w", err)
	}
	for _, r := range roots {
		s.dropOldRoot(r.Name)
	}
	if err := s.writeIndex(); err != nil {
		return fmt.Errorf("writing the store's index.json: %w", err)
	}
	return nil
}

// joined adds to a root what the one that it replaces has beyond it.
func (l *Lease) joined(r Root) (Root, error) {
	old, err := l.store.Root(r.Name)
	if err != nil || old.Target.Digest != r.Target.Digest {
		return r, nil // nothing to keep
	}
	if r.From.Kind != FromRegistry && old.From.Kind == FromRegistry {
		r.From = old.From
	}
	r.Blobs, r.Beside = slices.Clone(r.Blobs), slices.Clone(r.Beside)
	listed := setOf(r.Blobs)
	for _, d := range old.Blobs {
		if listed[d] {
			continue
		}
		listed[d] = true
		if err := l.keep(d); err != nil { // before it is looked for, as in Has
			return r, err
		}
		switch _, err := l.store.Stat(d); {
		case err == nil:
			r.Blobs = append(r.Blobs, d)
		case !errors.Is(err, ErrNotFound):
			return r, err
		}
	}
	for _, b := range old.Beside {
		known := slices.ContainsFunc(r.Beside, func(o ocispec.Descriptor) bool { return o.Digest == b.Digest })
		if !known && slices.Contains(r.Blobs, b.Digest) {
			r.Beside = append(r.Beside, b)
		}
	}
	slices.SortFunc(r.Beside, func(a, b ocispec.Descriptor) int { return cmp.Compare(a.Digest, b.Digest) })
	return r, nil
}

// Root finds an image by its whole name. The error wraps ErrNotFound when it
// was never pulled, or its record is unreadable.
func (s *Store) Root(name string) (Root, error) {
	r, err := readRoot(s.paths.Root(name))
	if errors.Is(err, fs.ErrNotExist) {
		r, err = readRoot(s.paths.OldRoot(name))
	}
	if errors.Is(err, fs.ErrNotExist) || err == nil && r.Name != name {
		err = ErrNotFound
	}
	if err != nil {
		return Root{}, fmt.Errorf("image %s: %w", name, err)
	}
	return r, nil
}

// Roots lists the pulled images by name. Records that can't be read are left out. What is
// returned is the caller's own.
func (s *Store) Roots() ([]Root, error) {
	images, err := s.Images()
	if err != nil || len(images.Roots) == 0 {
		return nil, err
	}
	return cloned(images.Roots), nil
}

// isRootOf reports whether a file is the one that a root is read from.
func (s *Store) isRootOf(file, name string) bool {
	if filepath.Base(s.paths.Root(name)) == file {
		return true
	}
	if filepath.Base(s.paths.OldRoot(name)) != file {
		return false
	}
	_, err := os.Stat(s.paths.Root(name))
	return errors.Is(err, fs.ErrNotExist)
}

// rootPath is the file that a root is in.
func (s *Store) rootPath(name string) string {
	path, old := s.paths.Root(name), s.paths.OldRoot(name)
	if path == old {
		return path
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if r, err := readRoot(old); err == nil && r.Name == name {
			return old
		}
	}
	return path
}

// dropOldRoot removes the file that a root had before it was written under its name of now.
func (s *Store) dropOldRoot(name string) {
	old := s.paths.OldRoot(name)
	if old == s.paths.Root(name) {
		return
	}
	if r, err := readRoot(old); err == nil && r.Name == name {
		_ = os.Remove(old) // one that stays is not read any more
	}
}

// allRoots is Roots for who is going to remove what no root lists: a record that can't be
// read, or is of another version, may list anything, and is an error. One that is damaged
// lists nothing.
func (s *Store) allRoots() ([]Root, error) {
	files, err := os.ReadDir(s.paths.Roots())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	var out []Root
	for _, f := range files {
		path := filepath.Join(s.paths.Roots(), f.Name())
		raw, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("reading an image's record: %w", err)
		}
		var version struct {
			Version int `json:"version"`
		}
		if json.Unmarshal(raw, &version) == nil && version.Version > rootVersion {
			return nil, fmt.Errorf("reading an image's record: %s is of version %d, which a newer drayage wrote", path, version.Version)
		}
		if r, err := decodeRoot(raw); err == nil && s.isRootOf(f.Name(), r.Name) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b Root) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// Extend adds blobs to what an image lists, if it is there and stands for a target, and
// does nothing if not. They should be in the store, under this lease.
func (l *Lease) Extend(name string, target digest.Digest, blobs ...digest.Digest) error {
	s := l.store
	unlock, err := s.lock()
	if err != nil {
		return fmt.Errorf("pinning: %w", err)
	}
	defer unlock()
	r, err := s.Root(name)
	if errors.Is(err, ErrNotFound) || err == nil && r.Target.Digest != target {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pinning: %w", err)
	}
	more, listed := r.Blobs, setOf(r.Blobs)
	for _, d := range blobs {
		if !listed[d] {
			listed[d] = true
			more = append(more, d)
		}
	}
	if len(more) == len(r.Blobs) {
		return nil
	}
	r.Blobs = more
	raw, err := json.Marshal(rootFile{Version: rootVersion, Root: r})
	if err != nil {
		return fmt.Errorf("pinning %s: %w", name, err)
	}
	if err := s.writeFile(s.paths.Root(name), raw); err != nil {
		return fmt.Errorf("pinning %s: %w", name, err)
	}
	return nil
}

func setOf(list []digest.Digest) map[digest.Digest]bool {
	out := make(map[digest.Digest]bool, len(list))
	for _, d := range list {
		out[d] = true
	}
	return out
}

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

// writeIndex derives index.json from the roots, as OCI tools read it. The
// caller holds the store's lock.
func (s *Store) writeIndex() error {
	roots, err := s.Images()
	if err != nil {
		return err
	}
	images := make([]layout.Named, 0, len(roots.Roots))
	for _, r := range roots.Roots {
		images = append(images, layout.Named{Name: r.Name, Target: r.Target})
	}
	raw, err := layout.EncodeIndex(images)
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(s.paths.Index()); err == nil && string(old) == string(raw) {
		return nil
	}
	return s.writeFile(s.paths.Index(), raw)
}
