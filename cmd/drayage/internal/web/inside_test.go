package web

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"drayage/engine/event"
	"drayage/engine/limitstest"
	"drayage/engine/mirror"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
)

func from(address string) source { return sourceOf(net.JoinHostPort(address, "1")) }

// Nobody gets a new allowance by coming from many addresses, and what is known of them is bounded.
func TestBucketsAreBounded(t *testing.T) {
	now := time.Unix(1e9, 0)
	b := newBuckets(1, 5, 100)
	key := func(i int) netip.Prefix { return from(fmt.Sprintf("10.%d.%d.1", i/256, i%256)).network }
	spend := func(i int) (n int) {
		for n < 1000 && b.take(key(i), now) == 0 {
			n++
		}
		return n
	}
	if n := spend(0); n != 5 {
		t.Fatalf("one has %d", n)
	}
	total := 0
	for i := 1; i < 5000; i++ {
		total += spend(i)
	}
	if most := 99*5 + crowd*5; total != most || len(b.known) > 100 {
		t.Errorf("others have %d, want %d; %d are known", total, most, len(b.known))
	}
	if n := spend(0); n != 0 {
		t.Errorf("the first has %d again", n)
	}
	now = now.Add(2 * time.Second)
	if n := spend(0); n != 2 {
		t.Errorf("after two seconds it has %d", n)
	}
	now = now.Add(time.Hour)
	if n := spend(9999); n != 5 || len(b.known) > 100 {
		t.Errorf("a new one has %d after an hour, and %d are known", n, len(b.known))
	}
	b.spend(key(9999), now) // though there is none
	if short, long := b.until(key(9999), 1, now), b.until(key(9999), 3, now); short != 2*time.Second || long != 4*time.Second {
		t.Errorf("there will be one in %s and three in %s", short, long)
	}
	if wait := b.until(key(8888), 5, now); wait != 0 || len(b.known) > 100 {
		t.Errorf("who has taken none has to wait for %s", wait)
	}
}

func TestMemoryOfAddressesIsBounded(t *testing.T) {
	const most = 64 << 20
	limitstest.Within(t, most, func() {
		c := newClients(Limits{Requests: 5, Bytes: 1 << 20})
		now := time.Now()
		for i := range 300_000 {
			s := sourceOf(fmt.Sprintf("[2001:db8:%x:%x::1]:1", i/65536, i%65536))
			c.request(s, false, now)
			c.request(s, true, now)
			c.bytesTo(s)
		}
	})
}

func TestSourcesOfRequests(t *testing.T) {
	for remote, want := range map[string]source{
		"10.1.2.3:80":               {netip.MustParsePrefix("10.1.2.3/32"), netip.MustParsePrefix("10.1.2.3/32")},
		"[::ffff:10.1.2.3]:80":      {netip.MustParsePrefix("10.1.2.3/32"), netip.MustParsePrefix("10.1.2.3/32")},
		"[2001:db8::1]:80":          {netip.MustParsePrefix("2001:db8::1/128"), netip.MustParsePrefix("2001:db8::/64")},
		"[fe80::1%eth0]:80":         {netip.MustParsePrefix("fe80::1/128"), netip.MustParsePrefix("fe80::/64")},
		"@":                         {},
		"":                          {},
		"[2001:db8:0:1:ffff::2]:80": {netip.MustParsePrefix("2001:db8:0:1:ffff::2/128"), netip.MustParsePrefix("2001:db8:0:1::/64")},
	} {
		if got := sourceOf(remote); got != want {
			t.Errorf("%s: %v, want %v", remote, got, want)
		}
	}
}

func TestDefaultRateIsNotForThisMachine(t *testing.T) {
	now := time.Unix(1e9, 0)
	c := newClients(Limits{Requests: 200, Burst: 2000, FreeLoopback: true})
	for address, want := range map[string]int{"127.0.0.1": 5000, "127.1.2.3": 5000, "::1": 5000, "10.0.0.1": 2000, "2001:db8::1": 2000} {
		n := 0
		for range 5000 {
			if c.request(from(address), false, now) == 0 {
				n++
			}
		}
		if n != want {
			t.Errorf("%s has %d requests at once, want %d", address, n, want)
		}
	}
}

