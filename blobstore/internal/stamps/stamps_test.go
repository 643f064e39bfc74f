package stamps

import (
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
