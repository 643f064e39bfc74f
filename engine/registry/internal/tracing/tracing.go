// Package tracing reports each exchange with a host as an event, less what is secret in it, and has
// the bodies of responses watched.
package tracing

import (
	"net/http"
	"time"

	"drayage/engine/event"
	"drayage/engine/printable"
	"drayage/engine/registry/internal/reach"
	"drayage/engine/registry/internal/redact"
	"drayage/engine/registry/internal/response"
)

// Transport is a http.RoundTripper that does so.
type Transport struct {
	Next     http.RoundTripper
	Observer event.Observer
	Secrets  *printable.Secrets // are hidden
	Headers  bool               // events have the headers
	Watch    response.Watch
	// Own is called with each response of a host that the user has named.
	Own func(resp *http.Response)
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	start := time.Now()
	resp, err := t.Next.RoundTrip(req)
	e := event.Requested{Method: req.Method, URL: t.Secrets.Hide(redact.URL(req.URL)), Took: time.Since(start)}
	if err != nil {
		e.Why = t.Secrets.Line(redact.Error(err))
	} else {
		e.Status = resp.StatusCode
		if reach.TrailOf(req.Context()).IsOwn(req.URL) {
			t.Own(resp)
		}
		resp.Body = t.Watch.Body(req.Context(), resp)
	}
	if t.Headers {
		e.Request = redact.Header(req.Header, t.Secrets)
		if err == nil {
			e.Response = redact.Header(resp.Header, t.Secrets)
		}
	}
	t.Observer.Observe(e)
	return resp, err
}
