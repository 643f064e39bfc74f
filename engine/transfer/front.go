package transfer

import (
	"context"
	"encoding"
	"encoding/binary"
	"hash"
	"hash/crc32"
	"slices"
	"time"
)

// front hashes what has arrived, in order. What arrives just there is hashed
// from the buffer that it came in; what came early is read back, out of the
// page cache, when the front gets there. All fields are guarded by Transfer.mu,
// but for the hash while busy.
type front struct {
	hash     hash.Hash
	hashed   int64    // bytes of the blob that are in the hash
	promised int64    // bytes that are, or are queued
	queue    []filled // buffers to hash, in order
	handed   bool     // who has the next buffer waits for room in the queue
	busy     bool     // work goes on outside the lock
	noted    int64    // where the state was noted last
	speed    float64  // bytes a second that are hashed, smoothed
}

type filled struct {
	buf *buffer
	n   int64
}

const (
	frontQueue = 2       // buffers that may wait for the hash
	stateEvery = 1 << 20 // bytes of the blob between states in the journal
)

// reset starts over.
func (f *front) reset(h hash.Hash) {
	for _, q := range f.queue {
		buffers.Put(q.buf)
	}
	*f = front{hash: h}
}

// offer takes a buffer over for hashing when it is next and there is room, and
// reports whether it did. The caller holds t.mu.
func (f *front) offer(buf *buffer, pos, n int64) bool {
	if pos != f.promised || len(f.queue) >= frontQueue {
		return false
	}
	f.queue = append(f.queue, filled{buf, n})
	f.promised += n
	return true
}

// idleAt reports whether the hash waits for the bytes at pos. The caller holds
// t.mu.
func (f *front) idleAt(pos int64) bool { return pos == f.promised && !f.busy && len(f.queue) == 0 }

// ahead reports whether bytes come faster than they can be hashed, and so much
// is waiting that more of them would be of no use. The caller holds t.mu.
func (t *Transfer) ahead() bool {
	f := &t.front
	behind := f.handed || t.frontier()-f.hashed > mostLag/4 // the hash has all it can do
	return behind && t.verified && t.kept+t.arrived-f.hashed > mostLag
}

// follow keeps the hash at the front until the transfer is over. First it
// checks what an earlier transfer has left.
func (t *Transfer) follow() {
	if !t.isVerified() {
		t.verify()
	}
	buf := buffers.Get().(*buffer)
	defer buffers.Put(buf)
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		f := &t.front
		switch {
		case t.over && !f.busy:
			f.reset(nil)
			return
		case f.busy: // a worker does it
			t.changed.Wait()
		case len(f.queue) > 0:
			q := f.queue[0]
			f.queue = f.queue[1:]
			t.changed.Broadcast() // there is room
			t.hashing(f.hash, func(h hash.Hash) error { h.Write(q.buf[:q.n]); return nil }, q.n)
			buffers.Put(q.buf)
		case t.frontier() > f.promised && t.fault == nil && !f.handed:
			from := f.promised
			n := min(int64(len(buf)), t.frontier()-from)
			f.promised += n
			t.hashing(f.hash, func(h hash.Hash) error {
				_, err := t.sink.ReadAt(buf[:n], from)
				h.Write(buf[:n])
				return err
			}, n)
		default:
			t.changed.Wait()
		}
	}
}

// hashing does a piece of the hash's work outside the lock, which the caller
// holds, and notes the hash's state now and then.
func (t *Transfer) hashing(h hash.Hash, work func(hash.Hash) error, n int64) {
	f := &t.front
	f.busy = true
	at := f.hashed + n
	note := at-f.noted >= stateEvery
	t.mu.Unlock()
	begun := time.Now()
	err := work(h)
	took := time.Since(begun)
	if err == nil {
		t.opts.Front(at)
	}
	if err == nil && note {
		err = t.sink.Note(stateNote(at, h))
	}
	t.mu.Lock()
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
		t.failed(err)
	}
	t.changed.Broadcast()
}

// await waits for the hash of the whole.
func (t *Transfer) await(ctx context.Context) ([]byte, error) {
	defer context.AfterFunc(ctx, t.wake)()
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		switch {
		case t.fault != nil:
			return nil, t.fault
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case t.front.hashed == t.want.Size && !t.front.busy:
			return t.front.hash.Sum(nil), nil
		}
		t.changed.Wait()
	}
}

func (t *Transfer) isVerified() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.verified
}

// The notes in the journal: what has arrived, block by block with a checksum,
// and the hash's state when the front was at an offset.
//
//	'e'  offset uint64, size uint32, CRC-32C uint32
//	's'  offset uint64, state as the hash marshals it
const (
	kindExtent = 'e'
	kindState  = 's'
	extentMost = int64(len(buffer{})) // bytes
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// extent is a block that was written.
type extent struct {
	off, size int64
	sum       uint32
	seq       int // of several that overlap the last was written last
}

type state struct {
	at   int64
	hash []byte
	seq  int
}

func extentNote(off int64, p []byte) []byte {
	b := make([]byte, 0, 17)
	b = append(b, kindExtent)
	b = binary.LittleEndian.AppendUint64(b, uint64(off))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(p)))
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(p, castagnoli))
}

