package durable_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"drayage/blobstore/durable"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func text(s string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, s)
		return err
	}
}

func TestNamesOfOpenFiles(t *testing.T) {
	for path, want := range map[string]int{
		"/dev/stdout": 1, "/dev/stderr": 2, "/dev/fd/7": 7, "/proc/self/fd/7": 7, "/proc/thread-self/fd/7": 7, "/dev//fd/../fd/7": 7,
		fmt.Sprintf("/proc/%d/fd/7", os.Getpid()): 7,
		"/dev/null": -1, "/dev/fd": -1, "/dev/fd/x": -1, "/dev/fd/-1": -1, "/dev/fd/7/x": -1, "/proc/1/fd/7": -1, "x": -1, "": -1, "/tmp/dev/stdout": -1,
	} {
		if fd, ok := durable.Descriptor(path); ok != (want >= 0) || ok && fd != want {
			t.Errorf("%s: %d, %v", path, fd, ok)
		}
	}
}

func TestFollow(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.MkdirAll(at("a/b"), 0o755), os.Symlink("a/b", at("deep")), os.Symlink("/dev/fd", at("fds")))
	for name, to := range map[string]string{
		"absolute": at("a/x"), "relative": "a/x", "twice": "relative", "above": "deep/../x", "open": "/dev/stdout", "number": "/dev/fd/5", "behind": "fds/5", "loop": "loop",
	} {
		must(t, os.Symlink(to, at(name)))
	}
	for name, want := range map[string]string{
		"absolute": at("a/x"), "relative": at("a/x"), "twice": at("a/x"), "above": at("a/x"), "none": at("none"), "open": "/dev/stdout", "number": "/dev/fd/5",
		"behind": fmt.Sprintf("/proc/%d/fd/5", os.Getpid()), "fds/5": fmt.Sprintf("/proc/%d/fd/5", os.Getpid()),
	} {
		got, err := durable.Follow(at(name))
		if err != nil || got != want {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
	if _, err := durable.Follow(at("loop")); err == nil {
		t.Error("a loop has an end")
	}
}

// WriteFile never makes a name that wasn't there, nor takes one away, in the place of what is open,
// a device or a pipe.
func TestWriteFileKeepsWhatStands(t *testing.T) {
	dir := t.TempDir()
	pipe, link := filepath.Join(dir, "pipe"), filepath.Join(dir, "link")
	must(t, syscall.Mkfifo(pipe, 0o666), os.Symlink("pipe", link))
	for _, path := range []string{pipe, link} {
		got := make(chan string)
		go func() {
			raw, err := os.ReadFile(pipe)
			got <- fmt.Sprint(string(raw), err)
		}()
		must(t, durable.WriteFile(path, 0o644, text("x")))
		if s := <-got; s != "x<nil>" {
			t.Errorf("%s: %s", path, s)
		}
	}
	must(t, durable.WriteFile("/dev/null", 0o644, text("x")))
	out, err := os.OpenFile(filepath.Join(dir, "out"), os.O_RDWR|os.O_CREATE, 0o644)
	must(t, err)
	defer out.Close()
	must(t, text("before ")(out), durable.WriteFile(fmt.Sprintf("/dev/fd/%d", out.Fd()), 0o644, text("x")), text(" after")(out))
	if raw, err := os.ReadFile(out.Name()); err != nil || string(raw) != "before x after" {
		t.Errorf("%q, %v", raw, err)
	}
	if err := durable.Rewrite("/dev/stdout", 0o644, text("x")); !errors.Is(err, durable.ErrNotPlain) {
		t.Error(err)
	}
	if err := durable.WriteFile(dir, 0o644, text("x")); !errors.Is(err, syscall.EISDIR) {
		t.Error(err)
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != 3 {
		t.Errorf("%v", entries)
	}
}

// A file that can't be replaced is written over, unless it may have been planted.
func TestRewriteInPlace(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("this takes root")
	}
	const stranger = 54321
	dir := t.TempDir()
	source, place := filepath.Join(dir, "source"), filepath.Join(dir, "place")
	must(t, os.WriteFile(source, []byte("a long old text"), 0o644), os.WriteFile(place, nil, 0o644))
	if err := syscall.Mount(source, place, "", syscall.MS_BIND, ""); err != nil {
		t.Skip(err)
	}
	defer func() { _ = syscall.Unmount(place, syscall.MNT_DETACH) }()
	has := func(want string) {
		t.Helper()
		if raw, err := os.ReadFile(source); err != nil || string(raw) != want {
			t.Errorf("it has %q, %v", raw, err)
		}
	}
	must(t, durable.Rewrite(place, 0o644, text("new")))
	has("new")
	must(t, durable.Withdraw(place))
	has("")
	must(t, durable.Withdraw(filepath.Join(dir, "none")))
	must(t, os.WriteFile(source, []byte("theirs"), 0o644), os.Chown(source, stranger, stranger), os.Chmod(dir, fs.ModeSticky|0o777))
	if err := durable.Rewrite(place, 0o644, text("new")); !errors.Is(err, durable.ErrForeign) {
		t.Error(err)
	}
	if err := durable.Withdraw(place); !errors.Is(err, durable.ErrForeign) {
		t.Error(err)
	}
	has("theirs")
}

// Linux' rule for links, protected_symlinks: only another user's are refused, and only in a folder
// that is open to all, and isn't that user's. It needn't be sticky.
func TestLinksOfOthers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("this takes root")
	}
	const stranger, third = 54321, 54322
	for _, c := range []struct {
		mode          fs.FileMode
		folder, owner int
		ok            bool
	}{
		{fs.ModeSticky | 0o777, 0, stranger, false}, {fs.ModeSticky | 0o777, third, stranger, false}, {fs.ModeSticky | 0o777, stranger, stranger, true},
		{fs.ModeSticky | 0o777, third, 0, true}, {0o777, 0, stranger, false}, {0o777, third, stranger, false}, {0o777, stranger, stranger, true}, {0o777, third, 0, true}, {fs.ModeSticky | 0o775, 0, stranger, true}, {0o755, stranger, stranger, true},
	} {
		dir := t.TempDir()
		link := filepath.Join(dir, "link")
		must(t, os.Chown(dir, c.folder, c.folder), os.Chmod(dir, c.mode), os.Symlink(t.TempDir(), link), os.Lchown(link, c.owner, c.owner))
		_, err := durable.Follow(link)
		if links := durable.CheckLinks(filepath.Join(link, "x")); (err == nil) != c.ok || (links == nil) != c.ok || !c.ok && (!errors.Is(err, durable.ErrForeign) || !errors.Is(links, durable.ErrForeign)) {
			t.Errorf("%v of %d, a link of %d: %v, %v", c.mode, c.folder, c.owner, err, links)
		}
	}
}

// Samba and NFS servers have leases on files that their clients use. Opening asks for them back,
// and gets them.
func TestFilesWithALease(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	must(t, err)
	defer root.Close()
	path := filepath.Join(root.Name(), "file")
	for name, open := range map[string]func() (*os.File, error){
		"a path":         func() (*os.File, error) { return durable.OpenPlain(path, os.O_RDWR|os.O_CREATE, 0o644) },
		"below a folder": func() (*os.File, error) { return durable.OpenPlainIn(root, "file", os.O_RDWR, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			must(t, os.WriteFile(path, []byte("x"), 0o644))
			holder, err := os.Open(path)
			must(t, err)
			defer holder.Close()
			asked := make(chan os.Signal, 1)
			signal.Notify(asked, syscall.SIGIO)
			defer signal.Stop(asked)
			if _, err := unix.FcntlInt(holder.Fd(), unix.F_SETLEASE, unix.F_RDLCK); err != nil {
				t.Skip(err)
			}
			given := make(chan error)
			go func() {
				<-asked
				_, err := unix.FcntlInt(holder.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
				given <- err
			}()
			f, err := open()
			must(t, err, <-given)
			must(t, f.Close())
		})
	}
}
