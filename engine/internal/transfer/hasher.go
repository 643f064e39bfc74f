package transfer

import (
	"hash"
	"io"
	"sync"
	"time"
)

// A hasher hashes the blob's contiguous prefix, as that grows. What arrives just
// behind it is hashed from the buffer that it came in; what came early is read
// back, out of the page cache, when the prefix gets there.
//
// The lock of changed guards it, and is held by who calls its methods. It is
// given up while bytes are hashed; busy is set then, and changed is told after.
type hasher struct {
	changed *sync.Cond
	read    io.ReaderAt                       // what has arrived
	note    func(at int64, h hash.Hash) error // keeps the hash's state; called without the lock, as the next is
	grown   func(at int64)                    // all before at is there and hashed
	failed  func(error)                       // called with the lock

	hash     hash.Hash
	hashed   int64    // bytes of the blob that are in the hash
	promised int64    // bytes that are, or are queued; -1 while it isn't known where to begin
	queue    []filled // buffers to hash, in order
	awaited  bool     // who has the next buffer waits for room in the queue
	busy     bool
	noted    int64   // where the state was noted last
	speed    float64 // bytes a second that are hashed, smoothed
}

type filled struct {
	buf *buffer
	n   int64
}

const (
	hashQueue  = 2       // buffers that may wait for the hash
	stateEvery = 1 << 20 // bytes of the blob between states in the journal
)

// start begins with the hash of the blob's first bytes.
func (f *hasher) start(h hash.Hash, from int64) {
	for _, q := range f.queue {
		q.buf.free()
	}
	f.queue, f.awaited, f.busy, f.speed = nil, false, false, 0
	f.hash, f.hashed, f.promised, f.noted = h, from, from, from
}

// hold takes nothing before the next start.
func (f *hasher) hold() { f.promised = -1 }

// isNext reports whether the bytes at an offset are the next to hash.
func (f *hasher) isNext(pos int64) bool { return pos == f.promised }

// isFull reports whether the queue has no room.
func (f *hasher) isFull() bool { return len(f.queue) >= hashQueue }

// isIdle reports whether nothing is hashed, and nothing waits for it.
func (f *hasher) isIdle() bool { return !f.busy && len(f.queue) == 0 }

// offer takes a buffer over for hashing when it is next and there is room, and
// reports whether it did.
func (f *hasher) offer(buf *buffer, pos, n int64) bool {
	if !f.isNext(pos) || f.isFull() {
		return false
	}
	f.queue = append(f.queue, filled{buf, n})
	f.promised += n
	return true
}

// now hashes bytes that are next while nothing else is hashed.
func (f *hasher) now(p []byte) {
	f.promised += int64(len(p))
	f.do(int64(len(p)), func(h hash.Hash) error { h.Write(p); return nil })
}

// step does the next piece of work, by buf where bytes have to be read back, of
// which those before prefix are there. It reports whether there was any.
func (f *hasher) step(prefix int64, buf *buffer) bool {
	switch {
	case f.busy: // a worker does it
		return false
	case len(f.queue) > 0:
		q := f.queue[0]
		f.queue = f.queue[1:]
		f.changed.Broadcast() // there is room
		f.do(q.n, func(h hash.Hash) error { h.Write(q.buf.p[:q.n]); return nil })
		q.buf.free()
		return true
	case prefix > f.promised && !f.awaited:
		from := f.promised
		n := min(int64(len(buf.p)), prefix-from)
		f.promised += n
		f.do(n, func(h hash.Hash) error {
			_, err := f.read.ReadAt(buf.p[:n], from)
			h.Write(buf.p[:n])
			return err
		})
		return true
	}
	return false
}

// do does a piece of work without the lock, and notes the hash's state now and
// then.
func (f *hasher) do(n int64, work func(hash.Hash) error) {
	f.busy = true
	h, at := f.hash, f.hashed+n
	note := at-f.noted >= stateEvery
	f.changed.L.Unlock()
	begun := time.Now()
	err := work(h)
	took := time.Since(begun)
	if err == nil {
		f.grown(at)
	}
	if err == nil && note {
		err = f.note(at, h)
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
		f.failed(err)
	}
	f.changed.Broadcast()
}

// sum is the hash of the blob when all of its bytes are in it.
func (f *hasher) sum(size int64) (sum []byte, done bool) {
	if f.hashed != size || f.busy {
		return nil, false
	}
	return f.hash.Sum(nil), true
}
