package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"drayage/engine/internal/transfer/internal/buffer"
	"drayage/engine/internal/transfer/internal/record"
	"drayage/engine/internal/transfer/internal/rotation"
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
	body, err := src.At.Open(ctx, ask)
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
	gap := w.gap
	if w.rival != nil {
		gap = w.rival.gap
	}
	if gap == nil {
		t.lost(w)
		return Ask{}, false, nil
	}
	if t.stopped() || w.role != leading && (t.help.excluded || src.NoRanges) { // since it took its piece
		t.lost(w)
		return Ask{}, false, errInterrupted
	}
	ask = Ask{From: gap.Off, To: gap.End, Size: t.want.Size, Budget: t.opts.Budget, Once: t.sources.Len() > 1}
	if src.NoRanges {
		ask.From, ask.To = 0, t.want.Size
	}
	if w.role == leading && ask.From == 0 && !src.Honoured {
		ask.To = t.want.Size // as everybody asks for blobs; a part of it is left to others later
	}
	if w.role == leading {
		t.primary.asked, t.primary.askedWhole = ask.From, ask.From == 0 && ask.To == ask.Size
	}
	w.state.to(opening)
	w.cancel, w.pos, w.asked = cancel, ask.From, time.Now()
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
	w.t.answeredAfter(now.Sub(w.asked))
	if w.rival != nil && (!body.Ranged || body.From != w.pos) {
		w.t.lost(w)
		w.interrupt()
	}
}

// finish makes a worker idle, and returns the state that it was in.
func (w *worker) finish() state {
	w.t.mu.Lock()
	defer w.t.mu.Unlock()
	was := w.state
	w.t.lost(w)
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
	wholes = src.NoRanges
	w.resumable = src.Honoured || body.Ranged
	if !body.Ranged || body.From != ask.From {
		t.mu.Unlock()
		return wholes
	}
	src.Honoured, src.Odd = true, 0
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
	again := src.IsOdd() && src.Honoured
	t.mu.Unlock()
	if again {
		return &brokenError{errIgnored}
	}
	w.ignores(src)
	t.mu.Lock()
	others := t.sources.TurnToRanges()
	t.mu.Unlock()
	if others || w.role != leading {
		return errInterrupted
	}
	return w.passOver(src, body)
}

// ignores records that a source gives whole blobs only.
func (w *worker) ignores(src *source) {
	w.t.mu.Lock()
	known := src.NoRanges || src.Honoured
	src.NoRanges = src.NoRanges || !src.Honoured || src.Odd > rotation.MostOdd
	w.t.mu.Unlock()
	if !known {
		w.t.opts.Ranged(src.Host(), false)
	}
}

