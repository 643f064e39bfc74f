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

// What is written beside a file until it is whole has names that others can guess.
func TestFilesThatAreWrittenFollowNoLink(t *testing.T) {
	w := newWorld(t)
	precious, check := w.precious()
	for _, c := range []struct {
		name   string
		status int
		args   []string
	}{
		{"x.tar.drayage-part", 7, []string{"pull", "-o", "x.tar", w.image}},
		{"images.lock.tmp", 0, []string{"pull", "--lock", "images.lock", w.image}},
		{"out/manifest.json.drayage-part", 0, []string{"pull", "-d", "out", "--force", w.image}},
		{"dir/.drayage-part", 7, []string{"pull", "-d", "dir", "--force", w.image}},
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
		w.want(w.run(c.args...), c.status)
		os.Remove(path)
		os.Remove(filepath.Join(w.home, "images.lock"))
	}
	for _, name := range []string{"x.tar"} {
		if _, err := os.Lstat(filepath.Join(w.home, name)); err == nil {
			t.Errorf("there is %s", name)
		}
	}
}

// named are the files that users name, and commands that write them, with their status.
func (w *world) named() map[string]func(path string) ([]string, int) {
	missing := strings.Replace(w.image, ":1", ":none", 1)
	return map[string]func(path string) ([]string, int){
		"an archive": func(path string) ([]string, int) { return []string{"pull", "-o", path, "--force", w.image}, 0 },
		"a lock": func(path string) ([]string, int) {
			return []string{"pull", "--lock", path, "--update-lock", w.image}, 0
		},
		"failures": func(path string) ([]string, int) {
			return []string{"pull", "--keep-going", "--failed", path, missing}, 4
		},
		"a report": func(path string) ([]string, int) { return []string{"pull", "--report", path, w.image}, 0 },
		"ready": func(path string) ([]string, int) {
			w.write("warm.yaml", fmt.Sprintf("groups:\n- name: g\n  every: 1h\n  images: [%q]\n  ready_file: %s\n", w.image, path))
			return []string{"warm", "--once", "-c", "warm.yaml"}, 0
		},
	}
}

// A user's own link at the name of a file leads to where it is written: the target is replaced, and
// the link stays.
func TestOwnLinksLeadToWhatIsWritten(t *testing.T) {
	w := newWorld(t)
	for what, command := range w.named() {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			link, target := filepath.Join(dir, "link"), filepath.Join(dir, "sub", "target")
			if err := errors.Join(os.Mkdir(filepath.Join(dir, "sub"), 0o755), os.Symlink("sub/../sub/target", link)); err != nil {
				t.Fatal(err)
			}
			for _, there := range []bool{false, true} { // it may lead to what isn't there yet
				var old os.FileInfo
				if there {
					if err := errors.Join(os.Remove(target), os.WriteFile(target, []byte("old"), 0o600)); err != nil {
						t.Fatal(err)
					}
					f, err := os.Open(target) // so that nothing else gets its number
					if err != nil {
						t.Fatal(err)
					}
					defer f.Close()
					if old, err = f.Stat(); err != nil {
						t.Fatal(err)
					}
				}
				args, status := command(link)
				w.want(w.run(args...), status)
				if to, err := os.Readlink(link); err != nil || to != "sub/../sub/target" {
					t.Errorf("the link is %q, %v", to, err)
				}
				info, err := os.Lstat(target)
				if err != nil || info.Size() <= 3 || there && os.SameFile(info, old) {
					t.Errorf("the target is %v, %v", info, err)
				}
			}
		})
	}
}

