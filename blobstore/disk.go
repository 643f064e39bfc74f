package blobstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
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
	return syncFolder(filepath.Dir(path))
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

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
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
		err := syncFolder(f.path)
		f.mu.Lock()
		f.done, f.err = f.begun, err
		f.changed.Broadcast()
	}
	return f.err
}

// locked opens path, making it, and locks it for this process alone. Where
// another holds it, waiting is called once and locked tries again until ctx is
// done. The lock ends with the file's Close or the process.
//
// The file may be removed by its holder. So after a lock was won it must still
// be the file under that name: otherwise two could hold "the" lock.
func locked(ctx context.Context, path string, waiting func()) (*os.File, error) {
	const between = 50 * time.Millisecond
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		if errors.Is(err, fs.ErrNotExist) { // its folder was removed by a holder that is done
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		won, err := tryLock(f)
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		if won && sameFile(f, path) {
			return f, nil
		}
		f.Close()
		if won {
			continue // it was removed meanwhile: another try, at once
		}
		if waiting != nil {
			waiting()
			waiting = nil
		}
		select {
		case <-time.After(between):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func sameFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

// lock takes the store's lock, which is held for moments only.
func (s *Store) lock() (unlock func(), err error) {
	f, err := locked(context.Background(), s.paths.lock(), nil)
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil
}