// All addresses of an IPv6 network together may not have everything.
func TestNetworkIsNoWayRoundBounds(t *testing.T) {
	now := time.Unix(1e9, 0)
	c := newClients(Limits{Requests: 10})
	n := 0
	for i := range 10_000 {
		if c.request(from(fmt.Sprintf("2001:db8::%x", i+1)), false, now) == 0 {
			n++
		}
	}
	if n != crowd*10 {
		t.Errorf("a network has %d requests a second", n)
	}
	if c.request(from("2001:db8:1::1"), false, now) != 0 || c.request(from("10.0.0.1"), false, now) != 0 {
		t.Error("others have none")
	}
	p := newPlaces(Bounds{All: 100, PerClient: 20}, Timeouts{}.orDefaults(), nil)
	for i := range 100 {
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		if c := p.enter(a, from(fmt.Sprintf("2001:db8::%x", i+1))); c != nil {
			c.state = http.StateActive
		}
	}
	if n := p.count(); n != 50 {
		t.Errorf("a network has %d places of 100", n)
	}
}

// A client that takes what it gets, however slowly, gets all of it; one that takes next to nothing
// doesn't.
func TestSlowClientsAreWaitedFor(t *testing.T) {
	for name, c := range map[string]struct {
		bytes int // a second
		all   bool
	}{"a slow line": {1 << 10, true}, "a few bytes": {20, false}, "nothing": {0, false}} {
		synctest.Test(t, func(t *testing.T) {
			here, there := net.Pipe()
			p := newPlaces(Bounds{}, Timeouts{}.orDefaults(), nil)
			conn := p.enter(here, source{})
			var took atomic.Int64
			conn.acked = func() (int64, bool) { return took.Load(), true }
			reading := make(chan struct{})
			go func() {
				defer close(reading)
				for c.bytes > 0 {
					n, err := io.ReadFull(there, make([]byte, c.bytes))
					took.Add(int64(n))
					if err != nil {
						return
					}
					time.Sleep(time.Second)
				}
			}()
			const size = 3 << 20
			began := time.Now()
			n, err := conn.Write(make([]byte, size))
			if (err == nil && n == size) != c.all {
				t.Errorf("%s: %d bytes, %v", name, n, err)
			}
			if most := 3 * time.Minute; !c.all && time.Since(began) > most {
				t.Errorf("%s: held for %s", name, time.Since(began))
			}
			there.Close()
			conn.Close()
			<-reading
		})
	}
}

func TestHostsOfRequests(t *testing.T) {
	local, err := NewHosts([]string{"Mirror.Example", "10.1.2.3", "other.example:5000"}, true)
	if err != nil {
		t.Fatal(err)
	}
	far, err := NewHosts([]string{"mirror.example"}, false)
	if err != nil {
		t.Fatal(err)
	}
	for header, want := range map[string][2]bool{
		"localhost": {true, false}, "localhost:5000": {true, false}, "LocalHost.:5000": {true, false}, "127.0.0.1": {true, false}, "127.9.8.7:80": {true, false},
		"[::1]:5000": {true, false}, "[::1]": {true, false}, "[::ffff:127.0.0.1]:5000": {true, false}, "[0:0::1]": {true, false},
		"mirror.example": {true, true}, "MIRROR.example.:443": {true, true}, "mirror.example:": {true, true}, "10.1.2.3:5000": {true, false}, "other.example": {true, false},
		"": {}, ":5000": {}, "evil.example": {}, "evil.example:5000": {}, "localhost.evil.example": {}, "127.0.0.1.evil.example": {}, "mirror.example.evil": {}, "xmirror.example": {},
		"10.1.2.4": {}, "[::2]": {}, "[::1": {}, "localhost:5000:80": {}, "localhost:x": {}, "user@localhost": {}, "0.0.0.0": {}, "[::]": {}, "127.1": {}, "2130706433": {}, "0x7f.0.0.1": {}, "localhost/": {}, "localhost..": {},
	} {
		if got := [2]bool{local.Allows(header), far.Allows(header)}; got != want {
			t.Errorf("%q: %v, want %v", header, got, want)
		}
	}
	for _, any := range [][]string{nil, {"*"}, {"x.example", "*"}} {
		h, err := NewHosts(any, len(any) > 0)
		if err != nil || !h.Allows("evil.example") || !h.Allows("") {
			t.Errorf("%q: %v", any, err)
		}
	}
	for _, bad := range []string{"", "http://mirror.example", "a b", "*.example", "a:b:c"} {
		if _, err := NewHosts([]string{bad}, false); err == nil {
			t.Errorf("%q is taken for a name", bad)
		}
	}
}

