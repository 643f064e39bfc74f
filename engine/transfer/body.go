package transfer

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"
)

// fetch fetches a worker's piece, and what follows it if the body goes on and
// nobody else is at it.
func (w *worker) fetch(ctx context.Context, src *source) error {
	t := w.t
	t.mu.Lock()
	w.host, w.source = src.Host(), src
	if w.gap == nil {
		t.mu.Unlock()
		return nil
	}
	if t.fault != nil || !w.leads && (t.alone || src.noRanges) { // since it took its piece
		t.mu.Unlock()
		return errInterrupted
	}
	ask := Ask{From: w.gap.off, To: w.gap.end, Size: t.want.Size, Budget: t.opts.Budget, Once: len(t.sources) > 1}
	if src.noRanges {
		ask.From, ask.To = 0, t.want.Size
	}
	if w.leads && ask.From == 0 && !src.honoured {
		ask.To = t.want.Size // as everybody asks for blobs; a part of it is left to others later
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.cut, w.hushed, w.cancel, w.pos = false, false, cancel, ask.From
	if w.leads {
		t.asked, t.askedWhole = ask.From, ask.From == 0 && ask.To == ask.Size
	}
	if t.over {
		w.cut = true
	}
	stopped := w.cut
	t.mu.Unlock()
	if stopped {
		return errInterrupted
	}

	body, err := src.Open(ctx, ask)
	t.mu.Lock()
	w.cancel = nil
	if err == nil {
		w.body = body
		w.began, w.heard, w.from, w.bytes = time.Now(), time.Now(), time.Now(), 0
	}
	stopped = w.cut
	t.mu.Unlock()
	if err != nil {
		if stopped {
			return errInterrupted
		}
		return err
	}
	err = w.read(src, ask, body)
	t.mu.Lock()
	w.body, w.pass = nil, false
	stopped, hushed := w.cut, w.hushed
	t.mu.Unlock()
	body.Close()
	switch {
	case err == nil || errors.As(err, new(*LocalError)):
		return err
	case stopped:
		return errInterrupted
	case hushed:
		return &brokenError{errHushed} // or slow
	}
	return err
}

// read reads a body that was opened for ask.
func (w *worker) read(src *source, ask Ask, body *Body) error {
	const little = 1 << 20 // bytes that may be read over rather than asked for anew
	t := w.t
	t.mu.Lock()
	wholes := src.noRanges
	w.resumable = src.honoured || body.Ranged
	t.mu.Unlock()
	if body.Ranged && body.From == ask.From {
		t.mu.Lock()
		src.honoured, src.odd = true, 0
		t.refusals = 0
		for o := range t.workers {
			o.resumable = o.resumable || o.host == w.host
		}
		first := !w.ranged
		w.ranged = true
		t.mu.Unlock()
		if first {
			t.opts.Ranged(src.Host(), true)
		}
	}
	skip := ask.From - body.From
	switch {
	case ask.From == 0 && ask.To == ask.Size && wholes && w.leads:
		return w.passOver(src, body)
	case skip == 0:
		if !body.Ranged {
			if ask.From > 0 || ask.To < ask.Size {
				w.ignores(src)
			}
			ask.To = ask.Size
		}
		return w.copy(src, body, ask.To)
	case skip < 0:
		return fmt.Errorf("%w: asked for bytes from %d, it begins at %d", ErrRange, ask.From, body.From)
	case body.Ranged && skip > little:
		return fmt.Errorf("%w: asked for bytes from %d, it begins at %d", ErrRange, ask.From, body.From)
	case body.Ranged || skip <= little:
		if !body.Ranged {
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
	// The server ignores ranges, this time at least. Others may not; else the
	// body is read from its start, for what is missing wherever it is.
	t.mu.Lock()
	src.odd++
	again := src.honoured && src.odd <= mostOdd
	t.mu.Unlock()
	if again {
		return &brokenError{errIgnored}
	}
	w.ignores(src)
	t.mu.Lock()
	others := false
	for _, s := range t.sources {
		others = others || !s.noRanges
	}
	for others && t.sources[0].noRanges {
		t.sources = append(t.sources[1:len(t.sources):len(t.sources)], t.sources[0])
	}
	t.mu.Unlock()
	if others || !w.leads {
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
		m, err := body.Read(w.buf[:min(int64(len(w.buf)), n)])
		n -= int64(m)
		skipped += int64(m)
		w.heardOf(int64(m))
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

func (w *worker) heardOf(n int64) {
	if n > 0 {
		w.t.opts.Pulse.Beat()
	}
	w.t.mu.Lock()
	defer w.t.mu.Unlock()
	if n > 0 {
		w.measure(n, time.Now())
	}
}

// waste counts bytes that were read over. There is a limit to it: on a link
// that never holds for a whole blob, the same bytes would come for ever.
func (w *worker) waste(n int64) error {
	const times = 3
	w.t.mu.Lock()
	defer w.t.mu.Unlock()
	w.t.wasted += n
	if w.t.wasted > times*w.t.want.Size+(16<<20) {
		return ErrWasteful
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
	t := w.t
	for {
		more, err := w.room(end)
		if err != nil || !more {
			return err
		}
		// At the end, one byte is asked for that must not come: so that the end
		// is known to be one, and the connection can be used again.
		n, err := fill(body, w.buf[:min(int64(len(w.buf)), max(end-w.pos, 1))])
		if n > 0 && w.pos == end {
			if end == t.want.Size {
				return w.longer(src)
			}
			return nil // more than was asked for: of no use
		}
		if n > 0 {
			done, werr := w.write(int64(n))
			if werr != nil || done {
				return werr
			}
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
	if w.cut || t.over || t.fault != nil {
		return false, errInterrupted
	}
	return w.gap != nil || w.pos == end || t.goOn(w, end), nil
}

// write writes the first n bytes of the buffer to where the worker is, as far
// as they are its own, and reports whether its body is of no more use.
func (w *worker) write(n int64) (done bool, err error) {
	t := w.t
	t.mu.Lock()
	g, pos := w.gap, w.pos
	if g == nil { // it was taken away meanwhile
		t.mu.Unlock()
		return false, errInterrupted
	}
	keep := min(n, g.end-pos)
	g.taken = pos + keep
	t.mu.Unlock()

	if err := t.put(w.buf[:keep], pos); err != nil {
		return false, err
	}

	t.mu.Lock()
	t.filled(g, keep)
	t.arrived += keep
	w.written += keep
	w.pos = pos + n
	w.measure(keep, time.Now())
	t.changed.Broadcast()
	t.mu.Unlock()
	t.opts.Pulse.Beat()
	t.opts.Progress(keep)
	t.opts.Arrived(w.host, keep)
	t.mu.Lock()
	w.pace(pos)
	if t.over || t.fault != nil {
		t.mu.Unlock()
		return false, errInterrupted
	}
	if t.front.idleAt(pos) && t.opts.Crowded() {
		// Every core has a transfer of its own: here the bytes are in its cache.
		t.front.promised += keep
		t.hashing(t.front.hash, func(h hash.Hash) error { h.Write(w.buf[:keep]); return nil }, keep)
	} else if t.front.offer(w.buf, pos, keep) {
		w.buf = buffers.Get().(*buffer)
		t.changed.Broadcast()
	}
	t.mu.Unlock()
	return keep < n, nil
}

// pace keeps a worker from getting too far ahead of the hash, which should get
// the bytes at pos. At the front there is a wait for room in its queue: what it
// has to read back costs more than what it is given. The caller holds t.mu.
func (w *worker) pace(pos int64) {
	t := w.t
	for !w.cut && !t.over && t.fault == nil {
		next := pos == t.front.promised
		if next && len(t.front.queue) < frontQueue || !next && !t.ahead() {
			break
		}
		w.paced = true
		t.front.handed = t.front.handed || next
		t.changed.Wait()
		if next {
			t.front.handed = false
		}
	}
	if w.paced { // the connection is not to blame
		w.paced, w.heard, w.from, w.bytes = false, time.Now(), time.Now(), 0
	}
}

// put writes bytes to the sink and notes that they are there.
func (t *Transfer) put(p []byte, at int64) error {
	if _, err := t.sink.WriteAt(p, at); err != nil {
		return &LocalError{err}
	}
	if err := t.sink.Note(extentNote(at, p)); err != nil {
		return &LocalError{err}
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
	t.give(w)
	w.pass, w.pos = true, body.From
	t.mu.Unlock()
	for {
		n, err := fill(body, w.buf[:min(int64(len(w.buf)), max(t.want.Size-w.pos, 1))])
		if n > 0 && w.pos == t.want.Size {
			return w.longer(src)
		}
		if n > 0 {
			if err := w.writeMissing(w.buf[:n]); err != nil {
				return err
			}
		}
		t.mu.Lock()
		stopped := w.cut || t.over
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
			src.noRanges = false
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
	t.alone = true
	for o := range t.workers {
		if o != w {
			o.interrupt()
		}
	}
	for len(t.workers) > 1 {
		if w.cut || t.over || t.fault != nil {
			t.alone = false
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
	t.alone = false
}

// writeMissing writes of the bytes at w.pos those that are missing.
func (w *worker) writeMissing(p []byte) error {
	t := w.t
	var kept int64
	for pos, end := w.pos, w.pos+int64(len(p)); ; {
		t.mu.Lock()
		var g *gap
		if len(t.gaps) > 0 && t.gaps[0].off < end {
			g = t.gaps[0]
			for _, other := range t.gaps { // the first that isn't behind us
				if g = other; other.end > pos {
					break
				}
			}
		}
		if g == nil || g.off >= end || g.end <= pos {
			w.pos = end
			w.measure(int64(len(p)), time.Now())
			t.arrived += kept
			w.written += kept
			t.changed.Broadcast()
			t.mu.Unlock()
			t.opts.Pulse.Beat()
			t.opts.Progress(kept)
			t.opts.Arrived(w.host, kept)
			return w.waste(int64(len(p)) - kept)
		}
		if g.off < pos { // it was found missing while the body passed it
			g = t.split(g, pos)
		}
		off := g.off
		n := min(end, g.end) - off
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
