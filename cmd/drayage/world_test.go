package main

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"drayage/engine/chaos/chaostest"
	"drayage/engine/registry/registrytest"
)

// TestWorld holds the program to what goes wrong in other people's networks. Each test is
// named by its row in docs/registry-behaviour.md, and tries siblings of that row's trigger
// beside it.

// world is a user's machine: a home, an environment, a registry with one image.
type world struct {
	t     *testing.T
	home  string
	env   []string
	reg   *registrytest.Server
	image string // its name, with the registry
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, home: t.TempDir(), reg: registrytest.New()}
	t.Cleanup(w.reg.Close)
	w.image = w.reg.Push("team/app", "1", smallImage())
	w.env = []string{
		"HOME=" + w.home, "PATH=" + filepath.Join(w.home, "bin") + ":" + os.Getenv("PATH"), "DRAYAGE_STORE=" + filepath.Join(w.home, "store"),
		"XDG_RUNTIME_DIR=" + filepath.Join(w.home, "run"), "NO_PROXY=127.0.0.1,localhost",
	}
	return w
}

func smallImage() registrytest.Image {
	return registrytest.Build("linux/"+runtime.GOARCH, registrytest.Layer(1, 3000), registrytest.Layer(2, 500))
}

// set changes the environment.
func (w *world) set(vars ...string) { w.env = append(w.env, vars...) }

// unset takes a variable out of it.
func (w *world) unset(name string) {
	var kept []string
	for _, v := range w.env {
		if !strings.HasPrefix(v, name+"=") {
			kept = append(kept, v)
		}
	}
	w.env = kept
}

// write writes a file below the home folder, and returns its path.
func (w *world) write(name, text string) string {
	w.t.Helper()
	path := filepath.Join(w.home, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// helper writes a credential helper: a shell script that has the registry in $server.
func (w *world) helper(name, script string) {
	w.t.Helper()
	path := w.write("bin/docker-credential-"+name, "#!/bin/sh\nverb=$1\nserver=$(cat)\necho \"$verb $server\" >> "+filepath.Join(w.home, "calls")+"\n"+script+"\n")
	if err := os.Chmod(path, 0o755); err != nil {
		w.t.Fatal(err)
	}
}

// calls are what helpers were called with so far.
func (w *world) calls() string {
	raw, err := os.ReadFile(filepath.Join(w.home, "calls"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.t.Fatal(err)
	}
	return string(raw)
}

// outcome is what became of a command.
type outcome struct {
	status   int
	out, err string
	took     time.Duration
}

// run runs drayage.
func (w *world) run(args ...string) outcome { return w.runIn("", args...) }

// runIn is run with something on standard input.
func (w *world) runIn(stdin string, args ...string) outcome {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), "drayage", args...)
	cmd.Env, cmd.Dir = w.env, w.home
	cmd.Stdin = strings.NewReader(stdin)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	begun := time.Now()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatal(err)
	}
	return outcome{cmd.ProcessState.ExitCode(), out.String(), stderr.String(), time.Since(begun)}
}

// pull pulls an image into a store of its own.
func (w *world) pull(args ...string) outcome {
	w.t.Helper()
	return w.run(append([]string{"pull", "--store", w.t.TempDir()}, args...)...)
}

// want checks a command's status, and texts that its output has or, with a ! before them, has
// not.
func (w *world) want(o outcome, status int, texts ...string) {
	w.t.Helper()
	if o.status != status {
		w.t.Errorf("status %d, want %d\n%s%s", o.status, status, o.out, o.err)
	}
	for _, text := range texts {
		not, absent := strings.CutPrefix(text, "!")
		if absent && strings.Contains(o.out+o.err, not) {
			w.t.Errorf("%q is told:\n%s%s", not, o.out, o.err)
		}
		if !absent && !strings.Contains(o.out+o.err, text) {
			w.t.Errorf("%q is not told:\n%s%s", text, o.out, o.err)
		}
	}
}

// serve starts drayage serve over the store.
func (w *world) serve(args ...string) *daemonProcess {
	w.t.Helper()
	d := startDaemonIn(w.t, w.env, servingAt, append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...)
	w.t.Cleanup(func() { d.stop(syscall.SIGTERM) })
	return d
}

// statusAt is the status of a GET.
func statusAt(t *testing.T, url string) int {
	t.Helper()
	status, _ := fetch(t, http.DefaultClient, url)
	return status
}

// fetchStale is the status of a GET, and whether the answer says that it is an old one.
func fetchStale(t *testing.T, url string) (status int, stale bool) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode, resp.Header.Get("Drayage-Stale") != ""
}

// pemOf is the certificate of a TLS registry.
func pemOf(t *testing.T, s *registrytest.Server) string {
	t.Helper()
	leaf := s.TLS().Certificates[0].Certificate[0]
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf}))
}

// each puts something between clients and the registry for all requests.
func (w *world) each(f func(rw http.ResponseWriter, r *http.Request, next http.Handler)) {
	w.reg.Break("", registrytest.Always, between(f))
}

func between(f func(rw http.ResponseWriter, r *http.Request, next http.Handler)) chaostest.Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { f(rw, r, next) })
	}
}

// quietLog is for servers whose clients do wrong on purpose.
func quietLog() *stdlog.Logger { return stdlog.New(io.Discard, "", 0) }

// serveHTTP starts another server.
func serveHTTP(t *testing.T, f http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return s
}

// log keeps lines that handlers write.
type log struct {
	mu    sync.Mutex
	lines []string
}

func (l *log) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

func (l *log) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.lines...)
}

func (l *log) count(part string) int {
	n := 0
	for _, line := range l.all() {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}
