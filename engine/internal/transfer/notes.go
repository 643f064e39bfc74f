package transfer

import (
	"encoding"
	"encoding/binary"
	"hash"
	"hash/crc32"
	"slices"
)

// The notes in the journal: what has arrived, block by block with a checksum,
// and the hash's state when the front was at an offset.
//
//	'e'  offset uint64, size uint32, CRC-32C uint32
//	's'  offset uint64, state as the hash marshals it
const (
	kindExtent = 'e'
	kindState  = 's'
	extentMost = largeBuffer // bytes
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// extent is a block that was written.
type extent struct {
	off, size int64
	sum       uint32
	seq       int // of several that overlap the last was written last
}

type hashState struct {
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
func parseNotes(notes [][]byte, size int64) (extents []extent, states []hashState) {
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
			states = append(states, hashState{off, n[9:], i})
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
func current(states []hashState, extents []extent) []hashState {
	var kept []hashState
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
