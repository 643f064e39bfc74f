package blobstore

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"drayage/blobstore/durable"
	"drayage/blobstore/internal/space"
	"drayage/engine/fault"
)

// SpaceError says that a disk has too little space. It is an ENOSPC.
type SpaceError struct {
	Where      string
	Need, Free int64 // bytes
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("no space in %s: %s are needed and %s are free, so %s are missing",
		e.Where, space.MiB(e.Need), space.MiB(e.Free), space.MiB(e.Need-e.Free))
}

// FaultKind is its kind: see fault.Of.
func (*SpaceError) FaultKind() fault.Kind { return fault.Local }

// Is makes it what the system says when a disk is full.
func (e *SpaceError) Is(target error) bool { return target == syscall.ENOSPC }

// CheckSpace says whether a folder, which need not exist yet, can take so many
// bytes more: a *SpaceError when not, and nil where that can't be told.
func CheckSpace(dir string, need int64) error {
	free, _, err := durable.Free(existing(dir))
	if err == nil && need > free {
		return &SpaceError{Where: dir, Need: need, Free: free}
	}
	return nil
}

// Cheap reports whether a file made in dir of the store's blobs takes little
// space, since the file system lets files share their blocks; and otherwise
// whether it takes the space of the same disk.
func (s *Store) Cheap(dir string) (cheap, same bool) {
	dir = existing(dir)
	_, shares, err := durable.Free(dir)
	same = durable.SameDisk(existing(s.Dir()), dir)
	return same && shares && err == nil, same
}

// Free is how many bytes more the store's file system takes, or an error that
// is errors.ErrUnsupported where that can't be told.
func (s *Store) Free() (int64, error) {
	free, _, err := durable.Free(existing(s.Dir()))
	return free, err
}

// existing is the closest folder of a path that exists.
func existing(path string) string {
	for {
		if _, err := os.Stat(path); err == nil {
			return path
		}
		up := filepath.Dir(path)
		if up == path {
			return path
		}
		path = up
	}
}