// A flood of refusals is some lines a second, with how many there were.
func TestFloodOfRefusalsIsAFewLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		r := NewRefusals(slog.New(slog.NewTextHandler(&out, nil)), nil)
		long := strings.Repeat("\x1b[31mx\n", 2000)
		for range 3 {
			for range 1000 {
				r.note(refusal{why: "password", from: from("10.0.0.1"), status: 401, user: long, method: long, host: long, path: long, agent: long})
			}
			time.Sleep(2 * time.Second)
		}
		r.note(refusal{why: "rate", status: 429})
		for range 20 {
			r.note(refusal{why: "slow"})
		}
		r.Close()
		text := out.String()
		if n := strings.Count(text, "\n"); n > 3*11+1+11 {
			t.Errorf("%d lines", n)
		}
		for _, want := range []string{"why=password more=990", "why=rate", "why=slow more=10", "client=10.0.0.1"} {
			if !strings.Contains(text, want) {
				t.Errorf("%q is not there", want)
			}
		}
		for l := range strings.Lines(text) {
			const longest = 8 << 10
			if len(l) > longest || strings.Contains(l, "\x1b") {
				t.Fatalf("a line of %d bytes: %.300q", len(l), l)
			}
		}
	})
}

// Without a log, whoever runs the server has a line about each kind, and not again for ten seconds;
// nobody who is refused waits for it.
func TestRefusalsAreToldWithoutALog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var told []string
		began := time.Now()
		reading := make(chan struct{}) // standard error is read from when it is closed
		r := NewRefusals(nil, func(message string) {
			<-reading
			mu.Lock()
			defer mu.Unlock()
			told = append(told, fmt.Sprintf("%s %s", time.Since(began), message))
		})
		r.note(refusal{why: whyNoLogin, from: from("10.0.0.9"), status: 401}) // as each client begins
		r.note(refusal{why: "password", from: from("10.0.0.1"), status: 401, user: "\x1b[31m", path: "/v2/\n"})
		synctest.Wait()
		for range 1000 {
			r.note(refusal{why: "password", from: from("10.0.0.2"), status: 401})
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("refusals wait for %s", took)
		}
		close(reading)
		time.Sleep(12 * time.Second)
		r.note(refusal{why: "password", from: from("10.0.0.3")})
		time.Sleep(time.Minute) // in which it is forgotten
		r.note(refusal{why: "password", from: from("10.0.0.4")})
		r.note(refusal{why: whyHTTP2})
		synctest.Wait()
		r.note(refusal{why: "password", from: from("10.0.0.5")})
		r.Close()
		r.note(refusal{why: "password", from: from("10.0.0.6")})
		slices.Sort(told)
		want := []string{
			"0s refused a request: wrong user name or password (password, latest client 10.0.0.1)",
			"10s refused 1000 requests: wrong user name or password (password, latest client 10.0.0.2)",
			"1m12s refused a request: HTTP/2 protocol error (http2)",
			"1m12s refused a request: wrong user name or password (password, latest client 10.0.0.4)",
			"1m12s refused a request: wrong user name or password (password, latest client 10.0.0.5)",
			"20s refused a request: wrong user name or password (password, latest client 10.0.0.3)",
		}
		if !slices.Equal(told, want) {
			t.Errorf("%q\nwant %q", told, want)
		}
	})
}

// The documentation lists each kind of refusal.
func TestKindsOfRefusalsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../../../docs/serve.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "\n| `why` |")
	table, _, _ = strings.Cut(table, "\n\n")
	for why := range whys {
		if !strings.Contains(table, "`"+why+"`") {
			t.Errorf("docs/serve.md doesn't have %s", why)
		}
	}
}

