//go:build !linux

package durable

import (
	"errors"
	"os"
)

// SyncData waits until a file's bytes and size are on the disk.
func SyncData(f *os.File) error { return f.Sync() }

func reserve(*os.File, int64, int64) error { return errors.ErrUnsupported }

func startWriting(*os.File, int64, int64) {}

// Boot tells this run of the system from those before. It is "" when that
// can't be told, as here.
func Boot() string { return "" }

// Free is how many bytes a user may still write to the file system of path.
// Here it can't be told.
func Free(string) (free int64, shares bool, err error) { return 0, false, errors.ErrUnsupported }

// DontCache does nothing here.
func DontCache(*os.File) {}

// FewInodes reports whether the file system of a folder has room for bytes rather than for more
// files. Here it can't be told.
func FewInodes(string) bool { return false }
