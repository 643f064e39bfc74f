package engine_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"drayage/engine/chaos/chaostest"
	"drayage/engine/fault"
	"drayage/engine/internal/retry"
	"drayage/engine/internal/schedule"
	"drayage/engine/internal/transfer"
	"drayage/engine/plan"
	"drayage/engine/registry"
	"drayage/engine/registry/registrytest"

	"github.com/opencontainers/go-digest"
)

const bigLayer = 3 << 20

// answering is a registry with one image whose layer is of 3 MiB, of which the
// first request breaks after 1 MiB: the next ones are for the rest.
type answering struct {
	*fixture
	name  string
	layer string // its digest
	blob  []byte
}

func newAnswering(t *testing.T) *answering {
	t.Helper()
	a := &answering{fixture: setup(t), blob: registrytest.Random(1, bigLayer)}
	img := registrytest.Build("linux/amd64", a.blob)
	a.layer = img.Layers[0].Digest.String()
	a.name = a.Push("app", "1", img)
	a.Break(a.layer, 1, chaostest.ResetAfter(1<<20))
	a.opts.Limits.PerHost = 1 // so that each request is told by what the one before was answered
	return a
}

// handler makes a fault of a handler.
func handler(f func(w http.ResponseWriter, r *http.Request, next http.Handler)) chaostest.Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f(w, r, next) })
	}
}

// contentRange answers with 206, the blob from an offset, and a Content-Range.
func (a *answering) contentRange(text string, from int64) chaostest.Fault {
	return handler(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Range", text)
		w.WriteHeader(http.StatusPartialContent)
		w.Write(a.blob[from:])
	})
}

// asked lists the Range headers of the requests for the layer.
func (a *answering) asked() []string {
	var out []string
	for _, r := range a.Requests() {
		if strings.Contains(r.Path, a.layer) {
			out = append(out, r.Header.Get("Range"))
		}
	}
	return out
}

