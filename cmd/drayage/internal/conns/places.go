package conns

import (
	"cmp"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"drayage/cmd/drayage/internal/client"
	"drayage/cmd/drayage/internal/limits"
	"drayage/cmd/drayage/internal/refusal"
)

// Bounds are how many connections there may be; 0 is no bound.
type Bounds struct {
	All       int // of all clients
	PerClient int // of one address
}

// spares are how many places the reserve has, in all and for one address. It answers health checks
// when all places are taken, and has others wait for one that becomes free.
func (b Bounds) spares() (all, perClient int) {
	const part, addresses, fewest, fewestOfOne = 8, 32, 64, 8
	all = max(fewest, b.All/part)
	return all, max(fewestOfOne, all/addresses)
}

// places are those that connections take. When all are taken, a connection that waits for its
// client gives way to a new one: one of the address that has most. Else the new one gets a place
// of the reserve, for some seconds.
type places struct {
	bounds   Bounds
	times    Timeouts
	refusals *refusal.Log
	closing  atomic.Bool

	mu                sync.Mutex
	taken             map[*Conn]struct{}
	spare             map[*Conn]struct{}
	ofHost, ofNetwork map[netip.Prefix]int // places that are taken
	http2             *client.Counts       // connections that may speak HTTP/2
}

func newPlaces(b Bounds, t Timeouts, r *refusal.Log) *places {
	return &places{
		bounds: b, times: t, refusals: r, taken: make(map[*Conn]struct{}), spare: make(map[*Conn]struct{}),
		ofHost: make(map[netip.Prefix]int), ofNetwork: make(map[netip.Prefix]int), http2: client.NewCounts(mostHTTP2, mostHTTP2OfOne),
	}
}

// offers is the TLS configuration for a client that says hello: HTTP/1.1 alone when there are as
// many connections that may speak HTTP/2 as there may be.
func (p *places) offers(plain *tls.Config) func(*tls.ClientHelloInfo) (*tls.Config, error) {
	return func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if c := connOf(hello.Conn); c == nil || !slices.Contains(hello.SupportedProtos, "h2") || p.mayHTTP2(c) {
			return nil, nil
		}
		return plain, nil
	}
}

func (p *places) mayHTTP2(c *Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.here(c) { // it has been ended
		return false
	}
	c.http2 = c.http2 || p.http2.Enter(c.from)
	return c.http2
}

// here reports whether a connection has a place. The caller holds p.mu.
func (p *places) here(c *Conn) bool {
	_, taken := p.taken[c]
	_, spare := p.spare[c]
	return taken || spare
}

// listener gives each connection that it accepts a place.
type listener struct {
	net.Listener
	places *places
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if out := l.places.enter(c, client.AddressOf(c.RemoteAddr().String())); out != nil {
			return out, nil
		}
		_ = c.Close() // there is nobody to tell
	}
}

// enter gives a connection a place. nil says that there is none, not even of the reserve.
func (p *places) enter(plain net.Conn, from client.Address) *Conn {
	now := time.Now()
	c := &Conn{Conn: plain, places: p, from: from, since: now, acked: func() (int64, bool) { return acked(plain) }}
	p.mu.Lock()
	var why string
	var victim *Conn
	switch {
	case from.Known() && p.bounds.PerClient > 0 && (p.ofHost[from.Host] >= p.bounds.PerClient || p.ofNetwork[from.Network] >= p.perNetwork()):
		why = refusal.WhyFullOfOne
	case p.bounds.All > 0 && len(p.taken) >= p.bounds.All:
		if victim = p.givesWay(from, now); victim == nil {
			why = refusal.WhyFull
		}
	}
	if why != "" {
		c.spare = why
		c.until.Store(now.Add(p.times.Reserve).UnixNano())
		var ok bool
		if victim, ok = p.spareFor(from); !ok {
			p.mu.Unlock()
			p.refusals.Note(refusal.Refusal{Why: why, From: from})
			return nil
		}
	}
	if victim != nil {
		p.forget(victim)
	}
	if why != "" {
		p.spare[c] = struct{}{}
	} else {
		p.take(c)
	}
	p.mu.Unlock()
	if victim != nil {
		victim.Cut(gaveWay)
	}
	_ = plain.SetDeadline(c.bounded(time.Time{})) // one that can't have any has those of the server
	return c
}

// take gives a connection one of all places. The caller holds p.mu.
func (p *places) take(c *Conn) {
	p.taken[c] = struct{}{}
	if c.from.Known() {
		p.ofHost[c.from.Host]++
		p.ofNetwork[c.from.Network]++
	}
}

// spareWhy is why a connection has a place of the reserve alone, "" when it has one of all.
func (p *places) spareWhy(c *Conn) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return c.spare
}

