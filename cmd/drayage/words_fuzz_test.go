package main

import (
	"strings"
	"testing"
	"time"

	"drayage/bench"
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
		if len(s) > 200 || strings.ContainsRune(s, '/') && !strings.HasSuffix(s, "/s") {
			return // parseMix may take it for a file's name
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
		var b byteSize
		if err := b.Set(s); err != nil {
			printabletest.Check(t, err)
		} else if b < 1 || b > 1<<60 {
			t.Errorf("the size %q is %d", s, b)
		}
		var p share
		if err := p.Set(s); err != nil {
			printabletest.Check(t, err)
		} else if !(p >= 0 && p <= 1) {
			t.Errorf("the share %q is %v", s, p)
		}
		if d, err := parseDays(s); err != nil {
			printabletest.Check(t, err)
		} else if d < 0 && d != -time.Nanosecond {
			t.Errorf("the time %q is %v", s, d)
		}
		mix, err := parseMix(s)
		printabletest.Check(t, err)
		if err == nil && len(mix) == 0 {
			t.Errorf("the mix %q is %v", s, bench.Mix(mix))
		}
		_, err = platformOf(s)
		printabletest.Check(t, err)
	})
}