// fakeUpstream has what it is asked for when it is told so.
type fakeUpstream struct {
	mirror.Upstream
	under, peak atomic.Int32
	release     chan struct{}
}

func (f *fakeUpstream) Manifest(ctx context.Context, _ reference.Image) (mirror.Manifest, error) {
	n := f.under.Add(1)
	defer f.under.Add(-1)
	f.peak.Store(max(f.peak.Load(), n))
	select {
	case <-f.release:
		return mirror.Manifest{}, nil
	case <-ctx.Done():
		return mirror.Manifest{}, ctx.Err()
	}
}

type fakeBlob struct{ mirror.Blob }

func (fakeBlob) Close() error { return nil }

func (f *fakeUpstream) Blob(context.Context, reference.Image, digest.Digest) (mirror.Blob, error) {
	return fakeBlob{}, nil
}

func TestUpstreamWorkIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := &fakeUpstream{release: make(chan struct{})}
		const one, all = 2, 3
		u := NewUpstream(one, all).Of(inner)
		ctxOf := func(address string) context.Context {
			return context.WithValue(t.Context(), visitKey{}, &visit{from: from(address)})
		}
		image := func(i int) reference.Image {
			ref, err := reference.Parse(fmt.Sprintf("registry.example/app:%d", i))
			if err != nil {
				t.Fatal(err)
			}
			return ref
		}
		var work sync.WaitGroup
		var failed atomic.Int32
		ask := func(address string, i int) {
			work.Go(func() {
				if _, err := u.Manifest(ctxOf(address), image(i)); err != nil {
					failed.Add(1)
				}
			})
		}
		for i := range one + patient*one {
			ask("10.0.0.1", i)
			synctest.Wait()
		}
		if n := inner.under.Load(); n != one {
			t.Errorf("%d are under way for one address", n)
		}
		ctx := ctxOf("10.0.0.1")
		if _, err := u.Manifest(ctx, image(99)); err == nil || visitOf(ctx).why != "upstream" || !strings.Contains(err.Error(), "upstream") {
			t.Errorf("one more: %v", err)
		}
		for range 50 { // what is asked for already costs nothing more
			ask("10.0.0.1", 0)
		}
		for i := range 20 {
			ask(fmt.Sprintf("10.0.1.%d", i), 1000+i)
		}
		gone, cancel := context.WithCancel(ctxOf("10.0.2.1"))
		work.Go(func() {
			if _, err := u.Manifest(gone, image(7000)); err == nil {
				t.Error("who has left is answered")
			}
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(inner.release)
		work.Wait()
		if failed.Load() > 0 {
			t.Errorf("%d that may wait are refused", failed.Load())
		}
		if n := len(u.small.tasks) + len(u.small.queue) + len(u.small.ofHost) + len(u.small.waiting); n > 0 {
			t.Errorf("%d are left", n)
		}
		// Blobs: what has come is no work, though it is read still.
		var open []mirror.Blob
		take := func(address string, i int) {
			work.Go(func() {
				b, err := u.Blob(ctxOf(address), image(i), digest.FromString(fmt.Sprint(i)))
				if err != nil {
					t.Error(err)
				}
				u.blobs.mu.Lock()
				open = append(open, b)
				u.blobs.mu.Unlock()
			})
			synctest.Wait()
		}
		take("10.0.0.1", 1)
		take("10.0.0.1", 2)
		take("10.0.0.1", 3)
		take("10.0.0.2", 4)
		take("10.0.0.3", 5)
		if len(open) != all {
			t.Errorf("%d blobs are under way", len(open))
		}
		u.Observe(event.Fetched{Digest: digest.FromString("1")})
		synctest.Wait()
		if len(open) != all+1 {
			t.Errorf("%d blobs were begun when one had come", len(open))
		}
		u.Observe(event.Failed{Digest: digest.FromString("2")})
		work.Wait()
		for _, b := range open {
			if err := errors.Join(b.Close(), b.Close()); err != nil {
				t.Error(err)
			}
		}
		if n := len(u.blobs.tasks) + len(u.blobs.queue) + len(u.blobs.ofHost) + len(u.blobs.waiting); n > 0 {
			t.Errorf("%d are left", n)
		}
	})
}
