// Package durable has the few moves with files that surviving a crash takes:
// locks that die with their process, and syncs of files and folders.
package durable

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// TempSuffix ends the name of a file that is being written.
const TempSuffix = ".tmp"

// SyncFolder waits until the names in a folder are on the disk. File systems that have no such
// thing, as those of network shares, say so by errors that are no faults; their files can be
// synced.
func SyncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	err = d.Sync()
	if noFolderSync(err) {
		err = nil
	}
	return errors.Join(err, d.Close())
}

// noFolderSync reports whether an error says that folders can't be synced there. EIO never
// does.
func noFolderSync(err error) bool {
	return errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.ENOTTY)
}

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
		f, err := OpenPlain(path, os.O_RDWR|os.O_CREATE, 0o644)
		if errors.Is(err, fs.ErrNotExist) { // its folder was removed by a holder that is done
			if err := Folder(filepath.Dir(path)); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		won, err := TryLock(f)
		if err != nil {
			f.Close()
			if noFolderSync(err) || errors.Is(err, syscall.ENOLCK) {
				return nil, fmt.Errorf("locking %s: the file system has no locks, without which processes would spoil each other's work; name a folder on another one: %w", path, err)
			}
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		if won && StillNamed(f, path) {
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

// StillNamed reports whether path still names an open file, which it doesn't
// once the file was removed or replaced. A link to it is another file.
func StillNamed(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Lstat(path)
	return err == nil && os.SameFile(a, b)
}

// SameDisk reports whether two paths, which must exist, are on one file system.
func SameDisk(a, b string) bool {
	x, errA := os.Stat(a)
	y, errB := os.Stat(b)
	return errA == nil && errB == nil && device(x) == device(y)
}
