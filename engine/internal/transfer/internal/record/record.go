// Package record reads and writes the records of a blob's journal: what has arrived, block by block with
// a checksum, and the hash's state at an offset.
package record

import (
	"encoding"
	"encoding/binary"
	"hash"
	"hash/crc32"
	"slices"

	"drayage/engine/internal/transfer/internal/buffer"
)

// Records: what has arrived, block by block with a checksum,
// and the hash's state when the contiguous prefix ended at an offset.
//
//	'e'  offset uint64, size uint32, CRC-32C uint32
//	's'  offset uint64, state as the hash marshals it
const (
	kindExtent = 'e'
	kindState  = 's'
	mostExtent = buffer.Large // bytes
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// An Extent is a block that was written.
type Extent struct {
	Off, Size int64 // bytes
	sum       uint32
	seq       int // of several that overlap the last was written last
}

// A State is the hash of the bytes before an offset.
type State struct {
	At   int64  // bytes of the blob that are in it
	Hash []byte // as the hash marshals it
	seq  int
}

// Matches reports whether the bytes of a block are those that were written.
func (e Extent) Matches(p []byte) bool { return crc32.Checksum(p, castagnoli) == e.sum }

// Written is the record of a block that was written at an offset.
func Written(off int64, p []byte) []byte {
	b := make([]byte, 0, 17)
	b = append(b, kindExtent)
	b = binary.LittleEndian.AppendUint64(b, uint64(off))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(p)))
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(p, castagnoli))
}

// Hashed is the record of the state of the hash of the bytes before an offset.
func Hashed(at int64, h hash.Hash) []byte {
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

// Parse reads records, oldest first, of a blob of a size in bytes. What can't be read, or lies outside
// the blob, is as if absent. The extents are in order and don't overlap.
func Parse(records [][]byte, size int64) (extents []Extent, states []State) {
	for i, n := range records {
		if len(n) < 9 {
			continue
		}
		off := int64(binary.LittleEndian.Uint64(n[1:]))
		if off < 0 || off > size {
			continue
		}
		switch {
		case n[0] == kindExtent && len(n) == 17:
			e := Extent{Off: off, Size: int64(binary.LittleEndian.Uint32(n[9:])), sum: binary.LittleEndian.Uint32(n[13:]), seq: i}
			if e.Size > 0 && e.Size <= mostExtent && e.Size <= size-off {
				extents = append(extents, e)
			}
		case n[0] == kindState && off > 0:
			states = append(states, State{off, n[9:], i})
		}
	}
	states = current(states, extents)
	slices.SortFunc(extents, func(a, b Extent) int {
		if a.Off != b.Off {
			return int(min(max(a.Off-b.Off, -1), 1))
		}
		return a.seq - b.seq
	})
	kept := extents[:0]
	for _, e := range extents {
		n := len(kept)
		switch {
		case n == 0 || kept[n-1].Off+kept[n-1].Size <= e.Off:
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
func current(states []State, extents []Extent) []State {
	var kept []State
	next, rewritten := len(extents)-1, int64(1<<62) // the lowest offset that was written after the state
	for _, s := range slices.Backward(states) {
		for next >= 0 && extents[next].seq > s.seq {
			rewritten = min(rewritten, extents[next].Off)
			next--
		}
		if s.At <= rewritten {
			kept = append(kept, s)
		}
	}
	return kept
}
