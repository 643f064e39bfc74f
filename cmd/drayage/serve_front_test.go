//go:build unix

package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"drayage/engine/registry/registrytest"

	"golang.org/x/crypto/bcrypt"
)

// asHost asks for something by a name of the server.
func asHost(t *testing.T, address, path, host string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// A page of another site that has its name stand for this machine reads nothing.
func TestServeAnswersToItsNamesAlone(t *testing.T) {
	for _, c := range []struct {
		args                     []string
		localhost, mirror, other int
	}{
		{nil, 200, 421, 421},
		{[]string{"--allow-host", "mirror.example"}, 200, 200, 421},
		{[]string{"--allow-host", "*"}, 200, 200, 200},
		{[]string{"--listen", "localhost:0"}, 200, 421, 421},
		{[]string{"--listen", "0.0.0.0:0"}, 200, 200, 200},
		{[]string{"--listen", "0.0.0.0:0", "--allow-host", "mirror.example"}, 421, 200, 421},
	} {
		d := startServe(t, t.TempDir(), c.args...)
		_, port, err := net.SplitHostPort(d.host)
		if err != nil {
			t.Fatal(err)
		}
		at := "127.0.0.1:" + port
		for _, path := range []string{"/v2/", "/", "/metrics", "/page.js", "/v2/_catalog"} {
			for host, want := range map[string]int{"localhost:" + port: c.localhost, at: c.localhost, "mirror.example": c.mirror, "Mirror.Example.:" + port: c.mirror, "evil.example": c.other} {
				status, body := asHost(t, at, path, host)
				if status != want || status == 421 && !strings.Contains(body, `"errors"`) {
					t.Errorf("%v: %s of %s: %d, want %d: %.200s", c.args, path, host, status, want, body)
				}
			}
		}
		for _, path := range []string{"/healthz", "/readyz"} {
			if status, _ := asHost(t, at, path, "evil.example"); status != 200 {
				t.Errorf("%v: %s: %d", c.args, path, status)
			}
		}
		d.stop(syscall.SIGTERM)
	}
}

// Who is no longer in the password file is refused within seconds, and so is everybody when it is
// gone; /readyz and standard error tell.
func TestServeFollowsThePasswordFile(t *testing.T) {
	dir := t.TempDir()
	users := filepath.Join(dir, "users")
	hash, err := bcrypt.GenerateFromPassword([]byte("s3cret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(users, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	line := ":" + string(hash) + "\n"
	write("ann" + line + "bob" + line)
	d := startServe(t, dir, "--htpasswd", users)
	get := func(path, user string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+d.host+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth(user, "s3cret")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	until := func(what, path, user string, want int) {
		t.Helper()
		for began := time.Now(); get(path, user) != want; {
			if time.Since(began) > time.Minute {
				t.Fatalf("%s: %s as %s: %d, want %d", what, path, user, get(path, user), want)
			}
		}
	}
	until("at first", "/v2/", "ann", 200)
	write("bob" + line)
	until("removed", "/v2/", "ann", 401)
	until("the other", "/v2/", "bob", 200)
	if _, body := fetch(t, http.DefaultClient, "http://"+d.host+"/metrics", "Authorization", "Basic Ym9iOnMzY3JldA=="); !strings.Contains(body, "drayage_serve_password_file_ok 1") || !strings.Contains(body, `drayage_serve_refused_total{why="password"}`) {
		t.Errorf("metrics:\n%s", body)
	}
	if err := os.Remove(users); err != nil {
		t.Fatal(err)
	}
	until("gone", "/readyz", "", 503)
	until("gone", "/v2/", "bob", 401)
	if _, body := fetch(t, http.DefaultClient, "http://"+d.host+"/metrics"); body != "drayage_serve_password_file_ok 0\n" {
		t.Errorf("metrics while nobody is let in:\n%s", body)
	}
	until("gone", "/warm/x", "bob", 401)
	until("gone", "/healthz", "", 200)
	write("ann" + line)
	until("back", "/readyz", "", 200)
	until("back", "/v2/", "ann", 200)
	until("back", "/v2/", "bob", 401)
	_, out := d.stop(syscall.SIGTERM)
	for _, text := range []string{"nobody is let in", "can be used again"} {
		if n := strings.Count(out, text); n != 1 {
			t.Errorf("%q is told %d times:\n%s", text, n, out)
		}
	}
}

// Each refusal is a line of a log, of bounded length.
func TestServeLogsRefusals(t *testing.T) {
	for _, own := range []bool{true, false} {
		dir := t.TempDir()
		path := filepath.Join(dir, "log")
		flag := "--access-log"
		if own {
			flag = "--audit-log"
		}
		d := startServe(t, dir, flag, path, "--client-requests", "3")
		asHost(t, d.host, "/v2/"+strings.Repeat("x", 5000), "evil.example")
		for range 10 {
			fetch(t, http.DefaultClient, "http://"+d.host+"/v2/", "User-Agent", strings.Repeat("agent", 2000))
		}
		d.stop(syscall.SIGTERM)
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"msg=refused why=host client=127.0.0.1 status=421", "msg=refused why=rate client=127.0.0.1 status=429"} {
			if !strings.Contains(string(raw), text) {
				t.Errorf("%s: no %q in\n%s", flag, text, raw)
			}
		}
		if strings.Contains(string(raw), "msg=request") == own {
			t.Errorf("%s: requests:\n%s", flag, raw)
		}
		for l := range strings.Lines(string(raw)) {
			if len(l) > 1500 {
				t.Errorf("%s: a line of %d bytes", flag, len(l))
			}
		}
	}
}

// Without a log, standard error has a line of each kind.
func TestServeTellsOfRefusals(t *testing.T) {
	d := startServe(t, t.TempDir())
	for range 20 {
		asHost(t, d.host, "/v2/", "evil.example")
	}
	_, out := d.stop(syscall.SIGTERM)
	if n := strings.Count(out, "a host name that --allow-host doesn't have (host, latest client 127.0.0.1)"); n < 1 || n > 2 {
		t.Errorf("it is told %d times:\n%s", n, out)
	}
}

// What one address may have fetched is bounded: more waits, and much more is refused.
func TestServeBoundsUpstreamWork(t *testing.T) {
	s := registrytest.New()
	defer s.Close()
	release := make(chan struct{})
	const under, waiting, more = 1, 8, 3
	var urls []string
	for i := range under + waiting + more {
		urls = append(urls, "/v2/"+s.Host()+"/team/app/blobs/"+s.PushBlob("team/app", registrytest.Random(uint64(i+1), 1000)).String())
	}
	s.Break("/blobs/", registrytest.Always, between(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
		next.ServeHTTP(rw, r)
	}))
	d := startServe(t, t.TempDir(), "--pull-through", s.Host(), "--client-upstream", "1", "--give-up-after", "5m", "--answer-timeout", "5m")
	type answer struct {
		status int
		retry  string
		err    error
	}
	answers := make(chan answer)
	for _, url := range urls {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+d.host+url, nil)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				answers <- answer{err: err}
				return
			}
			resp.Body.Close()
			answers <- answer{resp.StatusCode, resp.Header.Get("Retry-After"), nil}
		}()
	}
	for range more {
		if a := <-answers; a.status != http.StatusTooManyRequests || a.retry == "" {
			t.Errorf("%+v", a)
		}
	}
	close(release)
	for range under + waiting {
		if a := <-answers; a.status != http.StatusOK {
			t.Errorf("%+v", a)
		}
	}
	d.stop(syscall.SIGTERM)
}

