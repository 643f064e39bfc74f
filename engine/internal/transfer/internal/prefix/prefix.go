// Package prefix hashes a blob while its bytes arrive in any order.
package prefix

import (
	"hash"
	"io"
	"sync"
	"time"

	"drayage/engine/internal/transfer/internal/buffer"
)

// A Hasher hashes the blob's contiguous prefix, as that grows. What arrives just
// behind it is hashed from the buffer that it came in; what came early is read
// back, out of the page cache, when the prefix gets there.
//
// The lock of changed guards it, and is held by who calls its methods. It is
// given up while bytes are hashed; busy is set then, and changed is told after.
type Hasher struct {
	changed *sync.Cond
	read    io.ReaderAt // what has arrived
	events  Events

	hash     hash.Hash
	hashed   int64    // bytes of the blob that are in the hash
	promised int64    // bytes that are, or are queued; -1 while it isn't known where to begin
	queue    []filled // buffers to hash, in order
	awaited  bool     // who has the next buffer waits for room in the queue
	busy     bool
	noted    int64   // where the state was noted last
	speed    float64 // bytes a second that are hashed, smoothed
}

// Events are what a Hasher tells of.
type Events struct {
	State  func(at int64, h hash.Hash) error // keeps the hash's state; called without the lock
	Grown  func(at int64)                    // all before at is there and hashed; called without the lock
	Failed func(error)                       // called with the lock
}

// New makes a Hasher, which takes nothing before Start. changed's lock guards it.
func New(changed *sync.Cond, read io.ReaderAt, e Events) *Hasher {
	return &Hasher{changed: changed, read: read, events: e}
}

// Hash is the hash of the first Hashed bytes of the blob.
func (f *Hasher) Hash() hash.Hash { return f.hash }

// Hashed is how many bytes of the blob are in the hash.
func (f *Hasher) Hashed() int64 { return f.hashed }

// IsBusy reports whether bytes are being hashed.
func (f *Hasher) IsBusy() bool { return f.busy }

// Speed is how many bytes per second are hashed, smoothed; 0 while it isn't known.
func (f *Hasher) Speed() float64 { return f.speed }

// Await records whether somebody who has the next buffer waits for room in the queue.
func (f *Hasher) Await(yes bool) { f.awaited = yes }

// IsAwaited reports whether somebody who has the next buffer waits for room in the queue.
func (f *Hasher) IsAwaited() bool { return f.awaited }

type filled struct {
	buf *buffer.Buffer
	n   int64
}

const (
	hashQueue  = 2       // buffers that may wait for the hash
	stateEvery = 1 << 20 // bytes of the blob between states in the journal
)

// Start begins with the hash of the blob's first bytes.
func (f *Hasher) Start(h hash.Hash, from int64) {
	for _, q := range f.queue {
		q.buf.Free()
	}
	f.queue, f.awaited, f.busy, f.speed = nil, false, false, 0
	f.hash, f.hashed, f.promised, f.noted = h, from, from, from
}

// Hold takes nothing before the next start.
func (f *Hasher) Hold() { f.promised = -1 }

// IsNext reports whether the bytes at an offset are the next to hash.
func (f *Hasher) IsNext(pos int64) bool { return pos == f.promised }

// IsFull reports whether the queue has no room.
func (f *Hasher) IsFull() bool { return len(f.queue) >= hashQueue }

// IsIdle reports whether nothing is hashed, and nothing waits for it.
func (f *Hasher) IsIdle() bool { return !f.busy && len(f.queue) == 0 }

// Offer takes a buffer over for hashing when it is next and there is room, and
// reports whether it did.
func (f *Hasher) Offer(buf *buffer.Buffer, pos, n int64) bool {
	if !f.IsNext(pos) || f.IsFull() {
		return false
	}
	f.queue = append(f.queue, filled{buf, n})
	f.promised += n
	return true
}

// Now hashes bytes that are next while nothing else is hashed.
func (f *Hasher) Now(p []byte) {
	f.promised += int64(len(p))
	f.do(int64(len(p)), func(h hash.Hash) error { h.Write(p); return nil })
}

// Step does the next piece of work, by buf where bytes have to be read back, of
// which those before prefix are there. It reports whether there was any.
func (f *Hasher) Step(prefix int64, buf *buffer.Buffer) bool {
	switch {
	case f.busy: // a worker does it
		return false
	case len(f.queue) > 0:
		q := f.queue[0]
		f.queue = f.queue[1:]
		f.changed.Broadcast() // there is room
		f.do(q.n, func(h hash.Hash) error { h.Write(q.buf.P[:q.n]); return nil })
		q.buf.Free()
		return true
	case prefix > f.promised && !f.awaited:
		from := f.promised
		n := min(int64(len(buf.P)), prefix-from)
		f.promised += n
		f.do(n, func(h hash.Hash) error {
			_, err := f.read.ReadAt(buf.P[:n], from)
			h.Write(buf.P[:n])
			return err
		})
		return true
	}
	return false
}

// do does a piece of work without the lock, and notes the hash's state now and
// then.
func (f *Hasher) do(n int64, work func(hash.Hash) error) {
	f.busy = true
	h, at := f.hash, f.hashed+n
	note := at-f.noted >= stateEvery
	f.changed.L.Unlock()
	begun := time.Now()
	err := work(h)
	took := time.Since(begun)
	if err == nil {
		f.events.Grown(at)
	}
	if err == nil && note {
		err = f.events.State(at, h)
	}
	f.changed.L.Lock()
	f.busy = false
	f.hashed = at
	if now := float64(n) / max(took, time.Microsecond).Seconds(); f.speed == 0 {
		f.speed = now
	} else {
		f.speed += (now - f.speed) * 0.1
	}
	if note {
		f.noted = at
	}
	if err != nil {
		f.events.Failed(err)
	}
	f.changed.Broadcast()
}

// Sum is the hash of the blob when all of its bytes are in it.
func (f *Hasher) Sum(size int64) (sum []byte, done bool) {
	if f.hashed != size || f.busy {
		return nil, false
	}
	return f.hash.Sum(nil), true
}
