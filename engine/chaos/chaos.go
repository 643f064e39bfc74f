// Package chaos simulates a bad network link: a proxy in front of a server that drops, stalls, slows
// and corrupts responses. A seed decides when.
//
// NewProxy makes the proxy for a server elsewhere, New for an http.Handler. For tests, package chaostest
// has its faults one by one.
package chaos

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"drayage/engine/chaos/internal/wire"

	"golang.org/x/time/rate"
)

// Options are the faults of a link. The zero value is a good link. Sizes are bytes sent to the client;
// "about" is from half to one and a half times as much, drawn per connection. Shares are from 0 to 1.
type Options struct {
	Seed uint64 // the same seed and the same requests have the same faults

	Latency           time.Duration // added to each round trip
	RatePerConnection int64         // bytes per second; 0 means no limit
	Rate              int64         // of all connections together, in bytes per second
	Slow              float64       // share of connections with SlowRate instead of RatePerConnection
	SlowRate          int64
	ResetAfter        int64         // a TCP reset after about so many bytes of a connection; 0 means never
	CloseAfter        int64         // a clean close, likewise
	StallAfter        int64         // silence, likewise
	StallFor          time.Duration // 0 means until the client disconnects

	FlipEvery    int64         // changes one bit per about so many bytes of bodies
	IgnoreRange  float64       // share of range requests that are answered with the whole
	WrongRange   float64       // share of range requests that are answered with a wrong Content-Range
	Errors       float64       // share of requests that begin a series of errors
	ErrorStatus  []int         // of these, drawn at random; none means 429 and 503
	StormLength  int           // number of consecutive requests; 0 means 1
	RetryAfter   string        // header of errors
	RedirectLife time.Duration // redirects blobs to a signed URL of another port that is valid for so long; 0 means no redirect
}

// Stats are counters of what has happened so far. They may be read at any time.
type Stats struct {
	Connections, Open, Requests   atomic.Int64
	Sent, Received                atomic.Int64 // bytes to and from clients, headers too
	Slow, Resets, Closes, Stalls  atomic.Int64
	Flips, Ignored, Wrong, Errors atomic.Int64
	Redirects, Expired            atomic.Int64
}

// MarshalJSON implements json.Marshaler.
func (s *Stats) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]int64{
		"connections": s.Connections.Load(), "open": s.Open.Load(), "requests": s.Requests.Load(),
		"bytes_sent": s.Sent.Load(), "bytes_received": s.Received.Load(),
		"slow": s.Slow.Load(), "resets": s.Resets.Load(), "closes": s.Closes.Load(), "stalls": s.Stalls.Load(),
		"flips": s.Flips.Load(), "ranges_ignored": s.Ignored.Load(), "ranges_wrong": s.Wrong.Load(),
		"errors": s.Errors.Load(), "redirects": s.Redirects.Load(), "expired": s.Expired.Load(),
	})
}

// Proxy is a bad link to a server. It is an http.Handler and may be used from several goroutines.
type Proxy struct {
	opts    Options
	next    http.Handler
	stats   Stats
	rate    *rate.Limiter
	key     []byte // signs URLs
	storage string // scheme and host of signed URLs

	mu     sync.Mutex
	random *rand.Rand
	storm  int               // errors still to come
	auth   map[string]string // Authorization of clients that were redirected, by signature
}

// statsPath is the path at which the proxy itself answers, with its Stats as JSON.
const statsPath = "/stats"

// New makes a link to a handler, for servers in the same process.
func New(next http.Handler, o Options) *Proxy {
	if len(o.ErrorStatus) == 0 {
		o.ErrorStatus = []int{http.StatusTooManyRequests, http.StatusServiceUnavailable}
	}
	return &Proxy{
		opts: o, next: next, rate: limiter(o.Rate), key: fmt.Appendf(nil, "chaos %d", o.Seed),
		random: rand.New(rand.NewPCG(o.Seed, 0)), auth: make(map[string]string),
	}
}

