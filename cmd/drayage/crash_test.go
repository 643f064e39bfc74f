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

	"drayage/blobstore/blobstoretest"
	"drayage/engine/chaos"
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
	die     string // the call at which the process dies
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
	cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+in.dir, deadlyPoint+"="+in.die)
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

// Before and after each sync, rename, journal write and the rest: the process
// dies there, nothing wrong is under blobs/, and the next run ends right.
func TestKillAtEveryCall(t *testing.T) {
	nth := []int64{1, 2, 5, 17}
	if testing.Short() {
		nth = nth[:1]
	}
	died := map[string]int{}
	for _, call := range blobstoretest.Calls() {
		for _, n := range nth {
			for _, after := range []bool{false, true} {
				p := blobstoretest.Point{Call: call, After: after, Nth: n}
				in := newInterrupted(t)
				in.die = p.String()
				status, stderr := in.run(t, 0, 0)
				if status == -1 {
					died[call]++
				} else if status != 0 {
					t.Fatalf("%s: status %d\n%s", p, status, stderr)
				}
				in.blobs(t)
				in.die = ""
				if status, stderr := in.run(t, 0, 0); status != 0 {
					t.Fatalf("after %s: status %d\n%s", p, status, stderr)
				}
				in.blobs(t)
				in.checkArchive(t)
				if left, _ := os.ReadDir(filepath.Join(in.dir, "store/ingest")); len(left) > 0 {
					t.Errorf("after %s: left in ingest: %v", p, left)
				}
			}
		}
	}
	for _, call := range blobstoretest.Calls() {
		if died[call] == 0 && call != "truncate journal" && call != "sync journal" { // these depend on damage, and on time
			t.Errorf("no process died at %q", call)
		}
	}
}

// A store whose partial blobs were damaged between runs gives the right
// result all the same, and where the journal still tells only what was damaged
// is fetched again.
func TestDamageBetweenRuns(t *testing.T) {
	const layer, block = 6 << 20, 128 << 10
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte { b[at%len(b)] ^= 0x10; return b }
	}
	for _, c := range []struct {
		name          string
		data, journal func([]byte) []byte
		again         int64 // bytes that may be fetched again, besides what a kill costs
	}{
		{"nothing", nil, nil, 0},
		{"a bit of the data flipped", flip(100_000), nil, block},
		{"two bits of the data flipped", func(b []byte) []byte { return flip(1 << 20)(flip(5)(b)) }, nil, 2 * block},
		{"a block of the data zeroed", func(b []byte) []byte { clear(b[300_000:400_000]); return b }, nil, 2 * block},
		{"the data truncated", func(b []byte) []byte { return b[:1<<20] }, nil, layer},
		{"the data gone", func([]byte) []byte { return nil }, nil, layer},
		{"rubbish for a journal", nil, func([]byte) []byte { return registrytest.Random(9, 5000) }, layer},
		{"no journal", nil, func([]byte) []byte { return nil }, layer},
		{"an empty journal", nil, func([]byte) []byte { return []byte{} }, layer},
		{"the end of the journal torn", nil, func(b []byte) []byte { return b[:len(b)-7] }, 2 * block},
		{"the middle of the journal flipped", nil, func(b []byte) []byte { return flip(len(b) / 2)(b) }, layer},
		{"the journal of another blob", nil, func(b []byte) []byte { return bytes.Replace(b, []byte("sha256:"), []byte("sha256:00"), 1) }, layer},
		{"data of another time than the journal's", func(b []byte) []byte { return registrytest.Random(3, len(b)) }, nil, layer},
		{"the journal says more than is there", func(b []byte) []byte { clear(b); return b }, nil, layer},
	} {
		in := newInterrupted(t)
		proxy := in.slowly(t, in.Push("big", "1", registrytest.Build("linux/amd64", registrytest.Random(77, layer))))
		if status, stderr := in.run(t, layer/2, syscall.SIGKILL); status != -1 {
			t.Fatalf("%s: status %d\n%s", c.name, status, stderr)
		}
		files, _ := filepath.Glob(filepath.Join(in.dir, "store/ingest/*/data"))
		for _, data := range files {
			change(t, data, c.data)
			journal := filepath.Join(filepath.Dir(data), "journal")
			change(t, journal, c.journal)
		}
		if len(files) != 1 {
			t.Fatalf("%s: %d partial blobs", c.name, len(files))
		}
		if status, stderr := in.run(t, 0, 0); status != 0 {
			t.Fatalf("%s: status %d\n%s", c.name, status, stderr)
		}
		in.blobs(t)
		const inFlight = 1 << 20
		if sent := proxy.Stats().Sent.Load(); sent > layer+c.again+inFlight {
			t.Errorf("%s: %d bytes sent for %d", c.name, sent, layer)
		}
	}
}

// change replaces a file by what f makes of it; nil removes it.
func change(t *testing.T, path string, f func([]byte) []byte) {
	t.Helper()
	if f == nil {
		return
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw = f(raw)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if raw == nil {
		return
	}
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		t.Fatal(err)
	}
}

// slowly makes name what is pulled, over a link that is slow enough for what is
// in flight to be little beside it.
func (in *interrupted) slowly(t *testing.T, name string) *chaos.Proxy {
	t.Helper()
	proxy, err := chaos.NewProxy(in.Host(), chaos.Options{Rate: 30e6})
	if err != nil {
		t.Fatal(err)
	}
	host, stop, err := proxy.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	in.names = []string{strings.Replace(name, in.Host(), host, 1)}
	return proxy
}

// A process that is killed over and over fetches hardly anything twice.
func TestTenKillsCostLittle(t *testing.T) {
	const kills, size = 10, 40 << 20
	in := newInterrupted(t)
	var layers [][]byte
	for i := range uint64(4) {
		layers = append(layers, registrytest.Random(100+i, size/4))
	}
	proxy := in.slowly(t, in.Push("big", "1", registrytest.Build("linux/amd64", layers...)))
	killed := 0
	for range kills {
		if status, _ := in.run(t, size/(kills+2), syscall.SIGKILL); status == -1 {
			killed++
		}
	}
	if status, stderr := in.run(t, 0, 0); status != 0 {
		t.Fatalf("status %d\n%s", status, stderr)
	}
	in.blobs(t)
	sent := proxy.Stats().Sent.Load()
	if float64(sent) > 1.10*size || killed < kills/2 {
		t.Errorf("%d bytes sent for %d, over %d kills", sent, size, killed)
	}
}