// Each row of what answers mean, at the wire, in the middle of a blob.
func TestWhatAnswersMean(t *testing.T) {
	const little = 300 << 10 // bytes that may be sent in vain, besides what a row says
	for _, c := range []struct {
		row   string
		fault func(a *answering) chaostest.Fault
		times int
		fails error // nil: the pull ends right
		vain  int64 // bytes that may be sent in vain
		most  int   // requests for the layer
	}{
		{"206 with the range asked for", nil, 0, nil, 0, 2},
		{"206 with another range, which covers the offset", func(a *answering) chaostest.Fault {
			return a.contentRange(fmt.Sprintf("bytes %d-%d/%d", 900_000, bigLayer-1, bigLayer), 900_000)
		}, 1, nil, 200_000, 2},
		{"G17 206 with another range, which doesn't", func(a *answering) chaostest.Fault {
			return a.contentRange(fmt.Sprintf("bytes %d-%d/%d", 2<<20, bigLayer-1, bigLayer), 2<<20)
		}, 1, nil, bigLayer + 1<<20, 4},
		{"G17 206 without a unit", func(a *answering) chaostest.Fault {
			return handler(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				next.ServeHTTP(&unitless{w}, r)
			})
		}, 1, nil, 0, 2},
		{"G11 200 to a request for a range", func(*answering) chaostest.Fault { return chaostest.IgnoreRange() }, registrytest.Always, nil, bigLayer, 3},
		{"G16 416", func(*answering) chaostest.Fault { return chaostest.Status(416) }, 1, nil, bigLayer, 4},
		{"401 once", func(*answering) chaostest.Fault { return chaostest.Status(401) }, registrytest.Always, registry.ErrDenied, 0, 5},
		{"403", func(*answering) chaostest.Fault { return chaostest.Status(403) }, registrytest.Always, registry.ErrDenied, 0, 3},
		{"G37 403 that says TOOMANYREQUESTS", func(*answering) chaostest.Fault {
			return handler(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
				w.WriteHeader(http.StatusForbidden)
				fmt.Fprint(w, `{"errors":[{"code":"TOOMANYREQUESTS"}]}`)
			})
		}, 1, nil, 0, 3},
		{"404", func(*answering) chaostest.Fault { return chaostest.Status(404) }, registrytest.Always, registry.ErrNotFound, 0, 2},
		{"408", func(*answering) chaostest.Fault { return chaostest.Status(408) }, 2, nil, 0, 4},
		{"425", func(*answering) chaostest.Fault { return chaostest.Status(425) }, 2, nil, 0, 4},
		{"429", func(*answering) chaostest.Fault { return chaostest.Status(429) }, 1, nil, 0, 3},
		{"G36 429 with a Retry-After of 1.16ms", func(*answering) chaostest.Fault { return chaostest.Status(429, "Retry-After", "1.16ms") }, 1, nil, 0, 3},
		{"429 for longer than patience", func(*answering) chaostest.Fault { return chaostest.Status(429, "Retry-After", "3600") }, registrytest.Always, registry.ErrQuota, 0, 2},
		{"429 for longer than all time", func(*answering) chaostest.Fault { return chaostest.Status(429, "Retry-After", "99999999999") }, registrytest.Always, registry.ErrQuota, 0, 2},
		{"500", func(*answering) chaostest.Fault { return chaostest.Status(500) }, 2, nil, 0, 4},
		{"G38 502", func(*answering) chaostest.Fault { return chaostest.Status(502) }, 5, nil, 0, 7},
		{"503", func(*answering) chaostest.Fault { return chaostest.Status(503, "Retry-After", "1") }, 1, nil, 0, 3},
		{"G37 503 SlowDown", func(*answering) chaostest.Fault {
			return handler(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
				w.WriteHeader(http.StatusServiceUnavailable)
				fmt.Fprint(w, `<Error><Code>SlowDown</Code></Error>`)
			})
		}, 1, nil, 0, 3},
		{"504", func(*answering) chaostest.Fault { return chaostest.Status(504) }, 2, nil, 0, 4},
		{"reset, again and again", func(*answering) chaostest.Fault { return chaostest.ResetAfter(300_000) }, 5, nil, 0, 9},
		{"reset before the first byte", func(*answering) chaostest.Fault { return chaostest.ResetAfter(0) }, 3, nil, 0, 6},
		{"unexpected end", func(*answering) chaostest.Fault { return chaostest.CloseAfter(300_000) }, 3, nil, 0, 6},
		{"silence", func(*answering) chaostest.Fault { return chaostest.StallAfter(300_000) }, 1, nil, 0, 4},
		{"G21 Content-Encoding", func(*answering) chaostest.Fault {
			return handler(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				w.Header().Set("Content-Encoding", "gzip")
				next.ServeHTTP(w, r)
			})
		}, registrytest.Always, nil, 0, 2},
		{"G22 no Content-Length", func(a *answering) chaostest.Fault {
			return handler(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", 1<<20, bigLayer-1, bigLayer))
				w.WriteHeader(http.StatusPartialContent)
				http.NewResponseController(w).Flush()
				w.Write(a.blob[1<<20:])
			})
		}, 1, nil, 0, 2},
		{"G23 a clean end before the announced length", func(a *answering) chaostest.Fault {
			return handler(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", 1<<20, bigLayer-1, bigLayer))
				w.WriteHeader(http.StatusPartialContent)
				http.NewResponseController(w).Flush()
				w.Write(a.blob[1<<20 : 2<<20])
			})
		}, 1, nil, 0, 3},
		{"G24 a page for people, with 200", func(*answering) chaostest.Fault {
			return chaostest.Body("text/html", []byte("<title>Log in</title>"))
		}, 2, nil, 0, 4},
		{"one byte changed", func(*answering) chaostest.Fault { return chaostest.Flip(1000) }, 1, nil, bigLayer, 3},
		{"every byte after the first MiB changed, always", func(a *answering) chaostest.Fault {
			return handler(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				chaostest.Flip(1000)(next).ServeHTTP(w, r)
			})
		}, registrytest.Always, &transfer.MismatchError{}, 2 * bigLayer, 4},
	} {
		t.Run(c.row, func(t *testing.T) {
			t.Parallel()
			a := newAnswering(t)
			if c.fault != nil {
				a.Break(a.layer, c.times, c.fault(a))
			}
			_, failed := a.pull(t, a.name)
			switch {
			case c.fails == nil && len(failed) > 0:
				t.Error(failed)
			case c.fails == nil:
				a.checkStore(t)
			case len(failed) != 1 || !errors.Is(failed[0], c.fails) && !sameKind(failed[0], c.fails):
				t.Errorf("%v, want %v", failed, c.fails)
			}
			if asked := a.asked(); len(asked) > c.most {
				t.Errorf("%d requests, want at most %d: %q", len(asked), c.most, asked)
			}
			needed := int64(bigLayer)
			if c.fails != nil {
				needed = 1 << 20
			}
			if sent := a.Sent(); sent > needed+c.vain+little+1<<20 {
				t.Errorf("%d bytes sent, for %d and %d in vain", sent, needed, c.vain)
			}
			// G13, G14, G18, G25: ranges are closed, within the blob, one at a
			// time, and nothing but the digest validates.
			for _, r := range a.Requests() {
				var first, last int64
				if rng := r.Header.Get("Range"); rng != "" {
					if n, err := fmt.Sscanf(rng, "bytes=%d-%d", &first, &last); n != 2 || err != nil || last >= bigLayer || first > last {
						t.Errorf("asked for %q", rng)
					}
				}
				if r.Header.Get("If-Range") != "" || r.Method == http.MethodHead {
					t.Errorf("%s with If-Range %q", r.Method, r.Header.Get("If-Range"))
				}
			}
		})
	}
}

