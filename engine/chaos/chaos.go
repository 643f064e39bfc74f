// Package chaos is a bad link: a proxy in front of a server that drops, stalls,
// slows and corrupts what passes, on a schedule that a seed decides. Tests use
// it, and its faults one by one, to see what a client does; so may anybody.
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

	"golang.org/x/time/rate"
)

// Options say what goes wrong. The zero value is a good link. Sizes are bytes
// on the way to the client; "about" is half as much to one and a half times,
// drawn for each connection. Shares are from 0 to 1.
type Options struct {
	Seed uint64

	Latency           time.Duration // of a round trip
	RatePerConnection int64         // bytes a second; 0 means no limit
	Rate              int64         // over all connections
	Slow              float64       // share of connections that have SlowRate instead
	SlowRate          int64
	ResetAfter        int64         // a TCP reset after about so many bytes of a connection
	CloseAfter        int64         // a clean close
	StallAfter        int64         // silence
	StallFor          time.Duration // 0 means until the client hangs up

	FlipEvery    int64         // one bit changed about every so many bytes of bodies
	IgnoreRange  float64       // share of ranged requests that get the whole
	WrongRange   float64       // that get a Content-Range that is wrong
	Errors       float64       // share of requests that begin a storm of errors
	ErrorStatus  []int         // of them; none means 429 and 503
	StormLength  int           // requests; 0 means 1
	RetryAfter   string        // header of the errors
	RedirectLife time.Duration // blobs are at a signed URL of another port, for so long; 0 means no redirect
}

// Stats count what happened so far.
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

// Proxy is a bad link to a server.
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
	auth   map[string]string // Authorization of who was redirected, by signature
}

// StatsPath is where the proxy itself answers, with its Stats as JSON.
const StatsPath = "/stats"

// New makes a link to a handler, for tests whose server is in their process.
func New(next http.Handler, o Options) *Proxy {
	if len(o.ErrorStatus) == 0 {
		o.ErrorStatus = []int{http.StatusTooManyRequests, http.StatusServiceUnavailable}
	}
	return &Proxy{
		opts: o, next: next, rate: limiter(o.Rate), key: fmt.Appendf(nil, "chaos %d", o.Seed),
		random: rand.New(rand.NewPCG(o.Seed, 0)), auth: make(map[string]string),
	}
}

// NewProxy makes a link to an upstream: a URL, or HOST:PORT for one that speaks
// plain HTTP.
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
		ErrorLog:      log.New(io.Discard, "", 0), // the client sees it
	}, o), nil
}

// pool lends the reverse proxy its buffers.
type pool struct{}

var poolBuffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

func (pool) Get() []byte  { return poolBuffers.Get().(*[64 << 10]byte)[:] }
func (pool) Put(b []byte) { poolBuffers.Put((*[64 << 10]byte)(b)) }

// Stats are the counters, which go on counting.
func (p *Proxy) Stats() *Stats { return &p.stats }

// Serve serves clients of l until ctx is done, and returns when all it started
// has ended. The error is of the listener.
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

// Start serves clients of a free port of the loopback interface, for tests,
// until stop is called, which returns Serve's error.
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

// unlessClosed leaves out what a server says when it was closed.
func unlessClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// ServeHTTP implements http.Handler: the faults that are HTTP's.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == StatsPath {
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

// forward passes a request on, with what faults it draws.
func (p *Proxy) forward(w http.ResponseWriter, r *http.Request) {
	h := p.next
	if status := p.error(); status != 0 {
		h = p.fail(status)
	}
	ranged := r.Header.Get("Range") != ""
	if ranged && p.draw(p.opts.IgnoreRange) {
		p.stats.Ignored.Add(1)
		h = IgnoreRange()(h)
	}
	if ranged && p.draw(p.opts.WrongRange) {
		p.stats.Wrong.Add(1)
		h = WrongRange(1)(h)
	}
	if every := p.opts.FlipEvery; every > 0 {
		w = &flipping{ResponseWriter: w, p: p, every: every, next: p.about(every)}
	}
	h.ServeHTTP(w, r)
}

func (p *Proxy) draw(share float64) bool {
	if share <= 0 {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.random.Float64() < share
}

func (p *Proxy) about(n int64) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return n/2 + p.random.Int64N(n+1)
}

// error is the status of the error that a request meets, or 0.
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

func (p *Proxy) fail(status int) http.Handler {
	var headers []string
	if p.opts.RetryAfter != "" {
		headers = []string{"Retry-After", p.opts.RetryAfter}
	}
	return Status(status, headers...)(nil)
}

// redirect sends the client to a signed URL.
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

func (p *Proxy) sign(path, expires string) string {
	m := hmac.New(sha256.New, p.key)
	fmt.Fprintf(m, "%s\n%s", path, expires)
	return hex.EncodeToString(m.Sum(nil))
}

// serveSigned answers requests of signed URLs as storage services do.
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

// flipping changes a bit now and then.
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

// Unwrap lets http.ResponseController find the connection.
func (f *flipping) Unwrap() http.ResponseWriter { return f.ResponseWriter }
