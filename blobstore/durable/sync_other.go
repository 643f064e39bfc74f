//go:build !linux

package durable

import (
	"errors"
	"os"
)

// syncData waits until a file's bytes and size are on the disk.
func syncData(f *os.File) error { return f.Sync() }

func reserve(*os.File, int64, int64) error { return errors.ErrUnsupported }

func startWriting(*os.File, int64, int64) {}

// FewInodes reports whether the file system of a folder has room for bytes rather than for more
// files. Here it can't be told.
func FewInodes(string) bool { return false }
