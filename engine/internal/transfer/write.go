package transfer

import (
	"errors"
	"io"
	"time"
)

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
		n, err := fill(body, w.buf.p[:min(int64(len(w.buf.p)), max(end-w.pos, 1))])
		if n > 0 && w.pos == end {
			if end == w.t.want.Size {
				return w.longer(src)
			}
			return nil // more than was asked for: of no use
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
			copy(w.buf.p[:n], w.buf.p[own:])
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
	return w.gap != nil || w.pos == end || t.goOn(w, end), nil
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

	if err := t.put(w.buf.p[:keep], pos); err != nil {
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
	case t.prefix.isNext(pos) && t.prefix.isIdle() && t.opts.Crowded():
		// Every core has a transfer of its own: here the bytes are in its cache.
		t.prefix.now(w.buf.p[:keep])
	case keep < int64(n): // the buffer is still needed: these few are read back
	case t.prefix.offer(w.buf, pos, keep):
		w.buf = newBuffer(t.want.Size)
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
	hashed := t.prefix.hashed
	behind := t.prefix.awaited || t.missing.Prefix(t.want.Size)-hashed > mostLag/4 // the hash has all it can do
	return behind && t.phase == fetching && t.kept+t.arrived-hashed > mostLag
}

// pace keeps a worker from getting too far ahead of the hash, which should get
// the bytes at pos. At the prefix there is a wait for room in its queue: what it
// has to read back costs more than what it is given. The caller holds t.mu.
func (w *worker) pace(pos int64) {
	t := w.t
	for w.state != interrupted && !t.stopped() {
		next := t.prefix.isNext(pos)
		if next && !t.prefix.isFull() || !next && !t.isAhead() {
			break
		}
		if w.state == reading {
			w.state.to(pacing)
		}
		t.prefix.awaited = t.prefix.awaited || next
		t.changed.Wait()
		if next {
			t.prefix.awaited = false
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
	if err := t.sink.Note(extentNote(at, p)); err != nil {
		return &localError{err}
	}
	return nil
}
