package durable_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"drayage/blobstore/durable"

	"golang.org/x/sys/unix"
)

// openers open what a user has named, for reading and for writing.
var openers = map[string]func(path string) (*os.File, error){
	"OpenNamed": durable.OpenNamed,
	"OpenStanding": func(path string) (*os.File, error) {
		path, err := durable.Follow(path)
		if err != nil {
			return nil, err
		}
		return durable.OpenStanding(path)
	},
	"OpenLog": func(path string) (*os.File, error) { return durable.OpenLog(path, 0o644) },
}

// A pipe or a device, or a link to one, that another user may have put there makes nobody wait, and
// is neither read nor written.
func TestPipesAndDevicesOfOthers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("this takes root")
	}
	const stranger = 54321
	kinds := map[string]func(path string) error{
		"a pipe":        func(path string) error { return syscall.Mkfifo(path, 0o666) },
		"a device":      func(path string) error { return syscall.Mknod(path, syscall.S_IFCHR|0o666, int(unix.Mkdev(1, 3))) },
		"a link to one": func(path string) error { return os.Symlink("/dev/null", path) },
	}
	for what, made := range kinds {
		for _, mode := range []fs.FileMode{fs.ModeSticky | 0o777, 0o777, 0o755} {
			dir := t.TempDir()
			path := filepath.Join(dir, "x")
			must(t, os.Chmod(dir, mode))
			if err := made(path); err != nil {
				t.Skip(err)
			}
			must(t, os.Lchown(path, stranger, stranger))
			if mode == 0o755 && what == "a pipe" { // nobody is at its other end
				continue
			}
			for name, open := range openers {
				f, err := open(path)
				if mode != 0o755 {
					if !errors.Is(err, durable.ErrForeign) {
						t.Errorf("%s in %v, %s: %v", what, mode, name, err)
					}
					continue
				}
				must(t, err, f.Close())
			}
		}
	}
}

// What belongs to the user who names it, or is a regular file, is opened as it is.
func TestOpenNamed(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.WriteFile(at("file"), []byte("text"), 0o644), os.Symlink("file", at("link")), syscall.Mkfifo(at("pipe"), 0o600), os.Symlink("pipe", at("to pipe")))
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	_, err = w.WriteString("text")
	must(t, err, w.Close())
	for _, name := range []string{at("file"), at("link"), at("pipe"), at("to pipe"), fmt.Sprintf("/dev/fd/%d", r.Fd())} {
		written := make(chan error, 1)
		if name == at("pipe") || name == at("to pipe") {
			go func() { written <- os.WriteFile(at("pipe"), []byte("text"), 0) }()
		} else {
			written <- nil
		}
		f, err := durable.OpenNamed(name)
		must(t, err)
		raw, err := io.ReadAll(f)
		must(t, err, f.Close(), <-written)
		if string(raw) != "text" {
			t.Errorf("%s: %q", name, raw)
		}
	}
	if _, err := durable.OpenNamed(at("none")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// A configuration is a regular file. Whatever else has its name makes nobody wait.
func TestOpenRegular(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.WriteFile(at("file"), []byte("text"), 0o644), os.Symlink("file", at("link")), os.Symlink("/dev/null", at("null")),
		syscall.Mkfifo(at("pipe"), 0o600), os.Symlink("pipe", at("to pipe")), os.Symlink("/dev/zero", at("zero")))
	r, w, err := os.Pipe()
	must(t, err, w.Close())
	defer r.Close()
	for name, want := range map[string]string{at("file"): "text", at("link"): "text", at("null"): "", fmt.Sprintf("/dev/fd/%d", r.Fd()): ""} {
		f, err := durable.OpenRegular(name)
		must(t, err)
		raw, err := io.ReadAll(f)
		must(t, err, f.Close())
		if string(raw) != want {
			t.Errorf("%s: %q", name, raw)
		}
	}
	for _, name := range []string{"pipe", "to pipe", "zero"} {
		if _, err := durable.OpenRegular(at(name)); !errors.Is(err, durable.ErrNotRegular) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A log goes on where it ended, behind links, and into what the process has open.
func TestOpenLog(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.Symlink("log", at("link")))
	out, err := os.OpenFile(at("out"), os.O_RDWR|os.O_CREATE, 0o644)
	must(t, err)
	defer out.Close()
	for _, path := range []string{at("log"), at("link"), fmt.Sprintf("/dev/fd/%d", out.Fd()), "/dev/null"} {
		f, err := durable.OpenLog(path, 0o644)
		must(t, err, text("x")(f), f.Close())
	}
	must(t, text("y")(out))
	for name, want := range map[string]string{"log": "xx", "out": "xy"} {
		if raw, err := os.ReadFile(at(name)); err != nil || string(raw) != want {
			t.Errorf("%s has %q, %v", name, raw, err)
		}
	}
	if os.Getuid() != 0 {
		return
	}
	const stranger = 54321
	must(t, os.Chown(at("log"), stranger, stranger), os.Chmod(dir, 0o777))
	if _, err := durable.OpenLog(at("log"), 0o644); !errors.Is(err, durable.ErrForeign) {
		t.Errorf("another user's file: %v", err)
	}
}
