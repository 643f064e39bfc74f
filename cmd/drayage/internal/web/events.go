package web

import (
	"context"
	"net/http"
	"time"

	"drayage/cmd/drayage/internal/refusal"
	"drayage/engine/mirror"
)

const (
	// Answers that go on for as long as a client reads them, and for how long each does. A page that
	// shows one begins another.
	mostEvents      = 128
	mostEventsOfOne = 16
	longestEvents   = 10 * time.Minute
)

// boundEvents is events for a while, if there aren't too many.
func (s *site) boundEvents(w http.ResponseWriter, r *http.Request) {
	v := refusal.VisitOf(r.Context())
	if !s.shown.Enter(v.From) {
		mirror.Fail(w, refuse(w, v, "events", http.StatusServiceUnavailable, "UNAVAILABLE", "too many pages show the transfers", time.Minute))
		return
	}
	defer s.shown.Leave(v.From)
	ctx, cancel := context.WithTimeout(r.Context(), longestEvents)
	defer cancel()
	s.events(w, r.WithContext(ctx))
}
