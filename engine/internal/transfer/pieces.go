package transfer

import (
	"time"

	"drayage/engine/internal/transfer/internal/policy"
)

// view is what the policy is to know now. The caller holds t.mu.
func (t *Transfer) view(now time.Time) policy.Transfer {
	v := policy.Transfer{Size: t.want.Size, Connections: max(1, len(t.workers)), Hashing: t.prefix.Speed()}
	v.Free, _ = t.missing.Sizes()
	for w := range t.workers {
		rate := w.rate(now)
		v.Best, v.Total = max(v.Best, rate), v.Total+rate
	}
	v.Total = max(v.Total, float64(t.arrived)/max(now.Sub(t.begun), time.Second/20).Seconds())
	return v
}

// seen is what the policy is to know of a worker. The caller holds t.mu.
func (w *worker) seen(now time.Time) policy.Connection {
	return policy.Connection{Rate: w.rate(now), Waited: now.Sub(w.began)}
}

// take gives a worker a piece to fetch: of what nobody is at, as close to the
// prefix as there is; else of what another would need long for. It returns nil
// when there is nothing to take. The caller holds t.mu.
func (t *Transfer) take(w *worker) *gap {
	if w.gap != nil {
		panic("transfer: a worker takes a second piece")
	}
	now := time.Now()
	g := t.missing.FirstFree()
	if g != nil {
		t.cut(g, w, now)
	} else if !t.sources.First().NoRanges {
		if slowest := t.slowest(w, now); slowest != nil {
			g = t.takeOver(slowest, w, now)
		}
	}
	if g != nil {
		w.own(g)
	}
	return g
}

// cut leaves of a free range what a worker should take at once. The caller holds
// t.mu.
func (t *Transfer) cut(g *gap, w *worker, now time.Time) {
	if n := t.view(now).Cut(g.Len(), w.rate(now)); n < g.Len() {
		t.missing.Split(g, g.Off+n)
	}
}

func (w *worker) own(g *gap) {
	g.Owner, w.gap, w.began = w, g, time.Now()
}

// slowest is the owner who needs longest for its piece, if that is long enough
// for help to pay. The caller holds t.mu.
func (t *Transfer) slowest(taker *worker, now time.Time) *worker {
	var slowest *worker
	view, longest := t.view(now), policy.WorthTime
	for w := range t.workers {
		if w == taker || w.gap == nil || w.state == passing {
			continue
		}
		if left := view.TimeLeft(w.seen(now), w.gap.Left()); left > longest {
			slowest, longest = w, left
		}
	}
	return slowest
}

// takeOver takes from an owner's piece what it will not get to for long, or
// nothing when that isn't worth a request. The caller holds t.mu.
func (t *Transfer) takeOver(owner, taker *worker, now time.Time) *gap {
	g := owner.gap
	keep, worth := t.view(now).TakeOver(owner.seen(now), g.Left(), taker.rate(now))
	switch {
	case !worth:
		return nil
	case keep == 0 && g.Taken <= g.Off:
		// All of it, and the owner is not writing: it has nothing any more.
		t.oust(owner, taker)
		return g
	}
	piece := t.missing.Split(g, max(g.Off, g.Taken)+keep)
	t.cut(piece, taker, now)
	return piece
}

// oust takes all of a worker's piece away, for another one. Between one that was
// there and one that has joined that decides: the slow one's source is the last
// to be asked from then on. The caller holds t.mu.
func (t *Transfer) oust(from, by *worker) {
	from.gap.Owner, from.gap = nil, nil
	from.interrupt()
	switch {
	case from.role == guest:
		from.lost = true
	case by.role == guest && t.sources.Len() > 1 && t.sources.First() == from.source:
		t.sources.Turn()
	}
}

// release lets others have what a worker has not fetched. The caller holds t.mu.
func (t *Transfer) release(w *worker) {
	if w.gap == nil {
		return
	}
	t.missing.Release(w.gap)
	w.gap = nil
	t.changed.Broadcast()
}

// goOn gives a worker that has come to the end of its piece, and whose body
// goes on, what follows, if nobody is at it. The caller holds t.mu.
func (t *Transfer) goOn(w *worker, bodyEnd int64) bool {
	g := t.missing.StartingAt(w.pos)
	if g == nil || g.Off >= bodyEnd {
		return false
	}
	if o := g.Owner; o != nil && o != w && !o.state.hasBody() && g.Taken <= g.Off {
		// Who has taken it has no answer yet, and the bytes are here.
		o.gap, g.Owner = nil, nil
		o.interrupt()
	}
	if g.Owner != nil {
		return false
	}
	if g.End > bodyEnd {
		t.missing.Split(g, bodyEnd)
	}
	t.cut(g, w, time.Now())
	w.own(g)
	return true
}

// filled records that n bytes at the start of a gap were written. The caller
// holds t.mu.
func (t *Transfer) filled(g *gap, n int64) {
	if t.missing.Fill(g, n) && g.Owner != nil {
		g.Owner.gap = nil
	}
}

// Rest implements schedule.Sharer: how many bytes another connection could take
// with gain.
func (t *Transfer) Rest() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.workers) == 0 || !t.isHelpable() {
		return 0
	}
	now := time.Now()
	if late := t.late(now); late != nil {
		return late.gap.Left()
	}
	_, owned := t.missing.Sizes()
	return t.view(now).Helpful(owned, t.slowest(nil, now) != nil)
}
