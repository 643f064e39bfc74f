package client

import (
	"net/netip"
	"sync"
	"time"
)

// Buckets are allowances, one for each address: of burst at once, and perSecond in the long run.
// Their memory is bounded. An allowance that is not whole again is never forgotten, so that
// nobody gets a new one by coming from many addresses: those that there is no room for share one.
type Buckets struct {
	perSecond, burst float64
	most             int

	mu    sync.Mutex
	known map[netip.Prefix]bucket
	rest  bucket // of all that there is no room for
	swept time.Time
}

type bucket struct {
	used float64 // of the burst
	at   time.Time
}

// NewBuckets returns allowances that are all whole, of which at most so many are kept apart.
func NewBuckets(perSecond, burst float64, most int) *Buckets {
	return &Buckets{perSecond: perSecond, burst: burst, most: most, known: make(map[netip.Prefix]bucket)}
}

// Take takes one from an address's allowance, or returns how long it will be until there is one.
func (b *Buckets) Take(key netip.Prefix, now time.Time) (wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k, room := b.of(key, now)
	scale := b.scale(room)
	k = k.after(now, b.perSecond*scale)
	if wait := b.lacks(k, 1, scale); wait > 0 {
		return wait
	}
	k.used++
	b.put(key, k, room)
	return 0
}

// Until is how long it will be until there are n of an address's allowance, without taking any.
func (b *Buckets) Until(key netip.Prefix, n int, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	k, room := b.of(key, now)
	scale := b.scale(room)
	return b.lacks(k.after(now, b.perSecond*scale), float64(n), scale)
}

// Spend takes one whether it is there or not.
func (b *Buckets) Spend(key netip.Prefix, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k, room := b.of(key, now)
	k = k.after(now, b.perSecond*b.scale(room))
	k.used++
	b.put(key, k, room)
}

// lacks is how long it will be until there are n. The caller holds b.mu.
func (b *Buckets) lacks(k bucket, n, scale float64) time.Duration {
	return time.Duration(max(0, k.used+n-b.burst*scale) / (b.perSecond * scale) * float64(time.Second))
}

// scale is how much more the one has that many share.
func (b *Buckets) scale(own bool) float64 {
	if own {
		return 1
	}
	return Share
}

// of is an address's allowance. room is false for the one that many share. The caller holds b.mu.
func (b *Buckets) of(key netip.Prefix, now time.Time) (k bucket, room bool) {
	k, ok := b.known[key]
	if ok {
		return k, true
	}
	if len(b.known) >= b.most {
		b.sweep(now)
	}
	if len(b.known) >= b.most {
		return b.rest, false
	}
	return bucket{at: now}, true
}

func (b *Buckets) put(key netip.Prefix, k bucket, room bool) {
	if room {
		b.known[key] = k
	} else {
		b.rest = k
	}
}

// sweep forgets the allowances that are whole again, which is as if they had never been used.
func (b *Buckets) sweep(now time.Time) {
	const often = time.Second
	if now.Sub(b.swept) < often {
		return
	}
	b.swept = now
	for key, k := range b.known {
		if k.after(now, b.perSecond).used == 0 {
			delete(b.known, key)
		}
	}
}

func (k bucket) after(now time.Time, perSecond float64) bucket {
	return bucket{max(0, k.used-max(0, now.Sub(k.at).Seconds())*perSecond), now}
}
