// Package probing finds out whether a server speaks TLS: a request is given up when no TLS connection
// is made in time.
package probing

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"

	"drayage/engine/registry/internal/response"
)

// probeTime is how long a server may take to connect and to speak TLS where plain HTTP is allowed:
// firewalls drop what they don't know, and some servers wait for a line that TLS doesn't send.
const probeTime = 4 * time.Second

// ErrNoTLS is the cause with which such a request is given up.
var ErrNoTLS = errors.New("no TLS handshake in time")

// Probe is a request that finds out whether a server speaks TLS.
type Probe struct {
	mu     sync.Mutex
	timer  *time.Timer // runs while a connection is made
	spoke  bool        // there was one with TLS
	cancel context.CancelCauseFunc
}

// Start makes the request of the returned context a Probe. End or Until has to be called on it.
func Start(ctx context.Context) (context.Context, *Probe) {
	p := new(Probe)
	ctx, p.cancel = context.WithCancelCause(ctx)
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		ConnectStart: func(string, string) {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.timer == nil && !p.spoke {
				p.timer = time.AfterFunc(probeTime, func() { p.cancel(ErrNoTLS) })
			}
		},
		GotConn: func(httptrace.GotConnInfo) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.spoke = true
			if p.timer != nil {
				p.timer.Stop()
			}
		},
	}), p
}

// SpokeTLS reports whether a connection with TLS was made.
func (p *Probe) SpokeTLS() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.spoke
}

// End ends a request that had no answer.
func (p *Probe) End() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil {
		p.timer.Stop()
	}
	p.cancel(nil)
}

// Until ends a request with the body of its answer.
func (p *Probe) Until(resp *http.Response) {
	if !response.CloseWith(resp, p.cancel) {
		p.End() // the body was read
	}
}
