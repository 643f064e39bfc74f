//go:build unix

package blobstore_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"drayage/blobstore"
	"drayage/blobstore/durable"
)

func TestAStoreIsItsMakersAlone(t *testing.T) {
	umask := syscall.Umask(0o022)
	defer syscall.Umask(umask)
	for _, name := range []string{"store", "above/store", "slash/"} {
		dir := t.TempDir() + "/" + name
		s, err := blobstore.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 || s.OthersMay() != "" {
			t.Errorf("%s: %v, %v, others may %q", name, info.Mode(), err, s.OthersMay())
		}
		if info, err := os.Stat(filepath.Join(dir, "blobs", "sha256")); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s: blobs are %v, %v", name, info.Mode(), err)
		}
	}
	for mode, may := range map[os.FileMode]string{0o755: "read it", 0o700: "", 0o770: "change it", 0o711: "read it"} {
		dir := filepath.Join(t.TempDir(), "made before")
		if err := errors.Join(os.Mkdir(dir, mode), os.Chmod(dir, mode)); err != nil {
			t.Fatal(err)
		}
		s, err := blobstore.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != mode || s.OthersMay() != may {
			t.Errorf("%v: it is %v, %v, others may %q", mode, info.Mode(), err, s.OthersMay())
		}
	}
}

// What stands where a file of the store is to be is not followed, and makes nobody wait.
func TestPlantedFilesOfAStore(t *testing.T) {
	plants := map[string]func(path, precious string) error{
		"a link": func(path, precious string) error { return os.Symlink(precious, path) },
		"a pipe": func(path, _ string) error { return syscall.Mkfifo(path, 0o666) },
	}
	for kind, plant := range plants {
		for _, name := range []string{"lock", "gate", "stamps", "index.json.tmp", "notes/x.tmp"} {
			t.Run(kind+" at "+name, func(t *testing.T) {
				dir := filepath.Join(t.TempDir(), "store")
				s, err := blobstore.Open(dir)
				if err != nil {
					t.Fatal(err)
				}
				precious := filepath.Join(t.TempDir(), "precious")
				path := filepath.Join(dir, name)
				if err := errors.Join(os.WriteFile(precious, []byte("precious"), 0o600), os.MkdirAll(filepath.Dir(path), 0o755), os.RemoveAll(path), plant(path, precious)); err != nil {
					t.Fatal(err)
				}
				content := []byte("blob")
				l, err := s.Lease()
				if err == nil {
					_ = l.Put(t.Context(), describe(content), content)
					_ = l.Pin(blobstore.Root{Name: "x:1", Target: describe(content)})
					_ = l.Close()
				}
				_ = s.KeepNote("x", content)
				if got, err := os.ReadFile(precious); err != nil || string(got) != "precious" {
					t.Errorf("what it leads to is %q now, %v", got, err)
				}
				if name == "lock" && !errors.Is(s.KeepNote("x", content), durable.ErrNotPlain) {
					t.Error("the lock is used")
				}
			})
		}
	}
}