// With fewer files than connections, those that say nothing leave some for others.
func TestServeFitsItsConnectionsToFiles(t *testing.T) {
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Skip(err)
	}
	program, err := exec.LookPath("drayage")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	few := filepath.Join(dir, "few")
	if err := os.WriteFile(few, []byte("#!"+shell+"\nulimit -n 300\nexec \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	d := &daemonProcess{t: t, cmd: exec.CommandContext(t.Context(), few, program, "serve", "--listen", "127.0.0.1:0"), stderr: new(bytes.Buffer), rest: make(chan struct{})}
	d.await(append(os.Environ(), "DRAYAGE_STORE="+filepath.Join(dir, "store"), "DOCKER_CONFIG="+dir), servingAt)
	for range 250 {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", d.host)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	for _, path := range []string{"/healthz", "/readyz", "/v2/", "/v2/_catalog"} {
		if status := statusAt(t, "http://"+d.host+path); status != 200 {
			t.Errorf("%s: %d", path, status)
		}
	}
	if _, out := d.stop(syscall.SIGTERM); !strings.Contains(out, "ulimit -n") {
		t.Errorf("it isn't told:\n%s", out)
	}
}

// Profiles for other machines are warned of, and those for this one are not read by pages of others.
func TestServeProfiles(t *testing.T) {
	for listen, warned := range map[string]bool{"127.0.0.1:": false, "0.0.0.0:": true} {
		free, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_, port, err := net.SplitHostPort(free.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		free.Close()
		d := startServe(t, t.TempDir(), "--pprof", listen+port)
		at := "127.0.0.1:" + port
		if status, _ := asHost(t, at, "/debug/pprof/cmdline", at); status != 200 {
			t.Errorf("%s: %d", listen, status)
		}
		if status, _ := asHost(t, at, "/debug/pprof/heap", "evil.example"); (status == 421) == warned {
			t.Errorf("%s: by another name: %d", listen, status)
		}
		if _, out := d.stop(syscall.SIGTERM); strings.Contains(out, "without a password") != warned {
			t.Errorf("%s:\n%s", listen, out)
		}
	}
}

func TestServeRefusesHostsThatAreNone(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"", "http://x", "*.example"} {
		w.want(w.run("serve", "--listen", "127.0.0.1:0", "--allow-host", name), 2, "--allow-host", fmt.Sprintf("%q", name))
	}
}
