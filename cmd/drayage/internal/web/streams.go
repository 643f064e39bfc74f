package web

import (
	"context"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"drayage/engine/mirror"
)

// streams bounds the answers that are under way, in all and to one network.
type streams struct {
	most, mostOfOne int

	mu  sync.Mutex
	all int
	of  map[netip.Prefix]int
}

const (
	// Those that go on for as long as a client reads them, and for how long each does. A page that
	// shows one begins another.
	mostEvents      = 128
	mostEventsOfOne = 16
	longestEvents   = 10 * time.Minute
	// Those by HTTP/2, of which a connection may have a hundred. In HTTP/1 each has a connection,
	// and there are bounds for those.
	mostStreams      = 4096
	mostStreamsOfOne = 512
)

func newStreams(most, mostOfOne int) *streams {
	return &streams{most: most, mostOfOne: mostOfOne, of: make(map[netip.Prefix]int)}
}

func (s *streams) enter(from source) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= s.most || from.known() && s.of[from.network] >= s.mostOfOne {
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
	if !s.shown.enter(v.from) {
		mirror.Fail(w, v.refuse(w, "events", http.StatusServiceUnavailable, "UNAVAILABLE", "too many pages show the transfers", time.Minute))
		return
	}
	defer s.shown.leave(v.from)
	ctx, cancel := context.WithTimeout(r.Context(), longestEvents)
	defer cancel()
	s.events(w, r.WithContext(ctx))
}
