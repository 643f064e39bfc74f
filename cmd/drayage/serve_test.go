package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"drayage/engine/chaos/chaostest"
	"drayage/engine/registry/registrytest"

	"golang.org/x/crypto/bcrypt"
)

// daemon is drayage serve, or warm, as a process.
type daemonProcess struct {
	t      *testing.T
	cmd    *exec.Cmd
	stderr *bytes.Buffer
	rest   chan struct{} // closed when stderr has ended
	host   string
}

var servingAt = regexp.MustCompile(`serving \S+ at (https?)://(\S+)`)

// startServe starts one, and waits until it says where it is.
func startServe(t *testing.T, dir string, args ...string) *daemonProcess {
	t.Helper()
	d := startDaemon(t, dir, servingAt, append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...)
	return d
}

func startDaemon(t *testing.T, dir string, until *regexp.Regexp, args ...string) *daemonProcess {
	t.Helper()
	return startDaemonIn(t, append(os.Environ(), "DRAYAGE_STORE="+filepath.Join(dir, "store"), "DOCKER_CONFIG="+dir), until, args...)
}

func startDaemonIn(t *testing.T, env []string, until *regexp.Regexp, args ...string) *daemonProcess {
	t.Helper()
	d := &daemonProcess{t: t, cmd: exec.CommandContext(t.Context(), "drayage", args...), stderr: new(bytes.Buffer), rest: make(chan struct{})}
	d.await(env, until)
	return d
}

// await starts it, and waits until it says where it is.
func (d *daemonProcess) await(env []string, until *regexp.Regexp) {
	t := d.t
	t.Helper()
	d.cmd.Env = env
	pipe, err := d.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(pipe)
	for d.host == "" {
		line, err := lines.ReadString('\n')
		d.stderr.WriteString(line)
		if m := until.FindStringSubmatch(line); m != nil {
			d.host = m[len(m)-1]
		}
		if err != nil {
			t.Fatalf("it doesn't start: %s", d.stderr)
		}
	}
	go func() { defer close(d.rest); _, _ = io.Copy(d.stderr, lines) }() // ends with the process
}

// stop ends it by a signal, and returns what it has said.
func (d *daemonProcess) stop(sig syscall.Signal) (int, string) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		d.t.Fatal(err)
	}
	<-d.rest
	_ = d.cmd.Wait() // its status is looked at
	return d.cmd.ProcessState.ExitCode(), d.stderr.String()
}

// fetch asks for something, and returns the status and the body.
func fetch(t *testing.T, client *http.Client, url string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := client.Do(req)
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

// runProgram runs drayage to its end.
func runProgram(t *testing.T, dir string, args ...string) (int, string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "drayage", args...)
	cmd.Env = append(os.Environ(), "DRAYAGE_STORE="+filepath.Join(dir, "other"), "DOCKER_CONFIG="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// A mirror by its whole: pulls through it, the page, metrics, health, its log, its end.
func TestServe(t *testing.T) {
	s := registrytest.New()
	defer s.Close()
	dir := t.TempDir()
	name := s.Push("team/app", "1", registrytest.Build("linux/amd64", registrytest.Random(1, 3<<20)))
	d := startServe(t, dir, "--pull-through", s.Host(), "--default-registry", s.Host(), "--access-log", filepath.Join(dir, "log"), "--budget", "1GiB")
	for range 2 {
		if status, out := runProgram(t, dir, "pull", "-pnone", "--platform", "linux/amd64", "--store", t.TempDir(), strings.Replace(name, s.Host(), d.host, 1)); status != 0 {
			t.Fatalf("%d: %s", status, out)
		}
		s.Close() // what is there needs nobody
	}
	base := "http://" + d.host
	for path, want := range map[string]string{
		"/healthz": "ok", "/readyz": "ready", "/": "team/app:1", "/page.js": "EventSource", "/metrics": `drayage_serve_served_total{from="upstream",kind="blob"} 2`,
		"/v2/_catalog": `"team/app"`,
	} {
		if status, body := fetch(t, http.DefaultClient, base+path); status != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d, want %q in\n%s", path, status, want, body)
		}
	}
	for path, want := range map[string]int{"/absent": 404, "/warm/absent": 404, "/debug/pprof/": 404} {
		if status, _ := fetch(t, http.DefaultClient, base+path); status != want {
			t.Errorf("%s: %d", path, status)
		}
	}
	if status, out := d.stop(syscall.SIGTERM); status != 0 {
		t.Errorf("it ends with %d: %s", status, out)
	}
	log, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil || !strings.Contains(string(log), "path=/v2/team/app/manifests/1 status=200") {
		t.Errorf("the log: %v\n%s", err, log)
	}
}

// The events of the page are of transfers under way.
func TestServeTellsOfTransfers(t *testing.T) {
	s := registrytest.New()
	defer s.Close()
	dir := t.TempDir()
	img := registrytest.Build("linux/amd64", registrytest.Random(1, 1<<20))
	s.Push("team/app", "1", img)
	release := make(chan struct{})
	s.Break("/blobs/"+img.Layers[0].Digest.String(), 1, chaostest.Hold(release))
	d := startServe(t, dir, "--pull-through", s.Host())
	fetch(t, http.DefaultClient, "http://"+d.host+"/v2/"+s.Host()+"/team/app/manifests/1")
	ctx, cancel := context.WithCancel(t.Context())
	blob, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.host+"/v2/"+s.Host()+"/team/app/blobs/"+img.Layers[0].Digest.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if resp, err := http.DefaultClient.Do(blob); err == nil {
			resp.Body.Close()
		}
	}()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+d.host+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if strings.Contains(lines.Text(), img.Layers[0].Digest.String()) {
			break
		}
	}
	if lines.Err() != nil {
		t.Error(lines.Err())
	}
	close(release)
	cancel()
	<-gone
	if status, out := d.stop(syscall.SIGTERM); status != 0 { // though the events are still being read
		t.Errorf("%d: %s", status, out)
	}
}

