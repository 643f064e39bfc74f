package schedule

import "time"

// width finds how many connections a host is worth.
//
// Whole jobs may use all that the user allows, less what trouble takes away:
// a broken connection takes one, a host that wants less to do half of them, and
// every few MiB without trouble give one back.
//
// Connections that help a job with a part of its work have to be earned. The
// first is tried once bytes flow; when it has shown that the host serves
// ranges, more follow as long as they bring more bytes in all, each time
// measured. Later one more is tried now and then, and one less when goodput falls.
type width struct {
	most  int // the user's limit
	limit int // what trouble leaves of it

	clean    int64 // bytes since trouble, or since it was last forgiven
	troubled time.Time

	reach   int  // connections with helpers, as far as they are earned
	proven  bool // the host serves ranges
	waiting int  // helpers that have not had their answer

	// The window over which goodput is measured.
	since   time.Time
	bytes   int64
	conns   int
	helpers int

	last      goodput // of the window that reach was decided by
	settled   bool    // reach was found, and is now only adjusted
	direction int     // of what is being tried: one more, one less, or 0 for nothing
	calm      int     // windows since one more was tried
	best      goodput // the best seen
}

type goodput struct {
	conns int
	rate  float64 // bytes a second
}

const (
	forgiveAfter  = 8 << 20 // bytes without trouble give a connection back
	troubleOnce   = 500 * time.Millisecond
	windowTime    = 50 * time.Millisecond // at least, while reach grows
	windowBytes   = 512 << 10
	windowLongest = time.Second // is enough, however few bytes came
	settledWindow = 3 * time.Second
	growth        = 8   // times as many connections with each step: what didn't pay is taken back
	worth         = 0.3 // of what was added must show in the goodput
)

func newWidth(most int) width {
	return width{most: most, limit: most, reach: 1}
}

// allowed is how many connections there may be.
func (w *width) allowed() int { return w.limit }

// kept is how many there may be for a helper to stay.
func (w *width) kept() int {
	if !w.proven {
		return w.limit // it is about to find out
	}
	return min(w.limit, max(w.reach, 1))
}

// helped is how many there may be when another one is to help.
func (w *width) helped() int {
	if !w.proven {
		// One tries it out, once it is known that bytes flow.
		if w.waiting > 0 || w.best.conns == 0 {
			return 0
		}
		return min(w.limit, w.most)
	}
	return w.kept()
}

func (w *width) helperStarted() { w.waiting++ }

func (w *width) helperEnded(left int) { w.waiting = min(w.waiting, left) }

func (w *width) ranged(now time.Time) {
	if !w.proven {
		w.proven = true
		w.reach = max(w.reach, min(w.most, max(1, w.conns)*growth))
	}
	if w.waiting > 0 { // now it counts
		w.waiting--
		w.restart(w.conns, w.helpers, now)
	}
}

func (w *width) restart(conns, helpers int, now time.Time) {
	w.since, w.bytes, w.conns, w.helpers = now, 0, conns, helpers
}

// arrived counts bytes, and reports whether more may run than before.
func (w *width) arrived(n int64, conns, helpers int, now time.Time) bool {
	more := false
	if w.clean += n; w.clean >= forgiveAfter {
		w.clean = 0
		if w.limit < w.most {
			w.limit++
			more = true
		}
	}
	if conns != w.conns || helpers != w.helpers || w.since.IsZero() {
		w.restart(conns, helpers, now)
		return more
	}
	w.bytes += n
	took := now.Sub(w.since)
	enough := took >= windowTime && w.bytes >= windowBytes || took >= windowLongest
	if w.settled {
		enough = took >= settledWindow
	}
	if !enough || w.waiting > 0 {
		return more
	}
	w.judge(goodput{conns, float64(w.bytes) / took.Seconds()})
	w.restart(conns, helpers, now)
	return true
}

// judge decides by what a window showed.
func (w *width) judge(g goodput) {
	if g.rate > w.best.rate {
		w.best = g
	}
	switch {
	case w.settled:
		w.adjust(g)
		return
	case w.helpers == 0:
		// Whole jobs ran side by side: so many are worth it.
		w.reach, w.last = max(w.reach, g.conns), g
		if w.proven {
			w.reach = max(w.reach, min(w.most, g.conns*growth))
		}
		return
	}
	if g.conns < w.reach {
		return // there is not so much to help with
	}
	more := float64(g.conns)/float64(max(1, w.last.conns)) - 1
	if w.last.rate == 0 || more <= 0 || g.rate >= w.last.rate*(1+worth*more) {
		w.last = g
		w.settled = g.conns >= w.most
		w.reach = min(w.most, g.conns*growth)
		return
	}
	w.settled = true
	if g.rate < w.last.rate*1.05 {
		w.reach = max(1, w.last.conns)
	}
	w.last = g
}

// adjust tries one connection more now and then, and one less when goodput has
// fallen; what didn't help, or did harm, is undone.
func (w *width) adjust(g goodput) {
	const tryAgain = 5 // windows
	before := w.last
	w.last = g
	switch {
	case w.direction > 0 && g.rate < 1.03*before.rate: // it brought nothing
		w.reach, w.direction = g.conns-1, 0
	case w.direction < 0 && g.rate < 0.97*before.rate: // it was missed
		w.reach, w.direction = g.conns+1, 0
		w.best = g // the link is not what it was
	case w.direction < 0: // and if there were still fewer?
		w.reach = g.conns - 1
	case g.rate < 0.7*w.best.rate:
		w.reach, w.direction = g.conns-1, -1
	default:
		w.reach, w.direction = g.conns, 0
		if w.calm++; w.calm >= tryAgain && g.conns < w.most {
			w.calm, w.direction = 0, 1
			w.reach++
		}
	}
	w.reach = min(w.most, max(1, w.reach))
	if w.reach == 1 && w.direction < 0 {
		w.direction = 0
	}
}

// trouble takes connections away.
func (w *width) trouble(conns int, congested bool, now time.Time) {
	w.clean = 0
	if now.Sub(w.troubled) < troubleOnce {
		return // the same storm
	}
	w.troubled = now
	running := max(1, min(conns, w.limit))
	if congested {
		w.limit = max(1, running/2)
	} else {
		w.limit = max(1, running-1)
	}
	w.reach = min(w.reach, w.limit)
}

func (w *width) learn(ranges bool, connections int) {
	w.proven = ranges
	if ranges && connections > 0 {
		w.reach = min(w.most, connections)
		w.best.conns = w.reach // bytes flowed then
	}
}

func (w *width) learned() int {
	if !w.proven || w.last.rate == 0 {
		return 0
	}
	return min(w.reach, w.limit)
}
