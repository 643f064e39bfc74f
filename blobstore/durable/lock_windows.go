package durable

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// TryLock takes a lock on an open file, unless another holds it.
func TryLock(f *os.File) (bool, error) {
	err := lockFile(f, windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY)
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) || errors.Is(err, windows.ERROR_IO_PENDING) {
		return false, nil
	}
	return err == nil, err
}

// farAway is where the locked byte is: a lock keeps others from reading what it covers.
const farAway = 1 << 30

func lockFile(f *os.File, flags uint32) error {
	return windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, &windows.Overlapped{OffsetHigh: farAway})
}
