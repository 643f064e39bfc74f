package durable

import (
	"io/fs"
	"syscall"
)

// Identity is a file's number on its file system, and when it was last changed, its name and
// mode included, in nanoseconds since 1970; zeros where that can't be told.
func Identity(info fs.FileInfo) (inode uint64, changed int64) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Ino), st.Ctim.Nano()
	}
	return 0, 0
}