func sameKind(err, want error) bool {
	var mismatch *transfer.MismatchError
	return errors.As(want, &mismatch) && errors.As(err, &mismatch)
}

// unitless leaves the unit out of Content-Range.
type unitless struct{ http.ResponseWriter }

func (u *unitless) WriteHeader(status int) {
	u.Header().Set("Content-Range", strings.TrimPrefix(u.Header().Get("Content-Range"), "bytes "))
	u.ResponseWriter.WriteHeader(status)
}

// storage is another host that the registry of a answering redirects to.
type storage struct {
	*httptest.Server
	requests atomic.Int64
}

// redirected sends requests for the layer to another host, at a URL with a
// query, whose answers are f's.
func (a *answering) redirected(t *testing.T, query func() string, f http.HandlerFunc) *storage {
	t.Helper()
	s := &storage{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		for _, h := range []string{"Authorization", "Cookie", "Referer"} {
			if r.Header.Get(h) != "" {
				t.Errorf("%s went to another host", h)
			}
		}
		f(w, r)
	}))
	t.Cleanup(s.Close)
	a.Break(a.layer, registrytest.Always, handler(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		http.Redirect(w, r, s.URL+"/x?"+query(), http.StatusTemporaryRedirect)
	}))
	return s
}

func (a *answering) serve(w http.ResponseWriter, r *http.Request) {
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(a.blob)))
}

func plain() string { return "sig=1" }

// A redirect is resolved once a blob, and used for its later requests.
func TestARedirectIsSharedByAllRequestsForABlob(t *testing.T) {
	a := newAnswering(t)
	var n atomic.Int64
	s := a.redirected(t, plain, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) < 4 {
			chaostest.ResetAfter(500_000)(http.HandlerFunc(a.serve)).ServeHTTP(w, r)
			return
		}
		a.serve(w, r)
	})
	a.mustPull(t, a.name)
	// The first request was broken by the registry itself.
	if got := len(a.asked()); got != 2 || s.requests.Load() != 4 {
		t.Errorf("%d requests to the registry, want 2, and %d to the storage, want 4", got, s.requests.Load())
	}
}

// G5, G6, G19: whatever a storage host says of a stale URL, the registry is
// asked for another one, once.
func TestG5StaleURLsAreRenewed(t *testing.T) {
	for _, status := range []int{400, 401, 403, 404, 410} {
		a := newAnswering(t)
		var issued, stale atomic.Int64
		a.redirected(t, func() string { return fmt.Sprint("n=", issued.Add(1)) }, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("n") == "1" {
				if stale.Add(1) > 1 {
					http.Error(w, "expired", status)
					return
				}
				chaostest.ResetAfter(500_000)(http.HandlerFunc(a.serve)).ServeHTTP(w, r)
				return
			}
			a.serve(w, r)
		})
		a.mustPull(t, a.name)
		if issued.Load() != 2 {
			t.Errorf("%d: %d URLs were asked for, want 2", status, issued.Load())
		}
	}
}

