//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"drayage/engine/registry/registrytest"
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

// A user's own pipe, also one that the shell has opened for <(…), is read to its end.
func TestOwnPipesAreRead(t *testing.T) {
	w := newWorld(t)
	w.want(w.run("pull", "-o", "x.tar", "--lock", "images.lock", w.image), 0)
	archive, err := os.ReadFile(filepath.Join(w.home, "x.tar"))
	lock, errLock := os.ReadFile(filepath.Join(w.home, "images.lock"))
	if err := errors.Join(err, errLock); err != nil {
		t.Fatal(err)
	}
	s := registrytest.NewTLS()
	defer s.Close()
	for what, text := range map[string]string{
		"-f": w.image + "\n", "--lock": string(lock), "--since": string(archive), "-a": "user:password", "store import": string(archive), "--ca-cert": pemOf(t, s),
		"warm": fmt.Sprintf("groups:\n- name: g\n  every: 1h\n  images: [%q]\n", w.image),
	} {
		t.Run(what, func(t *testing.T) {
			pipe := filepath.Join(t.TempDir(), "pipe")
			if err := syscall.Mkfifo(pipe, 0o600); err != nil {
				t.Fatal(err)
			}
			written := make(chan error)
			go func() { written <- os.WriteFile(pipe, []byte(text), 0) }()
			w.want(w.run(w.reading()[what](pipe)...), 0)
			if err := <-written; err != nil {
				t.Error(err)
			}
			r, end, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			go func() {
				_, err := end.WriteString(text)
				written <- errors.Join(err, end.Close())
			}()
			cmd := exec.CommandContext(t.Context(), "drayage", w.reading()[what]("/dev/fd/3")...)
			cmd.Env, cmd.Dir, cmd.ExtraFiles = w.env, w.home, []*os.File{r}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("/dev/fd/3: %v\n%s", err, out)
			}
			if err := <-written; err != nil {
				t.Error(err)
			}
		})
	}
}

// Whoever waits for the other end of a pipe can be interrupted.
func TestSignalsEndWaitingForPipes(t *testing.T) {
	if testing.Short() {
		t.Skip("an emulated processor has other system calls")
	}
	w := newWorld(t)
	commands := w.reading()
	commands["-o"] = func(path string) []string { return []string{"pull", "-o", path, w.image} }
	for what, command := range commands {
		for sig, want := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143} {
			t.Run(fmt.Sprint(what, " ", sig), func(t *testing.T) {
				pipe := filepath.Join(t.TempDir(), "pipe")
				if err := syscall.Mkfifo(pipe, 0o600); err != nil {
					t.Fatal(err)
				}
				cmd := exec.CommandContext(t.Context(), "drayage", command(pipe)...)
				cmd.Env, cmd.Dir = w.env, w.home
				var stderr strings.Builder
				cmd.Stderr = &stderr
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				untilOpening(t, cmd.Process.Pid)
				if err := cmd.Process.Signal(sig); err != nil {
					t.Fatal(err)
				}
				_ = cmd.Wait()
				if got := cmd.ProcessState.ExitCode(); got != want || !strings.Contains(stderr.String(), "interrupted by SIG") {
					t.Errorf("status %d, want %d: %s", got, want, stderr.String())
				}
			})
		}
	}
}

// untilOpening waits until a process is within openat(2), and stays there.
func untilOpening(t *testing.T, pid int) {
	t.Helper()
	within := func() string { // the thread, and the call
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
		if err != nil || len(tasks) == 0 {
			t.Fatalf("the process is gone: %v", err)
		}
		for _, task := range tasks {
			raw, err := os.ReadFile(task)
			if errors.Is(err, fs.ErrPermission) {
				t.Skip(err)
			}
			if strings.HasPrefix(string(raw), fmt.Sprint(syscall.SYS_OPENAT, " ")) {
				return task + string(raw)
			}
		}
		return ""
	}
	const often = 1000
	for same, last := 0, ""; same < often; same++ {
		if now := within(); now == "" || now != last {
			same, last = 0, now
		}
		if t.Context().Err() != nil {
			t.Fatal("it doesn't wait for the pipe")
		}
	}
}
