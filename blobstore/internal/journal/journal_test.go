package journal

import (
	"bytes"
	"encoding/binary"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Whatever the file has, reading it finds an end within it, and notes that are
// parts of it.
func FuzzReadJournal(f *testing.F) {
	head := header(ocispec.Descriptor{Digest: "sha256:x", Size: 5})
	good := append([]byte(nil), head...)
	good = appendRecord(good, recordSession, []byte("boot"))
	good = appendRecord(good, recordNote, []byte("note"))
	good = appendRecord(good, recordMark, binary.LittleEndian.AppendUint64(nil, uint64(len(good))))
	f.Add(good)
	f.Add(head)
	f.Add([]byte("rubbish"))
	f.Add(append(append([]byte(nil), head...), 0xff, 0xff, 0xff, 0xff, 2, 1, 2, 3, 4))
	f.Fuzz(func(t *testing.T, raw []byte) {
		notes, end := read(raw, head, "boot")
		if end < 0 || end > int64(len(raw)) || end > 0 && end < int64(len(head)) {
			t.Fatalf("end %d of %d", end, len(raw))
		}
		again, endAgain := read(raw[:end], head, "boot")
		if endAgain != end || len(again) != len(notes) {
			t.Errorf("cut off at its end it reads differently: %d and %d, %d and %d notes", end, endAgain, len(notes), len(again))
		}
		for _, n := range notes {
			if !bytes.Contains(raw, n) {
				t.Errorf("note %q is not in the file", n)
			}
		}
		durable, _ := read(raw, head, "another boot")
		if len(durable) > len(notes) {
			t.Errorf("%d notes count after a reboot, and %d before", len(durable), len(notes))
		}
	})
}

// What counts after what: sessions of several processes, boots and marks.
func TestWhichNotesCount(t *testing.T) {
	head := header(ocispec.Descriptor{Digest: "sha256:x", Size: 5})
	type step struct {
		kind byte
		text string // a mark's is what it covers: the notes up to this one
	}
	for _, c := range []struct {
		name         string
		steps        []step
		same, reboot string // the notes that count, during boot b and after it
	}{
		{"nothing synced", []step{{recordSession, "b"}, {recordNote, "1"}, {recordNote, "2"}}, "12", ""},
		{"one synced", []step{{recordSession, "b"}, {recordNote, "1"}, {recordMark, "1"}, {recordNote, "2"}}, "12", "1"},
		{"a note came during the sync", []step{{recordSession, "b"}, {recordNote, "1"}, {recordNote, "2"}, {recordMark, "1"}}, "12", "1"},
		{"two processes, one boot", []step{{recordSession, "b"}, {recordNote, "1"}, {recordSession, "b"}, {recordNote, "2"}, {recordMark, "2"}}, "12", "12"},
		{"an earlier boot, unsynced", []step{{recordSession, "a"}, {recordNote, "1"}, {recordSession, "b"}, {recordNote, "2"}}, "2", ""},
		{"an earlier boot, unsynced, isn't blessed by a later sync", []step{{recordSession, "a"}, {recordNote, "1"}, {recordSession, "b"}, {recordNote, "2"}, {recordMark, "2"}}, "2", "2"},
		{"an earlier boot, synced", []step{{recordSession, "a"}, {recordNote, "1"}, {recordMark, "1"}, {recordNote, "2"}, {recordSession, "b"}, {recordNote, "3"}}, "13", "1"},
		{"a note of nobody", []step{{recordNote, "1"}, {recordSession, "b"}, {recordNote, "2"}}, "2", ""},
		{"an unknown kind", []step{{recordSession, "b"}, {99, "x"}, {recordNote, "1"}}, "1", ""},
	} {
		raw := append([]byte(nil), head...)
		ends := map[string]int{}
		for _, s := range c.steps {
			payload := []byte(s.text)
			if s.kind == recordMark {
				payload = binary.LittleEndian.AppendUint64(nil, uint64(ends[s.text]))
			}
			raw = appendRecord(raw, s.kind, payload)
			if s.kind == recordNote {
				ends[s.text] = len(raw)
			}
		}
		for boot, want := range map[string]string{"b": c.same, "c": c.reboot} {
			notes, end := read(raw, head, boot)
			if got := string(bytes.Join(notes, nil)); got != want || end != int64(len(raw)) {
				t.Errorf("%s: during boot %s %q count, want %q", c.name, boot, got, want)
			}
			// A torn end costs what was torn.
			torn, tornEnd := read(raw[:len(raw)-1], head, boot)
			if len(torn) > len(notes) || tornEnd >= int64(len(raw)) {
				t.Errorf("%s: torn, %d notes count, and %d whole", c.name, len(torn), len(notes))
			}
		}
	}
}