// G5: a URL that says when it expires is renewed ahead of that.
func TestG5URLsAreRenewedAheadOfTime(t *testing.T) {
	a := newAnswering(t)
	var issued, late atomic.Int64
	a.redirected(t, func() string {
		issued.Add(1)
		return fmt.Sprintf("Expires=%d", time.Now().Add(2*time.Second).Unix())
	}, func(w http.ResponseWriter, r *http.Request) {
		var until int64
		if _, err := fmt.Sscan(r.URL.Query().Get("Expires"), &until); err != nil {
			t.Error(err)
		}
		if time.Now().Unix() >= until {
			late.Add(1)
			http.Error(w, "expired", http.StatusForbidden)
			return
		}
		// Slow enough to outlive the URL.
		chaostest.ResetAfter(200_000)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(250 * time.Millisecond)
			a.serve(w, r)
		})).ServeHTTP(w, r)
	})
	a.mustPull(t, a.name)
	if issued.Load() < 2 || late.Load() > issued.Load()/2 {
		t.Errorf("%d URLs, %d requests with one that had expired", issued.Load(), late.Load())
	}
}

// G7: a cache that keeps redirects gives a URL that has expired: it is asked
// past, and the user told when that doesn't help.
func TestG7RedirectsThatACacheHasKept(t *testing.T) {
	a := newAnswering(t)
	var busted atomic.Bool
	s := httptest.NewServer(http.HandlerFunc(a.serve))
	defer s.Close()
	a.Break(a.layer, registrytest.Always, handler(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		until := time.Now().Add(-time.Hour)
		if r.Header.Get("Cache-Control") == "no-cache" {
			busted.Store(true)
			until = time.Now().Add(time.Hour)
		}
		http.Redirect(w, r, fmt.Sprintf("%s/x?Expires=%d", s.URL, until.Unix()), http.StatusFound)
	}))
	a.mustPull(t, a.name)
	if !busted.Load() || !strings.Contains(a.record.text(), "caches redirects") {
		t.Errorf("the cache was asked past: %v\n%s", busted.Load(), a.record.text())
	}
}

// G9, G10: a redirect may have a page with it; and an error names the host that
// refused.
func TestG10ErrorsNameTheStorageHost(t *testing.T) {
	a := newAnswering(t)
	s := a.redirected(t, plain, func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, strings.Repeat("<html>geo-blocked</html>", 1000), http.StatusForbidden)
	})
	_, failed := a.pull(t, a.name)
	if len(failed) != 1 || !strings.Contains(failed[0].Error(), s.Listener.Addr().String()) || strings.Contains(failed[0].Error(), "sig=1") {
		t.Errorf("%v", failed)
	}
}

// G19: a storage host that answers 400 to ranges is read from the start.
func TestG19RangesRefusedWith400(t *testing.T) {
	a := newAnswering(t)
	a.redirected(t, plain, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" {
			http.Error(w, "<Error><Code>InvalidRequest</Code></Error>", http.StatusBadRequest)
			return
		}
		a.serve(w, r)
	})
	a.mustPull(t, a.name)
}

// G54: an answer may take long to begin, longer than a body may be silent.
func TestG54TheFirstByteMayTakeLong(t *testing.T) {
	a := newAnswering(t)
	const long = 1200 * time.Millisecond // the fixture's bodies may be silent for a second
	var waited atomic.Int32
	// Held from when it arrives. On a busy machine a request may come too late for its client,
	// who then asks again.
	a.Break(a.layer, registrytest.Always, handler(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		select {
		case <-time.After(long):
			waited.Add(1)
			next.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	}))
	a.mustPull(t, a.name)
	if waited.Load() == 0 {
		t.Error("no answer was waited for")
	}
}

// A link that comes back goes on, and one that doesn't ends the pull with what
// arrived kept.
func TestGivingUpKeepsWhatArrived(t *testing.T) {
	a := newAnswering(t)
	impatient := retry.Policy{Patience: 500 * time.Millisecond, Backoff: retry.Backoff{Min: 5 * time.Millisecond, Max: 20 * time.Millisecond}}
	client := registry.New(registry.Options{Retry: impatient, Stall: time.Second})
	defer client.Close()
	a.opts.Retry, a.opts.Registry = impatient, client
	a.Break(a.layer, registrytest.Always, chaostest.ResetAfter(0))
	results, failed := a.pull(t, a.name)
	if len(failed) != 1 || !errors.Is(failed[0], registry.ErrUnavailable) && !errors.Is(failed[0], transfer.ErrGaveUp) {
		t.Fatalf("%v", failed)
	}
	if results[0].Err == nil {
		t.Error("no error with the image")
	}
	again := newAnswering(t)
	again.opts.Store = a.opts.Store
	before := again.Sent()
	again.mustPull(t, again.name)
	if sent := again.Sent() - before; sent > bigLayer-1<<20+1<<19 {
		t.Errorf("%d bytes sent in the second run, though 1 MiB was there", sent)
	}
}

