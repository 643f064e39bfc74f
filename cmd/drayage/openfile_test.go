//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A name of what the program has open, such as /dev/stdout, is written to where it is, and never
// replaced.
func TestFilesGoToWhatIsOpen(t *testing.T) {
	w := newWorld(t)
	link := filepath.Join(t.TempDir(), "link")
	for what, command := range w.named() {
		if what == "ready" {
			continue
		}
		for _, name := range []string{"/dev/stdout", "/dev/stderr", "/dev/fd/3", "/proc/self/fd/3", link} {
			t.Run(what+" at "+name, func(t *testing.T) {
				out, err := os.Create(filepath.Join(t.TempDir(), "out"))
				if err != nil {
					t.Fatal(err)
				}
				defer out.Close()
				if _, err := out.WriteString("before\n"); err != nil {
					t.Fatal(err)
				}
				os.Remove(link)
				if err := os.Symlink("/proc/self/fd/1", link); err != nil {
					t.Fatal(err)
				}
				args, status := command(name)
				cmd := exec.CommandContext(t.Context(), "drayage", append(args, "-q", "--store", t.TempDir())...)
				cmd.Env = w.env
				switch name {
				case "/dev/stderr":
					cmd.Stderr = out
				case "/dev/fd/3", "/proc/self/fd/3":
					cmd.ExtraFiles = []*os.File{out}
				default:
					cmd.Stdout = out
				}
				if err := cmd.Run(); cmd.ProcessState.ExitCode() != status {
					t.Error(err)
				}
				text, err := os.ReadFile(out.Name())
				rest, kept := strings.CutPrefix(string(text), "before\n")
				if err != nil || !kept || len(rest) == 0 || what == "a report" && !strings.Contains(rest, `"version"`) {
					t.Errorf("what was redirected has %.80q, %v", text, err)
				}
				if what == "an archive" && len(rest)%512 != 0 {
					t.Errorf("the archive has %d bytes", len(rest))
				}
				if to, err := os.Readlink(link); err != nil || to != "/proc/self/fd/1" {
					t.Errorf("the link is %q, %v", to, err)
				}
			})
		}
	}
	t.Run("the archive once", func(t *testing.T) { // -o /dev/stdout is -O: no line of results is behind it
		o := w.run("pull", "-o", "/dev/stdout", w.image)
		w.want(o, 0)
		if len(o.out)%512 != 0 || len(o.out) == 0 {
			t.Errorf("%d bytes", len(o.out))
		}
		w.want(w.run("pull", "-o", "/dev/fd/3", "--split", "1M", w.image), 2, "--split")
		w.want(w.run("pull", "-o", "/dev/fd/99", w.image), 7, "/dev/fd/99")
	})
}

// A device is written to, and stays one.
func TestFilesGoToDevices(t *testing.T) {
	w := newWorld(t)
	before, err := os.Lstat("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	for what, command := range w.named() {
		if what == "ready" {
			continue
		}
		args, status := command("/dev/null")
		w.want(w.run(args...), status)
		if after, err := os.Lstat("/dev/null"); err != nil || !os.SameFile(before, after) {
			t.Fatalf("%s: /dev/null is %v, %v", what, after, err)
		}
	}
}

// A file that is mounted can't be replaced or removed: it is written over, and emptied.
func TestFilesThatAreMounted(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("this takes root")
	}
	w := newWorld(t)
	dir := t.TempDir()
	source, place := filepath.Join(dir, "source"), filepath.Join(dir, "place")
	if err := errors.Join(os.WriteFile(source, []byte(strings.Repeat("old", 1000)), 0o644), os.WriteFile(place, nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount(source, place, "", syscall.MS_BIND, ""); err != nil {
		t.Skip(err)
	}
	defer func() { _ = syscall.Unmount(place, syscall.MNT_DETACH) }()
	for what, command := range w.named() {
		if what == "an archive" {
			continue // it is never written over: it appears complete or not at all
		}
		args, status := command(place)
		w.want(w.run(args...), status, "!busy")
		if text, err := os.ReadFile(source); err != nil || len(text) == 0 || strings.Contains(string(text), "old") {
			t.Errorf("%s: %.80q, %v", what, text, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
			t.Errorf("%s leaves %v, %v", what, left, err)
		}
		if err := os.WriteFile(source, []byte(strings.Repeat("old", 1000)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// What isn't ready any more.
	w.write("warm.yaml", fmt.Sprintf("groups:\n- name: g\n  every: 1h\n  images: [%q]\n  ready_file: %s\n", strings.Replace(w.image, ":1", ":none", 1), place))
	w.run("warm", "--once", "-c", "warm.yaml")
	if text, err := os.ReadFile(source); err != nil || len(text) != 0 {
		t.Errorf("it has %q, %v", text, err)
	}
}
