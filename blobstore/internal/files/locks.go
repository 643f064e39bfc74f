package files

import (
	"errors"
	"os"
	"path/filepath"

	"drayage/blobstore/durable"
)

// IsHeld reports whether a process holds the lock on a file.
func IsHeld(path string) bool {
	f, err := durable.OpenPlain(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return false
	}
	if err != nil {
		return true // it can't be found out
	}
	defer f.Close()
	won, err := durable.TryLock(f)
	return err != nil || !won
}

// DropUnlocked removes the files of a pattern that no process holds locked. What can't
// be removed stays for another time.
func DropUnlocked(pattern string) {
	files, _ := filepath.Glob(pattern)
	for _, path := range files {
		f, err := durable.OpenPlain(path, os.O_RDWR, 0)
		if err != nil {
			continue
		}
		if won, err := durable.TryLock(f); err == nil && won && durable.StillNamed(f, path) {
			os.Remove(path)
		}
		f.Close()
	}
}
