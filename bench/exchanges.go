package bench

import (
	"cmp"
	"net/url"
	"slices"
	"strings"
	"sync"

	"drayage/engine/event"
)

// Exchanges gathers how long HTTP exchanges took that bring no blob: for tokens,
// for manifests, and where the registry only says where a blob is. It is an
// event.Observer.
type Exchanges struct {
	mu     sync.Mutex
	byKind map[[2]string]Times // by kind and host
}

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
	kind := ""
	switch {
	case strings.Contains(u.Path, "/manifests/"):
		kind = "manifest"
	case strings.Contains(u.Path, "/blobs/") && r.Status >= 300 && r.Status < 400:
		kind = "redirect"
	case !strings.HasPrefix(u.Path, "/v2/") && strings.Contains(u.Path, "token"):
		kind = "token"
	default:
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.byKind == nil {
		x.byKind = make(map[[2]string]Times)
	}
	key := [2]string{kind, u.Host}
	if _, ok := x.byKind[key]; !ok {
		x.byKind[key] = newTimes()
	}
	x.byKind[key].add(r.Took)
}

// Times are what was gathered so far.
func (x *Exchanges) Times() []ExchangeTimes {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []ExchangeTimes
	for k, t := range x.byKind {
		out = append(out, ExchangeTimes{Kind: k[0], Host: k[1], Quantiles: t.quantiles()})
	}
	slices.SortFunc(out, func(a, b ExchangeTimes) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Host, b.Host)) })
	return out
}
