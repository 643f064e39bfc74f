package blobstore

import (
	"context"
	"path/filepath"

	"drayage/blobstore/durable"
	"drayage/blobstore/internal/files"
)

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

// lock takes the store's lock, which is held for moments only.
func (s *Store) lock() (unlock func(), err error) {
	f, err := durable.Lock(context.Background(), s.paths.Lock(), nil)
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil
}
