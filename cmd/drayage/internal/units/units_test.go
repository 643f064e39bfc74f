package units

import (
	"testing"
	"time"
)

func TestSizesHaveOneGrammar(t *testing.T) {
	for text, want := range map[string]int64{
		"1": 1, "1500": 1500, " 20M ": 20e6, "20m": 20e6, "20 MB": 20e6, "1.5MiB": 3 << 19, "1.5mib": 3 << 19, "64Ki": 64 << 10,
		"2T": 2e12, "2TiB": 2 << 40, "1B": 1, ".5K": 500, "1152921504606846976": 1 << 60,
		"": 0, "0": 0, "0.1": 0, "-1": 0, "1e5": 0, "NaN": 0, "Inf": 0, "1..5": 0, ".": 0, "K": 0, "1X": 0, "1_000": 0, "1152921504606846977000": 0, "9E": 0,
	} {
		got, err := ParseSize(text)
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v", text, got, err)
		}
		var z Size
		if err := z.Set(text); (err == nil) != (want > 0) || int64(z) != want {
			t.Errorf("the flag %q: %d, %v", text, z, err)
		}
		var r ByteRate
		if err := r.Set(text + "/s"); (err == nil) != (want > 0) || int64(r) != want {
			t.Errorf("the rate %q: %d, %v", text+"/s", r, err)
		}
	}
}

func TestDurationsMayHaveDays(t *testing.T) {
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"30d": 30 * day, "12h": 12 * time.Hour, "1d12h": 36 * time.Hour, "00d": 0, "0": 0, "0s": 0, "36500d": 36500 * day, "1h30m": 90 * time.Minute,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "d", "-5d", "+5d", "36501d", "1.5d", "1h2d", "-1h", "5", "1 d", "36500d2000000h", "2562047h", "1d1d", "\x1b"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("%q is %s", text, got)
		}
	}
}

func TestADurationFlagTellsZeroFromNone(t *testing.T) {
	var d Duration
	if d.String() != "" {
		t.Errorf("none is %q", d.String())
	}
	if err := d.Set("0s"); err != nil || d >= 0 || d.String() != "0s" {
		t.Errorf("0s is %d, %q: %v", d, d.String(), err)
	}
	if err := d.Set("1d"); err != nil || d.String() != "24h0m0s" {
		t.Errorf("1d is %q: %v", d.String(), err)
	}
}

func TestSharesAreFrom0To1(t *testing.T) {
	for text, want := range map[string]float64{"0": 0, "5%": 0.05, "0.05": 0.05, "1": 1, "100%": 1} {
		var p Fraction
		if err := p.Set(text); err != nil || float64(p) != want {
			t.Errorf("%q: %v, %v", text, p, err)
		}
	}
	for _, text := range []string{"", "%", "-1", "1.01", "101%", "NaN", "x"} {
		if v, err := ParseShare(text); err == nil {
			t.Errorf("%q is %v", text, v)
		}
	}
}

func TestFlagsPrintWhatTheyParse(t *testing.T) {
	var r ByteRate
	var z Size
	var p Fraction
	if r.String()+z.String()+p.String() != "" || r.Limiter() != nil {
		t.Error("values that were not given are printed")
	}
	if r.Set("1K") != nil || z.Set("1Ki") != nil || p.Set("50%") != nil {
		t.Fatal("not parsed")
	}
	if r.String() != "1000" || z.String() != "1024" || p.String() != "0.5" || r.Limit() != 1000 {
		t.Errorf("%s, %s, %s", &r, &z, &p)
	}
}

// A limiter's bucket is small, so that bytes come evenly.
func TestLimiterHasASmallBucket(t *testing.T) {
	for rate, want := range map[ByteRate]int{1: 512, 1e6: 20_000, 1e9: 256 << 10} {
		if got := rate.Limiter().Burst(); got != want {
			t.Errorf("%d: a bucket of %d bytes, not %d", rate, got, want)
		}
	}
}

func TestRatioHasAnOptionForNone(t *testing.T) {
	if UnpackRatio(0).Limit() >= 0 || UnpackRatio(7).Limit() != 7 {
		t.Error("another limit")
	}
	if UnpackRatio(-1).Check() == nil || UnpackRatio(0).Check() != nil {
		t.Error("another check")
	}
}
