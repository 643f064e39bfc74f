package benchmark

import (
	"strings"
	"testing"

	"drayage/engine/printable/printabletest"
)

// FuzzMix reads any text as a value of --profile that is no file.
func FuzzMix(f *testing.F) {
	for _, s := range []string{"70*64KiB,30*4MiB", "1e10*1", "*", ",", "NaN*1M", "-1*1M", "1*0", "\x1b*1", "1M"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 200 || !strings.ContainsAny(s, ",*") {
			return // it may be the name of a file
		}
		mix, err := parseMix(s)
		printabletest.Check(t, err)
		if (err == nil) != (len(mix) > 0) {
			t.Errorf("the mix %q is %v", s, mix)
		}
		for _, x := range mix {
			if x.Size < 1 || !(x.Weight > 0) {
				t.Errorf("the mix %q is %v", s, mix)
			}
		}
	})
}
