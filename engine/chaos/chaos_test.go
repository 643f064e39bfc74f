package chaos

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pipe is a connection of a proxy, without a network.
func pipe(o Options) (client net.Conn, server *conn, p *Proxy) {
	p = New(nil, o)
	a, b := net.Pipe()
	return a, p.wrap(b), p
}

func TestRatesAndLatency(t *testing.T) {
	const size = 1 << 20
	for _, c := range []struct {
		name     string
		o        Options
		at, most time.Duration
	}{
		{"none", Options{}, 0, 0},
		{"each connection", Options{RatePerConnection: 256 << 10}, 3800 * time.Millisecond, 4 * time.Second},
		{"all together", Options{Rate: 512 << 10}, 1900 * time.Millisecond, 2 * time.Second},
		{"a slow one", Options{RatePerConnection: 1 << 30, Slow: 1, SlowRate: 128 << 10}, 7800 * time.Millisecond, 8 * time.Second},
		{"two round trips before the first answer", Options{Latency: 100 * time.Millisecond}, 200 * time.Millisecond, 200 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			client, server, _ := pipe(c.o)
			start := time.Now()
			go func() {
				server.Read(make([]byte, 10))
				server.Write(make([]byte, size))
				server.Close()
			}()
			client.Write([]byte("GET"))
			n, err := io.Copy(io.Discard, client)
			if took := time.Since(start); n != size || err != nil || took < c.at || took > c.most {
				t.Errorf("%s: %d bytes after %v, %v; want it after %v", c.name, n, took, err, c.most)
			}
		})
	}
}

// The same seed draws the same; about N is half of it to one and a half.
func TestConnectionsEndWhereTheSeedSays(t *testing.T) {
	const about = 100_000
	lengths := func(seed uint64, o Options) []int64 {
		o.Seed = seed
		p := New(nil, o)
		var out []int64
		for range 20 {
			a, b := net.Pipe()
			c := p.wrap(b)
			go c.Write(make([]byte, 10*about))
			n, _ := io.Copy(io.Discard, a)
			out = append(out, n)
			c.Close()
		}
		return out
	}
	for name, o := range map[string]Options{"reset": {ResetAfter: about}, "close": {CloseAfter: about}} {
		first, again, other := lengths(1, o), lengths(1, o), lengths(2, o)
		if fmt.Sprint(first) != fmt.Sprint(again) || fmt.Sprint(first) == fmt.Sprint(other) {
			t.Errorf("%s: %v, %v, %v", name, first, again, other)
		}
		for _, n := range first {
			if n < about/2 || n > about*3/2 {
				t.Errorf("%s: after %d bytes", name, n)
			}
		}
	}
}

func TestAStallEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server, p := pipe(Options{StallAfter: 1000, StallFor: 20 * time.Second})
		start := time.Now()
		go func() { server.Write(make([]byte, 5000)); server.Close() }()
		if n, err := io.Copy(io.Discard, client); n != 5000 || err != nil || time.Since(start) != 20*time.Second || p.stats.Stalls.Load() != 1 {
			t.Errorf("%d bytes after %v, %v", n, time.Since(start), err)
		}
	})
}

func TestAStallEndsWithTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server, p := pipe(Options{StallAfter: 1000})
		wrote := make(chan error, 1)
		go func() { _, err := server.Write(make([]byte, 5000)); wrote <- err }()
		go func() { server.Read(make([]byte, 10)) }() // as an HTTP server does meanwhile
		if _, err := io.ReadFull(client, make([]byte, 500)); err != nil {
			t.Fatal(err)
		}
		go func() {
			if _, err := io.Copy(io.Discard, client); err == nil {
				t.Error("the connection ended by itself")
			}
		}()
		synctest.Wait()
		client.Close()
		synctest.Wait()
		select {
		case err := <-wrote:
			if err == nil || p.stats.Stalls.Load() != 1 {
				t.Errorf("%v after %d stalls", err, p.stats.Stalls.Load())
			}
		default:
			t.Error("the stall goes on")
			server.Close()
		}
	})
}

