package transfer

import (
	"context"
	"errors"
	"time"
)

const (
	// slowly is how long a connection may be at work before a source that has
	// joined takes from it, and how long it must be going to need for that.
	slowly = 2 * time.Second
	// little is how many bytes a second are next to nothing.
	little = 64 << 10
	// enough is how many bytes a second the connections at work must get together
	// to be left alone. Whoever joins may have other content, which costs the others
	// all that came: it should not have the chance where nobody waits long.
	enough = 256 << 10
)

// Join adds a source while Run is running, and takes part with a connection of
// its own where those that are there are slow or silent: one that delivers little
// holds up nobody who knows a better source, and one that has joined holds up
// nobody either. A transfer that is fast enough isn't helped. It returns when the
// transfer is over, ctx is done, or the source is of no use; what fails is left to
// the others. joined is false when it came too late.
func (t *Transfer) Join(ctx context.Context, s Source) (joined bool) {
	src := &source{At: s, Joined: true, Beaten: little, NoRanges: t.opts.IgnoresRange(s.Host())}
	w := t.newWorker(guest)
	defer func() { w.buf.Free() }()
	t.mu.Lock()
	if t.stopped() || t.sources.IsClosed() {
		t.mu.Unlock()
		return false
	}
	w.lost = t.sources.HasHost(s.Host()) // another connection to a host makes it no faster
	t.sources.Add(src)
	t.mu.Unlock()
	for t.awaitGuestPiece(ctx, w, src) {
		before := w.wrote()
		err := w.fetch(ctx, src)
		t.mu.Lock()
		t.release(w)
		delete(t.workers, w)
		t.changed.Broadcast()
		t.mu.Unlock()
		var local *localError
		switch {
		case err == nil || errors.Is(err, errInterrupted):
			continue
		case errors.As(err, &local):
			t.fail(local.Err)
			return true
		case errors.As(err, new(*brokenError)), errors.Is(err, ErrPassing), errors.Is(err, ErrOdd), ctx.Err() != nil:
		default:
			t.drop(src)
			return true
		}
		if w.wrote() == before { // it stays a source that the primary may try
			t.mu.Lock()
			w.lost = true
			t.mu.Unlock()
		}
	}
	return true
}

// awaitGuestPiece waits until a guest has a piece, and reports false when it
// isn't going to get one.
func (t *Transfer) awaitGuestPiece(ctx context.Context, w *worker, src *source) bool {
	const again = 100 * time.Millisecond
	wake := time.AfterFunc(again, t.wake)
	defer wake.Stop()
	defer context.AfterFunc(ctx, t.wake)()
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		if ctx.Err() != nil || t.stopped() || !t.sources.Has(src) {
			return false
		}
		now := time.Now()
		slow := t.crawling(now)
		inParts := !t.help.excluded && !src.NoRanges
		switch {
		case t.phase == created:
		case slow != nil && slow.source != src && !inParts:
			// The primary reads the blob as a whole there, or it can't be had in
			// parts here: it is to turn to the source that has joined.
			src.Beaten = slow.rate(now)
			t.sources.Prefer(src)
			slow.interrupt()
		case inParts && t.takeAsGuest(w, src, now):
			return true
		}
		t.changed.Wait()
		wake.Reset(again)
	}
}

// takeAsGuest takes a piece from who needs long for it. The caller holds t.mu.
func (t *Transfer) takeAsGuest(w *worker, src *source, now time.Time) bool {
	slowest := t.slowest(w, now)
	switch {
	case slowest == nil, w.lost, t.isFast(now), slowest.source != nil && slowest.source.Host() == src.Host(),
		now.Sub(slowest.began) < slowly, t.view(now).TimeLeft(slowest.seen(now), slowest.gap.Left()) < slowly:
		return false
	}
	t.workers[w] = true
	g := t.takeOver(slowest, w, now)
	if whole := slowest.gap; g == nil && whole != nil && w.rate(now) == 0 && whole.Taken <= whole.Off {
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

// isFast reports whether the connections at work get enough together. The caller
// holds t.mu.
func (t *Transfer) isFast(now time.Time) bool {
	var rate float64
	for w := range t.workers {
		rate += w.rate(now)
	}
	return rate >= enough
}

// crawling is the primary when it has got next to nothing for a while, else nil.
// The caller holds t.mu.
func (t *Transfer) crawling(now time.Time) *worker {
	for w := range t.workers {
		switch {
		case w.role != leading:
		case w.gap == nil && w.state != passing:
			return nil // it waits for others
		case now.Sub(w.began) >= slowly && w.state != pacing && w.rate(now) < little:
			return w
		}
	}
	return nil
}

// leaveJoined leaves out a source that has joined, when the primary has come to
// it and crawls there, and there are others. The caller holds t.mu.
func (t *Transfer) leaveJoined(now time.Time) {
	slow := t.crawling(now)
	if slow == nil || slow.source == nil || !slow.source.Joined || slow.rate(now) > slow.source.Beaten {
		return
	}
	if t.sources.Drop(slow.source) {
		slow.interrupt()
	}
}
