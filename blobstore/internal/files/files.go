// Package files has the moves that a store makes with small files and folders: replacing a file,
// syncing a folder once for many callers, locks of processes that may have died, and whose a
// folder is.
package files

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"

	"drayage/blobstore/internal/disk"
)

// Replace replaces a small file: written under a temporary name, synced if
// so asked, renamed. The folder is left to the caller to sync. The caller holds the store's lock, so
// the temporary name is its own, and what a dead process left there goes.
func Replace(path string, data []byte, sync bool) (err error) {
	temp := path + disk.TempSuffix
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(temp)
		}
	}()
	_, err = f.Write(data)
	if err == nil && sync {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// RandomHex is n random bytes as text, for names that must not collide.
func RandomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails, by its contract
	return hex.EncodeToString(b)
}
