package transfer

import (
	"errors"
	"io"
	"time"
)

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
		n, err := fill(body, w.buf.p[:min(int64(len(w.buf.p)), max(t.want.Size-w.pos, 1))])
		if n > 0 && w.pos == t.want.Size {
			return w.longer(src)
		}
		if n > 0 {
			if err := w.writeMissing(w.buf.p[:n]); err != nil {
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
