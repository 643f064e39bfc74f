package reach

import (
	"context"
	"net/url"
	"sync"
)

// Trail is who has led to a request: a registry that the user has named, and hosts that others
// have named. The zero value may lead anywhere on the Internet.
type Trail struct {
	named Named // the registry or mirror, nil for none

	mu      sync.Mutex
	most    Level // as close as the hosts may lead that it went over
	proxied bool  // one of them was reached through a proxy
}

// NewTrail begins at a registry, or, for nil, where all that is over may be.
func NewTrail(n Named) *Trail { return &Trail{named: n, most: loopback} }

// May is how close the next request may go: no registry may lead closer than it is itself.
func (t *Trail) May() Level {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.named == nil {
		return t.most
	}
	return min(t.most, t.named.Location().Where())
}

// Over notes an answer of a host that others have named, and whether it came through a proxy.
func (t *Trail) Over(at Level, proxied bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.most, t.proxied = min(t.most, at), t.proxied || proxied
}

// IsProxied reports whether a proxy hides where one of those is who have led here.
func (t *Trail) IsProxied() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.proxied || t.named != nil && t.named.Location().IsProxied()
}

// Fork is the trail so far. What comes after that is its own.
func (t *Trail) Fork() *Trail {
	t.mu.Lock()
	defer t.mu.Unlock()
	return &Trail{named: t.named, most: t.most, proxied: t.proxied}
}

// IsOwn reports whether a URL is one of the host that the user has named.
func (t *Trail) IsOwn(u *url.URL) bool { return t.named != nil && t.named.Has(u) }

type trailKey struct{}

// WithTrail is a context for a request that a trail has led to.
func WithTrail(ctx context.Context, t *Trail) context.Context {
	return context.WithValue(ctx, trailKey{}, t)
}

// TrailOf is the trail that a context has; without one it may lead anywhere on the Internet.
func TrailOf(ctx context.Context) *Trail {
	if t, ok := ctx.Value(trailKey{}).(*Trail); ok {
		return t
	}
	return new(Trail)
}

// Named is a registry or mirror that the user has named.
type Named interface {
	// Has reports whether a URL is one of the host itself.
	Has(u *url.URL) bool
	// Location is where the host is, as far as its answers have shown.
	Location() *Location
}

// Location is where a host was when it last answered. The zero value is anywhere.
type Location struct {
	mu       sync.Mutex
	level    Level
	proxied  bool // through a proxy, which hides where it is
	answered bool
}

// Where is how close the host was when it last answered: Anywhere, until it has.
func (l *Location) Where() Level {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.level
}

// Note records how close the host was when it answered: through a proxy, that is Anywhere.
func (l *Location) Note(at Level, proxied bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.level, l.proxied, l.answered = at, proxied, true
}

// IsProxied reports whether the last answer came through a proxy.
func (l *Location) IsProxied() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.proxied
}

// HasAnswered reports whether the host has answered at all.
func (l *Location) HasAnswered() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answered
}