// In a folder where everybody may make names, as /tmp, another user's link or file is refused;
// root's is not, and elsewhere all links are followed, as by Linux (protected_symlinks).
func TestAnothersLinksAreRefusedInSharedFolders(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("this takes root")
	}
	const stranger = 54321
	w := newWorld(t)
	for what, command := range w.named() {
		for _, c := range []struct {
			name  string
			mode  os.FileMode
			owner int
			taken bool
		}{
			{"a stranger's, shared", os.ModeSticky | 0o777, stranger, false},
			{"a stranger's, shared and not sticky", 0o777, stranger, false},
			{"root's, shared", os.ModeSticky | 0o777, 0, true},
			{"root's, shared and not sticky", 0o777, 0, true},
			{"a stranger's, not shared", 0o755, stranger, true},
			{"a stranger's, of one group", os.ModeSticky | 0o775, stranger, true},
		} {
			t.Run(what+", "+c.name, func(t *testing.T) {
				dir, to := t.TempDir(), filepath.Join(t.TempDir(), "to")
				link := filepath.Join(dir, "link")
				if err := errors.Join(os.Chmod(dir, c.mode), os.Symlink(to, link), os.Lchown(link, c.owner, c.owner)); err != nil {
					t.Fatal(err)
				}
				args, status := command(link)
				if c.taken {
					w.want(w.run(args...), status)
				} else if o := w.run(args...); !strings.Contains(o.err, "belongs to another user") {
					t.Errorf("%s", o.err)
				}
				if _, err := os.Lstat(to); (err == nil) != c.taken {
					t.Errorf("%v", err)
				}
			})
		}
	}
}

