package compress

import (
	"errors"
	"io"
	"testing"
)

func TestMaxRatio(t *testing.T) {
	const in = 1 << 20
	for _, c := range []struct {
		ratio   MaxRatio
		in, out int64
		ok      bool
	}{
		{0, 0, RatioFrom, true}, {0, 0, RatioFrom + 1, false}, {0, 1, RatioFrom, true}, {0, 1, RatioFrom + 1, false},
		{0, in, in*Ratio - 1, true}, {0, in, in * Ratio, false}, {100, in, in * 100, false}, {1000, in, in * Ratio, true},
		{-1, 1, 1 << 62, true}, {1 << 62, 1, 1 << 61, true},
	} {
		err := c.ratio.Check(c.in, c.out)
		var of *RatioError
		if (err == nil) != c.ok || err != nil && !errors.As(err, &of) {
			t.Errorf("%d: %d of %d: %v", c.ratio, c.out, c.in, err)
		}
	}
	n, err := io.Copy(io.Discard, MaxRatio(0).Reader(zeros{}, 1))
	var of *RatioError
	if !errors.As(err, &of) || n > RatioFrom+(1<<20) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