// NewProxy makes a link to an upstream server: a URL, or HOST:PORT for plain HTTP.
func NewProxy(upstream string, o Options) (*Proxy, error) {
	if !strings.Contains(upstream, "://") {
		upstream = "http://" + upstream
	}
	to, err := url.Parse(upstream)
	if err != nil || to.Host == "" || to.Scheme != "http" && to.Scheme != "https" {
		return nil, fmt.Errorf("upstream %q is neither HOST:PORT nor an http or https URL", upstream)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableCompression = true
	transport.MaxIdleConnsPerHost = 64
	transport.ForceAttemptHTTP2 = false
	return New(&httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport:     transport,
		FlushInterval: -1,
		BufferPool:    pool{},
		ErrorLog:      log.New(io.Discard, "", 0), // the client sees the error
	}, o), nil
}

// pool has the buffers of the reverse proxy.
type pool struct{}

var poolBuffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

func (pool) Get() []byte  { return poolBuffers.Get().(*[64 << 10]byte)[:] }
func (pool) Put(b []byte) { poolBuffers.Put((*[64 << 10]byte)(b)) }

// Stats returns the counters, which continue to change.
func (p *Proxy) Stats() *Stats { return &p.stats }

// Serve serves clients of l until ctx is done, closes l, and returns when everything that it has
// started has ended. The error is that of the listener.
func (p *Proxy) Serve(ctx context.Context, l net.Listener) error {
	servers := []*http.Server{{Handler: p}}
	listeners := []net.Listener{l}
	if p.opts.RedirectLife > 0 {
		host, _, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return err
		}
		var lc net.ListenConfig
		s, err := lc.Listen(ctx, "tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			return err
		}
		p.storage = "http://" + s.Addr().String()
		servers = append(servers, &http.Server{Handler: http.HandlerFunc(p.serveSigned)})
		listeners = append(listeners, s)
	}
	errs := make(chan error, len(servers))
	for i, s := range servers {
		s.ErrorLog = log.New(io.Discard, "", 0)
		go func() { errs <- s.Serve(p.Listen(listeners[i])) }()
	}
	var err error
	left := len(servers)
	select {
	case <-ctx.Done():
	case err = <-errs:
		left--
	}
	for _, s := range servers {
		err = errors.Join(err, s.Close())
	}
	for range left {
		err = errors.Join(err, unlessClosed(<-errs))
	}
	return unlessClosed(err)
}

// Start serves clients at a free port of the loopback interface until stop is called, which returns
// the error of Serve. host is the address and port.
func (p *Proxy) Start() (host string, stop func() error, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		cancel()
		return "", nil, err
	}
	done := make(chan error, 1)
	go func() { done <- p.Serve(ctx, l) }()
	return l.Addr().String(), func() error { cancel(); return <-done }, nil
}

// unlessClosed is err, or nil for the error of a server that was closed.
func unlessClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// ServeHTTP implements http.Handler, with the faults of HTTP; those of connections need Serve or
// Listen.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == statsPath {
		w.Header().Set("Content-Type", "application/json")
		raw, err := json.Marshal(&p.stats)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Write(append(raw, '\n'))
		return
	}
	p.stats.Requests.Add(1)
	if p.opts.RedirectLife > 0 && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
		if status := p.error(); status != 0 {
			p.fail(status).ServeHTTP(w, r)
			return
		}
		p.redirect(w, r)
		return
	}
	p.forward(w, r)
}

// forward sends a request to the server, with the faults that are drawn for it.
func (p *Proxy) forward(w http.ResponseWriter, r *http.Request) {
	h := p.next
	if status := p.error(); status != 0 {
		h = p.fail(status)
	}
	ranged := r.Header.Get("Range") != ""
	if ranged && p.draw(p.opts.IgnoreRange) {
		p.stats.Ignored.Add(1)
		h = wire.IgnoreRange(h)
	}
	if ranged && p.draw(p.opts.WrongRange) {
		p.stats.Wrong.Add(1)
		h = wire.WrongRange(h, 1)
	}
	if every := p.opts.FlipEvery; every > 0 {
		w = &flipping{ResponseWriter: w, p: p, every: every, next: p.about(every)}
	}
	h.ServeHTTP(w, r)
}

