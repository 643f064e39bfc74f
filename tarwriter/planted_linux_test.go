package tarwriter_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"drayage/blobstore/durable"
	"drayage/tarwriter"
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

// Two users of a folder as /tmp is: neither continues nor removes the other's part, whoever may
// read it, and each finds his own.
func TestPartsOfTwoUsers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("this takes root")
	}
	shared, err := os.MkdirTemp("", "drayage-shared-") //nolint:usetesting // other users may not enter t.TempDir
	must(t, err)
	defer os.RemoveAll(shared)
	must(t, os.Chmod(shared, fs.ModeSticky|0o777))
	path := filepath.Join(shared, "x.tar")
	try := func() error {
		f, err := tarwriter.CreateFile(path, tarwriter.Options{})
		if err != nil {
			return err
		}
		return f.Close()
	}
	for _, mode := range []fs.FileMode{0o600, 0o644, 0o666} {
		for _, owner := range []int{0, stranger, stranger + 1} {
			part := path + ".drayage-part"
			must(t, os.WriteFile(part, []byte("half"), mode), os.Chmod(part, mode), os.Chown(part, owner, owner))
			err := asUser(stranger, try)
			if own := owner == stranger; own && err != nil || !own && !errors.Is(err, durable.ErrForeign) && !errors.Is(err, fs.ErrPermission) {
				t.Errorf("a part of user %d, %v: %v", owner, mode, err)
			}
			os.Remove(part)
		}
	}
	precious := filepath.Join(shared, "precious")
	must(t, os.WriteFile(precious, []byte("precious"), 0o666), os.Chmod(precious, 0o666), os.Symlink(precious, path+".drayage-part"))
	if err := asUser(stranger, try); !errors.Is(err, durable.ErrNotPlain) {
		t.Errorf("a link: %v", err)
	}
	unharmed(t, precious)
}