// promote waits until a connection of the reserve can have one of all places, and reports whether
// it has it: clients that are found to be slow give way soon.
func (p *places) promote(ctx context.Context, c *Conn) bool {
	const looks, late = 24, 4
	tick := time.NewTicker(p.times.Reserve / looks)
	defer tick.Stop()
	for range looks - late {
		if p.tryPromote(c) {
			return true
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
	return false
}

func (p *places) tryPromote(c *Conn) bool {
	p.mu.Lock()
	_, here := p.spare[c]
	var victim *Conn
	if len(p.taken) >= p.bounds.All {
		victim = p.givesWay(c.from, time.Now())
	}
	if !here || c.spare != refusal.WhyFull || len(p.taken) >= p.bounds.All && victim == nil {
		p.mu.Unlock()
		return false
	}
	if victim != nil {
		p.forget(victim)
	}
	delete(p.spare, c)
	c.spare = ""
	p.take(c)
	p.mu.Unlock()
	if victim != nil {
		victim.Cut(gaveWay)
	}
	c.until.Store(0)
	_ = c.SetDeadline(time.Time{}) // as above
	return true
}

// perNetwork is how many connections all addresses of an IPv6 network may have: never all places.
func (p *places) perNetwork() int {
	if p.bounds.All == 0 {
		return client.Share * p.bounds.PerClient
	}
	return max(p.bounds.PerClient, min(client.Share*p.bounds.PerClient, p.bounds.All/2))
}

// givesWay is the connection that gives way to a new one, nil for none: one that has waited for its
// client for a while, so that who has just connected can ask, or else one whose client takes hardly
// anything while its address has many times what the new one's has. The caller holds p.mu.
func (p *places) givesWay(from client.Address, now time.Time) *Conn {
	const many, grace = 4, 3
	var idle, slow *Conn
	mine := p.ofNetwork[from.Network]
	for c := range p.taken {
		has := p.ofNetwork[c.from.Network]
		switch {
		case c.state != http.StateActive && has >= mine && now.Sub(c.since) >= p.times.Reserve/grace:
			idle = p.heavier(idle, c)
		case c.state == http.StateActive && has >= many*(mine+1) && c.Slow(now):
			slow = p.heavier(slow, c)
		}
	}
	if idle != nil {
		return idle
	}
	return slow
}

// heavier is that of two connections whose address has more, or else the one that is so longer.
func (p *places) heavier(a, b *Conn) *Conn {
	if a == nil {
		return b
	}
	na, nb := p.ofNetwork[a.from.Network], p.ofNetwork[b.from.Network]
	if nb > na || nb == na && b.since.Before(a.since) {
		return b
	}
	return a
}

// spareFor finds a place of the reserve for an address, and the connection that gives way for it,
// if any: the oldest that waits for its client. The caller holds p.mu.
func (p *places) spareFor(from client.Address) (victim *Conn, ok bool) {
	most, mostOfMine := p.bounds.spares()
	mine := 0
	var oldest, oldestOfMine *Conn
	for c := range p.spare {
		waits := c.state != http.StateActive
		if c.from.Network == from.Network && from.Known() {
			mine++
			if waits && (oldestOfMine == nil || c.since.Before(oldestOfMine.since)) {
				oldestOfMine = c
			}
		}
		if waits && (oldest == nil || c.since.Before(oldest.since)) {
			oldest = c
		}
	}
	switch {
	case mine >= mostOfMine:
		return oldestOfMine, oldestOfMine != nil
	case len(p.spare) >= most:
		return oldest, oldest != nil
	}
	return nil, true
}

// forget gives a connection's place back. The caller holds p.mu.
func (p *places) forget(c *Conn) {
	c.gone.Do(func() {
		if c.http2 {
			p.http2.Leave(c.from)
		}
		if c.spare != "" {
			delete(p.spare, c)
			return
		}
		delete(p.taken, c)
		if !c.from.Known() {
			return
		}
		client.Decrement(p.ofHost, c.from.Host)
		client.Decrement(p.ofNetwork, c.from.Network)
	})
}

func (p *places) leave(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(c)
}

// changed notes a connection's state. It is a http.Server's ConnState.
func (p *places) changed(nc net.Conn, s http.ConnState) {
	c := connOf(nc)
	if c == nil {
		return
	}
	p.mu.Lock()
	was, spare, since := c.state, c.spare, c.since
	c.state, c.since = s, time.Now()
	p.mu.Unlock()
	switch s {
	case http.StateActive:
		c.seen.wrote.Store(0) // that of a handshake
	case http.StateIdle, http.StateClosed:
		if why := c.unheard(nc, was, s, since); why != "" && !p.closing.Load() {
			p.refusals.Note(refusal.Refusal{Why: cmp.Or(spare, why), From: c.from})
		}
		c.handling.Store(false)
		c.seen.read.Store(0)
		c.seen.late.Store(false)
	}
}

// unheard is why http.Server refused what no handler has seen of a connection that is idle or
// closed now, "" when it didn't.
func (c *Conn) unheard(nc net.Conn, was, now http.ConnState, since time.Time) string {
	const (
		notice = 64 // bytes that TLS has for a last message; any answer has more
		packed = 2  // how much less a header takes in HTTP/2
	)
	read := c.seen.read.Load()
	switch secure, _ := nc.(*tls.Conn); {
	case c.handling.Load() || c.ended.Load():
		return ""
	case now == http.StateIdle && !c.greeted: // HTTP/2 is active once before any request
		c.greeted = true
		return ""
	case now == http.StateIdle && read >= limits.RequestHeaderBytes/packed:
		return refusal.WhyHeader
	case now == http.StateIdle:
		return refusal.WhyMalformed
	case was == http.StateIdle: // or with the beginning of a request, which came with the one before
		if c.seen.late.Load() && time.Since(since) < c.places.times.Idle {
			return refusal.WhyLate
		}
		return ""
	case was == http.StateActive && read >= limits.RequestHeaderBytes:
		return refusal.WhyHeader
	case c.seen.late.Load():
		return refusal.WhyLate
	case was == http.StateNew && secure != nil && read > 0 && !secure.ConnectionState().HandshakeComplete:
		return refusal.WhyTLS
	case was == http.StateActive && c.seen.wrote.Load() > notice:
		return refusal.WhyMalformed
	}
	return ""
}

// count is how many places are taken.
func (p *places) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.taken)
}

// connOf is the connection below one that a http.Server has, nil where it isn't one of places.
func connOf(nc net.Conn) *Conn {
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok { // tls.Conn
		nc = t.NetConn()
	}
	c, _ := nc.(*Conn)
	return c
}
