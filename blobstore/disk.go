package blobstore

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"sync"

	"drayage/blobstore/durable"
)

func fillRandom(b []byte) { rand.Read(b) } // never fails, by its contract

// besideSuffix ends the name of a file that is being written.
const besideSuffix = ".tmp"

// writeFile replaces a small file and syncs its folder: then it is there to
// stay.
func writeFile(path string, data []byte) error {
	if err := replaceFile(path, data); err != nil {
		return err
	}
	return durable.SyncFolder(filepath.Dir(path))
}

// replaceFile replaces a small file: written beside, synced, renamed. The
// folder is left to the caller to sync. The caller holds the store's lock, so
// the name beside is its own, and one that a dead process left is written over.
func replaceFile(path string, data []byte) (err error) {
	beside := path + besideSuffix
	f, err := os.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(beside)
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(beside, path)
}

// folderSync syncs one folder for many callers: a sync that begins after a
// rename covers it, so callers who come while one is running share the next.
type folderSync struct {
	path string

	mu      sync.Mutex
	changed *sync.Cond
	begun   int // syncs begun so far
	done    int // the last one that ended
	err     error
}

func newFolderSync(path string) *folderSync {
	f := &folderSync{path: path}
	f.changed = sync.NewCond(&f.mu)
	return f
}

// sync returns when a sync that began after the call has ended. A failure
// stays: what the kernel could not write it may have dropped, so that a later
// sync that succeeds says nothing about it.
func (f *folderSync) sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	need := f.begun + 1
	for f.done < need && f.err == nil {
		if f.begun > f.done { // one is running, too early for us
			f.changed.Wait()
			continue
		}
		f.begun++
		f.mu.Unlock()
		err := durable.SyncFolder(f.path)
		f.mu.Lock()
		f.done, f.err = f.begun, err
		f.changed.Broadcast()
	}
	return f.err
}

// lock takes the store's lock, which is held for moments only.
func (s *Store) lock() (unlock func(), err error) {
	f, err := durable.Lock(context.Background(), s.paths.lock(), nil)
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil
}
