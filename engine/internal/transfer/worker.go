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
	t    *Transfer
	role role
	host string // of the source that it is at
	buf  *buffer

	// Under t.mu:
	state     state
	gap       *gap
	source    *source            // that it was at last
	body      *Body              // while the state has one
	cancel    context.CancelFunc // while it is opening
	pos       int64              // where the body is
	written   int64
	lost      bool      // a guest's piece was taken away
	ranged    bool      // it has had a range that it asked for
	resumable bool      // its source goes on where a body is left
	began     time.Time // when it was given its piece, or the body's first byte was waited for
	heard     time.Time // when a byte last came, or was first waited for
	replaced  time.Time // when its connection was last found too slow
	meter     meter
}

// A role is what a worker is there for.
type role int

const (
	helper  role = iota // it fetches pieces while the primary is at work
	leading             // it is the primary: it stays until nothing is missing
	guest               // it is at a source that has joined, and at no other
)

// A buffer is as large as keeps a fast link busy and hashing in the cache, or as a small blob needs.
// Each connection has one in use, and the hasher a few.
type buffer struct {
	p    []byte
	pool *sync.Pool
}

const (
	largeBuffer = 128 << 10
	smallBuffer = 16 << 10
)

var largeBuffers, smallBuffers sync.Pool

func init() {
	largeBuffers.New = func() any { return &buffer{make([]byte, largeBuffer), &largeBuffers} }
	smallBuffers.New = func() any { return &buffer{make([]byte, smallBuffer), &smallBuffers} }
}

// newBuffer returns a buffer for a blob of a size.
func newBuffer(size int64) *buffer {
	if size <= smallBuffer {
		return smallBuffers.Get().(*buffer)
	}
	return largeBuffers.Get().(*buffer)
}

func (b *buffer) free() { b.pool.Put(b) }

var (
	errIgnored = errors.New("the server sent the whole blob for a range of it")
	errSilent  = errors.New("the connection fell silent while others went on")
	// errInterrupted ends a fetch because its piece was given to another, or the
	// transfer is over.
	errInterrupted = errors.New("interrupted")
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

func (t *Transfer) newWorker(r role) *worker {
	return &worker{t: t, role: r, buf: newBuffer(t.want.Size)}
}

// enter makes a worker, or returns nil when nobody may help. leave must be
// called when it is done.
func (t *Transfer) enter(r role) *worker {
	w := t.newWorker(r)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.phase == over || t.help.excluded {
		w.buf.free()
		return nil
	}
	t.workers[w] = true
	return w
}

func (w *worker) leave() {
	w.t.mu.Lock()
	defer w.t.mu.Unlock()
	w.t.release(w)
	delete(w.t.workers, w)
	w.buf.free()
	w.t.changed.Broadcast()
}

// interrupt ends what a worker waits for. The caller holds t.mu.
func (w *worker) interrupt() {
	switch w.state {
	case idle:
		return // it looks before it begins
	case opening:
		w.cancel()
	case reading, pacing, passing:
		w.body.Close()
	case interrupted, replaced:
	}
	w.state.to(interrupted)
}

// replace ends a worker's connection, for a new one. The caller holds t.mu.
func (w *worker) replace() {
	w.state.to(replaced)
	w.body.Close()
}

// rate is a worker's speed in bytes a second, 0 while it isn't known. The caller
// holds t.mu.
func (w *worker) rate(now time.Time) float64 { return w.meter.rate(now) }

// heardOf counts bytes that have come. The caller holds t.mu.
func (w *worker) heardOf(n int64, now time.Time) {
	w.heard = now
	w.meter.count(n, now)
}

// listenAnew forgets how long nothing has come. The caller holds t.mu.
func (w *worker) listenAnew(now time.Time) {
	w.heard = now
	w.meter.restart(now)
}

// wrote is how many bytes a worker has written, to tell whether a try brought
// anything.
func (w *worker) wrote() int64 {
	w.t.mu.Lock()
	defer w.t.mu.Unlock()
	return w.written
}

// A meter measures the speed of a connection.
type meter struct {
	speed float64   // bytes a second, smoothed; 0 while it isn't known
	from  time.Time // the window over which it is measured
	bytes int64
}

// restart begins a window.
func (m *meter) restart(now time.Time) { m.from, m.bytes = now, 0 }

// count counts bytes that came.
func (m *meter) count(n int64, now time.Time) {
	const window, weight = 200 * time.Millisecond, 0.4
	m.bytes += n
	took := now.Sub(m.from)
	if took < window {
		return
	}
	if current := float64(m.bytes) / took.Seconds(); m.speed == 0 {
		m.speed = current
	} else {
		m.speed += (current - m.speed) * weight
	}
	m.restart(now)
}

// rate is the speed in bytes a second, 0 while it isn't known. Where nothing
// comes it gets lower as time goes by.
func (m *meter) rate(now time.Time) float64 {
	const enough = 50 * time.Millisecond
	if m.from.IsZero() {
		return m.speed
	}
	took := now.Sub(m.from)
	current := float64(m.bytes) / max(took, enough).Seconds()
	switch {
	case m.speed == 0 && took < enough:
		return 0
	case m.speed == 0:
		return current
	case took > time.Second:
		return min(m.speed, current)
	}
	return m.speed
}
