package transfer

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"testing"
)

// Whatever a journal says, what is taken from it is in order, within the blob,
// and doesn't overlap.
func FuzzParseNotes(f *testing.F) {
	h := sha256.New()
	h.Write([]byte("x"))
	f.Add(extentNote(0, []byte("hello")), extentNote(3, []byte("hello")), stateNote(5, h), int64(100))
	f.Add(extentNote(1<<62, []byte("hello")), []byte{kindExtent}, []byte{}, int64(1))
	f.Fuzz(func(t *testing.T, a, b, c []byte, size int64) {
		if size < 0 {
			return
		}
		extents, states := parseNotes([][]byte{a, b, c, a}, size)
		at := int64(0)
		for _, e := range extents {
			if e.off < at || e.size <= 0 || e.off+e.size > size || e.size > extentMost {
				t.Errorf("%+v after %d, of %d", e, at, size)
			}
			at = e.off + e.size
		}
		for _, s := range states {
			if s.at <= 0 || s.at > size {
				t.Errorf("a state at %d of %d", s.at, size)
			}
		}
	})
}

func TestLaterNotesReplaceEarlierOnes(t *testing.T) {
	first, second := bytes.Repeat([]byte{1}, 100), bytes.Repeat([]byte{2}, 100)
	extents, _ := parseNotes([][]byte{extentNote(0, first), extentNote(200, first), extentNote(50, second), extentNote(200, second)}, 1000)
	if len(extents) != 2 || extents[0].off != 50 || extents[1].off != 200 || extents[1].sum != binary.LittleEndian.Uint32(extentNote(0, second)[13:]) {
		t.Errorf("%+v", extents)
	}
}
