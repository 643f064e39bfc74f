package durable

import (
	"errors"
	"io"
	"io/fs"
	"os"
)

// Disk is the calls to a file system that bring a blob into a store. OS makes
// them for real; tests have disks that die at a call or forget what was not
// synced.
type Disk interface {
	// Open opens a file for reading and writing, and makes it when absent.
	Open(path string) (File, error)
	Rename(from, to string) error
	// SyncFolder waits until the names in a folder are on the disk.
	SyncFolder(path string) error
}

// File is an open file of a Disk. Its methods may be called from several
// goroutines.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Stat() (fs.FileInfo, error)
	Truncate(size int64) error
	// SyncData waits until the file's bytes and size are on the disk.
	SyncData() error
	// Reserve reserves the space of n bytes from an offset, where the file system can. What is
	// there stays.
	Reserve(off, n int64) error
	// StartWriting tells the system to begin to write a range to the disk, so
	// that a later sync finds little to do. It promises nothing.
	StartWriting(off, n int64)
}

// OS is the disk of this machine.
type OS struct{}

// Open implements Disk.
func (OS) Open(path string) (File, error) {
	f, err := OpenPlain(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Rename implements Disk.
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// SyncFolder implements Disk.
func (OS) SyncFolder(path string) error { return SyncFolder(path) }

// osFile is a file of this machine.
type osFile struct{ *os.File }

// SyncData implements File.
func (f osFile) SyncData() error { return syncData(f.File) }

// Reserve implements File.
func (f osFile) Reserve(off, n int64) error {
	err := reserve(f.File, off, n)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}

// StartWriting implements File.
func (f osFile) StartWriting(off, n int64) { startWriting(f.File, off, n) }
