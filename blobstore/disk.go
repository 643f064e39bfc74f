package blobstore

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
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
func (s *Store) writeFile(path string, data []byte) error {
	if err := replaceFile(path, data, s.sync); err != nil {
		return err
	}
	return s.syncFolder(filepath.Dir(path))
}

func (s *Store) syncFolder(path string) error {
	if !s.sync {
		return nil
	}
	return s.disk.SyncFolder(path)
}

// replaceFile replaces a small file: written beside, synced if so wanted,
// renamed. The folder is left to the caller to sync. The caller holds the store's lock, so
// the name beside is its own, and what a dead process left there goes.
func replaceFile(path string, data []byte, sync bool) (err error) {
	beside := path + besideSuffix
	if err := os.Remove(beside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(beside)
		}
	}()
	_, err = f.Write(data)
	if err == nil && sync {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(beside, path)
}

// folderSync syncs one folder for many callers: a sync that begins after a
// rename covers it, so callers who come while one is running share the next.
type folderSync struct {
	disk durable.Disk
	path string

	mu      sync.Mutex
	changed *sync.Cond
	begun   int // syncs begun so far
	done    int // the last one that ended
	failed  int // the last one that failed
	err     error
}

func newFolderSync(disk durable.Disk, path string) *folderSync {
	f := &folderSync{disk: disk, path: path}
	f.changed = sync.NewCond(&f.mu)
	return f
}

// sync returns when a sync that began after the call has ended. A failure is everybody's who
// waits: what the kernel could not write it may have dropped, so that a later sync that
// succeeds says nothing about it. It is not that of later callers.
func (f *folderSync) sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	need := f.begun + 1
	for f.done < need {
		if f.begun > f.done { // one is running, too early for us
			f.changed.Wait()
			continue
		}
		f.begun++
		f.mu.Unlock()
		err := f.disk.SyncFolder(f.path)
		f.mu.Lock()
		f.done = f.begun
		if err != nil {
			f.failed, f.err = f.begun, err
		}
		f.changed.Broadcast()
	}
	if f.failed >= need {
		return f.err
	}
	return nil
}

// lock takes the store's lock, which is held for moments only.
func (s *Store) lock() (unlock func(), err error) {
	f, err := durable.Lock(context.Background(), s.paths.lock(), nil)
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil
}
