package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"drayage/engine/registry/registrytest"

	"github.com/opencontainers/go-digest"
)

// trigger calls do once the server has sent so many bytes of blobs.
type trigger struct {
	mu   sync.Mutex
	left int64
	do   func()
}

func (t *trigger) after(n int64, do func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.left, t.do = n, do
}

func (t *trigger) fault(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(triggering{w, t}, r) })
}

type triggering struct {
	http.ResponseWriter
	t *trigger
}

func (w triggering) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.t.mu.Lock()
	w.t.left -= int64(n)
	do := w.t.do
	if w.t.left > 0 {
		do = nil
	}
	if do != nil {
		w.t.do = nil
	}
	w.t.mu.Unlock()
	if do != nil {
		do()
	}
	return n, err
}

// interrupted is a pull of several images that a signal ends at some point.
type interrupted struct {
	*registrytest.Server
	trigger *trigger
	dir     string
	names   []string
	size    int64
}

func newInterrupted(t *testing.T) *interrupted {
	t.Helper()
	s := registrytest.New()
	t.Cleanup(s.Close)
	in := &interrupted{Server: s, trigger: &trigger{}, dir: t.TempDir()}
	base := registrytest.Random(1, 1<<20)
	for i := range 6 {
		img := registrytest.Build("linux/amd64", base, registrytest.Random(uint64(10+i), 400_000), registrytest.Random(uint64(20+i), 50_000))
		in.names = append(in.names, s.Push("app"+string(rune('a'+i)), "1", img))
		in.size += img.Size() - 1<<20
	}
	in.size += 1 << 20
	s.Break("/blobs/", registrytest.Always, in.trigger.fault)
	return in
}

func (in *interrupted) out() string { return filepath.Join(in.dir, "out.tar") }

// run pulls, and sends the signal after the server has sent some bytes. It
// returns the exit status, -1 for a process that was killed.
func (in *interrupted) run(t *testing.T, after int64, sig syscall.Signal) (int, string) {
	t.Helper()
	args := append([]string{"pull", "-pnone", "--platform", "linux/amd64", "--store", filepath.Join(in.dir, "store"), "--force", "-o", in.out()}, in.names...)
	cmd := exec.CommandContext(t.Context(), "drayage", args...)
	cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+in.dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if after > 0 {
		in.trigger.after(after, func() { cmd.Process.Signal(sig) })
	}
	err := cmd.Wait()
	in.trigger.after(1<<62, nil)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), stderr.String()
}

// blobs lists what the store has, each file held against its name.
func (in *interrupted) blobs(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(in.dir, "store/blobs/sha256/*"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if digest.FromBytes(raw).Encoded() != filepath.Base(f) {
			t.Errorf("%s is not what its name says", f)
		}
		out = append(out, filepath.Base(f))
	}
	return out
}

// checkArchive reads the archive to its end.
func (in *interrupted) checkArchive(t *testing.T) {
	t.Helper()
	f, err := os.Open(in.out())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	members := 0
	for r := tar.NewReader(f); ; members++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		d, err := digest.FromReader(r)
		if err != nil {
			t.Fatal(err)
		}
		if hex, ok := strings.CutPrefix(h.Name, "blobs/sha256/"); ok && hex != d.Encoded() {
			t.Errorf("%s has the content of %s", h.Name, d)
		}
	}
	if want := 4 + 6*4 + 1; members != want {
		t.Errorf("%d members, want %d", members, want)
	}
}

func TestKillNineAtAnyMoment(t *testing.T) {
	rounds := 25
	if testing.Short() {
		rounds = 5
	}
	for range rounds {
		in := newInterrupted(t)
		for kill := range 4 {
			have := in.blobs(t)
			in.Forget()
			status, stderr := in.run(t, 1+rand.Int64N(in.size/2), syscall.SIGKILL)
			if status != -1 && status != 0 {
				t.Fatalf("kill %d: status %d\n%s", kill, status, stderr)
			}
			for _, hex := range have {
				if n := in.Count("/blobs/sha256:" + hex); n != 0 {
					t.Errorf("%s was in the store and fetched again", hex)
				}
			}
			if status == -1 {
				if _, err := os.Stat(in.out()); err == nil && kill == 0 {
					t.Error("an archive is there, though the process was killed before it had all blobs")
				}
			}
		}
		if status, stderr := in.run(t, 0, 0); status != 0 {
			t.Fatalf("status %d\n%s", status, stderr)
		}
		in.blobs(t)
		in.checkArchive(t)
		for _, dir := range []string{"store/ingest", "store/leases"} {
			if left, _ := os.ReadDir(filepath.Join(in.dir, dir)); len(left) > 0 {
				t.Errorf("left in %s: %v", dir, left)
			}
		}
		if _, err := os.Stat(in.out() + ".drayage-part"); err == nil {
			t.Error("a part of the archive was left")
		}
	}
}

func TestSignalsEndAPullInGoodOrder(t *testing.T) {
	for sig, want := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 143} {
		in := newInterrupted(t)
		status, stderr := in.run(t, in.size/3, sig)
		if status != want || strings.Count(stderr, "drayage:") != 1 || !strings.Contains(stderr, "what arrived is kept") {
			t.Errorf("%v: status %d, want %d\n%s", sig, status, want, stderr)
		}
		if left, _ := os.ReadDir(in.dir); len(left) != 1 {
			t.Errorf("%v: left behind: %v", sig, left)
		}
		in.blobs(t)
		if status, stderr := in.run(t, 0, 0); status != 0 {
			t.Errorf("status %d\n%s", status, stderr)
		}
		in.checkArchive(t)
	}
}
