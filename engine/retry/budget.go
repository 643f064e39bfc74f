package retry

import (
	"sync"
	"sync/atomic"
	"time"
)

// Pulse knows when a byte last arrived from anywhere in a run: while bytes
// keep coming, patience doesn't end. The zero value has never beaten.
type Pulse struct{ last atomic.Int64 } // Unix time in nanoseconds

// Beat says that bytes arrived just now.
func (p *Pulse) Beat() { p.last.Store(time.Now().UnixNano()) }

// Last is when bytes last arrived; the zero time when none did.
func (p *Pulse) Last() time.Time {
	if n := p.last.Load(); n != 0 {
		return time.Unix(0, n)
	}
	return time.Time{}
}

// Budget is what one piece of work, such as a blob, may spend on tries. All of
// its requests and bodies draw on the same one, so that tries in one place
// don't multiply those in another. Its methods may be called from several
// goroutines.
type Budget struct {
	policy Policy
	pulse  *Pulse
	told   func(Failure)

	mu    sync.Mutex
	tries int
	since time.Time
}

// NewBudget makes a budget. pulse may be nil, and so may told, which is called
// with every failure.
func NewBudget(p Policy, pulse *Pulse, told func(Failure)) *Budget {
	return &Budget{policy: p, pulse: pulse, told: told, since: time.Now()}
}

// Next says whether to try again after a failure, and after what wait. It
// fills in the failure's Tries and Since.
func (b *Budget) Next(f Failure) (wait time.Duration, again bool) {
	now := time.Now()
	b.mu.Lock()
	b.tries++
	f.Tries = b.tries
	since := b.since
	b.mu.Unlock()
	if b.pulse != nil && b.pulse.Last().After(since) {
		since = b.pulse.Last()
	}
	f.Since = now.Sub(since)
	if b.told != nil {
		b.told(f)
	}
	return b.policy.Next(f, now)
}

// Tell tells of a failure that draws on nothing: others than this budget's try
// next.
func (b *Budget) Tell(f Failure) {
	if b.told != nil {
		b.told(f)
	}
}

// Tries is how often in a row it failed so far.
func (b *Budget) Tries() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tries
}

// Progress says that the work moved: what failed before doesn't count.
func (b *Budget) Progress() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tries, b.since = 0, time.Now()
}
