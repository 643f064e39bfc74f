package schedule

import (
	"slices"
	"time"
)

// width is how many jobs of a host may run at once where the user has given no limit.
//
// It begins at widthFirst, or at what an earlier run has found. While jobs wait for a place, time is
// divided into rounds, in which as many jobs end as width allowed at the beginning, or each
// connection has brought so much that its rate shows. Width grows
//
//   - during a round, as the first bytes of its jobs come: fast if the jobs that wait are small, since
//     those spend their time on round trips; and only if none comes much later than those of the
//     round's first three quarters, since a server that works on few requests at a time keeps the
//     others waiting;
//   - at the end of a round in which jobs took long.
//
// A round with more connections than the last must have brought more, in jobs or in bytes. Else the
// growth is undone, and from then on tested now and then.
type width struct {
	now    int
	most   int
	grows  bool
	doubt  bool // the last round did not pay
	settle int  // rounds since growth was last tested

	// The round.
	since  time.Time
	from   int             // width at its beginning
	ended  int             // jobs
	bytes  int64           // of all connections
	firsts []time.Duration // until the first byte of each job, sorted
	used   float64         // connections times seconds, until at
	at     time.Time
	conns  int // since at

	last outcome // of the round before
	peak int     // the most connections while jobs waited
}

// outcome is what a round brought.
type outcome struct {
	conns       float64 // on average
	jobs, bytes float64 // a second
}

const (
	widthFirst   = 8                      // of a host that is not known
	widthLeap    = 4                      // a round's growth at most, as a factor
	smallJob     = 1 << 20                // bytes: below it round trips take longer than bytes
	smallGrowth  = 3                      // by each first byte, while small jobs wait
	lateFactor   = 4                      // of the median: a first byte that is later waited at the server, not for a handshake
	lateLeast    = 20 * time.Millisecond  // more than the median, too
	queueFactor  = 6                      // of the earliest: when half of the first bytes are later, too many wait at the server
	roundLeast   = 20 * time.Millisecond  // below it nothing can be measured
	roundTime    = 200 * time.Millisecond // least time of a round that ends by bytes
	roundBytes   = 64 << 10               // that each connection has brought then
	roundLongest = time.Second
	jobWorth     = 0.1 // share of the added connections that must show, in jobs or in bytes
	roundsCalm   = 4   // between tests of a little more
)

func newWidth(first, most int) width {
	first = min(first, most)
	return width{now: first, from: first, most: most, grows: true}
}

// answered counts a job whose first byte has come after so long; next is the size of the job that
// waits because of width, or negative when there is none.
func (w *width) answered(after time.Duration, next int64) {
	at, _ := slices.BinarySearch(w.firsts, after)
	w.firsts = slices.Insert(w.firsts, at, after)
	if !w.grows || next < 0 || len(w.firsts) < (3*w.from+3)/4 {
		return
	}
	if median := w.firsts[len(w.firsts)/2]; after > lateLeast+lateFactor*median {
		w.stop(w.from)
		return
	}
	n := len(w.firsts)
	if next < smallJob {
		n *= smallGrowth
	}
	w.now = max(w.now, min(w.most, w.from+n, widthLeap*w.from))
}

// found is how many jobs at once have been found to be worth it, or 0 when that isn't known.
func (w *width) found() int { return min(w.now, w.peak) }

// jobEnded counts a job.
func (w *width) jobEnded() { w.ended++ }

// step counts bytes, ends the round if it is time to, and reports whether width may have changed. held
// is whether jobs wait because of width.
func (w *width) step(n int64, conns int, held bool, now time.Time) bool {
	if !held || w.since.IsZero() { // else nothing shows that more would pay
		w.last = outcome{}
		w.restart(conns, now)
		return false
	}
	w.bytes += n
	w.peak = max(w.peak, conns)
	w.used += float64(w.conns) * now.Sub(w.at).Seconds()
	w.at, w.conns = now, conns
	took := now.Sub(w.since)
	byJobs := w.ended >= w.from
	byBytes := took >= roundTime && w.bytes >= int64(conns)*roundBytes
	if took < roundLeast || !byJobs && !byBytes && took < roundLongest {
		return false
	}
	w.judge(outcome{w.used / took.Seconds(), float64(w.ended) / took.Seconds(), float64(w.bytes) / took.Seconds()}, byJobs)
	w.restart(conns, now)
	return true
}

// judge decides about width by what a round brought.
func (w *width) judge(o outcome, byJobs bool) {
	before := w.last
	w.last = o
	const same = 0.05
	more := o.conns/max(1, before.conns) - 1
	if n := len(w.firsts); n >= w.from/2 && n > 0 && w.firsts[n/2] > lateLeast+queueFactor*w.firsts[0] {
		w.stop(w.from / 2)
		return
	}
	if before.conns > 0 && more > same {
		if o.jobs < before.jobs*(1+jobWorth*more) && o.bytes < before.bytes*(1+jobWorth*more) {
			if w.doubt {
				w.stop(int(before.conns + 0.5))
			} else { // jobs differ, and so do rounds
				w.doubt, w.last = true, before
			}
			return
		}
		w.grows = true
	}
	w.doubt = false
	if w.grows {
		if !byJobs {
			w.now = min(w.most, 2*w.now)
		}
		return
	}
	if w.settle++; w.settle >= roundsCalm {
		w.settle = 0
		w.now = min(w.most, w.now+max(1, w.now/4))
	}
}

// stop ends growth, and undoes it down to so many.
func (w *width) stop(to int) {
	w.grows, w.doubt, w.settle, w.last = false, false, 0, outcome{}
	w.now = min(w.now, max(widthFirst, to))
}

// restart begins a round.
func (w *width) restart(conns int, now time.Time) {
	w.since, w.from, w.ended, w.bytes, w.firsts, w.used, w.at, w.conns = now, w.now, 0, 0, w.firsts[:0], 0, now, conns
}