// HTTPS with a password, for those who have it.
func TestServeTLSAndPasswords(t *testing.T) {
	s := registrytest.NewTLS()
	defer s.Close()
	dir := t.TempDir()
	cert, key := certificate(t, dir, s)
	hash, err := bcrypt.GenerateFromPassword([]byte("s3cret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(dir, "users")
	if err := os.WriteFile(users, []byte("# people\nann:"+string(hash)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := startServe(t, dir, "--tls-cert", cert, "--tls-key", key, "--htpasswd", users)
	pool := x509.NewCertPool()
	raw, err := os.ReadFile(cert)
	if err != nil || !pool.AppendCertsFromPEM(raw) {
		t.Fatal("no certificate")
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}}
	defer client.CloseIdleConnections()
	for _, c := range []struct {
		path, user, password string
		want                 int
	}{
		{"/v2/", "", "", 401}, {"/", "", "", 401}, {"/metrics", "", "", 401}, {"/v2/", "ann", "wrong", 401}, {"/v2/", "bob", "s3cret", 401},
		{"/v2/", "ann", "s3cret", 200}, {"/v2/", "ann", "s3cret", 200}, {"/", "ann", "s3cret", 200}, {"/healthz", "", "", 200}, {"/readyz", "", "", 200},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+d.host+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.user != "" {
			req.SetBasicAuth(c.user, c.password)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.want || c.want == 401 && resp.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s as %s: %d", c.path, c.user, resp.StatusCode)
		}
	}
	d.stop(syscall.SIGTERM)
}

// certificate writes a test server's certificate and key as files.
func certificate(t *testing.T, dir string, s *registrytest.Server) (cert, key string) {
	t.Helper()
	pair := s.TLS().Certificates[0]
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, key: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// What clients do wrong, or too much of, is refused, and disturbs nobody else.
func TestServeBounds(t *testing.T) {
	dial := func(host string) net.Conn {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", host)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	d := startServe(t, t.TempDir(), "--max-per-client", "3")
	dial(d.host) // that say nothing
	dial(d.host)
	third := dial(d.host)
	if _, err := io.WriteString(third, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(third).ReadString('\n'); !strings.Contains(line, "200") {
		t.Errorf("the third connection: %q, %v", line, err)
	}
	fourth := dial(d.host)
	_ = fourth.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := fourth.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("the fourth connection stays: %v", err)
	}
	d.stop(syscall.SIGTERM)

	d = startServe(t, t.TempDir(), "--client-requests", "5")
	limited := false
	for range 20 {
		status, body := fetch(t, http.DefaultClient, "http://"+d.host+"/v2/")
		limited = limited || status == http.StatusTooManyRequests && strings.Contains(body, "TOOMANYREQUESTS")
	}
	if !limited {
		t.Error("any number of requests is answered")
	}
	huge := dial(d.host)
	if _, err := io.WriteString(huge, "GET /v2/ HTTP/1.1\r\nHost: x\r\nX: "+strings.Repeat("a", 100<<10)+"\r\n\r\n"); err == nil {
		if line, _ := bufio.NewReader(huge).ReadString('\n'); !strings.Contains(line, "431") {
			t.Errorf("a huge header: %q", line)
		}
	}
	d.stop(syscall.SIGTERM)
}
