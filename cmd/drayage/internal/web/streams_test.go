package web_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"drayage/cmd/drayage/internal/conns"
	"drayage/cmd/drayage/internal/limits"
)

// Kinds and flags of frames (RFC 9113, section 6).
const (
	data, headers, reset, settings, window = 0, 1, 3, 4, 8
	endStream, endHeaders                  = 1, 4
)

// client2 is a connection in HTTP/2 that sends what a test has it send.
type client2 struct {
	t *testing.T
	c *tls.Conn
	r *bufio.Reader
}

// dial2 connects from an address, as a client that takes nothing of an answer before it says so.
func (f *front) dial2(from string) *client2 {
	f.t.Helper()
	c := tls.Client(f.dial(from), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	out := &client2{f.t, c, bufio.NewReader(c)}
	out.send(preface + frame(settings, 0, 0, "\x00\x04\x00\x00\x00\x00")) // INITIAL_WINDOW_SIZE
	return out
}

func (c *client2) send(raw string) {
	c.t.Helper()
	if _, err := io.WriteString(c.c, raw); err != nil {
		c.t.Fatal(err)
	}
}

// ask2 asks for a path.
func ask2(stream uint32, path string) string {
	return frame(headers, endHeaders|endStream, stream, "\x82\x87\x44"+string(rune(len(path)))+path+"\x41\x09localhost")
}

// more lets a client have more of an answer, or of all over the connection.
func more(stream, n uint32) string {
	return frame(window, 0, stream, string(binary.BigEndian.AppendUint32(nil, n)))
}

type frame2 struct {
	kind, flags byte
	stream      uint32
	payload     []byte
}

func (c *client2) next() (frame2, error) {
	var head [9]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return frame2{}, err
	}
	payload := make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))
	_, err := io.ReadFull(c.r, payload)
	return frame2{head[3], head[4], binary.BigEndian.Uint32(head[5:]), payload}, err
}

// ok reports whether a header begins with status 200 (RFC 7541, appendix A).
func (f frame2) ok() bool { return f.kind == headers && f.payload[0] == 0x88 }

// answers reads until so many streams have either begun to be answered or been refused, and ended.
func (c *client2) answers(n int) (begun, refused int) {
	c.t.Helper()
	for begun+refused < n {
		switch f, err := c.next(); {
		case err != nil:
			c.t.Fatalf("%d are answered, %d refused: %v", begun, refused, err)
		case f.ok():
			begun++
		case (f.kind == headers || f.kind == data) && f.flags&endStream != 0, f.kind == reset:
			refused++
		}
	}
	return begun, refused
}

// get2 asks from an address by HTTP/2 as any client does.
func (f *front) get2(from, path string) int {
	f.t.Helper()
	c := f.dial2(from)
	defer c.c.Close()
	c.send(ask2(1, path))
	begun, _ := c.answers(1)
	if begun == 1 {
		return http.StatusOK
	}
	return http.StatusServiceUnavailable
}

// under is how many goroutines have a function on their stack.
func under(function string) int {
	var all bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&all, 2) // to memory
	n := 0
	for _, one := range strings.Split(all.String(), "\n\n") {
		if strings.Contains(one, function) {
			n++
		}
	}
	return n
}

// holding is a mirror whose answers are endless, and which notes how many are under way.
func holding(now *atomic.Int64) http.HandlerFunc {
	part := bytes.Repeat([]byte("x"), 1<<20)
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		now.Add(1)
		defer now.Add(-1)
		for {
			if _, err := w.Write(part); err != nil {
				return
			}
		}
	}
}

const ofConnection, ofAddress, ofAll = 32, 512, 4096

