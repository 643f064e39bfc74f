package blobstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Drop removes blobs that were added under the lease, but those that an image or another lease
// needs: what an archive had beside its images. They must not be used under this lease afterwards.
func (l *Lease) Drop(digests []digest.Digest) error {
	const batch = 4096 // removed while nobody else can come to need any
	for part := range slices.Chunk(digests, batch) {
		if err := l.drop(part); err != nil {
			return fmt.Errorf("removing what no image needs: %w", err)
		}
	}
	return nil
}

func (l *Lease) drop(digests []digest.Digest) error {
	s := l.store
	unlock, err := s.excludeKeepers()
	if err != nil {
		return err
	}
	defer unlock()
	kept, err := s.leasedBeside(l) // before the roots, as in FindGarbage
	if err != nil {
		return err
	}
	if err := s.addListed(kept, func(string) bool { return true }); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range digests {
		if kept[d] || d.Validate() != nil {
			continue
		}
		if err := os.Remove(s.paths.Blob(d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// leasedBeside is Leased without what one lease keeps, which is this process's.
func (s *Store) leasedBeside(l *Lease) (map[digest.Digest]bool, error) {
	own, err := filepath.Abs(l.file.Name())
	if err != nil {
		return nil, err
	}
	return s.leased(func(path string) bool {
		abs, err := filepath.Abs(path)
		return err == nil && abs == own
	})
}

// Fixed are the blobs that no sweep of this process can delete: those of images that pinned reports
// (nil for none), and those that other processes keep.
func (s *Store) Fixed(pinned func(name string) bool) (map[digest.Digest]bool, error) {
	fixed, err := s.leased(func(path string) bool { return strings.HasPrefix(filepath.Base(path), ownLease()) })
	if err != nil || pinned == nil {
		return fixed, err
	}
	return fixed, s.addListed(fixed, pinned)
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
