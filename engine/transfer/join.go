package transfer

import (
	"context"
	"errors"
	"slices"
	"time"
)

// slowly is how long a connection may be at work before a source that has joined takes from it,
// and how long it must be going to need for that.
const slowly = 2 * time.Second

// Join adds a source while Run is running, and takes part with a connection of its own where those
// that are there are slow: one that delivers little holds up nobody who knows a better source, and
// one that has joined holds up nobody either. It returns when the transfer is over, ctx is done, or
// the source is of no use; what fails is left to the others. joined is false when it came too late.
func (t *Transfer) Join(ctx context.Context, s Source) (joined bool) {
	src := &source{Source: s, joined: true, beaten: little, noRanges: t.opts.IgnoresRange(s.Host())}
	t.mu.Lock()
	if t.over || t.closed || t.fault != nil {
		t.mu.Unlock()
		return false
	}
	alone := true // no other connection to that host is at work: else it gets no faster
	for _, other := range t.sources {
		alone = alone && other.Host() != s.Host()
	}
	t.sources = append(t.sources, src)
	t.mu.Unlock()
	w := &worker{t: t, guest: true, lost: !alone, buf: buffers.Get().(*buffer)}
	defer func() { buffers.Put(w.buf) }()
	for t.awaitGuestPiece(ctx, w, src) {
		before := w.wrote()
		err := w.fetch(ctx, src)
		t.mu.Lock()
		t.give(w)
		delete(t.workers, w)
		t.changed.Broadcast()
		t.mu.Unlock()
		var local *LocalError
		var broken *brokenError
		switch {
		case err == nil || errors.Is(err, errInterrupted):
			continue
		case errors.As(err, &local):
			t.fail(local.Err)
			return true
		case errors.As(err, &broken), errors.Is(err, ErrPassing), errors.Is(err, ErrOdd), ctx.Err() != nil:
		default:
			t.drop(src)
			return true
		}
		if w.wrote() == before { // it stays a source that the lead may try
			t.mu.Lock()
			w.lost = true
			t.mu.Unlock()
		}
	}
	return true
}

// awaitGuestPiece waits until a guest has a piece, and reports false when it isn't going to get one.
func (t *Transfer) awaitGuestPiece(ctx context.Context, w *worker, src *source) bool {
	const again = 100 * time.Millisecond
	wake := time.AfterFunc(again, t.wake)
	defer wake.Stop()
	defer context.AfterFunc(ctx, t.wake)()
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		if ctx.Err() != nil || t.over || t.fault != nil || !slices.Contains(t.sources, src) {
			return false
		}
		now := time.Now()
		lead := t.crawling(now)
		switch {
		case !t.loaded:
		case lead != nil && lead.source != src && (t.alone || src.noRanges):
			// The lead reads the blob as a whole there, or it can't be had in parts here: it is to
			// turn to the source that has joined.
			src.beaten = lead.rate(now)
			t.sources = append([]*source{src}, t.without(src)...)
			lead.interrupt()
		case !t.alone && !src.noRanges && t.takeAsGuest(w, src, now):
			return true
		}
		t.changed.Wait()
		wake.Reset(again)
	}
}

// takeAsGuest takes a piece from who needs long for it. The caller holds t.mu.
func (t *Transfer) takeAsGuest(w *worker, src *source, now time.Time) bool {
	slowest := t.slowest(w, now)
	if slowest == nil || w.lost || slowest.source != nil && slowest.source.Host() == src.Host() || now.Sub(slowest.began) < slowly || slowest.left(now) < slowly {
		return false
	}
	t.workers[w] = true
	g := t.cutOff(slowest, w, now)
	if whole := slowest.gap; g == nil && whole != nil && w.rate(now) == 0 && whole.taken <= whole.off {
		// It is too little to share, and the owner is slow.
		t.oust(slowest, w)
		g = whole
	}
	if g == nil {
		delete(t.workers, w)
		return false
	}
	w.own(g)
	return true
}

// little is how many bytes a second are next to nothing.
const little = 64 << 10

// crawling is the lead when it has got next to nothing for a while, else nil. The caller holds t.mu.
func (t *Transfer) crawling(now time.Time) *worker {
	for w := range t.workers {
		if w.leads && w.gap == nil && !w.pass {
			return nil // it waits for others
		}
		if w.leads && now.Sub(w.began) >= slowly && !w.paced && w.rate(now) < little {
			return w
		}
	}
	return nil
}

// hurry leaves out a source that has joined, when the lead has come to it and crawls there, and
// there are others. The caller holds t.mu.
func (t *Transfer) hurry(now time.Time) {
	lead := t.crawling(now)
	if lead == nil || lead.source == nil || !lead.source.joined || lead.rate(now) > lead.source.beaten {
		return
	}
	if others := t.without(lead.source); len(others) > 0 {
		t.sources = others
		lead.interrupt()
	}
}

// without are the sources but for one. The caller holds t.mu.
func (t *Transfer) without(src *source) []*source {
	return slices.DeleteFunc(slices.Clone(t.sources), func(s *source) bool { return s == src })
}

// oust takes all of a worker's piece away, for another one. Between one that was there and one that
// has joined that decides: the slow one's source is the last to be asked from then on. The caller
// holds t.mu.
func (t *Transfer) oust(from, by *worker) {
	from.gap.owner, from.gap = nil, nil
	from.interrupt()
	switch {
	case from.guest:
		from.lost = true
	case by.guest && len(t.sources) > 1 && t.sources[0] == from.source:
		t.sources = append(t.sources[1:len(t.sources):len(t.sources)], t.sources[0])
	}
}
