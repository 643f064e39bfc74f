package transfer

import (
	"context"
	"errors"
	"time"
)

// help is who may help.
type help struct {
	excluded bool      // nobody may: one worker needs all that is missing, or all begins anew
	until    time.Time // nobody may until then: help failed
	refusals int       // in a row

	rivals    bool          // a helper rivals a connection that is late
	futile    int           // rivals in a row that were for nothing
	firstByte time.Duration // how long answers take to begin, smoothed; 0 while it isn't known
}

// Help implements schedule.Sharer: it fetches pieces until there is nothing to
// take, or surplus says that the connection is wanted elsewhere. What fails is
// left to Run.
func (t *Transfer) Help(ctx context.Context, surplus func() bool) error {
	w := t.enter(helper)
	if w == nil {
		return nil
	}
	defer w.leave()
	for ctx.Err() == nil && !surplus() && t.nextHelp(w) {
		src := t.source()
		before := w.wrote()
		err := w.fetch(ctx, src)
		if err == nil || errors.Is(err, errInterrupted) {
			continue
		}
		var local *localError
		if errors.As(err, &local) {
			t.fail(local.Err)
			return nil
		}
		if errors.As(err, new(*brokenError)) {
			t.opts.Broken(src.Host())
		}
		if w.wrote() == before { // else something came: a part of a piece is one too
			t.refuse(err)
			return nil
		}
	}
	return nil
}

// nextHelp gives a helper its next piece, or a connection to rival, and reports whether there is one.
func (t *Transfer) nextHelp(w *worker) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.release(w)
	if !t.isHelpable() {
		return false
	}
	if late := t.late(time.Now()); late != nil {
		w.rival, t.help.rivals = late, true
		return true
	}
	return t.take(w) != nil
}

// A connection that has fallen silent, or whose answer doesn't begin, gets a rival: a helper asks for
// the rest of its piece, and whoever gets a byte of it first has it from then on. There is one rival at a
// time, and each that was for nothing makes the next one wait twice as long: so a host that is slow
// with everything is asked little more than it would be.
const (
	// lateLeast is how long a connection may be silent before it gets a rival: several round trips
	// of most links, and little beside what people notice.
	lateLeast = 500 * time.Millisecond
	// lateTimes is the same as a multiple of the time to first byte.
	lateTimes = 4
	// lateUnknown is how long an answer may take while no time to first byte is known.
	lateUnknown = 3 * time.Second
)

// late is the connection that is to have a rival, nil for none: as long as something has failed since
// the last bytes came, the source may want fewer requests, and not more. The caller holds t.mu.
func (t *Transfer) late(now time.Time) *worker {
	if t.help.rivals || !t.isHelpable() || t.phase != fetching || t.opts.Budget.Tries() > 0 {
		return nil
	}
	var latest *worker
	var longest time.Duration
	for w := range t.workers {
		if w.gap == nil || w.gap.Taken > w.gap.Off || w.role == guest || w.source != t.sources.First() {
			continue
		}
		silent, limit := now.Sub(w.heard), max(lateLeast, lateTimes*t.help.firstByte)
		switch w.state {
		case reading:
		case opening:
			silent = now.Sub(w.asked)
			if t.help.firstByte == 0 {
				limit = lateUnknown
			}
		default:
			continue
		}
		if silent >= limit<<min(t.help.futile, 6) && silent > longest {
			latest, longest = w, silent
		}
	}
	return latest
}

// contend gives a worker that rivals another the piece now that bytes of it have come, if the other is
// as silent as before. It reports whether the worker has a piece.
func (w *worker) contend() bool {
	t := w.t
	t.mu.Lock()
	defer t.mu.Unlock()
	late := w.rival
	if late == nil {
		return true
	}
	g := late.gap
	if g == nil || g.Off != w.pos || g.Taken > g.Off {
		t.lost(w)
		return false
	}
	w.rival, t.help.rivals = nil, false
	t.help.futile = 0
	t.oust(late, w)
	w.own(g)
	return true
}

// answeredAfter records how long an answer took to begin. The caller holds t.mu.
func (t *Transfer) answeredAfter(took time.Duration) {
	const part = 4
	if t.help.firstByte == 0 {
		t.help.firstByte = took
	}
	t.help.firstByte += (took - t.help.firstByte) / part
}

// lost ends the rivalry of a worker that didn't get the piece. The caller holds t.mu.
func (t *Transfer) lost(w *worker) {
	if w.rival != nil {
		w.rival, t.help.rivals = nil, false
		t.help.futile++
	}
}

// refuse keeps helpers away for a while after one got nothing, longer each time,
// or for good when the source has never given a range.
func (t *Transfer) refuse(err error) {
	const first, most, forGood = 2 * time.Second, time.Minute, 1000 * time.Hour
	t.mu.Lock()
	defer t.mu.Unlock()
	wait := min(most, first<<min(t.help.refusals, 10))
	if errors.Is(err, ErrRange) && !t.sources.First().Honoured {
		wait = forGood
	}
	t.help.refusals++
	t.help.until = time.Now().Add(wait)
}

// isHelpable reports whether others than the primary may fetch. The caller holds
// t.mu.
func (t *Transfer) isHelpable() bool {
	return t.primary.began && !t.stopped() && !t.help.excluded && !t.sources.First().NoRanges && time.Now().After(t.help.until)
}
