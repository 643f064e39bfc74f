// Package disk has what only a store asks of a disk: locks to wait for, free space, and what tells
// file systems, files and runs of the system apart.
package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"drayage/blobstore/durable"
)

// TempSuffix ends the name of a file that is being written.
const TempSuffix = ".tmp"

// Folder makes a folder, with those above it, where others make and remove the same one
// meanwhile.
func Folder(path string) error {
	for {
		// MkdirAll says that the folder exists where it did when it was to be made, and didn't
		// when that was looked at.
		err := os.MkdirAll(path, 0o755)
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		if info, gone := os.Lstat(path); gone == nil && info.IsDir() {
			return nil
		} else if !errors.Is(gone, fs.ErrNotExist) {
			return err
		}
	}
}

// Lock opens path, making it, and locks it for this process alone. Where
// another holds it, waiting (if not nil) is called once and Lock tries again until ctx is
// done. The lock ends with the file's Close or the process.
//
// The file may be removed by its holder. So after a lock was won it must still
// be the file under that name: otherwise two could hold "the" lock.
func Lock(ctx context.Context, path string, waiting func()) (*os.File, error) {
	const between = 50 * time.Millisecond
	for {
		f, err := durable.OpenPlain(path, os.O_RDWR|os.O_CREATE, 0o644)
		if errors.Is(err, fs.ErrNotExist) { // its folder was removed by a holder that is done
			if err := Folder(filepath.Dir(path)); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		won, err := durable.TryLock(f)
		if err != nil {
			f.Close()
			if hasNone(err) || errors.Is(err, syscall.ENOLCK) {
				return nil, fmt.Errorf("locking %s: the file system does not support locks; use a directory on another one: %w", path, err)
			}
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		if won && durable.StillNamed(f, path) {
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

// hasNone reports whether an error says that a file system has no locks.
func hasNone(err error) bool {
	return errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.ENOTTY)
}

// SameDisk reports whether two paths, which must exist, are on one file system.
func SameDisk(a, b string) bool {
	x, errA := os.Stat(a)
	y, errB := os.Stat(b)
	return errA == nil && errB == nil && device(x) == device(y)
}
