// Package durable has what writing files that survive a crash takes, and what opening files that
// others may have put there takes: syncs, atomic replacement, locks that die with their process, and
// checks of links and owners.
package durable

import (
	"errors"
	"os"
	"syscall"
)

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
