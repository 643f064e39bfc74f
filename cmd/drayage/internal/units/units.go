// Package units has the flags that take sizes, rates and ratios.
package units

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	limiter "golang.org/x/time/rate"
)

// ByteRate is a flag's number of bytes a second; 0 means no limit.
type ByteRate int64

// units are powers of 1000 for a letter alone, as links are sold, and of 1024
// with an i.
var units = map[string]float64{
	"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "KB": 1e3, "MB": 1e6, "GB": 1e9,
	"T": 1e12, "TB": 1e12, "TI": 1 << 40, "TIB": 1 << 40,
	"KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "B": 1,
}

// Set implements pflag.Value.
func (r *ByteRate) Set(s string) error {
	n, err := ParseSize(strings.TrimSuffix(s, "/s"))
	if err != nil {
		return err
	}
	if n < 1 {
		return errors.New("must be at least one byte per second")
	}
	*r = ByteRate(n)
	return nil
}

// ParseSize reads a number of bytes: 1500, 20M (of 1000), 1.5MiB (of 1024).
func ParseSize(s string) (int64, error) {
	s = strings.TrimSpace(s)
	i := strings.IndexFunc(s, func(c rune) bool { return (c < '0' || c > '9') && c != '.' })
	if i < 0 {
		i = len(s)
	}
	per, ok := units[strings.ToUpper(strings.TrimSpace(s[i:]))]
	n, err := strconv.ParseFloat(s[:i], 64)
	if err != nil || !ok || n*per > 1<<60 {
		return 0, fmt.Errorf("invalid size %q; examples: 20M, 1.5MiB", s)
	}
	return int64(n * per), nil
}

// String implements pflag.Value.
func (r *ByteRate) String() string {
	if *r == 0 {
		return ""
	}
	return strconv.FormatInt(int64(*r), 10)
}

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

// Size is a flag's number of bytes; 0 means none was given.
type Size int64

// Set implements pflag.Value.
func (z *Size) Set(s string) error {
	n, err := ParseSize(s)
	if err == nil && n < 1 {
		err = errors.New("must be at least one byte")
	}
	*z = Size(n)
	return err
}

// String implements pflag.Value.
func (z *Size) String() string { return (*ByteRate)(z).String() }

// Type implements pflag.Value.
func (*Size) Type() string { return "size" }
