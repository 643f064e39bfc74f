package transfer

import (
	"encoding"
	"hash"

	"drayage/engine/internal/transfer/internal/buffer"
	"drayage/engine/internal/transfer/internal/record"
)

// load takes over what an earlier transfer has noted: all else is missing.
func (t *Transfer) load() {
	extents, _ := record.Parse(t.sink.Notes(), t.want.Size)
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(extents) == 0 {
		t.phase = fetching
		return
	}
	t.phase = checking
	t.prefix.Hold() // nothing is to be hashed before check says from where
	t.missing = ranges{}
	at := int64(0)
	for _, e := range extents {
		t.missing.Add(at, e.Off)
		at = e.Off + e.Size
	}
	t.missing.Add(at, t.want.Size)
}

// check reads what an earlier transfer has left against its checksums, while new
// bytes arrive. A block that isn't what was noted is missing again. The hash
// goes on from the last state before which everything was right: bytes that are
// fetched anew are always hashed, for a checksum proves nothing against a
// source.
func (t *Transfer) check() {
	extents, states := record.Parse(t.sink.Notes(), t.want.Size)
	sound, damaged, ok := t.checkExtents(extents)
	if !ok {
		return
	}
	h, from := t.lastState(states, sound)
	t.mu.Lock()
	if t.phase == checking {
		t.phase = fetching
	}
	t.prefix.Start(h, from)
	kept := t.kept
	t.opts.Prefix(from)
	t.changed.Broadcast()
	t.mu.Unlock()
	t.opts.Resumed(kept)
	if damaged > 0 {
		t.opts.Damaged(damaged)
	}
}

// checkExtents checks block by block. Before the offset sound nothing was
// missing, nor is damaged; ok is false when the transfer is over.
func (t *Transfer) checkExtents(extents []record.Extent) (sound, damaged int64, ok bool) {
	for _, e := range extents {
		if e.Off != sound {
			break
		}
		sound = e.Off + e.Size
	}
	buf := buffer.New(buffer.Large)
	defer buf.Free()
	for _, e := range extents {
		if t.isOver() {
			return 0, 0, false
		}
		_, err := t.sink.ReadAt(buf.P[:e.Size], e.Off)
		right := err == nil && e.Matches(buf.P[:e.Size])
		t.mu.Lock()
		if right {
			t.kept += e.Size
		} else {
			damaged += e.Size
			sound = min(sound, e.Off)
			t.missing.Add(e.Off, e.Off+e.Size)
			t.changed.Broadcast()
		}
		t.mu.Unlock()
	}
	return sound, damaged, true
}

// lastState is the hash of as many of the blob's first bytes as a state tells,
// up to the offset sound.
func (t *Transfer) lastState(states []record.State, sound int64) (h hash.Hash, from int64) {
	h = t.sink.Hash()
	for _, s := range states {
		if s.At > sound || s.At <= from {
			continue
		}
		restored := t.sink.Hash()
		if u, ok := restored.(encoding.BinaryUnmarshaler); ok && u.UnmarshalBinary(s.Hash) == nil {
			h, from = restored, s.At
		}
	}
	return h, from
}

// isOver reports whether nothing is to be done any more.
func (t *Transfer) isOver() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stopped()
}
