package client

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// RateLimits bound what clients may take. A client is an address; all addresses of an IPv6 network of
// 64 bits together may have as much as 16.
type RateLimits struct {
	Requests rate.Limit // a second of one client; 0 is no bound
	Burst    int        // requests at once; 0 is those of a second
	Bytes    rate.Limit // a second of one client; 0 is no bound
	// FreeLoopback says that Requests is not for addresses of this machine.
	FreeLoopback bool
}

// mostClients is how many addresses are known at once. Those beyond share what one network has.
const mostClients = 65_536

// Rates are the rates that each address has left.
type Rates struct {
	requests, networks *Buckets // nil is no bound
	health             *Buckets
	freeLoopback       bool
	bytes              *byteRates // nil is no bound
}

// NewRates returns what Limits leave to each address at first.
func NewRates(l RateLimits) *Rates {
	const (
		health = 200 // health checks of one address a second, and ten times as many at once
		burst  = 10 * health
	)
	c := &Rates{health: NewBuckets(health, burst, mostClients), freeLoopback: l.FreeLoopback}
	if l.Requests > 0 {
		burst := float64(max(1, int(l.Requests)))
		if l.Burst > 0 {
			burst = float64(l.Burst)
		}
		c.requests = NewBuckets(float64(l.Requests), burst, mostClients)
		c.networks = NewBuckets(Share*float64(l.Requests), Share*burst, mostClients)
	}
	if l.Bytes > 0 {
		c.bytes = &byteRates{limit: l.Bytes, known: make(map[netip.Prefix]*byteRate)}
	}
	return c
}

// Request takes one request of a client's rate, and returns how long it would have to
// wait for it: 0 when it needn't.
func (c *Rates) Request(from Address, health bool, now time.Time) time.Duration {
	switch {
	case !from.Known():
		return 0
	case health && from.Host.Addr().IsLoopback():
		return 0
	case health:
		return c.health.Take(from.Host, now)
	case c.requests == nil || c.freeLoopback && from.Host.Addr().IsLoopback():
		return 0
	}
	if from.Shared() {
		if wait := c.networks.Take(from.Network, now); wait > 0 {
			return wait
		}
	}
	return c.requests.Take(from.Host, now)
}

// Bytes is what holds back the bytes to a client, or nil.
func (c *Rates) Bytes(from Address) *rate.Limiter {
	if c.bytes == nil || !from.Known() {
		return nil
	}
	return c.bytes.to(from.Host)
}

// byteRates are the bytes that each address has left.
type byteRates struct {
	limit rate.Limit

	mu    sync.Mutex
	known map[netip.Prefix]*byteRate
	rest  *rate.Limiter // of all that there is no room for
	swept time.Time
}

type byteRate struct {
	limiter *rate.Limiter
	seen    time.Time
}

func (b *byteRates) to(key netip.Prefix) *rate.Limiter {
	const long, often = 10 * time.Minute, time.Second
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	k := b.known[key]
	if k == nil {
		if len(b.known) >= mostClients && now.Sub(b.swept) >= often {
			b.swept = now
			for a, k := range b.known {
				if now.Sub(k.seen) > long {
					delete(b.known, a)
				}
			}
		}
		if len(b.known) >= mostClients {
			if b.rest == nil {
				b.rest = limiterOf(Share * b.limit)
			}
			return b.rest
		}
		k = &byteRate{limiter: limiterOf(b.limit)}
		b.known[key] = k
	}
	k.seen = now
	return k.limiter
}

func limiterOf(l rate.Limit) *rate.Limiter {
	const burst = 64 << 10
	return rate.NewLimiter(l, max(burst, int(l)/10))
}
