// Package refusal counts what a server refuses, logs it, and tells of floods in a few lines.
package refusal

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"drayage/cmd/drayage/internal/client"
	"drayage/engine/mirror"

	"github.com/prometheus/client_golang/prometheus"
)

// Log count what was refused, and log it: a line for each or, when they come in floods, some
// lines a second of each kind, and how many were left out. Without a log, whoever runs the server is
// told of each kind every few seconds. Nil notes none.
type Log struct {
	log     *slog.Logger // nil is none
	tell    func(message string)
	total   *prometheus.CounterVec
	telling sync.WaitGroup // timers of floods that tell

	mu     sync.Mutex
	kinds  map[string]*flood
	closed bool
}

// flood are the refusals of one kind.
type flood struct {
	second time.Time // that lines are counted of
	lines  int
	left   int            // out of the log, or to be told of
	latest client.Address // of those
	timer  *time.Timer
}

// Refusal is what is told of one. Foreign texts are cut when it is noted.
type Refusal struct {
	Why    string
	What   string // more of it, in our own words
	From   client.Address
	Status int // 0 where there was no request
	User, Method, Host, Path,
	Agent string
}

// Why a connection has a place of the reserve alone, as metrics have it.
const (
	WhyFull      = "connections"
	WhyFullOfOne = "client-connections"
)

// Why http.Server refuses requests by itself, as metrics have it.
const (
	WhyHeader    = "header"
	WhyLate      = "timeout"
	WhyTLS       = "tls"
	WhyMalformed = "malformed"
	WhyHTTP2     = "http2"
)

// whys are all kinds of refusals, as metrics have them, and what to tell of them; "" is nothing.
var whys = map[string]string{
	WhyNoLogin:        "", // what clients begin with
	"password":        "wrong user name or password",
	"guesses":         "too many wrong passwords from one address",
	"passwords-busy":  "too many passwords to check at once",
	"rate":            "more than --client-requests",
	"host":            "a host name that --allow-host doesn't have",
	"body":            "a request with a body",
	"denied":          "denied, most often by upstream",
	"unavailable":     "unavailable, most often upstream",
	"upstream":        "more than --client-upstream or --max-upstream",
	"busy":            "rate limit of upstream exceeded",
	WhyFull:           "more than --max-connections",
	WhyFullOfOne:      "more than --max-per-client",
	"gave-way":        "ended to make room for another",
	"slow":            "the client reads too slowly",
	"events":          "too many pages show the transfers",
	"streams":         "too many requests at once by HTTP/2",
	"method":          "a method other than GET and HEAD",
	"query":           "parameters that are too long",
	"no-room":         "no space left for a blob, on the disk or in --budget",
	mirror.WhyPrivate: "an image that --private keeps from the user",
	mirror.WhyRanges:  "too many ranges",
	WhyHeader:         "a header that is too large",
	WhyLate:           "no complete header or TLS handshake in time",
	WhyTLS:            "TLS handshake failed",
	WhyMalformed:      "malformed request",
	WhyHTTP2:          "HTTP/2 protocol error",
}

// WhyNoLogin is what a client asks for first, before it knows that a password is required.
const WhyNoLogin = "no-login"

// Refused notes why a mirror refuses a request, by the request's context.
func Refused(ctx context.Context, _, why, _ string) { VisitOf(ctx).Why = why }

// NewLog begins to count. Without a log, tell is called with a line about each kind, at once and
// then every ten seconds while there are more; nil tells nobody. Close it when done.
func NewLog(log *slog.Logger, tell func(message string)) *Log {
	r := &Log{
		log: log, tell: tell, kinds: make(map[string]*flood),
		total: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "drayage_serve_refused_total", Help: "Requests and connections that were refused, by why."}, []string{"why"}),
	}
	for why := range whys {
		r.total.WithLabelValues(why)
	}
	return r
}

// Collector counts refusals, for metrics.
func (r *Log) Collector() prometheus.Collector { return r.total }