// skip reads over bytes that are here already.
func (w *worker) skip(body *Body, n int64) error {
	var skipped int64
	for n > 0 {
		m, err := body.Read(w.buf.P[:min(int64(len(w.buf.P)), n)])
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

// copy writes a body, which is at w.pos and should end at end, into the
// worker's piece and what it goes on to.
func (w *worker) copy(src *source, body *Body, end int64) error {
	for {
		more, err := w.room(end)
		if err != nil || !more {
			return err
		}
		// At the end, one byte is asked for that must not come: so that the end
		// is known to be one, and the connection can be used again.
		n, err := fill(body, w.buf.P[:min(int64(len(w.buf.P)), max(end-w.pos, 1))])
		if n > 0 && w.pos == end {
			if end == w.t.want.Size {
				return w.longer(src)
			}
			return nil // more than was asked for: of no use
		}
		if n > 0 && !w.contend() {
			return errInterrupted
		}
		for n > 0 {
			own, werr := w.write(n)
			if werr != nil {
				return werr
			}
			if n -= own; n == 0 {
				break
			}
			// Its piece has become smaller meanwhile; whoever has the rest may not
			// have begun yet.
			if more, err := w.room(end); err != nil || !more {
				return err
			}
			copy(w.buf.P[:n], w.buf.P[own:])
		}
		switch {
		case w.pos == end && err != nil:
			return nil // all is here, however the connection ended
		case errors.Is(err, ErrRange):
			return err
		case errors.Is(err, io.EOF):
			return &endedError{at: w.pos}
		case err != nil:
			return &brokenError{err}
		}
	}
}

func (w *worker) longer(src *source) error {
	want := w.t.want
	return &MismatchError{Want: want.Digest, WantSize: want.Size, GotSize: want.Size + 1, Host: src.Host()}
}

// room reports whether the worker should read on: in its piece, in what it goes
// on to, or to see whether the body ends where it should.
func (w *worker) room(end int64) (bool, error) {
	t := w.t
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.state == interrupted || t.stopped() {
		return false, errInterrupted
	}
	return w.gap != nil || w.rival != nil || w.pos == end || t.goOn(w, end), nil
}

// write writes of the first n bytes of the buffer those that are in the worker's
// piece to where they belong, and returns how many these are.
func (w *worker) write(n int) (own int, err error) {
	t := w.t
	t.mu.Lock()
	g, pos := w.gap, w.pos
	if g == nil { // it was taken away meanwhile
		t.mu.Unlock()
		return 0, errInterrupted
	}
	keep := min(int64(n), g.End-pos)
	g.Taken = pos + keep
	t.mu.Unlock()

	if err := t.put(w.buf.P[:keep], pos); err != nil {
		return 0, err
	}

	t.mu.Lock()
	t.filled(g, keep)
	w.pos = pos + keep
	w.heardOf(keep, time.Now())
	w.arrived(keep)

	t.mu.Lock()
	defer t.mu.Unlock()
	w.pace(pos)
	if t.stopped() {
		return 0, errInterrupted
	}
	switch {
	case t.prefix.IsNext(pos) && t.prefix.IsIdle() && t.opts.Crowded():
		// Every core has a transfer of its own: here the bytes are in its cache.
		t.prefix.Now(w.buf.P[:keep])
	case keep < int64(n): // the buffer is still needed: these few are read back
	case t.prefix.Offer(w.buf, pos, keep):
		w.buf = buffer.New(t.want.Size)
		t.changed.Broadcast()
	}
	return int(keep), nil
}

// arrived counts bytes that were written, and tells of them. The caller holds
// t.mu, which it gives up.
func (w *worker) arrived(n int64) {
	t := w.t
	t.arrived += n
	w.written += n
	t.changed.Broadcast()
	t.mu.Unlock()
	t.opts.Activity.Beat()
	t.opts.Progress(n)
	t.opts.Arrived(w.host, n)
}

// mostLag bounds how far the hash may fall behind what arrives: when it can't
// keep up, bytes that come faster only have to wait for it in the end.
const mostLag = 32 << 20

// isAhead reports whether bytes come faster than they can be hashed, and so much
// is waiting that more of them would be of no use. The caller holds t.mu.
func (t *Transfer) isAhead() bool {
	hashed := t.prefix.Hashed()
	behind := t.prefix.IsAwaited() || t.missing.Prefix(t.want.Size)-hashed > mostLag/4 // the hash has all it can do
	return behind && t.phase == fetching && t.kept+t.arrived-hashed > mostLag
}

// pace keeps a worker from getting too far ahead of the hash, which should get
// the bytes at pos. At the prefix there is a wait for room in its queue: what it
// has to read back costs more than what it is given. The caller holds t.mu.
func (w *worker) pace(pos int64) {
	t := w.t
	for w.state != interrupted && !t.stopped() {
		next := t.prefix.IsNext(pos)
		if next && !t.prefix.IsFull() || !next && !t.isAhead() {
			break
		}
		if w.state == reading {
			w.state.to(pacing)
		}
		if next {
			t.prefix.Await(true)
		}
		t.changed.Wait()
		if next {
			t.prefix.Await(false)
		}
	}
	if w.state == pacing { // the connection is not to blame
		w.state.to(reading)
		w.listenAnew(time.Now())
	}
}

// put writes bytes to the sink and notes that they are there.
func (t *Transfer) put(p []byte, at int64) error {
	if _, err := t.sink.WriteAt(p, at); err != nil {
		return &localError{err}
	}
	if err := t.sink.Note(record.Written(at, p)); err != nil {
		return &localError{err}
	}
	return nil
}

// passOver reads the blob from its start to its end, over what is here, and
// writes what is missing wherever that is.
func (w *worker) passOver(src *source, body *Body) error {
	t := w.t
	if err := w.sendAway(); err != nil {
		return err
	}
	defer t.welcome()
	t.mu.Lock()
	t.release(w)
	if w.state == reading {
		w.state.to(passing)
	}
	w.pos = body.From
	t.mu.Unlock()
	for {
		n, err := fill(body, w.buf.P[:min(int64(len(w.buf.P)), max(t.want.Size-w.pos, 1))])
		if n > 0 && w.pos == t.want.Size {
			return w.longer(src)
		}
		if n > 0 {
			if err := w.writeMissing(w.buf.P[:n]); err != nil {
				return err
			}
		}
		t.mu.Lock()
		stopped := w.state == interrupted || t.phase == over
		t.mu.Unlock()
		switch {
		case stopped:
			return errInterrupted
		case w.pos == t.want.Size && err != nil:
			return nil
		case errors.Is(err, io.EOF):
			return &endedError{at: w.pos}
		case err != nil:
			// The next try asks for a range again: another whole may break just so.
			t.mu.Lock()
			src.NoRanges = false
			t.mu.Unlock()
			return &brokenError{err}
		}
	}
}

// sendAway ends what others are fetching, so that all gaps are this worker's.
func (w *worker) sendAway() error {
	t := w.t
	t.mu.Lock()
	defer t.mu.Unlock()
	t.help.excluded = true
	for o := range t.workers {
		if o != w {
			o.interrupt()
		}
	}
	for len(t.workers) > 1 {
		if w.state == interrupted || t.stopped() {
			t.help.excluded = false
			return errInterrupted
		}
		t.changed.Wait()
	}
	return nil
}

// welcome lets others help again.
func (t *Transfer) welcome() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.help.excluded = false
}

// writeMissing writes of the bytes at w.pos those that are missing.
func (w *worker) writeMissing(p []byte) error {
	t := w.t
	var kept int64
	for pos, end := w.pos, w.pos+int64(len(p)); ; {
		t.mu.Lock()
		g := t.missing.After(pos)
		if g == nil || g.Off >= end {
			w.pos = end
			w.heardOf(int64(len(p)), time.Now())
			w.arrived(kept)
			return w.waste(int64(len(p)) - kept)
		}
		if g.Off < pos { // it was found missing while the body passed it
			g = t.missing.Split(g, pos)
		}
		off := g.Off
		n := min(end, g.End) - off
		t.mu.Unlock()
		if err := t.put(p[off-w.pos:off-w.pos+n], off); err != nil {
			return err
		}
		t.mu.Lock()
		t.filled(g, n)
		t.mu.Unlock()
		kept += n
		pos = off + n
	}
}
