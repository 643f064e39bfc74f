package web

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"drayage/engine/mirror"

	"github.com/prometheus/client_golang/prometheus"
)

// Refusals count what was refused, and log it: a line for each or, when they come in floods, some
// lines a second of each kind, and how many were left out. Nil notes none.
type Refusals struct {
	log   *slog.Logger // nil is none
	total *prometheus.CounterVec

	mu     sync.Mutex
	kinds  map[string]*flood
	closed bool
}

// flood are the refusals of one kind.
type flood struct {
	second time.Time // that lines are counted of
	lines  int
	left   int // out of the log
	timer  *time.Timer
}

// refusal is what is told of one. Foreign texts are cut when it is noted.
type refusal struct {
	why    string
	from   source
	status int // 0 where there was no request
	user, method, host, path,
	agent string
}

// whys are all kinds of refusals, as metrics have them.
var whys = []string{"no-login", "password", "guesses", "passwords-busy", "rate", "host", "body", "denied", "unavailable", "upstream", "busy", whyFull, whyFullOfOne, "gave-way", "slow", "events", "streams", "method", "query", "no-room", mirror.WhyPrivate, mirror.WhyRanges}

// Refused notes why a mirror refuses a request, by the request's context.
func Refused(ctx context.Context, _, why, _ string) { visitOf(ctx).why = why }

// NewRefusals begins to count. Close it when done.
func NewRefusals(log *slog.Logger) *Refusals {
	r := &Refusals{
		log: log, kinds: make(map[string]*flood),
		total: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "drayage_serve_refused_total", Help: "Requests and connections that were refused, by why."}, []string{"why"}),
	}
	for _, why := range whys {
		r.total.WithLabelValues(why)
	}
	return r
}

// Close logs what was left out so far.
func (r *Refusals) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for why, f := range r.kinds {
		r.sum(why, f)
	}
}

func (r *Refusals) note(x refusal) {
	if r == nil {
		return
	}
	r.total.WithLabelValues(x.why).Inc()
	if r.log == nil {
		return
	}
	const lines = 10 // a second
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.kinds[x.why]
	if f == nil {
		f = new(flood)
		r.kinds[x.why] = f
	}
	if now.Sub(f.second) >= time.Second {
		r.sum(x.why, f)
		f.second, f.lines = now, 0
	}
	if f.lines >= lines || r.closed {
		if f.left++; f.left == 1 && !r.closed {
			f.timer = time.AfterFunc(time.Second, func() {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.sum(x.why, f)
			})
		}
		return
	}
	f.lines++
	r.log.Warn("refused", x.attrs()...)
}

// sum logs how many refusals of a kind were left out. The caller holds r.mu.
func (r *Refusals) sum(why string, f *flood) {
	if f.timer != nil {
		f.timer.Stop()
		f.timer = nil
	}
	if f.left > 0 {
		r.log.Warn("refused", "why", why, "more", f.left)
		f.left = 0
	}
}

func (x refusal) attrs() []any {
	client := ""
	if x.from.known() {
		client = x.from.host.Addr().String()
	}
	out := []any{"why", x.why, "client", client}
	if x.status == 0 {
		return out
	}
	return append(out, "status", x.status, "user", short(x.user, mostUser), "method", short(x.method, mostMethod), "host", short(x.host, mostHost), "path", short(x.path, mostPath), "agent", short(x.agent, mostAgent))
}

// How many bytes of foreign texts a log has. Paths of honest clients are shorter.
const (
	mostPath   = 600
	mostAgent  = 200
	mostHost   = 100
	mostUser   = 64
	mostMethod = 16
)

// short is a foreign text for a log, cut. What isn't printable is escaped by slog.
func short(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
