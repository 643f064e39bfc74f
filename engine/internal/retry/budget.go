package retry

import (
	"sync"
	"time"
)

// Pulse knows when a byte last arrived from anywhere in a run: while bytes
// keep coming, patience doesn't end. It also knows how long the process has run:
// time in which it was stopped, frozen or the machine slept counts for nothing. The
// zero value has never beaten. Its methods may be called from several goroutines.
type Pulse struct {
	mu     sync.Mutex
	last   time.Time     // when it last beat
	beaten time.Duration // what Awake was then
	first  time.Time     // when it was first looked at
	seen   time.Time     // when it was last looked at, while somebody keeps it
	asleep time.Duration // in which nobody could look
	kept   bool
}

const (
	// look is how often Keep looks at the clock, and gap how late it must be to have been
	// kept from it. On a busy machine a second is seldom exceeded, and then patience gets
	// longer, which does no harm.
	look = 250 * time.Millisecond
	gap  = time.Second
)

// Keep looks at the clock again and again until stop is closed, and so finds out when the
// process did not run.
func (p *Pulse) Keep(stop <-chan struct{}) {
	tick := time.NewTicker(look)
	defer tick.Stop()
	p.mu.Lock()
	p.kept, p.seen = true, time.Now()
	p.mu.Unlock()
	for {
		select {
		case <-tick.C:
			p.Awake()
		case <-stop:
			p.mu.Lock()
			p.kept = false
			p.mu.Unlock()
			return
		}
	}
}

// Awake is for how long the process has run since it was first asked.
func (p *Pulse) Awake() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.awake(time.Now())
}

// awake is Awake for who holds p.mu.
func (p *Pulse) awake(now time.Time) time.Duration {
	if p.first.IsZero() {
		p.first = now
	}
	if p.kept {
		if late := now.Sub(p.seen); late > gap {
			p.asleep += late - look
		}
		p.seen = now
	}
	return now.Sub(p.first) - p.asleep
}

// Beat says that bytes arrived just now.
func (p *Pulse) Beat() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = time.Now()
	p.beaten = p.awake(p.last)
}

// Last is when bytes last arrived; the zero time when none did.
func (p *Pulse) Last() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// since is how long the process has run since a moment that Awake gave, or since the
// latest beat if that was later.
func (p *Pulse) since(moment time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.awake(time.Now()) - max(moment, p.beaten)
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
	since time.Duration // by the pulse's clock
}

// NewBudget makes a budget. pulse may be nil, and so may told, which is called
// with every failure.
func NewBudget(p Policy, pulse *Pulse, told func(Failure)) *Budget {
	if pulse == nil {
		pulse = new(Pulse)
	}
	return &Budget{policy: p, pulse: pulse, told: told, since: pulse.Awake()}
}

// Next says whether to try again after a failure, and after what wait. It
// fills in the failure's Tries and Since.
func (b *Budget) Next(f Failure) (wait time.Duration, again bool) {
	b.mu.Lock()
	b.tries++
	f.Tries = b.tries
	since := b.since
	b.mu.Unlock()
	f.Since = b.pulse.since(since)
	if b.told != nil {
		b.told(f)
	}
	return b.policy.Next(f, time.Now())
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
	b.tries, b.since = 0, b.pulse.Awake()
}
