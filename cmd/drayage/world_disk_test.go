//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"drayage/cmd/drayage/internal/status"
	"drayage/engine/chaos/chaostest"
	"drayage/engine/registry/registrytest"
)

func TestWorldDisk(t *testing.T) {
	t.Run("a blob that has changed", func(t *testing.T) {
		w := newWorld(t)
		w.want(w.run("pull", w.image), 0)
		layer := smallImage().Layers[0].Digest
		path := filepath.Join(w.home, "store/blobs/sha256", layer.Encoded())
		right, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		wrong := bytes.Clone(right)
		wrong[len(wrong)/2] ^= 1
		spoil := func(silently bool) {
			t.Helper()
			if err := os.WriteFile(path, wrong, 0o644); err != nil {
				t.Fatal(err)
			}
			if silently {
				if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
					t.Fatal(err)
				}
			}
		}
		whole := func(archive string) {
			t.Helper()
			raw, err := os.ReadFile(filepath.Join(w.home, archive))
			if err != nil || !bytes.Contains(raw, right) || bytes.Contains(raw, wrong) {
				t.Errorf("%s: %v; it has the wrong bytes: %v", archive, err, bytes.Contains(raw, wrong))
			}
		}
		spoil(false)
		w.want(w.run("pull", "-o", "a.tar", w.image), 0, "damaged on disk")
		whole("a.tar")
		spoil(true)
		w.want(w.run("pull", "--verify", "-o", "b.tar", w.image), 0, "damaged on disk")
		whole("b.tar")
		spoil(false)
		w.want(w.run("store", "export", "-o", "c.tar", w.image), 6, "damaged")
		if _, err := os.Stat(filepath.Join(w.home, "c.tar")); err == nil {
			t.Error("an archive was left")
		}
		w.want(w.run("pull", w.image), 0)
		w.want(w.run("store", "export", "-o", "c.tar", w.image), 0)
		whole("c.tar")
		// A manifest is fetched again, too.
		manifest := filepath.Join(w.home, "store/blobs/sha256", smallImage().Descriptor.Digest.Encoded())
		if err := os.WriteFile(manifest, []byte("{}"), 0o644); err != nil {
			t.Fatal(err)
		}
		w.want(w.run("pull", "-o", "d.tar", w.image), 0)
		whole("d.tar")
	})

	t.Run("S4", func(t *testing.T) {
		w := newWorld(t)
		name := w.reg.Push("large", "1", registrytest.Build("linux/"+runtime.GOARCH, registrytest.Random(3, 2<<20)))
		reached := make(chan struct{})
		var once atomic.Bool
		w.reg.Break("/blobs/", registrytest.Always, between(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
			if once.Swap(true) {
				next.ServeHTTP(rw, r)
				return
			}
			chaostest.ResetAfter(100_000)(next).ServeHTTP(rw, r)
			close(reached)
		}))
		cmd := exec.CommandContext(t.Context(), "drayage", "pull", "--store", t.TempDir(), "--give-up-after", "2s", "--per-host", "1", name)
		cmd.Env = w.env
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-reached
		if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second) // is what is tested: longer than patience
		if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %s", err, &stderr)
		}
	})

	t.Run("a folder that a killed run left", func(t *testing.T) {
		w := newWorld(t)
		dir := filepath.Join(w.home, "out")
		w.want(w.run("pull", "-d", dir, w.image), 0)
		if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		w.want(w.run("pull", "-d", dir, w.image), 7, "--force")
		w.write("out/.drayage-part", "")
		w.write("out/blobs/sha256/abc.drayage-part", "half")
		w.want(w.run("pull", "-d", dir, w.image), 0)
		for _, name := range []string{".drayage-part", "blobs/sha256/abc.drayage-part"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
				t.Errorf("%s is left", name)
			}
		}
	})

	t.Run("a folder that a killed run left, and another one that is interrupted", func(t *testing.T) {
		w := newWorld(t)
		dir := filepath.Join(w.home, "out")
		w.write("out/.drayage-part", "")
		w.write("out/blobs/sha256/abc", "whole")
		w.reg.Break("/blobs/", 1, chaostest.Status(http.StatusNotFound))
		w.want(w.run("pull", "-d", dir, w.image), 4)
		w.want(w.run("pull", "-d", dir, w.image), 0)
	})

	t.Run("a folder that a killed run left, and another image", func(t *testing.T) {
		w := newWorld(t)
		other := w.reg.Push("team/other", "1", registrytest.Build("linux/"+runtime.GOARCH, registrytest.Layer(9, 700)))
		for _, format := range []string{"docker", "oci", "legacy"} {
			dir, clean := filepath.Join(w.home, format), filepath.Join(w.home, format+"-clean")
			w.want(w.run("pull", "--format", format, "-d", clean, other), 0)
			w.want(w.run("pull", "--format", format, "-d", dir, w.image), 0)
			w.write(format+"/.drayage-part", "all here is of an archive that is being written\n")
			w.want(w.run("pull", "--format", format, "-d", dir, other), 0)
			if got, want := filesBelow(t, dir), filesBelow(t, clean); got != want {
				t.Errorf("%s: %s, want %s", format, got, want)
			}
		}
	})

	t.Run("S3 without inodes", func(t *testing.T) {
		w := newWorld(t)
		small := filepath.Join(w.home, "small")
		if err := os.Mkdir(small, 0o755); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), "mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=40", "none", small).CombinedOutput(); err != nil {
			t.Skipf("this user can't mount: %v: %s", err, out)
		}
		t.Cleanup(func() { _ = exec.CommandContext(context.WithoutCancel(t.Context()), "umount", small).Run() })
		var names []string
		for i := range 20 {
			w.reg.Push(fmt.Sprintf("team/app%d", i), "1", registrytest.Build("linux/"+runtime.GOARCH, registrytest.Layer(uint64(i), 3000)))
			names = append(names, fmt.Sprintf("%s/team/app%d:1", w.reg.Host(), i))
		}
		store := filepath.Join(small, "store")
		for _, flags := range [][]string{{"-p", "plain"}, {"-p", "json"}} {
			w.want(w.run(append(append([]string{"pull", "--store", store}, flags...), names...)...), 7, "no inodes left", "!free some space and")
		}
		d := w.serve("--store", store, "--pull-through", w.reg.Host())
		statuses := make(map[int]bool)
		for i := range names {
			statuses[statusAt(t, fmt.Sprintf("http://%s/v2/%s/team/app%d/manifests/1", d.host, w.reg.Host(), i))] = true
		}
		if !statuses[http.StatusInsufficientStorage] || statuses[http.StatusBadGateway] {
			t.Errorf("statuses %v", statuses)
		}
		if status, said := d.stop(syscall.SIGTERM); status != 0 || !strings.Contains(said, "no space left") {
			t.Errorf("%d: %s", status, said)
		}
	})

	t.Run("a system without inodes is told from one without space", func(t *testing.T) {
		hints := []string{status.Hint(&os.PathError{Op: "open", Path: "/proc/x", Err: syscall.ENOSPC}), status.Hint(&os.PathError{Op: "write", Path: "x", Err: syscall.EDQUOT})}
		if !strings.Contains(hints[0], "space") || !strings.Contains(hints[1], "quota") {
			t.Errorf("%q", hints)
		}
		if status.Of(&os.PathError{Op: "write", Path: "x", Err: syscall.EDQUOT}) != 7 {
			t.Error("a quota is no local fault")
		}
	})
}

