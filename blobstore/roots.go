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
	"time"

	"drayage/blobstore/internal/layout"

	"github.com/opencontainers/go-digest"
)

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

// Images is Roots for who asks often, and only reads: what didn't change since the last call is
// not read again, whichever process changes it.
func (s *Store) Images() (*Images, error) {
	images, err := s.images.Get()
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	return images, nil
}

// lastUse is when an image was last used, the zero time when that can't be told.
func (s *Store) lastUse(name string) time.Time {
	info, err := os.Stat(s.rootPath(name))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// Use notes that an image is used now.
func (s *Store) Use(name string) error {
	if err := os.Chtimes(s.rootPath(name), time.Time{}, time.Now()); err != nil {
		return fmt.Errorf("noting the use of %s: %w", name, err)
	}
	return nil
}

// addListed adds to digests those that images of some names list.
func (s *Store) addListed(to map[digest.Digest]bool, which func(name string) bool) error {
	roots, err := s.allRoots()
	if err != nil {
		return err
	}
	for _, r := range roots {
		if which(r.Name) {
			for _, d := range r.all() {
				to[d] = true
			}
		}
	}
	return nil
}
