// Package lease shares the URL that a registry redirects to for a blob: all who read the blob use it
// until it is about to expire or stops working, and one at a time finds out a new one.
package lease

import (
	"context"
	"net/url"
	"sync"
	"time"

	"drayage/engine/registry/internal/reach"
)

// URL is a signed URL of another host than the registry's, and when to ask for a new one.
type URL struct {
	URL   *url.URL
	By    *reach.Trail // who has led there
	Renew time.Time    // zero: when it stops working
}

// Shared is what is known of where a blob is. The zero value knows nothing. It may be used from
// several goroutines.
type Shared struct {
	mu        sync.Mutex
	lease     *URL
	direct    bool          // the registry sends the blob itself
	resolving chan struct{} // closed when who finds out which has done so
}

// Get returns the URL to ask, nil for the registry, and a function that must
// be called with what was found there. While one finds out, the others wait.
func (s *Shared) Get(ctx context.Context) (*URL, func(*URL, error), error) {
	for {
		s.mu.Lock()
		l := s.lease
		if l != nil && !l.Renew.IsZero() && time.Now().After(l.Renew) {
			s.lease, l = nil, nil
		}
		waiting := s.resolving
		if l != nil || s.direct {
			s.mu.Unlock()
			return l, func(found *URL, _ error) {
				if l == nil && found != nil { // it does redirect, now
					s.mu.Lock()
					defer s.mu.Unlock()
					s.lease, s.direct = found, false
				}
			}, nil
		}
		if waiting == nil {
			done := make(chan struct{})
			s.resolving = done
			s.mu.Unlock()
			return nil, func(found *URL, err error) {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.resolving = nil
				s.lease, s.direct = found, err == nil && found == nil
				close(done)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-waiting:
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
}

// Forget drops a URL that doesn't work any more, if it is still the current one.
func (s *Shared) Forget(l *URL) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lease == l {
		s.lease = nil
	}
}