func TestWorldTerminal(t *testing.T) {
	t.Run("L1", func(t *testing.T) {
		w := newWorld(t)
		list := "# images\r\n" + w.image + "\r\n\r\n" + w.image + " # again\r\n"
		encode := func(s string, big bool) string {
			out := "\xff\xfe"
			if big {
				out = "\xfe\xff"
			}
			for _, c := range []byte(s) {
				if big {
					out += string([]byte{0, c})
				} else {
					out += string([]byte{c, 0})
				}
			}
			return out
		}
		for _, text := range []string{list, "\ufeff" + list, encode(list, false), encode(list, true), strings.ReplaceAll(list, "\r\n", "\r")} {
			w.want(w.pull("-f", w.write("list.txt", text)), 0, "pulled 1 of 1 images")
			w.want(w.runIn(text, "pull", "--store", t.TempDir(), "-f", "-"), 0)
		}
		o := w.pull("-f", w.write("list.txt", "caf\xe9\n"))
		w.want(o, 2, "list.txt", "UTF-8")
		if n := strings.Count(o.err, "drayage:"); n != 1 {
			t.Errorf("%d lines of error", n)
		}
		// A lock and a list of digests as editors write them.
		w.want(w.pull("--lock", "lock", w.image), 0)
		raw, err := os.ReadFile(filepath.Join(w.home, "lock"))
		if err != nil {
			t.Fatal(err)
		}
		w.write("lock", encode(strings.ReplaceAll(string(raw), "\n", "\r\n"), false))
		o = w.pull("--lock", "lock", w.image)
		w.want(o, 0)
		if strings.Contains(o.out, "@sha256") || !strings.HasPrefix(o.out, w.image+"\t") {
			t.Errorf("the lock changes the name: %s", o.out)
		}
		w.want(w.pull("--lock", "lock"), 0, w.image)
		w.want(w.pull("--since", "lock", "-o", "delta.tar", w.image), 0)
		digests := smallImage().Layers[0].Digest.String() + "\n"
		w.want(w.pull("--since", w.write("digests", encode(digests, false)), "-o", "delta2.tar", w.image), 0)
	})

	t.Run("a signal while nobody reads standard error", func(t *testing.T) {
		for _, mode := range []string{"json", "plain"} {
			w := newWorld(t)
			const images = 200
			names := make([]string, images)
			for i := range names {
				names[i] = w.reg.Push(fmt.Sprintf("team/app%d", i), "1", registrytest.Build("linux/"+runtime.GOARCH, registrytest.Layer(uint64(i), 300)))
			}
			hanging := make(chan struct{}, 1)
			w.reg.Break("/blobs/", registrytest.Always, between(func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
				if w.reg.Count("/manifests/") >= images {
					select {
					case hanging <- struct{}{}:
					default:
					}
				}
				<-r.Context().Done()
			}))
			r, stderr, err := os.Pipe() // that nobody reads
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "drayage", append([]string{"pull", "-p", mode, "-DD", "-j", "300", "--per-host", "300", "--store", t.TempDir()}, names...)...)
			cmd.Env, cmd.Stderr = w.env, stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			<-hanging
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // it returns
			if status := cmd.ProcessState.ExitCode(); status != 143 {
				t.Errorf("%s: status %d", mode, status)
			}
			if err := errors.Join(r.Close(), stderr.Close()); err != nil {
				t.Error(err)
			}
		}
	})

	t.Run("L2", func(t *testing.T) {
		script := terminalGiver(t)
		w := newWorld(t)
		w.image = w.reg.Push("large", "1", registrytest.Build("linux/"+runtime.GOARCH, registrytest.Random(5, 300_000)))
		for ci, bars := range map[string]bool{"CI=": true, "CI=true": false, "CI=1": false, "CI=false": true} {
			for _, mode := range []string{"auto", "bar"} {
				cmd := exec.CommandContext(t.Context(), script, "-qec", "drayage pull --limit-rate 500K --store "+t.TempDir()+" -p "+mode+" "+w.image, "/dev/null")
				cmd.Env = append(w.env, ci, "TERM=xterm")
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				if drawn := bytes.Contains(out, []byte("\x1b[")); drawn != (bars || mode == "bar") {
					t.Errorf("%s -p %s: escapes: %v\n%q", ci, mode, drawn, out)
				}
			}
		}
	})

	t.Run("results that would wrap", func(t *testing.T) {
		script := terminalGiver(t)
		w := newWorld(t)
		for columns, whole := range map[string]bool{"100": false, "300": true} {
			cmd := exec.CommandContext(t.Context(), script, "-qec", "stty cols "+columns+" rows 40; drayage pull -p none --store "+t.TempDir()+" "+w.image, "/dev/null")
			cmd.Env = append(w.env, "TERM=xterm")
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if full := bytes.Contains(out, []byte(smallImage().Descriptor.Digest)); full != whole || !bytes.Contains(out, []byte("sha256:")) {
				t.Errorf("%s columns: the whole digest: %v\n%s", columns, full, out)
			}
		}
	})

	t.Run("errors as events", func(t *testing.T) {
		w := newWorld(t)
		w.write("bin/docker", "#!/bin/sh\ncat >/dev/null\necho 'Loaded image: x'\nprintf 'odd \\033[31m\\n' >&2\n")
		if err := os.Chmod(filepath.Join(w.home, "bin/docker"), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			status int
			kind   string
			args   []string
		}{
			{0, "", []string{"pull", "-p", "json", "-l", w.image}},
			{4, "not-found", []string{"pull", "-p", "json", w.image + "x"}},
			{4, "not-found", []string{"pull", "-pjson", w.image + "x"}},
			{2, "usage", []string{"pull", "-p", "json"}},
			{2, "usage", []string{"pull", "--progress=json", "--nonsense"}},
			{2, "usage", []string{"pull", "-p", "json", "UPPER"}},
			{7, "local", []string{"pull", "-p", "json", "-o", "/nonexistent/x.tar", w.image}},
		} {
			o := w.run(c.args...)
			w.want(o, c.status, "!\x1b")
			var last struct {
				Event string
				Data  struct {
					Status        int
					Kind, Message string
				}
			}
			lines := bufio.NewScanner(strings.NewReader(o.err))
			lines.Buffer(nil, 1<<20)
			for lines.Scan() {
				if err := json.Unmarshal(lines.Bytes(), &last); err != nil {
					t.Errorf("%v: not JSON: %s", c.args, lines.Text())
				}
			}
			if c.status != 0 && (last.Event != "error" || last.Data.Status != c.status || last.Data.Kind != c.kind || last.Data.Message == "") {
				t.Errorf("%v: the last event is %+v", c.args, last)
			}
		}
	})

	t.Run("a reader who doesn't read", func(t *testing.T) {
		w := newWorld(t)
		var images []string
		for i := range 40 {
			images = append(images, w.reg.Push("many/"+string(rune('a'+i%26))+strings.Repeat("x", i), "1", registrytest.Build("linux/"+runtime.GOARCH, registrytest.Random(uint64(i), 3000))))
		}
		r, wr, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		cmd := exec.CommandContext(t.Context(), "drayage", append([]string{"pull", "-p", "json", "-D", "-D", "--store", t.TempDir()}, images...)...)
		cmd.Env, cmd.Stderr = w.env, wr
		err = cmd.Start()
		wr.Close()
		if err == nil {
			err = cmd.Wait()
		}
		if err != nil {
			t.Errorf("%v", err)
		}
	})

	t.Run("SIGHUP", func(t *testing.T) {
		for _, ignored := range []bool{false, true} {
			w := newWorld(t)
			began, release := make(chan struct{}), make(chan struct{})
			var once atomic.Bool
			w.reg.Break("/manifests/", registrytest.Always, between(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
				if !once.Swap(true) {
					close(began)
				}
				select {
				case <-release:
					next.ServeHTTP(rw, r)
				case <-r.Context().Done():
				}
			}))
			command := "exec drayage pull --store " + t.TempDir() + " " + w.image
			if ignored {
				command = "trap '' HUP; " + command
			}
			cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
			cmd.Env = w.env
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			<-began
			if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			if ignored {
				close(release)
			}
			err := cmd.Wait()
			var exit *exec.ExitError
			if !ignored && (!errors.As(err, &exit) || exit.ExitCode() != 128+int(syscall.SIGHUP)) || ignored && err != nil {
				t.Errorf("ignored %v: %v", ignored, err)
			}
			if !ignored {
				close(release)
			}
		}
	})

	t.Run("names", func(t *testing.T) {
		w := newWorld(t)
		for _, scheme := range []string{"http://", "https://", "docker://", "oci://"} {
			w.want(w.pull(scheme+w.image), 2, "leave out "+scheme)
		}
		for _, tag := range []string{"1.20.3", "1.20.4", "2.0"} {
			w.reg.Push("team/app", tag, smallImage())
		}
		w.want(w.pull(w.reg.Host()+"/team/app:1.20.2"), 4, "similar tags: 1.20.3, 1.20.4")
		w.want(w.pull(w.image), 0, "drayage store export")
	})
}

// filesBelow are the names of the files below a folder, a line each.
func filesBelow(t *testing.T, dir string) string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			names = append(names, strings.TrimPrefix(path, dir))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, "\n")
}

// terminalGiver is script(1), which gives a command a terminal.
func terminalGiver(t *testing.T) string {
	t.Helper()
	script, err := exec.LookPath("script")
	if err != nil {
		t.Skip("needs script(1)")
	}
	return script
}
