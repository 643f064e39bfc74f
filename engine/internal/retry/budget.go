package retry

import (
	"sync"
	"time"
)

// Activity records the last activity of a run: when a byte last arrived from any host. While bytes
// arrive, Policy.Patience does not end. It also measures for how long the process has been running:
// time in which it was stopped or frozen, or the machine slept, does not count. The zero value has
// had no activity. Its methods may be called from several goroutines.
type Activity struct {
	mu     sync.Mutex
	last   time.Time     // of the last activity
	beaten time.Duration // Awake at that time
	first  time.Time     // when the clock was first read
	seen   time.Time     // when the clock was last read, while Keep is running
	asleep time.Duration // for how long the process did not run
	kept   bool          // whether Keep is running
}

const (
	// look is the interval at which Keep reads the clock, and gap the delay from which on the process
	// must have been stopped. On a busy machine delays seldom exceed a second; one that does makes
	// patience longer, which does no harm.
	look = 250 * time.Millisecond
	gap  = time.Second
)

// Keep reads the clock at intervals until stop is closed, and so detects when the process did not
// run. The caller starts it in a goroutine of its own, once per Activity.
func (p *Activity) Keep(stop <-chan struct{}) {
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

// Awake is for how long the process has been running since the first call.
func (p *Activity) Awake() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.awake(time.Now())
}

// awake is Awake; the caller holds p.mu.
func (p *Activity) awake(now time.Time) time.Duration {
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

// Beat records that bytes arrived just now.
func (p *Activity) Beat() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = time.Now()
	p.beaten = p.awake(p.last)
}

// Last is when bytes last arrived, or the zero time.
func (p *Activity) Last() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// since is for how long the process has been running since a time that Awake returned, or since the
// last activity if that was later.
func (p *Activity) since(moment time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.awake(time.Now()) - max(moment, p.beaten)
}

// Budget is the retry budget of one piece of work, such as a blob. All of its requests and bodies use
// the same Budget, so that retries at one level do not multiply those at another. Its methods may be
// called from several goroutines.
type Budget struct {
	policy   Policy
	activity *Activity
	report   func(Failure)

	mu       sync.Mutex
	failures int
	since    time.Duration // by the activity's clock
}

// NewBudget makes a Budget. activity may be nil: then only Progress extends patience. report, if not
// nil, is called with every failure, from the goroutine that reports it.
func NewBudget(p Policy, activity *Activity, report func(Failure)) *Budget {
	if activity == nil {
		activity = new(Activity)
	}
	return &Budget{policy: p, activity: activity, report: report, since: activity.Awake()}
}

// Next reports whether to retry after a failure, and after what wait. The fields Tries and Since of f
// are ignored: the Budget knows them.
func (b *Budget) Next(f Failure) (wait time.Duration, again bool) {
	b.mu.Lock()
	b.failures++
	f.Tries = b.failures
	since := b.since
	b.mu.Unlock()
	f.Since = b.activity.since(since)
	if b.report != nil {
		b.report(f)
	}
	return b.policy.Next(f, time.Now())
}

// Tell reports a failure that uses nothing of this Budget, because what is attempted next is not
// counted here.
func (b *Budget) Tell(f Failure) {
	if b.report != nil {
		b.report(f)
	}
}

// Tries is the number of failures since the last progress.
func (b *Budget) Tries() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failures
}

// Progress resets the Budget: earlier failures no longer count.
func (b *Budget) Progress() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures, b.since = 0, b.activity.Awake()
}