// A client that takes nothing of many answers has as many streams as an address may have, and what
// is refused waits for nothing.
func TestRefusedStreamsAreOver(t *testing.T) {
	var now atomic.Int64
	f := serve(t, holding(&now), frontOptions{server: conns.Options{TLS: certificate(t), Timeouts: conns.Timeouts{Write: time.Hour}}})
	const more = ofAddress / 2
	begun, refused := 0, 0
	for range (ofAddress + more) / ofConnection {
		c := f.dial2("127.0.1.1")
		var asks strings.Builder
		for i := range ofConnection {
			asks.WriteString(ask2(uint32(2*i+1), "/v2/big"))
		}
		c.send(asks.String())
		b, r := c.answers(ofConnection)
		begun, refused = begun+b, refused+r
	}
	if begun != ofAddress || refused != more {
		t.Errorf("%d streams are answered, %d refused", begun, refused)
	}
	if n := now.Load(); n != ofAddress {
		t.Errorf("%d answers are under way", n)
	}
	const few = 8 // that are just ending
	if n := under("runHandler"); n > ofAddress+few {
		t.Errorf("%d streams are there for %d answers", n, ofAddress)
	}
	if status := f.get2("127.0.2.1", "/v2/"); status != http.StatusOK {
		t.Errorf("another address gets %d", status)
	}
	if text := f.log.String(); !strings.Contains(text, "why=streams client=127.0.1.1") {
		t.Errorf("it isn't noted:\n%s", text)
	}
}

// When addresses have taken all streams and take nothing of their answers, they give way to others.
func TestStalledStreamsGiveWay(t *testing.T) {
	var now atomic.Int64
	hold := holding(&now)
	waiting, release := make(chan struct{}, ofAll), make(chan struct{})
	f := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/wait" {
			hold(w, r)
			return
		}
		_ = http.NewResponseController(w).Flush()
		waiting <- struct{}{}
		<-release
	}, frontOptions{server: conns.Options{TLS: certificate(t), Timeouts: conns.Timeouts{Write: 2 * limit}}})
	defer close(release)
	for i := range ofAll / ofConnection {
		c := f.dial2(fmt.Sprintf("127.0.1.%d", 1+i/(ofAddress/ofConnection)))
		for i := range ofConnection {
			c.send(ask2(uint32(2*i+1), "/v2/big"))
		}
		c.answers(ofConnection)
	}
	if n := now.Load(); n != ofAll {
		t.Fatalf("%d answers are under way", n)
	}
	const wants = 2 * ofConnection // more than there is room for beside
	has := 0
	c := f.dial2("127.0.2.1")
	for stream, began := uint32(1), time.Now(); has < wants; stream += 2 {
		if time.Since(began) > limit {
			t.Fatalf("%d of another address are answered, and nobody gives way:\n%s", has, f.log)
		}
		if has == ofConnection && stream > 1 {
			c, stream = f.dial2("127.0.2.1"), 1
		}
		c.send(ask2(stream, "/v2/wait"))
		begun, _ := c.answers(1)
		if has += begun; begun > 0 && has == ofConnection {
			stream = 1<<31 - 1 // the next has another connection
		}
	}
	for range wants {
		await(t, "a request", waiting)
	}
	if text := f.log.String(); !strings.Contains(text, "why=gave-way client=127.0.1.") || strings.Contains(text, "why=slow") {
		t.Errorf("they don't give way:\n%s", text)
	}
}

// What a client has to take of an answer is the same in HTTP/2 as in HTTP/1: else the connection is
// closed, or the answer ended where the client takes others.
func TestSlowStreamsAreEnded(t *testing.T) {
	const write = 2 * time.Second
	var now atomic.Int64
	f := serve(t, holding(&now), frontOptions{server: conns.Options{TLS: certificate(t), Timeouts: conns.Timeouts{Write: write}}})
	c := f.dial2("")
	c.send(ask2(1, "/v2/big") + ask2(3, "/v2/big"))
	if !ended(c.c, "") {
		t.Error("a connection over which nothing is taken goes on")
	}
	c = f.dial2("")
	const plenty = 1 << 30
	c.send(ask2(1, "/v2/big") + ask2(3, "/v2/big") + more(0, plenty))
	for had, gone := 0, 0; gone == 0 || had < gone+10; {
		switch got, err := c.next(); {
		case err != nil:
			t.Fatalf("the connection ends with %v when the client has taken %d parts:\n%s", err, had, f.log)
		case got.kind == reset && got.stream == 1 && gone == 0:
			gone = had
		case got.kind == reset:
			t.Fatalf("the stream %d is ended", got.stream)
		case got.kind == headers && got.stream == 3:
			c.send(more(3, 64<<10))
		case got.kind == data && got.stream == 3:
			had++
			c.send(more(3, uint32(len(got.payload))))
		}
	}
	c.c.Close()
	if text := f.log.String(); strings.Count(text, "why=slow") != 2 {
		t.Errorf("want two lines about slow clients:\n%s", text)
	}
}

