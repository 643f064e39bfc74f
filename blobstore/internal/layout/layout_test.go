package layout

import (
	"strings"
	"testing"
)

// Names that differ in capitals alone are two files where the file system doesn't tell them
// apart (S2).
func TestWorldS2NamesThatDifferInCapitals(t *testing.T) {
	p := Dir("store")
	for _, pair := range [][2]string{{"r.example/app:rc1", "r.example/app:RC1"}, {"r.example/app:v1%2F", "r.example/app:V1%2f"}, {"x:aB", "x:Ab"}} {
		if a, b := p.Root(pair[0]), p.Root(pair[1]); strings.EqualFold(a, b) || strings.EqualFold(p.State(pair[0]), p.State(pair[1])) {
			t.Errorf("%q and %q are both %s", pair[0], pair[1], a)
		}
	}
}
