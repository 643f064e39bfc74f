package disk

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Boot tells this run of the system from those before: what a file system took
// in since then it still has, synced or not. It is "" when that can't be told.
func Boot() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

// Free is how many bytes a user may still write to the file system of path,
// which must exist, and whether files there can share their blocks.
func Free(path string) (free int64, shares bool, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return 0, false, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	kind := uint32(fs.Type) // the fields' types differ between architectures
	return int64(fs.Bavail) * int64(fs.Bsize), kind == unix.XFS_SUPER_MAGIC || kind == unix.BTRFS_SUPER_MAGIC, nil
}

// DontCache lets go of what the system keeps in memory of a file that was read once.
func DontCache(f *os.File) {
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) // a hint
}
