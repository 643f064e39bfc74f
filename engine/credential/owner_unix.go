//go:build unix

package credential

import (
	"io/fs"
	"os"
	"syscall"
)

// keepOwner gives a file the owner that another has.
func keepOwner(f *os.File, as fs.FileInfo) {
	if sys, ok := as.Sys().(*syscall.Stat_t); ok {
		_ = f.Chown(int(sys.Uid), int(sys.Gid))
	}
}
