package bench

import (
	"crypto/tls"
	"net/http/httptrace"
	"sync"
	"time"
)

// connectionTrace times the connections of a request, of which there may be several
// if the registry redirects. net/http may still call it when the request is over.
type connectionTrace struct {
	mu     sync.Mutex
	sample *Sample // nil when the request is over

	dns, connect, tls time.Time
}

// with calls f with the sample while the request is in flight.
func (c *connectionTrace) with(f func(s *Sample, now time.Time)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sample != nil {
		f(c.sample, time.Now())
	}
}

func (c *connectionTrace) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sample = nil
}

func (c *connectionTrace) client() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GetConn:      func(host string) { c.with(func(s *Sample, _ time.Time) { s.Host = host }) },
		GotConn:      func(i httptrace.GotConnInfo) { c.with(func(s *Sample, _ time.Time) { s.Fresh = s.Fresh || !i.Reused }) },
		DNSStart:     func(httptrace.DNSStartInfo) { c.with(func(_ *Sample, now time.Time) { c.dns = now }) },
		DNSDone:      func(httptrace.DNSDoneInfo) { c.with(func(s *Sample, now time.Time) { s.DNS += now.Sub(c.dns) }) },
		ConnectStart: func(string, string) { c.with(func(_ *Sample, now time.Time) { c.connect = now }) },
		ConnectDone: func(string, string, error) {
			c.with(func(s *Sample, now time.Time) { s.Connect += now.Sub(c.connect) })
		},
		TLSHandshakeStart: func() { c.with(func(_ *Sample, now time.Time) { c.tls = now }) },
		TLSHandshakeDone: func(state tls.ConnectionState, _ error) {
			c.with(func(s *Sample, now time.Time) {
				s.TLS += now.Sub(c.tls)
				s.HTTP2 = state.NegotiatedProtocol == "h2"
			})
		},
	}
}
