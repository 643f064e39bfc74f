package transfer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"drayage/engine/internal/transfer/internal/buffer"
	"drayage/engine/internal/transfer/internal/meter"
)

// worker is a connection at work on a transfer, one piece after the other. What
// stands under t.mu is guarded by the transfer's.
type worker struct {
	t    *Transfer
	role role
	host string // of the source that it is at
	buf  *buffer.Buffer

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
	meter     meter.Meter
	rival     *worker   // whose piece it has asked for, because it is late
	asked     time.Time // when it last asked
}

// A role is what a worker is there for.
type role int

const (
	helper  role = iota // it fetches pieces while the primary is at work
	leading             // it is the primary: it stays until nothing is missing
	guest               // it is at a source that has joined, and at no other
)

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
	return &worker{t: t, role: r, buf: buffer.New(t.want.Size)}
}

// enter makes a worker, or returns nil when nobody may help. leave must be
// called when it is done.
func (t *Transfer) enter(r role) *worker {
	w := t.newWorker(r)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.phase == over || t.help.excluded {
		w.buf.Free()
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
	w.buf.Free()
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
func (w *worker) rate(now time.Time) float64 { return w.meter.Rate(now) }

// heardOf counts bytes that have come. The caller holds t.mu.
func (w *worker) heardOf(n int64, now time.Time) {
	w.heard = now
	w.meter.Count(n, now)
}

// listenAnew forgets how long nothing has come. The caller holds t.mu.
func (w *worker) listenAnew(now time.Time) {
	w.heard = now
	w.meter.Restart(now)
}

// wrote is how many bytes a worker has written, to tell whether a try brought
// anything.
func (w *worker) wrote() int64 {
	w.t.mu.Lock()
	defer w.t.mu.Unlock()
	return w.written
}

// A phase is how far a transfer is.
type phase int

const (
	created  phase = iota // what is missing isn't known yet
	checking              // what an earlier transfer left is held against its checksums, while more arrives
	fetching              // all that is there is right
	over                  // Run is returning: everybody leaves
)

// A state is what a worker's connection does.
type state int

const (
	idle        state = iota // there is none
	opening                  // a source was asked, and has not answered yet
	reading                  // a body arrives
	pacing                   // a body waits for the hash
	passing                  // the whole blob arrives, for whatever is missing
	interrupted              // it is ended: its piece was given to another, or the transfer is over
	replaced                 // it is ended because it was silent or too slow: a new one goes on
)

// transitions are the states that follow each state. Everything else is a bug.
var transitions = map[state][]state{
	idle:        {opening, idle},
	opening:     {reading, interrupted, idle},
	reading:     {pacing, passing, interrupted, replaced, idle},
	pacing:      {reading, interrupted, idle},
	passing:     {interrupted, idle},
	interrupted: {interrupted, idle},
	replaced:    {interrupted, idle},
}

var stateNames = [...]string{"idle", "opening", "reading", "pacing", "passing", "interrupted", "replaced"}

func (s state) String() string { return stateNames[s] }

// to changes a state to another, which must be one that may follow it.
func (s *state) to(next state) {
	for _, may := range transitions[*s] {
		if may == next {
			*s = next
			return
		}
	}
	panic(fmt.Sprintf("transfer: a connection that is %v becomes %v", *s, next))
}

// hasBody reports whether bytes arrive, or could.
func (s state) hasBody() bool { return s == reading || s == pacing || s == passing }
