package web_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"drayage/blobstore"
	"drayage/cmd/drayage/internal/conns"
	"drayage/cmd/drayage/internal/refusal"
	"drayage/cmd/drayage/internal/web"
)

// limit is when a test gives up on an answer that should come at once.
const limit = time.Minute

// front is a server on this machine.
type front struct {
	t    *testing.T
	host string
	log  *lines // of refusals
}

type frontOptions struct {
	site   web.Options
	server conns.Options
	closed chan<- struct{} // gets one when a connection has been closed; nil is nobody
}

// answering is a mirror of a test's own, to which all users are the same.
type answering http.HandlerFunc

func (a answering) Serve(w http.ResponseWriter, r *http.Request, _ string) { a(w, r) }

// serve starts one, before a mirror of a test's own.
func serve(t *testing.T, mirror http.HandlerFunc, o frontOptions) *front {
	t.Helper()
	store, err := blobstore.OpenWith(filepath.Join(t.TempDir(), "store"), blobstore.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	if mirror == nil {
		mirror = func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") }
	}
	f := &front{t: t, log: new(lines)}
	refusals := refusal.NewLog(f.log.logger(), nil)
	t.Cleanup(refusals.Close)
	o.site.Store, o.site.Mirror, o.site.Metrics, o.site.Refusals = store, answering(mirror), web.NewMetrics(), refusals
	o.site.Timeouts = o.server.Timeouts
	o.server.Handler, o.server.Refusals = web.Handler(o.site), refusals
	server := conns.New(o.server)
	if inner := server.ConnState; o.closed != nil {
		server.ConnState = func(c net.Conn, s http.ConnState) {
			inner(c, s)
			if s == http.StateClosed {
				o.closed <- struct{}{}
			}
		}
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.host = l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return f
}

// dial connects from an address of this machine, "" for any.
func (f *front) dial(from string) net.Conn {
	f.t.Helper()
	c, err := f.tryDial(from)
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

func (f *front) tryDial(from string) (net.Conn, error) {
	d := net.Dialer{Timeout: limit}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	c, err := d.DialContext(f.t.Context(), "tcp", f.host)
	if err != nil {
		return nil, err
	}
	f.t.Cleanup(func() { c.Close() })
	return c, c.SetDeadline(time.Now().Add(limit))
}

// send writes a request as it is.
func (f *front) send(c net.Conn, raw string) *bufio.Reader {
	f.t.Helper()
	if _, err := io.WriteString(c, raw); err != nil {
		f.t.Fatal(err)
	}
	return bufio.NewReader(c)
}

// reply is an answer without its body.
type reply struct {
	StatusCode int
	Header     http.Header
	Close      bool
}

// answer reads an answer.
func (f *front) answer(r *bufio.Reader, method string) (reply, string) {
	f.t.Helper()
	resp, err := http.ReadResponse(r, &http.Request{Method: method})
	if err != nil {
		f.t.Fatalf("no answer: %v", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatalf("a broken answer: %v", err)
	}
	return reply{resp.StatusCode, resp.Header, resp.Close}, string(body)
}

// get asks over a connection of its own, from an address.
func (f *front) get(from, path string) (reply, string) {
	f.t.Helper()
	c := f.dial(from)
	defer c.Close()
	return f.answer(f.send(c, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\n\r\n"), http.MethodGet)
}

// ended reports whether a connection is closed by the other end after something is sent, at the
// latest.
func ended(c net.Conn, raw string) bool {
	_, _ = io.WriteString(c, raw) // fails when it has been closed by now
	_, err := io.Copy(io.Discard, c)
	return !os.IsTimeout(err)
}

func TestBodyWhereNoneBelongsEndsTheConnection(t *testing.T) {
	f := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.WriteHeader(http.StatusMethodNotAllowed)
		}
	}, frontOptions{server: conns.Options{Timeouts: conns.Timeouts{Header: 2 * time.Second}}})
	const host = " HTTP/1.1\r\nHost: localhost\r\n"
	for _, c := range []struct {
		raw  string
		want int
	}{
		{"GET /healthz" + host + "Content-Length: 100\r\n\r\n", 400},
		{"GET /readyz" + host + "Content-Length: 1\r\n\r\n", 400},
		{"GET /metrics" + host + "Content-Length: 99999999999\r\n\r\n", 400},
		{"HEAD /v2/" + host + "Content-Length: 100\r\n\r\n", 400},
		{"GET /v2/" + host + "Content-Length: 100\r\n\r\nsome of it", 400},
		{"GET /v2/" + host + "Content-Length: 4\r\n\r\nfour", 400},
		{"GET /v2/" + host + "Content-Length: 300000\r\n\r\n" + strings.Repeat("x", 300_000), 400},
		{"GET /v2/" + host + "Transfer-Encoding: chunked\r\n\r\n", 400},
		{"GET /v2/" + host + "Transfer-Encoding: chunked\r\n\r\n5\r\nab", 400},
		{"GET /v2/" + host + "Content-Length: 9\r\nExpect: 100-continue\r\n\r\n", 400},
		{"GET /v2/" + host + "Content-Length: 9\r\nExpect: something\r\n\r\n", 417},
		{"GET /v2/ HTTP/1.0\r\nContent-Length: 100\r\n\r\n", 400},
		{"GET http://localhost/v2/" + host + "Content-Length: 100\r\n\r\n", 400},
		{"POST /v2/app/blobs/uploads/" + host + "Content-Length: 100\r\n\r\n", 405},
		{"PUT /v2/app/manifests/1" + host + "Transfer-Encoding: chunked\r\n\r\n", 405},
		{"PATCH /v2/app" + host + "Content-Length: 100\r\nExpect: 100-continue\r\n\r\n", 405},
		{"POST /" + host + "Content-Length: 100\r\n\r\n", 404},
		{"OPTIONS *" + host + "Content-Length: 100\r\n\r\n", 400},
		// What follows may be a body or a request: it is no request here.
		{"GET /v2/" + host + "Content-Length: 10\r\n\r\nGET /healthz" + host + "\r\n", 400},
	} {
		conn := f.dial("")
		r := f.send(conn, c.raw)
		method, _, _ := strings.Cut(c.raw, " ")
		resp, _ := f.answer(r, method)
		if resp.StatusCode != c.want {
			t.Errorf("%q: %d, want %d", c.raw[:min(80, len(c.raw))], resp.StatusCode, c.want)
		}
		rest, err := io.ReadAll(r)
		if err != nil || len(rest) > 0 {
			t.Errorf("%q: the connection goes on: %q, %v", c.raw[:min(80, len(c.raw))], rest, err)
		}
	}
	if text := f.log.String(); !strings.Contains(text, "why=body") {
		t.Errorf("it is not logged:\n%s", text)
	}
}

func TestBodyOfNothingIsNone(t *testing.T) {
	f := serve(t, nil, frontOptions{})
	conn := f.dial("")
	r := bufio.NewReader(conn)
	for _, header := range []string{"Content-Length: 0\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "\r\n"} {
		f.send(conn, "GET /v2/ HTTP/1.1\r\nHost: localhost\r\n"+header)
		if resp, _ := f.answer(r, http.MethodGet); resp.StatusCode != 200 || resp.Close {
			t.Errorf("%q: %d, close %v", header, resp.StatusCode, resp.Close)
		}
	}
	// Several requests at once over one connection.
	f.send(conn, strings.Repeat("GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 20))
	for range 20 {
		if resp, _ := f.answer(r, http.MethodGet); resp.StatusCode != 200 {
			t.Errorf("pipelined: %d", resp.StatusCode)
		}
	}
}

func TestHeadersAndHandshakesHaveADeadline(t *testing.T) {
	short := conns.Timeouts{Header: 50 * time.Millisecond, Idle: 50 * time.Millisecond}
	f := serve(t, nil, frontOptions{server: conns.Options{Timeouts: short}})
	for _, raw := range []string{"", "GET", "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: a", "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", "GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\nGET"} {
		if !ended(f.dial(""), raw) {
			t.Errorf("after %q a connection is held", raw)
		}
	}
	f = serve(t, nil, frontOptions{server: conns.Options{Timeouts: short, TLS: certificate(t)}})
	for _, raw := range []string{"", "\x16\x03\x01", "\x16\x03\x01\x40\x00\x01", "GET / HTTP/1.1\r\n\r\n"} {
		if !ended(f.dial(""), raw) {
			t.Errorf("after %q a handshake is waited for", raw)
		}
	}
	// A connection in HTTP/2 that asks for nothing, or begins a header and doesn't end it.
	for _, frames := range []string{"", frame(1, 0, 1, "\x82"), frame(0, 0, 1, "x")} {
		c := tls.Client(f.dial(""), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		if !ended(c, preface+frames) {
			t.Errorf("after %q a connection in HTTP/2 is held", frames)
		}
	}
}

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// frame is one of HTTP/2 (RFC 9113, section 4.1).
func frame(kind, flags byte, stream uint32, payload string) string {
	n := len(payload)
	return string([]byte{byte(n >> 16), byte(n >> 8), byte(n), kind, flags, byte(stream >> 24), byte(stream >> 16), byte(stream >> 8), byte(stream)}) + payload
}

// certificate is a test server's.
func certificate(t *testing.T) *tls.Config {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	defer s.Close()
	return &tls.Config{Certificates: s.TLS.Certificates, NextProtos: []string{"h2", "http/1.1"}}
}

// Whoever has taken all places, by whatever means, others are answered.
func TestNobodyTakesAllPlaces(t *testing.T) {
	const all, perClient, addresses = 32, 8, 4
	attackers := func(f *front, raw string, read bool) {
		t.Helper()
		for i := range addresses {
			for range perClient {
				c := f.dial(fmt.Sprintf("127.0.1.%d", i+1))
				r := f.send(c, raw)
				if read {
					f.answer(r, http.MethodGet)
				}
			}
		}
	}
	bounds := conns.Options{Bounds: conns.Bounds{All: all, PerClient: perClient}}
	for name, a := range map[string]struct {
		raw  string
		read bool
	}{
		"silent": {"", false}, "half a header": {"GET /v2/ HTTP/1.1\r\nHost: lo", false}, "idle": {"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n", true},
		"half a second header": {"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\nGET /v2/ HTT", true},
	} {
		f := serve(t, nil, frontOptions{server: bounds})
		attackers(f, a.raw, a.read)
		for range 2 * all {
			if resp, _ := f.get("127.0.2.1", "/v2/"); resp.StatusCode != 200 {
				t.Fatalf("%s: %d", name, resp.StatusCode)
			}
		}
		// They take no more from others than from themselves.
		honest := f.dial("127.0.2.1")
		r := f.send(honest, "GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
		f.answer(r, http.MethodGet)
		attackers(f, "", false)
		f.send(honest, "GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
		if resp, _ := f.answer(r, http.MethodGet); resp.StatusCode != 200 {
			t.Errorf("%s: a connection that was kept: %d", name, resp.StatusCode)
		}
	}
}

func TestHealthIsAnsweredWhenAllPlacesAreTaken(t *testing.T) {
	const all = 8
	release, under := make(chan struct{}), make(chan struct{}, all)
	f := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" {
			under <- struct{}{}
			<-release
		}
	}, frontOptions{server: conns.Options{Bounds: conns.Bounds{All: all, PerClient: 4}}})
	defer close(release)
	for i := range all {
		f.send(f.dial(fmt.Sprintf("127.0.1.%d", 1+i%2)), "GET /v2/long HTTP/1.1\r\nHost: localhost\r\n\r\n")
		<-under
	}
	check := func(from string, status int) {
		t.Helper()
		for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/metrics": 200, "/v2/": status, "/": status} {
			resp, _ := f.get(from, path)
			if resp.StatusCode != want || !resp.Close || want != 200 && resp.Header.Get("Retry-After") == "" {
				t.Errorf("%s from %s: %d, want %d; close %v", path, from, resp.StatusCode, want, resp.Close)
			}
		}
	}
	check("127.0.2.1", http.StatusServiceUnavailable)
	check("127.0.1.1", http.StatusTooManyRequests) // has as many as an address may have
	// Nor is the reserve held by those that say nothing.
	for i := range 150 {
		c, err := f.tryDial(fmt.Sprintf("127.0.3.%d", 1+i%100))
		if err == nil {
			defer c.Close()
		}
	}
	check("127.0.2.1", http.StatusServiceUnavailable)
	if text := f.log.String(); !strings.Contains(text, "why=connections") || !strings.Contains(text, "why=client-connections") {
		t.Errorf("it is not logged:\n%s", text)
	}
}

// A connection of the reserve is for a moment, whatever is sent over it.
func TestReserveIsNotHeld(t *testing.T) {
	f := serve(t, nil, frontOptions{server: conns.Options{Bounds: conns.Bounds{All: 8, PerClient: 1}, Timeouts: conns.Timeouts{Reserve: 50 * time.Millisecond}}})
	f.answer(f.send(f.dial(""), "GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n"), http.MethodGet)
	for _, raw := range []string{"", "GET /healthz HT"} {
		if !ended(f.dial(""), raw) {
			t.Errorf("after %q it is held", raw)
		}
	}
}

// Requests that name the server in other ways than by the Host header of HTTP/1.1.
func TestHostsInEveryForm(t *testing.T) {
	hosts, err := web.NewHosts(nil, true)
	if err != nil {
		t.Fatal(err)
	}
	f := serve(t, nil, frontOptions{site: web.Options{Hosts: hosts}})
	for raw, want := range map[string]int{
		"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n":                       200,
		"GET /v2/ HTTP/1.1\r\nhost: LOCALHOST.:80\r\n":                   200,
		"GET /v2/ HTTP/1.1\r\nHost: evil.example\r\n":                    421,
		"GET /v2/ HTTP/1.1\r\nHost: \r\n":                                421,
		"GET /v2/ HTTP/1.1\r\n":                                          400,
		"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n": 400,
		"GET /v2/ HTTP/1.0\r\n":                                          421,
		"GET /healthz HTTP/1.0\r\n":                                      200,
		"GET /v2/ HTTP/1.0\r\nHost: localhost\r\n":                       200,
		"GET http://evil.example/v2/ HTTP/1.1\r\nHost: localhost\r\n":    421,
		"GET http://localhost/v2/ HTTP/1.1\r\nHost: localhost\r\n":       200,
		"OPTIONS /v2/ HTTP/1.1\r\nHost: evil.example\r\n":                421,
		"GET //healthz HTTP/1.1\r\nHost: evil.example\r\n":               421,
		"GET /healthz/../v2/ HTTP/1.1\r\nHost: evil.example\r\n":         421,
	} {
		method, _, _ := strings.Cut(raw, " ")
		if resp, _ := f.answer(f.send(f.dial(""), raw+"Connection: close\r\n\r\n"), method); resp.StatusCode != want {
			t.Errorf("%q: %d, want %d", raw, resp.StatusCode, want)
		}
	}
}

// endless is a body that goes on until its client is cut off.
func endless(stopped chan<- struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		defer func() { stopped <- struct{}{} }()
		part := bytes.Repeat([]byte("x"), 1<<20)
		for {
			if _, err := w.Write(part); err != nil {
				return
			}
		}
	}
}

func TestClientThatReadsNothingIsCutOff(t *testing.T) {
	short := conns.Timeouts{Write: 240 * time.Millisecond}
	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(big, 1<<30); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan struct{}, 8)
	file := func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, big) // by the kernel
		stopped <- struct{}{}
	}
	const request = "GET /v2/big HTTP/1.1\r\nHost: localhost\r\n\r\n"
	for name, h := range map[string]http.HandlerFunc{"bytes": endless(stopped), "a file": file} {
		f := serve(t, h, frontOptions{server: conns.Options{Timeouts: short}})
		f.send(f.dial(""), request)
		await(t, name, stopped)
		f.send(f.dial(""), strings.Repeat(request, 50)) // one after the other: the first is enough
		await(t, name+", pipelined", stopped)
		if text := f.log.String(); !strings.Contains(text, "why=slow") {
			t.Errorf("%s: it is not logged:\n%s", name, text)
		}
		f = serve(t, h, frontOptions{server: conns.Options{Timeouts: short, TLS: certificate(t)}})
		for proto, http2 := range map[string]bool{"TLS": false, "HTTP/2": true} {
			transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: http2}
			if !http2 {
				transport.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+f.host+"/v2/big", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			if resp.ProtoMajor == 2 != http2 {
				t.Errorf("%s: it is %s", proto, resp.Proto)
			}
			await(t, name+" over "+proto, stopped)
			resp.Body.Close()
			transport.CloseIdleConnections()
		}
	}
}