// Who asks in order to reset each request is cut off, whatever else it asks for now and then; who
// resets one after another that it took is not.
func TestResetsAreBounded(t *testing.T) {
	f := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}, frontOptions{server: conns.Options{TLS: certificate(t)}})
	const most, cancel = 64, "\x00\x00\x00\x08"
	for _, every := range []int{1, 2, 10} { // so many requests are there for one that is taken whole
		c, lives := f.dial2(""), true
		stream := uint32(1)
		for i := 0; lives && i < 3*most; i++ {
			if every > 1 && i%every == 0 {
				if _, err := io.WriteString(c.c, ask2(stream, "/v2/")); err != nil {
					lives = false
				}
				for over := false; lives && !over; {
					got, err := c.next()
					if err != nil {
						lives = false
						break
					}
					over = got.stream == stream && got.flags&endStream != 0
				}
				stream += 2
				continue
			}
			raw := ask2(stream, "/v2/wait")
			if _, err := io.WriteString(c.c, raw); err != nil {
				lives = false
				break
			}
			for begun := false; !begun; {
				got, err := c.next()
				if err != nil {
					lives = false
					break
				}
				begun = got.ok() && got.stream == stream
			}
			if _, err := io.WriteString(c.c, frame(reset, 0, stream, cancel)); err != nil {
				lives = false
			}
			stream += 2
		}
		if want := every == 2; lives != want {
			t.Errorf("with one of %d that is taken whole, the connection lives on: %v", every, lives)
		}
	}
	if text := f.log.String(); strings.Count(text, "why=http2") != 2 || !strings.Contains(text, "client=127.0.0.1") {
		t.Errorf("want two lines:\n%s", text)
	}
}

// What http.Server answers by itself waits for no window either.
func TestStreamsThatNoHandlerSeesAreEnded(t *testing.T) {
	f := serve(t, nil, frontOptions{server: conns.Options{TLS: certificate(t), Timeouts: conns.Timeouts{Header: 300 * time.Millisecond}}})
	c := f.dial2("")
	c.send(ask2(1, "/v2/")) // a connection without any is ended
	c.answers(1)
	const size = 127 + 7 + 100<<7 // as below
	field := "\x00\x01x\x7f\x87\x64" + strings.Repeat("x", size)
	c.send(frame(headers, endStream, 3, "\x82\x87\x44\x04/v2/\x41\x09localhost") + strings.Repeat(frame(9, 0, 3, field), limits.RequestHeaderBytes/size) + frame(9, endHeaders, 3, field))
	for {
		got, err := c.next()
		if err != nil {
			t.Fatal(err)
		}
		if got.kind == reset && got.stream == 3 {
			break
		}
	}
}

// An address has some connections in HTTP/2, and then others in HTTP/1.1; when those are closed, it has
// others again.
func TestConnectionsInHTTP2AreBounded(t *testing.T) {
	f := serve(t, nil, frontOptions{server: conns.Options{TLS: certificate(t)}})
	speaks := func(from string) (string, *tls.Conn) {
		t.Helper()
		c := tls.Client(f.dial(from), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
		if err := c.HandshakeContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		return c.ConnectionState().NegotiatedProtocol, c
	}
	const most = 64
	var all []*tls.Conn
	for i := range most + 2 {
		got, c := speaks("127.0.1.1")
		if want := i < most; (got == "h2") != want {
			t.Fatalf("connection %d speaks %q", i+1, got)
		}
		all = append(all, c)
	}
	last := all[most]
	if resp, _ := f.answer(f.send(last, "GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n"), http.MethodGet); resp.StatusCode != http.StatusOK {
		t.Errorf("in HTTP/1.1 it gets %d", resp.StatusCode)
	}
	if got, _ := speaks("127.0.2.1"); got != "h2" {
		t.Errorf("another address speaks %q", got)
	}
	for _, c := range all {
		c.Close()
	}
	for began := time.Now(); ; {
		if got, _ := speaks("127.0.1.1"); got == "h2" {
			break
		}
		if time.Since(began) > limit {
			t.Fatal("it has none again")
		}
	}
}