// draw reports true for a share of calls.
func (p *Proxy) draw(share float64) bool {
	if share <= 0 {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.random.Float64() < share
}

// about draws from n/2 to 3n/2.
func (p *Proxy) about(n int64) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return n/2 + p.random.Int64N(n+1)
}

// error is the status of the error that a request is answered with, or 0.
func (p *Proxy) error() int {
	if p.opts.Errors <= 0 {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.storm == 0 && p.random.Float64() < p.opts.Errors {
		p.storm = max(1, p.opts.StormLength)
	}
	if p.storm == 0 {
		return 0
	}
	p.storm--
	p.stats.Errors.Add(1)
	return p.opts.ErrorStatus[p.random.IntN(len(p.opts.ErrorStatus))]
}

// fail is a handler that answers with an error.
func (p *Proxy) fail(status int) http.Handler {
	var headers []string
	if p.opts.RetryAfter != "" {
		headers = []string{"Retry-After", p.opts.RetryAfter}
	}
	return wire.Status(status, headers...)(nil)
}

// redirect redirects the client to a signed URL.
func (p *Proxy) redirect(w http.ResponseWriter, r *http.Request) {
	expires := strconv.FormatInt(time.Now().Add(p.opts.RedirectLife).Unix()+1, 10)
	signature := p.sign(r.URL.Path, expires)
	p.mu.Lock()
	p.auth[signature] = r.Header.Get("Authorization")
	p.mu.Unlock()
	p.stats.Redirects.Add(1)
	q := url.Values{"Expires": {expires}, "Signature": {signature}}
	http.Redirect(w, r, p.storage+r.URL.EscapedPath()+"?"+q.Encode(), http.StatusTemporaryRedirect)
}

// sign is the signature of a URL.
func (p *Proxy) sign(path, expires string) string {
	m := hmac.New(sha256.New, p.key)
	fmt.Fprintf(m, "%s\n%s", path, expires)
	return hex.EncodeToString(m.Sum(nil))
}

// serveSigned answers requests of signed URLs as storage services do: none with another Authorization,
// and none that has expired.
func (p *Proxy) serveSigned(w http.ResponseWriter, r *http.Request) {
	p.stats.Requests.Add(1)
	q := r.URL.Query()
	signature, expires := q.Get("Signature"), q.Get("Expires")
	until, err := strconv.ParseInt(expires, 10, 64)
	switch {
	case r.Header.Get("Authorization") != "":
		http.Error(w, "InvalidArgument: only one auth mechanism allowed", http.StatusBadRequest)
		return
	case err != nil || !hmac.Equal([]byte(signature), []byte(p.sign(r.URL.Path, expires))):
		http.Error(w, "SignatureDoesNotMatch", http.StatusForbidden)
		return
	case time.Now().Unix() >= until:
		p.stats.Expired.Add(1)
		http.Error(w, "AccessDenied: Request has expired", http.StatusForbidden)
		return
	}
	r = r.Clone(r.Context())
	r.URL.RawQuery = ""
	p.mu.Lock()
	auth := p.auth[signature]
	p.mu.Unlock()
	if auth != "" {
		r.Header.Set("Authorization", auth)
	}
	p.forward(w, r)
}

// flipping changes bits of a body.
type flipping struct {
	http.ResponseWriter
	p           *Proxy
	every, next int64
}

func (f *flipping) Write(b []byte) (int, error) {
	if f.next < int64(len(b)) {
		b = append([]byte(nil), b...)
		for f.next < int64(len(b)) {
			b[f.next] ^= 1
			f.p.stats.Flips.Add(1)
			f.next += max(1, f.p.about(f.every))
		}
	}
	f.next -= int64(len(b))
	return f.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (f *flipping) Unwrap() http.ResponseWriter { return f.ResponseWriter }