func await(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(limit):
		t.Errorf("%s: the client is waited for", what)
	}
}

// When all places are taken by clients that read nothing, they give way before their time is over.
func TestStalledClientsGiveWay(t *testing.T) {
	const all, perClient = 16, 8
	stopped := make(chan struct{}, 2*all)
	f := serve(t, endless(stopped), frontOptions{server: conns.Options{Bounds: conns.Bounds{All: all, PerClient: perClient}, Timeouts: conns.Timeouts{Write: 6 * time.Second}}})
	for i := range all {
		f.send(f.dial(fmt.Sprintf("127.0.1.%d", 1+i%2)), "GET /v2/big HTTP/1.1\r\nHost: localhost\r\n\r\n")
	}
	for began := time.Now(); ; {
		if resp, _ := f.get("127.0.2.1", "/v2/"); resp.StatusCode == 200 {
			break
		}
		if time.Since(began) > limit {
			t.Fatal("nobody gives way")
		}
	}
}

// A client that opens streams in HTTP/2 and resets them at once has no more handlers than a connection may have,
// and others are answered.
func TestStreamsAreBounded(t *testing.T) {
	var mu sync.Mutex
	now, peak := 0, 0
	release := make(chan struct{})
	f := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		mu.Lock()
		now++
		peak = max(peak, now)
		mu.Unlock()
		<-release
		mu.Lock()
		now--
		mu.Unlock()
	}, frontOptions{server: conns.Options{TLS: certificate(t)}})
	defer close(release)
	c := tls.Client(f.dial(""), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	var attack strings.Builder
	attack.WriteString(preface)
	for i := range 3000 {
		stream := uint32(2*i + 1)
		attack.WriteString(frame(1, 5, stream, "\x82\x87\x44\x05/v2/x\x41\x09localhost") + frame(3, 0, stream, "\x00\x00\x00\x08"))
	}
	_, _ = io.WriteString(c, attack.String()) // fails when it is cut off, which is right, too
	_ = c.SetReadDeadline(time.Now().Add(limit))
	if !ended(c, "") {
		t.Error("the connection goes on")
	}
	mu.Lock()
	if peak > ofConnection {
		t.Errorf("%d handlers at once", peak)
	}
	mu.Unlock()
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+f.host+"/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}
