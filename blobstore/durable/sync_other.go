//go:build !linux

package durable

import "os"

// SyncData waits until a file's bytes and size are on the disk.
func SyncData(f *os.File) error { return f.Sync() }
