package bench

import (
	"cmp"
	"net/url"
	"slices"
	"strings"
	"sync"

	"drayage/bench/internal/stats"
	"drayage/engine/event"
)

// Exchanges collects the response times of requests that transfer no blob: for
// tokens, manifests and redirects. It is an event.Observer of a registry client; its
// zero value is ready for use, and its methods may be called from several goroutines.
type Exchanges struct {
	mu     sync.Mutex
	byKind map[exchange]stats.Histogram
}

// exchange is a kind of request to a host.
type exchange struct{ kind, host string }

// Observe implements event.Observer.
func (x *Exchanges) Observe(e event.Event) {
	r, ok := e.(event.Requested)
	if !ok || r.Status == 0 {
		return
	}
	u, err := url.Parse(r.URL)
	if err != nil {
		return
	}
	key := exchange{exchangeKind(u, r.Status), u.Host}
	if key.kind == "" {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.byKind == nil {
		x.byKind = make(map[exchange]stats.Histogram)
	}
	if _, ok := x.byKind[key]; !ok {
		x.byKind[key] = stats.NewTimes()
	}
	x.byKind[key].AddTime(r.Took)
}

// exchangeKind is the kind of a request; "" for one that transfers a blob, or for an
// unknown one.
func exchangeKind(u *url.URL, status int) string {
	switch {
	case strings.Contains(u.Path, "/manifests/"):
		return "manifest"
	case strings.Contains(u.Path, "/blobs/") && status >= 300 && status < 400:
		return "redirect"
	case !strings.HasPrefix(u.Path, "/v2/") && strings.Contains(u.Path, "token"):
		return "token"
	}
	return ""
}

// times returns what was collected so far.
func (x *Exchanges) times() []ExchangeTimes {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []ExchangeTimes
	for k, h := range x.byKind {
		out = append(out, ExchangeTimes{Kind: k.kind, Host: k.host, Quantiles: quantiles(h)})
	}
	slices.SortFunc(out, func(a, b ExchangeTimes) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Host, b.Host)) })
	return out
}