func stateNote(at int64, h hash.Hash) []byte {
	b := binary.LittleEndian.AppendUint64([]byte{kindState}, uint64(at))
	m, ok := h.(encoding.BinaryMarshaler)
	if !ok {
		return b
	}
	raw, err := m.MarshalBinary()
	if err != nil {
		return b
	}
	return append(b, raw...)
}

// parseNotes reads notes. What can't be read, or lies outside the blob, is as
// if absent. The extents are in order and don't overlap.
func parseNotes(notes [][]byte, size int64) (extents []extent, states []state) {
	for i, n := range notes {
		if len(n) < 9 {
			continue
		}
		off := int64(binary.LittleEndian.Uint64(n[1:]))
		if off < 0 || off > size {
			continue
		}
		switch {
		case n[0] == kindExtent && len(n) == 17:
			e := extent{off: off, size: int64(binary.LittleEndian.Uint32(n[9:])), sum: binary.LittleEndian.Uint32(n[13:]), seq: i}
			if e.size > 0 && e.size <= extentMost && e.size <= size-off {
				extents = append(extents, e)
			}
		case n[0] == kindState && off > 0:
			states = append(states, state{off, n[9:], i})
		}
	}
	states = current(states, extents)
	slices.SortFunc(extents, func(a, b extent) int {
		if a.off != b.off {
			return int(min(max(a.off-b.off, -1), 1))
		}
		return a.seq - b.seq
	})
	kept := extents[:0]
	for _, e := range extents {
		n := len(kept)
		switch {
		case n == 0 || kept[n-1].off+kept[n-1].size <= e.off:
			kept = append(kept, e)
		case e.seq > kept[n-1].seq:
			kept[n-1] = e
		}
	}
	return kept, states
}

// current leaves out the states of the hash of bytes that were written anew
// after the state was noted: what is there now may be something else. Both are
// in the order of the notes.
func current(states []state, extents []extent) []state {
	var kept []state
	next, rewritten := len(extents)-1, int64(1<<62) // the lowest offset that was written after the state
	for _, s := range slices.Backward(states) {
		for next >= 0 && extents[next].seq > s.seq {
			rewritten = min(rewritten, extents[next].off)
			next--
		}
		if s.at <= rewritten {
			kept = append(kept, s)
		}
	}
	return kept
}

// load takes over what an earlier transfer has noted: all else is missing.
func (t *Transfer) load() {
	extents, _ := parseNotes(t.sink.Notes(), t.want.Size)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.loaded = true
	if t.verified = len(extents) == 0; t.verified {
		return
	}
	t.front.promised = -1 // nothing is to be hashed before verify says from where
	t.gaps = nil
	at := int64(0)
	for _, e := range extents {
		if e.off > at {
			t.gaps = append(t.gaps, &gap{off: at, taken: at, end: e.off})
		}
		at = e.off + e.size
	}
	if at < t.want.Size {
		t.gaps = append(t.gaps, &gap{off: at, taken: at, end: t.want.Size})
	}
}

// verify reads what an earlier transfer has left against its checksums, while
// new bytes arrive. A block that isn't what was noted is missing again. The
// hash goes on from the last state before which everything was right: bytes
// that are fetched anew are always hashed, for a checksum proves nothing against
// a source.
func (t *Transfer) verify() {
	extents, states := parseNotes(t.sink.Notes(), t.want.Size)
	safe := int64(0) // before this offset nothing was missing, nor is damaged
	for _, e := range extents {
		if e.off != safe {
			break
		}
		safe = e.off + e.size
	}
	buf := buffers.Get().(*buffer)
	defer buffers.Put(buf)
	var damaged int64
	for _, e := range extents {
		t.mu.Lock()
		over := t.over || t.fault != nil
		t.mu.Unlock()
		if over {
			return
		}
		_, err := t.sink.ReadAt(buf[:e.size], e.off)
		right := err == nil && crc32.Checksum(buf[:e.size], castagnoli) == e.sum
		t.mu.Lock()
		if right {
			t.kept += e.size
		} else {
			damaged += e.size
			safe = min(safe, e.off)
			t.addGap(&gap{off: e.off, taken: e.off, end: e.off + e.size})
		}
		t.mu.Unlock()
	}

	h, from := t.newHash(), int64(0)
	for _, s := range states {
		if s.at > safe || s.at <= from {
			continue
		}
		restored := t.newHash()
		if u, ok := restored.(encoding.BinaryUnmarshaler); ok && u.UnmarshalBinary(s.hash) == nil {
			h, from = restored, s.at
		}
	}
	t.mu.Lock()
	t.verified = true
	t.front = front{hash: h, hashed: from, promised: from, noted: from}
	kept := t.kept
	t.opts.Front(from)
	t.changed.Broadcast()
	t.mu.Unlock()
	t.opts.Resumed(kept)
	if damaged > 0 {
		t.opts.Damaged(damaged)
	}
}

// addGap puts a range among what is missing. The caller holds t.mu.
func (t *Transfer) addGap(g *gap) {
	i := slices.IndexFunc(t.gaps, func(other *gap) bool { return other.off > g.off })
	if i < 0 {
		i = len(t.gaps)
	}
	t.gaps = slices.Insert(t.gaps, i, g)
	t.changed.Broadcast()
}
