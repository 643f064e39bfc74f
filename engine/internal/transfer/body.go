package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// fetch fetches a worker's piece, and what follows it if the body goes on and
// nobody else is at it.
func (w *worker) fetch(ctx context.Context, src *source) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ask, ok, err := w.prepare(src, cancel)
	if !ok || err != nil {
		return err
	}
	body, err := src.Open(ctx, ask)
	if err != nil {
		if w.finish() == interrupted {
			return errInterrupted
		}
		return err
	}
	w.opened(body)
	err = w.read(src, ask, body)
	ended := w.finish()
	body.Close()
	switch {
	case err == nil || errors.As(err, new(*localError)):
		return err
	case ended == interrupted:
		return errInterrupted
	case ended == replaced:
		return &brokenError{errSilent} // or slow
	}
	return err
}

// prepare is what a worker asks its source for. ok is false when it has nothing
// to fetch.
func (w *worker) prepare(src *source, cancel context.CancelFunc) (ask Ask, ok bool, err error) {
	t := w.t
	t.mu.Lock()
	defer t.mu.Unlock()
	w.host, w.source = src.Host(), src
	if w.gap == nil {
		return Ask{}, false, nil
	}
	if t.stopped() || w.role != leading && (t.help.excluded || src.noRanges) { // since it took its piece
		return Ask{}, false, errInterrupted
	}
	ask = Ask{From: w.gap.Off, To: w.gap.End, Size: t.want.Size, Budget: t.opts.Budget, Once: t.sources.len() > 1}
	if src.noRanges {
		ask.From, ask.To = 0, t.want.Size
	}
	if w.role == leading && ask.From == 0 && !src.honoured {
		ask.To = t.want.Size // as everybody asks for blobs; a part of it is left to others later
	}
	if w.role == leading {
		t.primary.asked, t.primary.askedWhole = ask.From, ask.From == 0 && ask.To == ask.Size
	}
	w.state.to(opening)
	w.cancel, w.pos = cancel, ask.From
	return ask, true, nil
}

// opened records that a body arrives now.
func (w *worker) opened(body *Body) {
	w.t.mu.Lock()
	defer w.t.mu.Unlock()
	w.cancel = nil
	if w.state == interrupted { // just now
		return
	}
	w.state.to(reading)
	now := time.Now()
	w.body, w.began = body, now
	w.listenAnew(now)
}

// finish makes a worker idle, and returns the state that it was in.
func (w *worker) finish() state {
	w.t.mu.Lock()
	defer w.t.mu.Unlock()
	was := w.state
	w.state.to(idle)
	w.body, w.cancel = nil, nil
	return was
}

// read reads a body that was opened for ask.
func (w *worker) read(src *source, ask Ask, body *Body) error {
	const little = 1 << 20 // bytes that may be read over rather than asked for anew
	wholes := w.learn(src, ask, body)
	skip := ask.From - body.From
	switch {
	case ask.From == 0 && ask.To == ask.Size && wholes && w.role == leading:
		return w.passOver(src, body)
	case skip < 0, body.Ranged && skip > little:
		return fmt.Errorf("%w: asked for bytes from %d, it begins at %d", ErrRange, ask.From, body.From)
	case !body.Ranged && skip > little:
		return w.ignored(src, body)
	}
	if !body.Ranged && (skip > 0 || ask.From > 0 || ask.To < ask.Size) {
		w.ignores(src)
	}
	if err := w.skip(body, skip); err != nil {
		return err
	}
	if !body.Ranged {
		ask.To = ask.Size
	}
	return w.copy(src, body, ask.To)
}

// learn records what an answer says of its source, and reports whether that is
// known to give whole blobs only.
func (w *worker) learn(src *source, ask Ask, body *Body) (wholes bool) {
	t := w.t
	t.mu.Lock()
	wholes = src.noRanges
	w.resumable = src.honoured || body.Ranged
	if !body.Ranged || body.From != ask.From {
		t.mu.Unlock()
		return wholes
	}
	src.honoured, src.odd = true, 0
	t.help.refusals = 0
	for o := range t.workers {
		o.resumable = o.resumable || o.host == w.host
	}
	first := !w.ranged
	w.ranged = true
	t.mu.Unlock()
	if first {
		t.opts.Ranged(src.Host(), true)
	}
	return wholes
}

// ignored decides what to do with a whole blob that came for a range: the server
// ignores ranges, this time at least. Others may not; else the body is read from
// its start, for what is missing wherever it is.
func (w *worker) ignored(src *source, body *Body) error {
	t := w.t
	t.mu.Lock()
	again := src.isOdd() && src.honoured
	t.mu.Unlock()
	if again {
		return &brokenError{errIgnored}
	}
	w.ignores(src)
	t.mu.Lock()
	others := t.sources.turnToRanges()
	t.mu.Unlock()
	if others || w.role != leading {
		return errInterrupted
	}
	return w.passOver(src, body)
}

// ignores records that a source gives whole blobs only.
func (w *worker) ignores(src *source) {
	w.t.mu.Lock()
	known := src.noRanges || src.honoured
	src.noRanges = src.noRanges || !src.honoured || src.odd > mostOdd
	w.t.mu.Unlock()
	if !known {
		w.t.opts.Ranged(src.Host(), false)
	}
}

// skip reads over bytes that are here already.
func (w *worker) skip(body *Body, n int64) error {
	var skipped int64
	for n > 0 {
		m, err := body.Read(w.buf.p[:min(int64(len(w.buf.p)), n)])
		n -= int64(m)
		skipped += int64(m)
		if m > 0 {
			w.t.opts.Activity.Beat()
			w.t.mu.Lock()
			w.heardOf(int64(m), time.Now())
			w.t.mu.Unlock()
		}
		if err := w.waste(int64(m)); err != nil {
			return err
		}
		if err != nil && n > 0 {
			if errors.Is(err, io.EOF) {
				return &endedError{at: skipped}
			}
			return &brokenError{err}
		}
	}
	return nil
}

// waste counts bytes that were read over. There is a limit to it: on a link
// that never holds for a whole blob, the same bytes would come for ever.
func (w *worker) waste(n int64) error {
	const times = 3
	w.t.mu.Lock()
	defer w.t.mu.Unlock()
	w.t.wasted += n
	if w.t.wasted > times*w.t.want.Size+(16<<20) {
		return errWasteful
	}
	return nil
}

// fill reads until a buffer is full, or for a moment: what has arrived should
// be written and noted soon, however slowly more comes.
func fill(r io.Reader, p []byte) (n int, err error) {
	const moment = 20 * time.Millisecond
	var first time.Time
	for n < len(p) {
		m, err := r.Read(p[n:])
		n += m
		if err != nil {
			return n, err
		}
		now := time.Now()
		if first.IsZero() {
			first = now
		} else if now.Sub(first) > moment {
			break
		}
	}
	return n, nil
}
