//go:build !linux

package blobstore

import "os"

func syncData(f *os.File) error { return f.Sync() }
