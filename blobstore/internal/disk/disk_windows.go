package disk

import (
	"io/fs"
	"os"

	"golang.org/x/sys/windows"
)

// LockOpen waits for a lock on an open file: alone, or shared with others who share it. It is
// for locks that are held for moments.
func LockOpen(f *os.File, alone bool) error {
	if alone {
		return lockFile(f, windows.LOCKFILE_EXCLUSIVE_LOCK)
	}
	return lockFile(f, 0)
}

// UnlockOpen gives up a lock on a file that stays open.
func UnlockOpen(f *os.File) error {
	return windows.UnlockFileEx(windows.Handle(f.Fd()), 0, 1, 0, &windows.Overlapped{OffsetHigh: farAway})
}

// device can't be told here: all files are as if on one file system.
func device(fs.FileInfo) uint64 { return 0 }

// Allocated is the size of a file: what it takes of the disk can't be told here.
func Allocated(info fs.FileInfo) int64 { return info.Size() }

// farAway is where the locked byte is: a lock keeps others from reading what it covers.
const farAway = 1 << 30

func lockFile(f *os.File, flags uint32) error {
	return windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, &windows.Overlapped{OffsetHigh: farAway})
}