// G39: what won't pass is not tried again.
func TestG39LastingErrorsAreNotRetried(t *testing.T) {
	for _, status := range []int{401, 403, 404} {
		a := newAnswering(t)
		a.Forget()
		a.Break("/manifests/", registrytest.Always, chaostest.Status(status))
		if _, failed := a.pull(t, a.name); len(failed) != 1 {
			t.Errorf("%d: %v", status, failed)
		}
		if n := a.Count("/manifests/"); n != 1 {
			t.Errorf("%d: %d requests", status, n)
		}
	}
}

// G35: a quota over hours is believed at its second 429; its answer may be
// malformed.
func TestG35QuotaIsNoGlitch(t *testing.T) {
	var asked atomic.Int64
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 4096)
			if n, err := c.Read(buf); err == nil && n > 0 {
				const handshake = 0x16 // of TLS, which is tried first
				if buf[0] != handshake {
					asked.Add(1)
				}
				fmt.Fprint(c, "HTTP/1.1 429 Too Many Requests\nRetry-After: 1\nratelimit-remaining: 0;w=21600\nConnection: close\n\nYou have reached your pull rate limit.\n")
			}
			c.Close()
		}
	}()
	f := setup(t)
	_, failed := f.pull(t, l.Addr().String()+"/library/x:1")
	if len(failed) != 1 || !errors.Is(failed[0], registry.ErrQuota) || asked.Load() != 2 {
		t.Errorf("%v after %d requests, want ErrQuota after 2", failed, asked.Load())
	}
}

// A blob that a failing repository has is fetched from another one, from where
// it broke, without waiting for the first to recover.
func TestAFailingSourceIsLeftForTheNext(t *testing.T) {
	f := setup(t)
	layer := registrytest.Random(1, bigLayer)
	first := f.Push("one", "1", registrytest.Build("linux/amd64", layer, registrytest.Random(2, 10)))
	second := f.Push("two", "1", registrytest.Build("linux/amd64", layer, registrytest.Random(3, 10)))
	// Both images are known when the blob is fetched.
	f.opts.Limits.Jobs, f.opts.Limits.PerHost = 1, 1
	at := "/one/blobs/" + digest.FromBytes(layer).String()
	f.Break(at, 1, chaostest.ResetAfter(1<<20))
	f.Break(at, registrytest.Always, chaostest.Status(503))
	f.mustPull(t, first, second)
	if sent := f.Sent(); sent > bigLayer+1<<20 {
		t.Errorf("%d bytes sent", sent)
	}
	if n := f.Count(at); n != 2 {
		t.Errorf("%d requests to the failing repository, want 2", n)
	}
}

// A page for people that comes for ever ends the pull when patience does; and
// what was there stays.
func TestG24PagesForEver(t *testing.T) {
	a := newAnswering(t)
	a.Break(a.layer, registrytest.Always, chaostest.Body("text/html", []byte("<html><TITLE>Log in\n first</TITLE></html>")))
	_, failed := a.pull(t, a.name)
	if len(failed) != 1 || !errors.Is(failed[0], transfer.ErrGaveUp) || !strings.Contains(failed[0].Error(), `"Log in first"`) {
		t.Errorf("%v", failed)
	}
	if left, _ := os.ReadDir(filepath.Join(a.opts.Store.Dir(), "ingest")); len(left) != 1 {
		t.Errorf("in ingest: %v", left)
	}
}

