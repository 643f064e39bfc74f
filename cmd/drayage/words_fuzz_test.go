package main

import (
	"testing"
	"time"

	"drayage/cmd/drayage/internal/platform"
	"drayage/cmd/drayage/internal/units"
	"drayage/engine/printable/printabletest"
)

// FuzzFlags reads words that flags have. What is taken is in bounds, and is read again as it is
// shown.
func FuzzFlags(f *testing.F) {
	for _, s := range []string{
		"20M", "1.5MiB/s", "0", "-1", "1e5", "9999999999999999999999G", "NaN", "Inf", "1..5", ".", "0.1", "30d", "1d12h", "36501d", "-5d", "106751d24h", "9223372036s", "5%", "0.05", "101%", "1e-400", "+1", "0x10", "70*64KiB,30*4MiB", "1e10*1", "*", ",", "1_000", "\x1b", "1152921504606846976", "00d", "1 K",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 200 {
			return
		}
		var r units.ByteRate
		if err := r.Set(s); err != nil {
			printabletest.Check(t, err)
		} else if again := units.ByteRate(0); r < 1 || again.Set(r.String()) != nil || again != r {
			t.Errorf("the rate %q is %d, and that is %d", s, r, again)
		}
		var z units.Size
		if err := z.Set(s); err != nil {
			printabletest.Check(t, err)
		} else if z < 1 || z > 1<<60 {
			t.Errorf("the size %q is %d", s, z)
		}
		var p units.Fraction
		if err := p.Set(s); err != nil {
			printabletest.Check(t, err)
		} else if !(p >= 0 && p <= 1) {
			t.Errorf("the share %q is %v", s, p)
		}
		var d units.Duration
		if err := d.Set(s); err != nil {
			printabletest.Check(t, err)
		} else if d < 0 && d != -1 {
			t.Errorf("the time %q is %v", s, time.Duration(d))
		}
		_, err := platform.Flag(s).Platform()
		printabletest.Check(t, err)
	})
}
