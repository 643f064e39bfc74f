package files

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"

	"drayage/blobstore/durable"

	"github.com/opencontainers/go-digest"
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

// Listed are the digests in the files of a pattern, one a line, that a process holds locked.
func Listed(pattern string, without func(path string) bool) (map[digest.Digest]bool, error) {
	paths, err := filepath.Glob(pattern)
	if err != nil {
		return nil, err
	}
	listed := make(map[digest.Digest]bool)
	for _, path := range paths {
		if without(path) || !IsHeld(path) {
			continue // its process is gone
		}
		raw, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // it ended meanwhile
		}
		if err != nil {
			return nil, err
		}
		for line := range bytes.Lines(raw) {
			if d := digest.Digest(bytes.TrimSpace(line)); d.Validate() == nil {
				listed[d] = true
			}
		}
	}
	return listed, nil
}
