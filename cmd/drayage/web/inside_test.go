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
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"drayage/engine/event"
	"drayage/engine/limits/limitstest"
	"drayage/engine/mirror"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
	"golang.org/x/crypto/bcrypt"
)

func from(address string) source { return sourceOf(net.JoinHostPort(address, "1")) }

func askFrom(ctx context.Context, p *Passwords, address, user, password string) error {
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/v2/", nil)
	r.RemoteAddr = net.JoinHostPort(address, "1")
	r.SetBasicAuth(user, password)
	_, err := p.Check(r)
	return err
}

// Few checks wait, in all and from one network; what is asked for many times is worked out once.
func TestChecksThatWaitAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	hash, err := bcrypt.GenerateFromPassword([]byte("s3cret"), bcrypt.MinCost)
	if err == nil {
		err = os.WriteFile(path, []byte("ann:"+string(hash)+"\n"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		p, err := ReadPasswords(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		long := make(chan struct{})
		var busy sync.WaitGroup
		for range max(1, runtime.GOMAXPROCS(0)/2) { // checks that take long
			busy.Go(func() { p.work.Do(func() { <-long }) })
		}
		synctest.Wait()
		var waiting sync.WaitGroup
		var good, wrong atomic.Int32
		ask := func(address, password string) {
			waiting.Go(func() {
				if askFrom(t.Context(), p, address, "ann", password) == nil {
					good.Add(1)
				} else {
					wrong.Add(1)
				}
			})
		}
		for i := range mostChecksOfOne {
			ask("10.0.0.1", fmt.Sprint(i))
		}
		synctest.Wait()
		if err := askFrom(t.Context(), p, "10.0.0.1", "ann", "one more"); !errors.Is(err, errGuesses) {
			t.Errorf("one more from the same address: %v", err)
		}
		for i := range 100 { // that ask for the same
			ask(fmt.Sprintf("10.0.1.%d", i), "s3cret")
		}
		synctest.Wait()
		for i := range mostChecks - mostChecksOfOne - 1 {
			ask(fmt.Sprintf("10.0.2.%d", i), fmt.Sprint("other", i))
		}
		synctest.Wait()
		if err := askFrom(t.Context(), p, "10.0.3.1", "ann", "one more"); !errors.Is(err, errChecks) {
			t.Errorf("one more than may wait: %v", err)
		}
		close(long)
		busy.Wait()
		waiting.Wait()
		if good.Load() != 100 || wrong.Load() != mostChecks-1 || p.waiting != 0 || len(p.of) != 0 {
			t.Errorf("%d good, %d wrong; then %d wait", good.Load(), wrong.Load(), p.waiting)
		}
	})
}

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
	b.give(key(9999), now)
	if n := spend(9999); n != 1 {
		t.Errorf("what was given back: %d", n)
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
		r := NewRefusals(slog.New(slog.NewTextHandler(&out, nil)))
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

// An edit of the file costs those nothing whose hash is what it was, and lets nobody stay whose is not.
func TestEditsOfThePasswordFileForgetNoOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	hash, err := bcrypt.GenerateFromPassword([]byte("s3cret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	write := func(users ...string) {
		t.Helper()
		text := ""
		for _, u := range users {
			text += u + ":" + string(hash) + "\n"
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("ann", "bob")
	synctest.Test(t, func(t *testing.T) {
		p, err := ReadPasswords(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, user := range []string{"ann", "bob"} {
			if err := askFrom(t.Context(), p, "10.0.0.1", user, "s3cret"); err != nil {
				t.Fatal(err)
			}
		}
		write("ann", "carol")
		time.Sleep(time.Minute)
		if u := p.current(); len(u.good) != 1 {
			t.Errorf("%d are known to be right", len(u.good))
		}
		if err := askFrom(t.Context(), p, "10.0.0.1", "bob", "s3cret"); !errors.Is(err, errPassword) {
			t.Errorf("who was removed: %v", err)
		}
	})
}
