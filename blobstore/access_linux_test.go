package blobstore_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"drayage/blobstore"
)

// asUser calls f as another user, which root may, on a thread of its own that ends with it.
func asUser(uid int, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		const same = ^uintptr(0)
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, same, uintptr(uid), same); errno != 0 {
			done <- errno
			return
		}
		done <- f()
	}()
	return <-done
}

func TestAnothersStoreIsNamedAsThat(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("this takes root")
	}
	const stranger = 54321
	above, err := os.MkdirTemp("", "drayage-access-") //nolint:usetesting // other users may not enter t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(above)
	dir := filepath.Join(above, "store")
	if _, err := blobstore.Open(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(above, 0o755); err != nil {
		t.Fatal(err)
	}
	err = asUser(stranger, func() error {
		_, err := blobstore.Open(dir)
		return err
	})
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "belongs to user id 0") {
		t.Errorf("the error is %v", err)
	}
}
