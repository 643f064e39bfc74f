package web_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"drayage/cmd/drayage/internal/conns"
	"drayage/cmd/drayage/internal/limits"
)

// What http.Server refuses before a handler sees it has a line in the log, with its client, and is
// counted; who leaves between requests is not refused.
func TestRefusalsThatNoHandlerSeesAreNoted(t *testing.T) {
	const (
		get  = "GET /v2/ HTTP/1.1\r\nHost: localhost\r\n"
		late = 200 * time.Millisecond
	)
	huge := strings.Repeat("x", 3*limits.RequestHeaderBytes)
	secure := func(protocols ...string) func(net.Conn) net.Conn {
		return func(c net.Conn) net.Conn {
			return tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: protocols})
		}
	}
	plain := func(c net.Conn) net.Conn { return c }
	for name, c := range map[string]struct {
		tls   bool
		wrap  func(net.Conn) net.Conn
		raw   string
		leave bool // the client ends it
		want  string
	}{
		"a large header":               {wrap: plain, raw: get + "X: " + huge + "\r\n\r\n", want: "header"},
		"a large header after others":  {wrap: plain, raw: get + "\r\n" + get + "X: " + huge + "\r\n\r\n", want: "header"},
		"a large header over TLS":      {tls: true, wrap: secure("http/1.1"), raw: get + "X: " + huge + "\r\n\r\n", want: "header"},
		"half a header":                {wrap: plain, raw: get, want: "timeout"},
		"half a header over TLS":       {tls: true, wrap: secure("http/1.1"), raw: get, want: "timeout"},
		"half a header after others":   {wrap: plain, raw: get + "\r\n" + get, want: "timeout"},
		"nothing":                      {wrap: plain, want: "timeout"},
		"nothing over TLS":             {tls: true, wrap: plain, want: "timeout"},
		"half a handshake":             {tls: true, wrap: plain, raw: "\x16\x03\x01", want: "timeout"},
		"no HTTP":                      {wrap: plain, raw: "\x00\x01\x02\r\n\r\n", want: "malformed"},
		"no HTTP over TLS":             {tls: true, wrap: secure("http/1.1"), raw: "\x00\x01\x02\r\n\r\n", want: "malformed"},
		"a coding that isn't known":    {wrap: plain, raw: get + "Transfer-Encoding: x\r\n\r\n", want: "malformed"},
		"two hosts":                    {wrap: plain, raw: get + "Host: evil.example\r\n\r\n", want: "malformed"},
		"HTTP to HTTPS":                {tls: true, wrap: plain, raw: get + "\r\n", want: "tls"},
		"no TLS":                       {tls: true, wrap: plain, raw: "SSH-2.0-OpenSSH_9.9\r\n", want: "tls"},
		"no HTTP/2":                    {tls: true, wrap: secure("h2"), raw: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x07\x00\x00\x00\x00\x00", want: "http2"},
		"who connects and leaves":      {wrap: plain, leave: true},
		"who leaves before the end":    {wrap: plain, raw: get, leave: true, want: "malformed"},
		"who leaves TLS":               {tls: true, wrap: plain, leave: true},
		"who leaves before a request":  {tls: true, wrap: secure("http/1.1"), leave: true},
		"who leaves the header in TLS": {tls: true, wrap: secure("http/1.1"), raw: get, leave: true, want: "malformed"},
		"who is answered":              {wrap: plain, raw: get + "Connection: close\r\n\r\n"},
		"who is answered over TLS":     {tls: true, wrap: secure("http/1.1"), raw: get + "Connection: close\r\n\r\n"},
	} {
		closed := make(chan struct{}, 1)
		o := frontOptions{closed: closed, server: conns.Options{Timeouts: conns.Timeouts{Header: late, Idle: limit}}}
		if c.leave || c.want != "timeout" {
			o.server.Timeouts.Header = limit
		}
		if c.tls {
			o.server.TLS = certificate(t)
		}
		f := serve(t, nil, o)
		conn := c.wrap(f.dial(""))
		if _, err := io.WriteString(conn, c.raw); err != nil && c.want != "header" { // which is answered before its end
			t.Fatalf("%s: %v", name, err)
		}
		if secured, ok := conn.(*tls.Conn); ok {
			if err := secured.HandshakeContext(context.Background()); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if !c.leave {
			if _, err := io.Copy(io.Discard, conn); os.IsTimeout(err) {
				t.Fatalf("%s: it isn't ended: %v", name, err)
			}
		}
		conn.Close()
		<-closed
		text := f.log.String()
		switch {
		case c.want == "" && text != "":
			t.Errorf("%s: a refusal is noted:\n%s", name, text)
		case c.want != "" && (strings.Count(text, "\n") != 1 || !strings.Contains(text, "why="+c.want+" ") || c.want != "http2" && !strings.Contains(text, "client=127.0.0.1")):
			t.Errorf("%s: want %s of the client, once:\n%s", name, c.want, text)
		}
	}
}

// In HTTP/2, too, where the connection lives on.
func TestLargeHeadersByHTTP2AreNoted(t *testing.T) {
	closed := make(chan struct{}, 1)
	f := serve(t, nil, frontOptions{closed: closed, server: conns.Options{TLS: certificate(t)}})
	c := tls.Client(f.dial(""), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	const (
		fields   = "\x82\x87\x44\x04/v2/\x41\x09localhost" // of a request
		size     = 127 + 7 + 100<<7                        // as below
		longer   = "\x00\x01x\x7f\x87\x64"                 // a field of the name x with so long a value
		fits     = 1
		tooLarge = limits.RequestHeaderBytes/size + 1
	)
	stream := uint32(1)
	for _, n := range []int{fits, tooLarge, fits} {
		var raw strings.Builder
		if stream == 1 {
			raw.WriteString(preface)
		}
		raw.WriteString(frame(1, 1, stream, fields))
		for i := range n {
			end := byte(0)
			if i == n-1 {
				end = 4
			}
			raw.WriteString(frame(9, end, stream, longer+strings.Repeat("x", size)))
		}
		if _, err := io.WriteString(c, raw.String()); err != nil {
			t.Fatal(err)
		}
		for answered := false; !answered; { // until the stream has ended
			var head [9]byte
			if _, err := io.ReadFull(c, head[:]); err != nil {
				t.Fatalf("with %d fields: %v", n, err)
			}
			long := int64(head[0])<<16 | int64(head[1])<<8 | int64(head[2])
			if _, err := io.CopyN(io.Discard, c, long); err != nil {
				t.Fatal(err)
			}
			answered = head[3] <= 1 && head[4]&1 != 0
		}
		stream += 2
	}
	c.Close()
	<-closed
	if text := f.log.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "why=header client=127.0.0.1") {
		t.Errorf("want one refusal:\n%s", text)
	}
}
