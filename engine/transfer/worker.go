package transfer

import (
	"context"
	"errors"
	"sync"
	"time"
)

// worker is a connection at work on a transfer, one piece after the other. What
// stands under t.mu is guarded by the transfer's.
type worker struct {
	t     *Transfer
	leads bool   // it is Run's own
	guest bool   // it is at a source that has joined, and at no other
	host  string // of the source that it is at
	buf   *buffer

	// Under t.mu:
	gap       *gap
	source    *source // that it was at last
	lost      bool    // a guest's piece was taken away
	body      *Body
	cancel    context.CancelFunc // of an Open under way
	pos       int64              // where the body is
	written   int64
	pass      bool      // it reads the whole blob, for all gaps
	cut       bool      // it was interrupted
	hushed    bool      // because it was silent, or too slow
	replaced  time.Time // when its connection was last found too slow
	ranged    bool      // it has had a range that it asked for
	resumable bool      // its source goes on where a body is left
	paced     bool      // it waits for the hash
	began     time.Time // when the body's first byte was waited for
	heard     time.Time // when a byte last came, or was first waited for
	speed     float64   // bytes a second, smoothed
	from      time.Time // the window over which speed is measured
	bytes     int64
}

// A buffer is as large as keeps a fast link busy and hashing in the cache. Each
// connection has one in use, and the front a few.
type buffer [128 << 10]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

var (
	errIgnored = errors.New("the server sent the whole blob for a range of it")
	errHushed  = errors.New("the connection fell silent while others went on")
)

// endedError is a body that ended in good order, but too early, or that can't
// begin where it was asked to.
type endedError struct {
	at  int64
	err error // ErrRange, or nil
}

func (e *endedError) Error() string { return "the body ended too early" }

func (e *endedError) Unwrap() error { return e.err }

// brokenError is a body that broke off: reading on may help.
type brokenError struct{ err error }

func (e *brokenError) Error() string { return e.err.Error() }

func (e *brokenError) Unwrap() error { return e.err }

// join makes a worker. leave must be called when it is done.
func (t *Transfer) join() *worker {
	w := &worker{t: t, buf: buffers.Get().(*buffer)}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over || t.alone {
		buffers.Put(w.buf)
		return nil
	}
	t.workers[w] = true
	return w
}

func (w *worker) leave() {
	w.t.mu.Lock()
	defer w.t.mu.Unlock()
	w.t.give(w)
	delete(w.t.workers, w)
	buffers.Put(w.buf)
	w.t.changed.Broadcast()
}

// interrupt ends what a worker waits for. The caller holds t.mu.
func (w *worker) interrupt() {
	w.cut = true
	if w.cancel != nil {
		w.cancel()
	}
	if w.body != nil {
		w.body.Close()
	}
}

// rate is a worker's speed in bytes a second, 0 while it isn't known. A silent
// one gets slower as time goes by. The caller holds t.mu.
func (w *worker) rate(now time.Time) float64 {
	const enough = 50 * time.Millisecond
	if w.from.IsZero() {
		return w.speed
	}
	took := now.Sub(w.from)
	current := float64(w.bytes) / max(took, enough).Seconds()
	if w.speed == 0 {
		if took < enough {
			return 0
		}
		return current
	}
	if took > time.Second {
		return min(w.speed, current)
	}
	return w.speed
}

// measure counts bytes for the speed. The caller holds t.mu.
func (w *worker) measure(n int64, now time.Time) {
	const window = 200 * time.Millisecond
	w.heard = now
	w.bytes += n
	took := now.Sub(w.from)
	if took < window {
		return
	}
	current := float64(w.bytes) / took.Seconds()
	if w.speed == 0 {
		w.speed = current
	} else {
		w.speed += (current - w.speed) * 0.4
	}
	w.from, w.bytes = now, 0
}

// wrote is how many bytes a worker has written, to tell whether a try brought
// anything.
func (w *worker) wrote() int64 {
	w.t.mu.Lock()
	defer w.t.mu.Unlock()
	return w.written
}

// errInterrupted ends a fetch because its piece was given to another, or the
// transfer is over.
var errInterrupted = errors.New("interrupted")
