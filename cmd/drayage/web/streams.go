package web

import (
	"context"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"drayage/engine/mirror"
)

// streams bounds the answers that go on for as long as a client reads them: how many there are, and
// how long each goes on. A page that shows one begins another.
type streams struct {
	mu  sync.Mutex
	all int
	of  map[netip.Prefix]int
}

const (
	mostStreams      = 128
	mostStreamsOfOne = 16
	longestStream    = 10 * time.Minute
)

func newStreams() *streams { return &streams{of: make(map[netip.Prefix]int)} }

func (s *streams) enter(from source) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= mostStreams || from.known() && s.of[from.network] >= mostStreamsOfOne {
		return false
	}
	s.all++
	s.of[from.network]++
	return true
}

func (s *streams) leave(from source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	fewer(s.of, from.network)
}

// boundEvents is events for a while, if there aren't too many.
func (s *site) boundEvents(w http.ResponseWriter, r *http.Request) {
	v := visitOf(r.Context())
	if !s.streams.enter(v.from) {
		mirror.Fail(w, v.refuse(w, "events", http.StatusServiceUnavailable, "UNAVAILABLE", "too many pages show the transfers", time.Minute))
		return
	}
	defer s.streams.leave(v.from)
	ctx, cancel := context.WithTimeout(r.Context(), longestStream)
	defer cancel()
	s.events(w, r.WithContext(ctx))
}
