package blobstore

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func FuzzStamps(f *testing.F) {
	d := digest.FromString("x").String()
	f.Add([]byte(d + " 1 2 3 4\n"))
	f.Add([]byte(d + " -1 2 3 4\nsha256:x 1 2 3 4\n\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		known := make(map[digest.Digest]stamp)
		parseStamps(raw, known)
		for d, s := range known {
			if d.Validate() != nil || s.size < 0 {
				t.Errorf("%q: %s %+v", raw, d, s)
			}
		}
	})
}

// Names that differ in capitals alone are two files where the file system doesn't tell them
// apart (S2).
func TestWorldS2NamesThatDifferInCapitals(t *testing.T) {
	p := paths("store")
	for _, pair := range [][2]string{{"r.example/app:rc1", "r.example/app:RC1"}, {"r.example/app:v1%2F", "r.example/app:V1%2f"}, {"x:aB", "x:Ab"}} {
		if a, b := p.root(pair[0]), p.root(pair[1]); strings.EqualFold(a, b) || strings.EqualFold(p.note(pair[0]), p.note(pair[1])) {
			t.Errorf("%q and %q are both %s", pair[0], pair[1], a)
		}
	}
}
