package schedule

import "time"

// concurrency adapts the concurrency limits of a host.
//
// The limit of all connections begins at the user's. A broken connection reduces it by one, an
// overloaded host halves it, and every few MiB without errors raise it by one.
//
// Helper connections have a limit of their own, which counts the primary ones, too, and must pay. One
// helper tests whether the host serves ranges, once bytes flow. If it does, the limit is multiplied
// as long as throughput grows with it, and the step that did not pay is undone. From then on one
// connection more is tested now and then, and one less when throughput has fallen.
type concurrency struct {
	most  int
	limit int   // of all connections: most, less what errors take away
	width width // of jobs, if it is found by measurement
	found bool  // it is

	clean    int64     // bytes since the last error, or since limit was last raised
	troubled time.Time // when an error last reduced limit

	helpLimit int  // of connections when helpers are among them
	ranges    bool // the host serves ranges
	untested  int  // helpers that have not received a range yet

	// The window over which throughput is measured.
	since   time.Time
	bytes   int64
	conns   int // in use
	helpers int // of them

	last      throughput // of the window that decided about helpLimit
	settled   bool       // helpLimit was found, and from now on changes by one
	direction int        // of the current test: +1, -1, or 0 for none
	calm      int        // windows since one more was tested
	best      throughput // the highest so far
}

// throughput is what a number of connections achieved in a window.
type throughput struct {
	conns int
	rate  float64 // bytes per second
}

const (
	forgiveAfter  = 8 << 20                // bytes without an error that raise limit by one
	troubleOnce   = 500 * time.Millisecond // errors within this time have one cause, and count once
	windowTime    = 50 * time.Millisecond  // minimum of a window while helpLimit grows
	windowBytes   = 512 << 10              // minimum of a window while helpLimit grows
	windowLongest = time.Second            // is enough, however few bytes arrived
	settledWindow = 3 * time.Second        // once helpLimit is settled
	worth         = 0.3                    // share of the added connections that must show in throughput
)

// newConcurrency returns the limits of a host: at most so many, of which those that are worth it are
// found by measurement if found is set.
func newConcurrency(most int, found bool) concurrency {
	return concurrency{most: most, limit: most, width: newWidth(widthFirst, most), found: found, helpLimit: 1}
}

// toAddJob is the number of connections below which a job may start.
func (c *concurrency) toAddJob() int {
	if c.found {
		return min(c.limit, c.width.now)
	}
	return c.limit
}

// grown is the step of helpLimit after so many connections: large at first, since each takes round trips
// to reach its rate. One that does not pay is undone.
func (c *concurrency) grown(conns int) int {
	const first, factor = 8, 2
	if conns >= first {
		return min(c.most, conns*factor)
	}
	return min(c.most, max(1, conns)*first)
}

// toKeepHelper is the maximum number of connections at which a helper may stay.
func (c *concurrency) toKeepHelper() int {
	if !c.ranges {
		return c.limit // the helper is testing it
	}
	return min(c.limit, max(c.helpLimit, 1))
}

// toAddHelper is the number of connections below which a helper may be added.
func (c *concurrency) toAddHelper() int {
	if !c.ranges {
		// One helper tests it, once bytes flow.
		if c.untested > 0 || c.best.conns == 0 {
			return 0
		}
		return min(c.limit, c.most)
	}
	return c.toKeepHelper()
}

// helperStarted counts a helper that has not received a range yet.
func (c *concurrency) helperStarted() { c.untested++ }

// helperEnded counts a helper that ended; left is how many there are now.
func (c *concurrency) helperEnded(left int) { c.untested = min(c.untested, left) }

// ranged counts a connection that has received its first range.
func (c *concurrency) ranged(now time.Time) {
	if !c.ranges {
		c.ranges = true
		c.helpLimit = max(c.helpLimit, c.grown(c.conns))
	}
	if c.untested > 0 { // from now on it adds to throughput
		c.untested--
		c.restart(c.conns, c.helpers, now)
	}
}

// restart begins a window.
func (c *concurrency) restart(conns, helpers int, now time.Time) {
	c.since, c.bytes, c.conns, c.helpers = now, 0, conns, helpers
}

// arrived counts bytes, and reports whether a limit may have changed.
func (c *concurrency) arrived(n int64, conns, helpers int, now time.Time) bool {
	more := false
	if c.clean += n; c.clean >= forgiveAfter {
		c.clean = 0
		if c.limit < c.most {
			c.limit++
			more = true
		}
	}
	if conns != c.conns || helpers != c.helpers || c.since.IsZero() {
		c.restart(conns, helpers, now)
		return more
	}
	c.bytes += n
	took := now.Sub(c.since)
	enough := took >= windowTime && c.bytes >= windowBytes || took >= windowLongest
	if c.settled {
		enough = took >= settledWindow
	}
	if !enough || c.untested > 0 {
		return more
	}
	c.judge(throughput{conns, float64(c.bytes) / took.Seconds()})
	c.restart(conns, helpers, now)
	return true
}

