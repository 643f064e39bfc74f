package web_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"drayage/blobstore"
	"drayage/cmd/drayage/internal/web"
	"drayage/engine/mirror"
)

// guarded is a buffer that several goroutines write to.
type guarded struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (g *guarded) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.b.Write(p)
}

// take is what was written since the last time.
func (g *guarded) take() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	text := g.b.String()
	g.b.Reset()
	return text
}

// FuzzSite sends any bytes to the port of serve. It answers them or ends the connection, has no
// fault of its own, and writes nothing into its log that isn't printable.
func FuzzSite(f *testing.F) {
	store, err := blobstore.OpenWith(filepath.Join(f.TempDir(), "store"), blobstore.Options{NoSync: true})
	if err != nil {
		f.Fatal(err)
	}
	closing := make(chan struct{})
	close(closing)
	var log, faults guarded
	server := httptest.NewServer(web.Handler(web.Options{
		Store: store, Mirror: mirror.New(mirror.Options{Store: store}), Metrics: web.NewMetrics(), Log: slog.New(slog.NewTextHandler(&log, nil)), Closing: closing, Version: "1",
		Fault:  func(message string) { _, _ = faults.Write([]byte(message)) },
		Groups: func() []web.Group { return []web.Group{{Name: "a", Ready: true}} },
	}))
	f.Cleanup(server.Close)
	for _, s := range []string{
		"/", "/v2/", "/events", "/metrics", "/healthz", "/readyz", "/page.js", "/warm/a", "/warm/%2e%2e", "/warm/\x1b", "*", "//x", "http://other.example/v2/", "/v2/app/blobs/sha256:x", "/%00", "/v2/%0a/manifests/1", "/warm/a?x=%1b", "/debug/pprof/", "/..//v2/",
	} {
		f.Add([]byte("GET " + s + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
	}
	for _, s := range []string{
		"POST /v2/app/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", "CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "GET /", "\x16\x03\x01", "",
		"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Basic \x7f\r\nUser-Agent: \x1b[31m\r\n\r\n", "GET /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", "GET /v2/ HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\nGET /v2/ HTTP/1.1\r\n\r\n", "GET /v2/ HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	address := server.Listener.Addr().String()
	f.Fuzz(func(t *testing.T, raw []byte) {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(raw); err == nil {
			_ = conn.(*net.TCPConn).CloseWrite() // it may be closed already
		}
		in := bufio.NewReader(conn)
		for {
			resp, err := http.ReadResponse(in, &http.Request{Method: methodOf(raw)})
			if err != nil {
				var slow net.Error
				if errors.As(err, &slow) && slow.Timeout() {
					t.Errorf("%q gets no answer", raw)
				}
				break // the connection has ended, or another method's answer has no body
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			// A client that says no more may be taken for one that has left, and what looks into the
			// store ends.
			left := string(body) == "the store can't be read\n"
			if resp.StatusCode >= 500 && !left && resp.StatusCode != http.StatusNotImplemented && resp.StatusCode != http.StatusHTTPVersionNotSupported {
				t.Errorf("%q: %s", raw, resp.Status)
			}
			if err != nil {
				break
			}
		}
		if text := faults.take(); text != "" {
			t.Errorf("%q: %s", raw, text)
		}
		for line := range strings.Lines(log.take()) {
			if strings.ContainsFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return !unicode.IsPrint(r) }) || !strings.HasPrefix(line, "time=") {
				t.Errorf("%q: the log has %q", raw, line)
			}
		}
	})
}

// methodOf is the method of the first request, which says whether its answer has a body.
func methodOf(raw []byte) string {
	method, _, _ := strings.Cut(string(raw), " ")
	return method
}
