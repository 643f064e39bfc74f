package durable

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// syncData waits until a file's bytes and size are on the disk; its times may
// be lost.
func syncData(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if err != unix.EINTR {
			return err
		}
	}
}

// reserve reserves the space of a part of a file. A file system in memory would fill
// it with zeros there and then, for nothing.
func reserve(f *os.File, off, n int64) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err == nil && fs.Type == unix.TMPFS_MAGIC || n == 0 {
		return errors.ErrUnsupported
	}
	for {
		err := unix.Fallocate(int(f.Fd()), 0, off, n)
		switch err {
		case unix.EINTR:
			continue
		case unix.EOPNOTSUPP, unix.ENOSYS, unix.EINVAL:
			return errors.ErrUnsupported
		case nil:
			return nil
		}
		return &os.PathError{Op: "fallocate", Path: f.Name(), Err: err}
	}
}

func startWriting(f *os.File, off, n int64) {
	_ = unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE) // a hint: what fails here fails in the sync
}

// FewInodes reports whether the file system of a folder, or of the nearest above it that is there,
// has room for bytes rather than for more files: what has just failed for want of space has
// perhaps given back some of both.
func FewInodes(folder string) bool {
	const few, room = 1000, 16 << 20 // files, bytes
	var fs unix.Statfs_t
	err := unix.Statfs(folder, &fs)
	for err == unix.ENOENT && filepath.Dir(folder) != folder {
		folder = filepath.Dir(folder)
		err = unix.Statfs(folder, &fs)
	}
	if err != nil || fs.Files == 0 { // Btrfs makes them as needed
		return false
	}
	return int64(fs.Ffree) < few && int64(fs.Bavail)*int64(fs.Bsize) > room
}
