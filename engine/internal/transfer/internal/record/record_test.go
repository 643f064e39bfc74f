package record

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
	f.Add(Written(0, []byte("hello")), Written(3, []byte("hello")), Hashed(5, h), int64(100))
	f.Add(Written(1<<62, []byte("hello")), []byte{kindExtent}, []byte{}, int64(1))
	f.Fuzz(func(t *testing.T, a, b, c []byte, size int64) {
		if size < 0 {
			return
		}
		extents, states := Parse([][]byte{a, b, c, a}, size)
		at := int64(0)
		for _, e := range extents {
			if e.Off < at || e.Size <= 0 || e.Off+e.Size > size || e.Size > mostExtent {
				t.Errorf("%+v after %d, of %d", e, at, size)
			}
			at = e.Off + e.Size
		}
		for _, s := range states {
			if s.At <= 0 || s.At > size {
				t.Errorf("a state at %d of %d", s.At, size)
			}
		}
	})
}

func TestLaterNotesReplaceEarlierOnes(t *testing.T) {
	first, second := bytes.Repeat([]byte{1}, 100), bytes.Repeat([]byte{2}, 100)
	extents, _ := Parse([][]byte{Written(0, first), Written(200, first), Written(50, second), Written(200, second)}, 1000)
	if len(extents) != 2 || extents[0].Off != 50 || extents[1].Off != 200 || extents[1].sum != binary.LittleEndian.Uint32(Written(0, second)[13:]) {
		t.Errorf("%+v", extents)
	}
}
