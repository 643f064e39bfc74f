package durable

import (
	"os"

	"golang.org/x/sys/unix"
)

// SyncData waits until a file's bytes and size are on the disk; its times may
// be lost.
func SyncData(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if err != unix.EINTR {
			return err
		}
	}
}
