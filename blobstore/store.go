package blobstore

import (
	"context"
	_ "crypto/sha256" // the algorithms of blobs' digests
	_ "crypto/sha512"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"drayage/blobstore/durable"
	"drayage/blobstore/internal/disk"
	"drayage/blobstore/internal/files"
	"drayage/blobstore/internal/layout"
	"drayage/blobstore/internal/space"
	"drayage/blobstore/internal/stamps"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Store is an open store. Its methods may be called from several goroutines.
type Store struct {
	paths      layout.Dir
	disk       durable.Disk
	boot       string // tells this run of the system from others
	sync       bool
	partialAge time.Duration
	folder     *files.FolderSync // of blobs/sha256, where nearly all blobs are
	stamps     *stamps.Store
	images     *stamps.Cache[Root, Images]
	coming     space.Coming
	hashing    sync.Mutex // held while a blob is hashed that is to be given on
}

// Dir is the folder that the store is in.
func (s *Store) Dir() string { return string(s.paths) }

// OthersMay reports what users besides the owner may do in the store by the mode of its folder:
// "change it", "read it", or "" for nothing.
func (s *Store) OthersMay() string { return files.OthersMay(s.Dir()) }

// Stat is the size of a blob in bytes. The error wraps ErrNotFound when the
// store doesn't have it.
func (s *Store) Stat(d digest.Digest) (int64, error) {
	if err := d.Validate(); err != nil {
		return 0, fmt.Errorf("looking for blob %q: %w", d, err)
	}
	info, err := os.Stat(s.paths.Blob(d))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("blob %s: %w", d, ErrNotFound)
	}
	if err != nil {
		return 0, fmt.Errorf("looking for blob: %w", err)
	}
	if !info.Mode().IsRegular() {
		return 0, fmt.Errorf("blob %s: %s is not a regular file", d, s.paths.Blob(d))
	}
	return info.Size(), nil
}

// Has reports whether the store has the blob of a descriptor. Where it has one
// of another size the error is a *SizeError.
func (s *Store) Has(desc ocispec.Descriptor) (bool, error) {
	size, err := s.Stat(desc.Digest)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if size != desc.Size {
		return false, &SizeError{Digest: desc.Digest, Want: desc.Size, Have: size}
	}
	return true, nil
}

// Open opens a blob for reading; the caller closes it. The error wraps
// ErrNotFound when the store doesn't have it.
func (s *Store) Open(d digest.Digest) (*os.File, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("opening blob %q: %w", d, err)
	}
	f, err := os.Open(s.paths.Blob(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s: %w", d, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("opening blob: %w", err)
	}
	return f, nil
}

// Read reads a whole blob of at most limit bytes, such as a manifest, and
// checks it against its digest again: what is to be parsed should be what was
// verified, whatever happened to the disk since.
func (s *Store) Read(d digest.Digest, limit int64) ([]byte, error) {
	f, err := s.Open(d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading blob: %w", err)
	}
	if int64(len(raw)) > limit {
		return nil, fmt.Errorf("reading blob %s: larger than %d bytes", d, limit)
	}
	if d.Algorithm().FromBytes(raw) != d {
		return nil, fmt.Errorf("reading blob %s: %w", d, ErrDamaged)
	}
	return raw, nil
}

// lock takes the store's lock, which is held for moments only.
func (s *Store) lock() (unlock func(), err error) {
	f, err := disk.Lock(context.Background(), s.paths.Lock(), nil)
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil
}

// writeFile replaces a small file and syncs its folder: then it is there to
// stay.
func (s *Store) writeFile(path string, data []byte) error {
	if err := s.replaceFile(path, data); err != nil {
		return err
	}
	return s.syncFolder(filepath.Dir(path))
}

// replaceFile replaces a small file, whose folder is left to the caller to sync. The caller holds
// the store's lock.
func (s *Store) replaceFile(path string, data []byte) error {
	return files.Replace(path, data, s.sync)
}

func (s *Store) syncFolder(path string) error {
	if !s.sync {
		return nil
	}
	return s.disk.SyncFolder(path)
}