// judge decides about helpLimit by the throughput of a window.
func (c *concurrency) judge(g throughput) {
	if g.rate > c.best.rate {
		c.best = g
	}
	switch {
	case c.settled:
		c.adjust(g)
		return
	case c.helpers == 0:
		// So many primary connections ran at a time: as many are worth it.
		c.helpLimit, c.last = max(c.helpLimit, g.conns), g
		if c.ranges {
			c.helpLimit = max(c.helpLimit, c.grown(g.conns))
		}
		return
	}
	if g.conns < c.helpLimit {
		return // there is not enough to help with
	}
	more := float64(g.conns)/float64(max(1, c.last.conns)) - 1
	if c.last.rate == 0 || more <= 0 || g.rate >= c.last.rate*(1+worth*more) {
		c.last = g
		c.settled = g.conns >= c.most
		c.helpLimit = c.grown(g.conns)
		return
	}
	c.settled = true
	if g.rate < c.last.rate*1.05 {
		c.helpLimit = max(1, c.last.conns)
	}
	c.last = g
}

// adjust tests one connection more now and then, and one less when throughput has fallen. A test that
// brought nothing, or did harm, is undone.
func (c *concurrency) adjust(g throughput) {
	const tryAgain = 5 // windows
	before := c.last
	c.last = g
	switch {
	case c.direction > 0 && g.rate < 1.03*before.rate: // one more brought nothing
		c.helpLimit, c.direction = g.conns-1, 0
	case c.direction < 0 && g.rate < 0.97*before.rate: // one less did harm
		c.helpLimit, c.direction = g.conns+1, 0
		c.best = g // the link has changed
	case c.direction < 0: // one less did no harm: test another
		c.helpLimit = g.conns - 1
	case g.rate < 0.7*c.best.rate:
		c.helpLimit, c.direction = g.conns-1, -1
	default:
		c.helpLimit, c.direction = g.conns, 0
		if c.calm++; c.calm >= tryAgain && g.conns < c.most {
			c.calm, c.direction = 0, 1
			c.helpLimit++
		}
	}
	c.helpLimit = min(c.most, max(1, c.helpLimit))
	if c.helpLimit == 1 && c.direction < 0 {
		c.direction = 0
	}
}

// trouble reduces the limits after an error.
func (c *concurrency) trouble(conns int, congested bool, now time.Time) {
	c.clean = 0
	if now.Sub(c.troubled) < troubleOnce {
		return // of the same cause
	}
	c.troubled = now
	running := max(1, min(conns, c.limit))
	if congested {
		c.limit = max(1, running/2)
	} else {
		c.limit = max(1, running-1)
	}
	c.helpLimit = min(c.helpLimit, c.limit)
	c.width.stop(c.limit)
}

// held is the size of the job next if it waits because of width, of so many connections, and negative
// if it doesn't.
func (c *concurrency) held(next int64, conns int) int64 {
	if !c.found || c.width.now > c.limit || conns < c.width.now-1 { // one may be about to begin
		return -1
	}
	return next
}

// learn sets what an earlier run has found.
func (c *concurrency) learn(h Findings) {
	c.ranges = h.Ranges
	if h.Ranges && h.Connections > 0 {
		c.helpLimit = min(c.most, h.Connections)
		c.best.conns = c.helpLimit // bytes flowed in that run
	}
	if c.found && h.Width > 0 {
		c.width = newWidth(h.Width, c.most)
	}
}

// learned is what this run has found.
func (c *concurrency) learned() Findings {
	h := Findings{Ranges: c.ranges}
	if c.ranges && c.last.rate > 0 {
		h.Connections = min(c.helpLimit, c.limit)
	}
	if c.found {
		h.Width = min(c.width.found(), c.limit)
	}
	return h
}

// answered counts a job whose first byte has come after so long; next is the size of the job that
// waits for a place, or negative when there is none.
func (c *concurrency) answered(after time.Duration, next int64) {
	if c.found {
		c.width.answered(after, next)
	}
}

// jobEnded counts a job that has ended.
func (c *concurrency) jobEnded() {
	if c.found {
		c.width.jobEnded()
	}
}

// widened counts n bytes, and reports whether the width of jobs may have changed. held is whether jobs
// wait because of it.
func (c *concurrency) widened(n int64, conns int, held bool, now time.Time) bool {
	return c.found && c.width.step(n, conns, held, now)
}