// Close logs what was left out so far, or tells of it.
func (r *Log) Close() {
	r.mu.Lock()
	r.closed = true
	var rest []string
	for why, f := range r.kinds {
		if r.log != nil {
			r.sum(why, f)
			continue
		}
		if f.timer != nil && f.timer.Stop() {
			r.telling.Done()
		}
		if f.left > 0 {
			rest = append(rest, f.message(why))
		}
	}
	r.mu.Unlock()
	r.telling.Wait()
	slices.Sort(rest)
	for _, message := range rest {
		r.tell(message)
	}
}

// Note counts a refusal, and logs it or tells of it.
func (r *Log) Note(x Refusal) {
	if r == nil {
		return
	}
	r.total.WithLabelValues(x.Why).Inc()
	if r.log == nil && (r.tell == nil || whys[x.Why] == "") {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.kinds[x.Why]
	if f == nil {
		f = new(flood)
		r.kinds[x.Why] = f
	}
	if r.log == nil {
		f.left++
		f.latest = x.From
		if f.timer == nil && !r.closed {
			r.tellAfter(0, x.Why, f)
		}
		return
	}
	const lines = 10 // a second
	now := time.Now()
	if now.Sub(f.second) >= time.Second {
		r.sum(x.Why, f)
		f.second, f.lines = now, 0
	}
	if f.lines >= lines || r.closed {
		if f.left++; f.left == 1 && !r.closed {
			f.timer = time.AfterFunc(time.Second, func() {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.sum(x.Why, f)
			})
		}
		return
	}
	f.lines++
	r.log.Warn("refused", x.attrs()...)
}

// tellAfter tells of a kind's refusals after a while, and again while there are more. Nobody who is
// refused waits for who is told. The caller holds r.mu.
func (r *Log) tellAfter(wait time.Duration, why string, f *flood) {
	const often = 10 * time.Second
	r.telling.Add(1)
	f.timer = time.AfterFunc(wait, func() {
		defer r.telling.Done()
		r.mu.Lock()
		if f.left == 0 || r.closed { // Close tells the rest
			f.timer = nil
			r.mu.Unlock()
			return
		}
		message := f.message(why)
		f.left = 0
		r.tellAfter(often, why, f)
		r.mu.Unlock()
		r.tell(message)
	})
}

// message tells of the refusals that were not told of yet.
func (f *flood) message(why string) string {
	times, from := "a request", ""
	if f.left > 1 {
		times = fmt.Sprintf("%d requests", f.left)
	}
	if f.latest.Known() {
		from = ", latest client " + f.latest.Host.Addr().String()
	}
	return fmt.Sprintf("refused %s: %s (%s%s)", times, whys[why], why, from)
}

// sum logs how many refusals of a kind were left out. The caller holds r.mu.
func (r *Log) sum(why string, f *flood) {
	if f.timer != nil {
		f.timer.Stop()
		f.timer = nil
	}
	if f.left > 0 {
		r.log.Warn("refused", "why", why, "more", f.left)
		f.left = 0
	}
}

func (x Refusal) attrs() []any {
	client := ""
	if x.From.Known() {
		client = x.From.Host.Addr().String()
	}
	out := []any{"why", x.Why, "client", client}
	if x.What != "" {
		out = append(out, "what", x.What)
	}
	if x.Status == 0 {
		return out
	}
	return append(out, "status", x.Status, "user", Short(x.User, MostUser), "method", Short(x.Method, MostMethod), "host", Short(x.Host, MostHost), "path", Short(x.Path, MostPath), "agent", Short(x.Agent, MostAgent))
}

// How many bytes of foreign texts a log has. Paths of honest clients are shorter.
const (
	MostPath   = 600
	MostAgent  = 200
	MostHost   = 100
	MostUser   = 64
	MostMethod = 16
)

// Short is a foreign text for a log, cut. What isn't printable is escaped by slog.
func Short(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