// A host that wants to be left alone for a day is not waited for, though there
// are two repositories to ask; others are not held up.
func TestAHostThatWantsADayOff(t *testing.T) {
	f := setup(t)
	layer, other := registrytest.Random(1, bigLayer), registrytest.Random(9, 100<<10)
	first := f.Push("one", "1", registrytest.Build("linux/amd64", layer, registrytest.Random(2, 10)))
	second := f.Push("two", "1", registrytest.Build("linux/amd64", layer, other))
	third := f.Push("three", "1", registrytest.Build("linux/amd64", other))
	f.opts.Limits.Jobs, f.opts.Limits.PerHost = 1, 1
	f.opts.KeepGoing = true
	f.Break("/blobs/"+digest.FromBytes(layer).String(), registrytest.Always, chaostest.Status(429, "Retry-After", "86400"))
	results, failed := f.pull(t, first, second, third)
	if len(failed) != 2 || !errors.Is(failed[0], registry.ErrQuota) || !errors.Is(failed[1], registry.ErrQuota) || results[2].Err != nil {
		t.Errorf("%v; the third: %v", failed, results[2].Err)
	}
}

// A body that doesn't end is cut off at the blob's size, and is an error.
func TestABodyWithoutEnd(t *testing.T) {
	a := newAnswering(t)
	var sent atomic.Int64
	a.Break(a.layer, registrytest.Always, handler(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		w.WriteHeader(http.StatusOK)
		send := func(p []byte) bool {
			n, err := w.Write(p)
			sent.Add(int64(n))
			return err == nil && r.Context().Err() == nil
		}
		const most = 1 << 30 // the test fails then
		for ok := send(a.blob); ok && sent.Load() < most; ok = send(a.blob) {
		}
	}))
	_, failed := a.pull(t, a.name)
	var mismatch *transfer.MismatchError
	if len(failed) != 1 || !errors.As(failed[0], &mismatch) {
		t.Errorf("%v", failed)
	}
	const buffers = 16 << 20 // of sockets, each time it is tried
	if got := sent.Load(); got > 2*(bigLayer+buffers) {
		t.Errorf("%d bytes were taken for a layer of %d", got, bigLayer)
	}
	a.checkStore(t)
}

// The storage's 416 is as the registry's.
func TestG16OfAStorageHost(t *testing.T) {
	a := newAnswering(t)
	a.redirected(t, plain, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", bigLayer))
			http.Error(w, "no", http.StatusRequestedRangeNotSatisfiable)
			return
		}
		a.serve(w, r)
	})
	a.mustPull(t, a.name)
}

// An image for which there is no room does not stand in the way of one that is
// here, nor of one that fits and shares a blob with it.
func TestAnImageWithoutRoom(t *testing.T) {
	f := setup(t)
	shared := registrytest.Random(4, 10_000)
	here := f.Push("here", "1", registrytest.Build("linux/amd64", registrytest.Random(5, 1000)))
	f.mustPull(t, here)
	big := f.Push("big", "1", registrytest.Build("linux/amd64", shared, registrytest.Random(6, 5<<20)))
	small := f.Push("small", "1", registrytest.Build("linux/amd64", shared))
	f.opts.KeepGoing = true
	f.opts.Limits = schedule.Limits{Jobs: 1, PerHost: 1}
	full := errors.New("no room")
	f.opts.Room = func(_ *plan.Image, n int64) error {
		if n > 1<<20 {
			return full
		}
		return nil
	}
	results, failed := f.pull(t, big, here, small)
	if len(failed) != 1 || !errors.Is(failed[0], full) || fault.Of(failed[0]) != fault.Local || results[1].Err != nil || results[2].Err != nil {
		t.Errorf("%v; the others: %v, %v", failed, results[1].Err, results[2].Err)
	}
	if f.Sent() > 1<<20 {
		t.Errorf("%d bytes were sent", f.Sent())
	}
}

// A server that takes requests and never answers has two tries within patience.
func TestASilentServer(t *testing.T) {
	f := setup(t)
	name := f.Push("small", "1", registrytest.Build("linux/amd64", registrytest.Random(5, 1000)))
	release := make(chan struct{})
	f.Break("/manifests/", registrytest.Always, chaostest.Hold(release))
	defer close(release)
	_, failed := f.pull(t, name)
	if n := f.Count("/manifests/"); len(failed) != 1 || !errors.Is(failed[0], registry.ErrUnavailable) || n < 2 {
		t.Errorf("%v after %d requests", failed, n)
	}
}
