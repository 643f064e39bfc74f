package blobstore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"drayage/blobstore/durable"
	"drayage/blobstore/internal/files"

	"github.com/opencontainers/go-digest"
)

// OpenSound is as Open for content that is given on without being looked at again. A blob whose
// file was changed since it was verified is hashed first: one that is damaged is moved to
// quarantine, and is as if absent.
func (s *Store) OpenSound(d digest.Digest) (*os.File, error) {
	f, err := s.Open(d)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && s.stamps.Same(d, info) {
		return f, nil
	}
	s.hashing.Lock() // whoever asks for the same meanwhile needn't hash it again
	defer s.hashing.Unlock()
	if err == nil && s.stamps.Same(d, info) {
		return f, nil
	}
	gone, err := s.quarantine(d)
	switch {
	case err != nil:
		return nil, errors.Join(err, f.Close())
	case gone:
		return nil, errors.Join(fmt.Errorf("blob %s: %w", d, ErrNotFound), f.Close())
	}
	s.stamps.Put(d, info)
	return f, nil
}

// quarantine moves a blob out of the way whose content isn't that of its name any
// more, so that it is fetched anew and a person can look at what was there. It reports
// whether it was so.
func (s *Store) quarantine(d digest.Digest) (bool, error) {
	f, err := s.Open(d)
	if errors.Is(err, ErrNotFound) {
		return true, nil // another process was faster
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	hash := d.Algorithm().Hash()
	// What can't be read is as good as damaged.
	if _, err := io.Copy(hash, f); err == nil && digest.NewDigest(d.Algorithm(), hash) == d {
		return false, nil
	}
	if err := os.MkdirAll(s.paths.Quarantines(), 0o755); err != nil {
		return false, err
	}
	path, away := s.paths.Blob(d), s.paths.Quarantine(d, files.RandomHex(4))
	if !durable.StillNamed(f, path) {
		return true, nil // another process was faster
	}
	err = os.Rename(path, away)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return false, fmt.Errorf("moving a damaged blob away: %w", err)
	case !durable.StillNamed(f, away): // it was fetched anew just now
		return true, os.Rename(away, path)
	}
	return true, nil
}
