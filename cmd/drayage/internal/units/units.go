// Package units has the quantities that users write, each with one grammar for flags and
// configuration files: sizes, rates, durations, shares and ratios.
package units

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	limiter "golang.org/x/time/rate"
)

// suffixes are powers of 1000 for a letter alone, as links are sold, and of 1024 with an i.
var suffixes = map[string]float64{
	"": 1, "B": 1,
	"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12,
	"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
	"KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30, "TI": 1 << 40,
	"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40,
}

// maxSize is the largest size, in bytes: products with small numbers don't overflow.
const maxSize = 1 << 60

// ParseSize parses a number of bytes, at least 1: 1500, 20M (of 1000), 1.5MiB (of 1024), in
// upper or lower case.
func ParseSize(text string) (int64, error) {
	s := strings.TrimSpace(text)
	i := strings.IndexFunc(s, func(c rune) bool { return (c < '0' || c > '9') && c != '.' })
	if i < 0 {
		i = len(s)
	}
	per, ok := suffixes[strings.ToUpper(strings.TrimSpace(s[i:]))]
	n, err := strconv.ParseFloat(s[:i], 64)
	if err != nil || !ok || n*per > maxSize {
		return 0, fmt.Errorf("invalid size %q: must be a number of bytes, e.g. 20M or 1.5MiB", text)
	}
	if n*per < 1 {
		return 0, fmt.Errorf("invalid size %q: must be at least one byte", text)
	}
	return int64(n * per), nil
}

// ParseRate parses a number of bytes per second: a size, with or without /s.
func ParseRate(text string) (int64, error) {
	return ParseSize(strings.TrimSuffix(text, "/s"))
}

// maxDays is a hundred years.
const maxDays = 36500

// ParseDuration parses a duration that may begin with days: 30d, 12h or 1d12h. It is not negative.
func ParseDuration(text string) (time.Duration, error) {
	var days int
	var rest time.Duration
	errForm := fmt.Errorf("invalid duration %q: must be e.g. 30d, 12h or 1d12h", text)
	clock := text
	if before, after, ok := strings.Cut(text, "d"); ok {
		n, err := strconv.ParseUint(before, 10, 32)
		if err != nil || n > maxDays {
			return 0, errForm
		}
		days, clock = int(n), after
	}
	if clock != "" || text == "" {
		var err error
		if rest, err = time.ParseDuration(clock); err != nil || rest < 0 {
			return 0, errForm
		}
	}
	const day = 24 * time.Hour
	if rest > math.MaxInt64-maxDays*day {
		return 0, errForm
	}
	return time.Duration(days)*day + rest, nil
}

// ParseShare parses a share from 0 to 1: 0.05 or 5%.
func ParseShare(text string) (float64, error) {
	number, percent := strings.CutSuffix(text, "%")
	v, err := strconv.ParseFloat(number, 64)
	if percent {
		v /= 100
	}
	if err != nil || !(v >= 0 && v <= 1) {
		return 0, fmt.Errorf("invalid share %q: must be from 0 to 1, e.g. 0.05 or 5%%", text)
	}
	return v, nil
}

// ByteRate is a flag's number of bytes per second; 0 means no limit.
type ByteRate int64

// Set implements pflag.Value.
func (r *ByteRate) Set(s string) error {
	n, err := ParseRate(s)
	if err == nil {
		*r = ByteRate(n)
	}
	return err
}

// String implements pflag.Value.
func (r *ByteRate) String() string { return number(int64(*r)) }

// Type implements pflag.Value.
func (*ByteRate) Type() string { return "rate" }

// Limiter is a token bucket of that rate, nil for none. The bucket is small, so
// that bytes come evenly: a fiftieth of a second's, within what a read takes.
func (r ByteRate) Limiter() *limiter.Limiter {
	if r == 0 {
		return nil
	}
	const least, most = 512, 256 << 10
	return limiter.NewLimiter(limiter.Limit(r), int(min(most, max(least, r/50))))
}

// Limit is the rate as a limit, 0 for none.
func (r ByteRate) Limit() limiter.Limit { return limiter.Limit(r) }

// Size is a flag's number of bytes; 0 means that none was given.
type Size int64

// Set implements pflag.Value.
func (z *Size) Set(s string) error {
	n, err := ParseSize(s)
	if err == nil {
		*z = Size(n)
	}
	return err
}

// String implements pflag.Value.
func (z *Size) String() string { return number(int64(*z)) }

// Type implements pflag.Value.
func (*Size) Type() string { return "size" }

// number is a flag's number as it is printed; "" for one that was not given.
func number(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

// Duration is a flag's duration that may be in days; 0 means that none was given, and a negative
// one that 0 was.
type Duration time.Duration

// Set implements pflag.Value.
func (d *Duration) Set(s string) error {
	v, err := ParseDuration(s)
	if err != nil {
		return err
	}
	if v == 0 {
		v = -1
	}
	*d = Duration(v)
	return nil
}

// String implements pflag.Value.
func (d *Duration) String() string {
	if *d == 0 {
		return ""
	}
	return max(0, time.Duration(*d)).String()
}

// Type implements pflag.Value.
func (*Duration) Type() string { return "duration" }

// Fraction is a flag's share from 0 to 1.
type Fraction float64

// Set implements pflag.Value.
func (p *Fraction) Set(s string) error {
	v, err := ParseShare(s)
	if err == nil {
		*p = Fraction(v)
	}
	return err
}

// String implements pflag.Value.
func (p *Fraction) String() string {
	if *p == 0 {
		return ""
	}
	return strconv.FormatFloat(float64(*p), 'g', -1, 64)
}

// Type implements pflag.Value.
func (*Fraction) Type() string { return "share" }