// listen serves a proxy in front of a server of one file.
func listen(t *testing.T, content []byte, o Options) (base string, p *Proxy) {
	t.Helper()
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "private") && r.Header.Get("Authorization") == "" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}))
	t.Cleanup(upstream.Close)
	p, err := NewProxy(upstream.URL, o)
	if err != nil {
		t.Fatal(err)
	}
	host, stop, err := p.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return "http://" + host, p
}

func get(t *testing.T, url string, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, raw}
}

// answer is a response, read to its end.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func TestHTTPFaults(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 10_000)
	for _, c := range []struct {
		name   string
		o      Options
		status int
		rng    string // Content-Range
		same   bool   // the body is what was asked for
	}{
		{"a good link", Options{}, 206, "bytes 10-99/100000", true},
		{"range ignored", Options{IgnoreRange: 1}, 200, "", false},
		{"wrong range", Options{WrongRange: 1}, 206, "bytes 11-99/100000", true},
		{"bit flips", Options{FlipEvery: 20}, 206, "bytes 10-99/100000", false},
		{"errors", Options{Errors: 1, ErrorStatus: []int{502}, RetryAfter: "7"}, 502, "", false},
	} {
		base, _ := listen(t, content, c.o)
		a := get(t, base+"/file", "Range", "bytes=10-99")
		if a.status != c.status || a.header.Get("Content-Range") != c.rng || bytes.Equal(a.body, content[10:100]) != c.same {
			t.Errorf("%s: %d %q, %d bytes", c.name, a.status, a.header.Get("Content-Range"), len(a.body))
		}
		if c.status == 502 && a.header.Get("Retry-After") != "7" {
			t.Errorf("%s: Retry-After %q", c.name, a.header.Get("Retry-After"))
		}
		raw := get(t, base+statsPath).body
		var stats map[string]int64
		if err := json.Unmarshal(raw, &stats); err != nil || stats["requests"] != 1 || stats["bytes_sent"] < int64(len(a.body)) || stats["connections"] < 1 {
			t.Errorf("%s: %s, %v", c.name, raw, err)
		}

	}
}

func TestStormsLastAsLongAsTold(t *testing.T) {
	base, p := listen(t, []byte("x"), Options{Seed: 3, Errors: 0.1, StormLength: 4})
	run, runs := 0, map[int]int{}
	for range 300 {
		if get(t, base).status != 200 {
			run++
			continue
		}
		if run > 0 {
			runs[run]++
		}
		run = 0
	}
	for n := range runs {
		if n%4 != 0 {
			t.Errorf("storms of %v requests", runs)
		}
	}
	if len(runs) == 0 || p.Stats().Errors.Load() == 0 {
		t.Error("no storm")
	}
}

func TestSignedURLsExpireAndTakeNoAuthorization(t *testing.T) {
	base, p := listen(t, []byte("private content"), Options{RedirectLife: time.Hour})
	a := get(t, base+"/v2/private/blobs/sha256:x", "Authorization", "Bearer x")
	location := a.header.Get("Location")
	if a.status != 307 || location == "" {
		t.Fatalf("%d, to %q", a.status, location)
	}
	if a := get(t, location); a.status != 200 || string(a.body) != "private content" {
		t.Errorf("%d %q", a.status, a.body)
	}
	if a := get(t, location, "Authorization", "Bearer x"); a.status != 400 {
		t.Errorf("with Authorization: %d, want 400", a.status)
	}
	if a := get(t, location+"x"); a.status != 403 {
		t.Errorf("with another signature: %d, want 403", a.status)
	}
	before, _, _ := strings.Cut(location, "?")
	old := fmt.Sprint(time.Now().Add(-time.Minute).Unix())
	path := strings.TrimPrefix(before, p.storage)
	if a := get(t, before+"?Expires="+old+"&Signature="+p.sign(path, old)); a.status != 403 || p.stats.Expired.Load() != 1 {
		t.Errorf("expired: %d, want 403", a.status)
	}
}

func TestUpstreams(t *testing.T) {
	for upstream, good := range map[string]bool{
		"localhost:5000": true, "http://h": true, "https://h:1": true, "ftp://h": false, "": false, "http://": false,
	} {
		if _, err := NewProxy(upstream, Options{}); (err == nil) != good {
			t.Errorf("%q: %v", upstream, err)
		}
	}
}
