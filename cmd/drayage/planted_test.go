//go:build unix

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// endProcess ends a process that a hook has left.
func (w *world) endProcess(pid []byte) {
	w.t.Helper()
	if n, err := strconv.Atoi(string(pid)); err == nil && n > 1 {
		_ = syscall.Kill(n, syscall.SIGKILL)
	}
}

// precious makes a file that links lead to, and what checks that it is what it was.
func (w *world) precious() (path string, check func(what string)) {
	path = filepath.Join(w.t.TempDir(), "precious")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path, func(what string) {
		w.t.Helper()
		if got, err := os.ReadFile(path); err != nil || string(got) != "precious" {
			w.t.Errorf("%s: what the link leads to is %.40q now, %v", what, got, err)
		}
	}
}

func TestFilesThatAreWrittenFollowNoLink(t *testing.T) {
	w := newWorld(t)
	precious, check := w.precious()
	missing := strings.Replace(w.image, ":1", ":none", 1)
	for _, c := range []struct {
		name   string
		status int
		args   []string
	}{
		{"x.tar.drayage-part", 7, []string{"pull", "-o", "x.tar", w.image}},
		{"images.lock.tmp", 0, []string{"pull", "--lock", "images.lock", w.image}},
		{"images.lock", 0, []string{"pull", "--lock", "images.lock", "--update-lock", w.image}},
		{"failed", 4, []string{"pull", "--keep-going", "--failed", "failed", missing}},
		{"report", 0, []string{"pull", "--report", "report", w.image}},
		{"out/manifest.json.drayage-part", 0, []string{"pull", "-d", "out", "--force", w.image}},
		{"dir/.drayage-part", 7, []string{"pull", "-d", "dir", "--force", w.image}},
		{"ready", 0, []string{"warm", "--once", "-c", "warm.yaml"}},
		{"ready.tmp", 0, []string{"warm", "--once", "-c", "warm.yaml"}},
	} {
		w.write("warm.yaml", fmt.Sprintf("groups:\n- name: g\n  every: 1h\n  images: [%q]\n  ready_file: ready\n", w.image))
		path := filepath.Join(w.home, c.name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Symlink(precious, path)); err != nil {
			t.Fatal(err)
		}
		w.want(w.run(c.args...), c.status)
		check(c.name)
		os.Remove(path)
		if err := errors.Join(syscall.Mkfifo(path, 0o666)); err != nil {
			t.Fatal(err)
		}
		if c.name != "report" { // a pipe that is named is written to
			w.want(w.run(c.args...), c.status)
		}
		os.Remove(path)
		os.Remove(filepath.Join(w.home, "images.lock"))
	}
	for _, name := range []string{"x.tar"} {
		if _, err := os.Lstat(filepath.Join(w.home, name)); err == nil {
			t.Errorf("there is %s", name)
		}
	}
}

func TestReadyFilesDontFollowAnothersFolders(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("this takes root")
	}
	const stranger = 54321
	w := newWorld(t)
	elsewhere := t.TempDir()
	for _, place := range []string{"link", "link/below", "above/link/below/deeper"} {
		link := filepath.Join(w.home, place[:strings.Index(place, "link")+len("link")])
		if err := errors.Join(os.MkdirAll(filepath.Dir(link), 0o755), os.Symlink(elsewhere, link)); err != nil {
			t.Fatal(err)
		}
		w.write("warm.yaml", fmt.Sprintf("groups:\n- name: g\n  every: 1h\n  images: [%q]\n  ready_file: %s/ready\n", w.image, place))
		w.want(w.run("warm", "--once", "-c", "warm.yaml"), 0, "!another user") // root's own link
		if err := errors.Join(os.RemoveAll(elsewhere), os.Mkdir(elsewhere, 0o755), os.Lchown(link, stranger, stranger)); err != nil {
			t.Fatal(err)
		}
		w.want(w.run("warm", "--once", "-c", "warm.yaml"), 0, "belongs to another user")
		if left, err := os.ReadDir(elsewhere); err != nil || len(left) > 0 {
			t.Errorf("%s: it is written elsewhere: %v, %v", place, left, err)
		}
		os.Remove(link)
	}
}

func TestModesOfWhatIsWritten(t *testing.T) {
	umask := syscall.Umask(0o027)
	defer syscall.Umask(umask)
	w := newWorld(t)
	w.want(w.run("pull", "-o", "x.tar", "--lock", "images.lock", "--report", "report", w.image), 0)
	for _, name := range []string{"x.tar", "images.lock", "report"} {
		if info, err := os.Stat(filepath.Join(w.home, name)); err != nil || info.Mode().Perm() != 0o640 {
			t.Errorf("%s is %v, %v", name, info.Mode(), err)
		}
	}
	if info, err := os.Stat(filepath.Join(w.home, "store")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the store is %v, %v", info.Mode(), err)
	}
	w.want(w.run("store", "info"), 0, "!other users may")
	if err := os.Chmod(filepath.Join(w.home, "store"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.want(w.run("store", "info"), 0, "other users may", "read it")
}
