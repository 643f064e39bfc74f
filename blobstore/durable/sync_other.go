//go:build !linux

package durable

import (
	"errors"
	"os"
)

// SyncData waits until a file's bytes and size are on the disk.
func SyncData(f *os.File) error { return f.Sync() }

func allocate(*os.File, int64) error { return errors.ErrUnsupported }

func startWriting(*os.File, int64, int64) {}

// Boot tells this run of the system from those before. It is "" when that
// can't be told, as here.
func Boot() string { return "" }

// Free is how many bytes a user may still write to the file system of path.
// Here it can't be told.
func Free(string) (free int64, shares bool, err error) { return 0, false, errors.ErrUnsupported }

// DontCache does nothing here.
func DontCache(*os.File) {}

// Inodes is how many files more the file system of path takes. Here it can't be told.
func Inodes(string) int64 { return -1 }