// Root may write a folder of another user when that is said.
func TestRootWritesIntoAnothersFolderByForce(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("this takes root")
	}
	const stranger = 54321
	w := newWorld(t)
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	if err := errors.Join(os.Chmod(dir, os.ModeSticky|0o777), os.Mkdir(out, 0o755), os.Chown(out, stranger, stranger)); err != nil {
		t.Fatal(err)
	}
	w.want(w.run("pull", "-d", out, w.image), 7, "belongs to another user", "--force")
	w.want(w.run("pull", "-d", out, "--force", w.image), 0)
	if _, err := os.Stat(filepath.Join(out, "manifest.json")); err != nil {
		t.Error(err)
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
		// Elsewhere than in a folder that all may write to, links are their owners' business.
		if err := errors.Join(os.MkdirAll(filepath.Dir(link), 0o755), os.Chmod(filepath.Dir(link), os.ModeSticky|0o777), os.Symlink(elsewhere, link)); err != nil {
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
		if err := os.Chmod(filepath.Dir(link), 0o755); err != nil {
			t.Fatal(err)
		}
		w.want(w.run("warm", "--once", "-c", "warm.yaml"), 0, "!another user")
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

// What another user may have put into a folder where everybody may make names is not read when it
// may make the reader wait, nor written.
func TestPipesAndDevicesOfOthersAreRefused(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("this takes root")
	}
	const stranger = 54321
	w := newWorld(t)
	commands := map[string]func(path string) []string{
		"-o":       func(path string) []string { return []string{"pull", "-o", path, w.image} },
		"--report": func(path string) []string { return []string{"pull", "--report", path, w.image} },
		"--failed": func(path string) []string {
			return []string{"pull", "--failed", path, strings.Replace(w.image, ":1", ":none", 1), "--keep-going"}
		},
		"--access-log": func(path string) []string { return []string{"serve", "--listen", "127.0.0.1:0", "--access-log", path} },
	}
	for what, command := range w.reading() {
		commands[what] = command
	}
	for what, command := range commands {
		for _, mode := range []os.FileMode{os.ModeSticky | 0o777, 0o777} {
			for _, kind := range []string{"a pipe", "a link to a pipe", "a link to a device"} {
				t.Run(fmt.Sprintf("%s, %s in %v", what, kind, mode), func(t *testing.T) {
					dir, theirs := t.TempDir(), filepath.Join(t.TempDir(), "theirs")
					path := filepath.Join(dir, "x")
					made := errors.Join(os.Chmod(dir, mode), syscall.Mkfifo(theirs, 0o666))
					switch kind {
					case "a pipe":
						made = errors.Join(made, syscall.Mkfifo(path, 0o666))
					case "a link to a pipe":
						made = errors.Join(made, os.Symlink(theirs, path))
					default:
						made = errors.Join(made, os.Symlink(os.DevNull, path))
					}
					if err := errors.Join(made, os.Lchown(path, stranger, stranger)); err != nil {
						t.Fatal(err)
					}
					if o := w.run(command(path)...); o.status == 0 || !strings.Contains(o.err, "belongs to another user") {
						t.Errorf("status %d: %s", o.status, o.err)
					}
				})
			}
		}
	}
}

// reading are commands that read a file that is named on the command line.
func (w *world) reading() map[string]func(path string) []string {
	return map[string]func(path string) []string{
		"-f":     func(path string) []string { return []string{"pull", "-f", path} },
		"--lock": func(path string) []string { return []string{"pull", "--lock", path, w.image} },
		"--since": func(path string) []string {
			return []string{"pull", "--since", path, "-o", filepath.Join(w.t.TempDir(), "x.tar"), w.image}
		},
		"-a":             func(path string) []string { return []string{"pull", "-a", "file:" + path, w.image} },
		"--ca-cert":      func(path string) []string { return []string{"pull", "--ca-cert", path, w.image} },
		"--cert":         func(path string) []string { return []string{"pull", "--cert", path, "--key", path, w.image} },
		"store import":   func(path string) []string { return []string{"store", "import", path} },
		"warm":           func(path string) []string { return []string{"warm", "--once", "-c", path} },
		"bench --replay": func(path string) []string { return []string{"bench", "--replay", path} },
	}
}

// Configurations that have their places are regular files: a pipe there makes nobody wait.
func TestPipesInPlaceOfConfigurations(t *testing.T) {
	w := newWorld(t)
	hosts := filepath.Join(w.home, "hosts", w.reg.Host())
	pipe := func(path string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), syscall.Mkfifo(path, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	w.want(w.run("pull", "--hosts-dir", "hosts", w.image), 7)
	pipe(filepath.Join(hosts, "hosts.toml"))
	pipe(filepath.Join(hosts, "x.pem"))
	w.want(w.run("pull", "--hosts-dir", "hosts", w.image), 2, "hosts.toml: not a regular file")
	os.Remove(filepath.Join(hosts, "hosts.toml"))
	for _, key := range []string{"ca", "client"} {
		w.write(filepath.Join("hosts", w.reg.Host(), "hosts.toml"), key+` = "x.pem"`)
		w.want(w.run("pull", "--hosts-dir", "hosts", w.image), 2, "x.pem: not a regular file")
	}
	pipe(filepath.Join(w.home, "cert"))
	w.want(w.run("serve", "--listen", "127.0.0.1:0", "--tls-cert", "cert", "--tls-key", "cert"), 2, "cert: not a regular file")
	pipe(filepath.Join(w.home, ".docker", "config.json"))
	pipe(filepath.Join(w.home, "run", "containers", "auth.json"))
	w.want(w.run("pull", w.image), 0)
	w.want(w.run("login", "-u", "user", "--password", "secret", w.reg.Host()), 7, "config.json: not a regular file")
}

// Files of certificates and keys have a limit.
func TestCertificatesHaveALimit(t *testing.T) {
	w := newWorld(t)
	const most = 4 << 20
	for size, large := range map[int]bool{most: false, most + 1: true} {
		w.write("x.pem", strings.Repeat("x", size))
		w.write("some.pem", "x")
		for _, args := range [][]string{
			{"pull", "--ca-cert", "x.pem", w.image}, {"pull", "--cert", "x.pem", "--key", "some.pem", w.image}, {"pull", "--cert", "some.pem", "--key", "x.pem", w.image},
			{"serve", "--listen", "127.0.0.1:0", "--tls-cert", "x.pem", "--tls-key", "some.pem"},
		} {
			o := w.run(args...)
			if o.status == 0 || strings.Contains(o.err, "x.pem: too large: more than 4194304 bytes") != large {
				t.Errorf("%v, %d bytes: status %d: %s", args, size, o.status, o.err)
			}
		}
	}
}

// So have passwords and profiles.
func TestPasswordsAndProfilesHaveALimit(t *testing.T) {
	w := newWorld(t)
	login := []string{"login", "-u", "user", "--password-stdin", w.reg.Host()}
	w.want(w.runIn(strings.Repeat("x", 1<<20)+"\n", login...), 2, "too large: more than 1048576 bytes")
	w.want(w.runIn("secret\n", login...), 0)
	w.write("profile", strings.Repeat("1KiB\n", 200_001))
	w.want(w.run("bench", "--profile", "profile", w.image), 2, "more than 200000 sizes")
	w.write("profile", strings.Repeat("x", 17<<20))
	w.want(w.run("bench", "--profile", "profile", w.image), 2, "profile: line too long")
}
