package compress

import (
	"fmt"
	"io"
)

const (
	// Ratio is how many times its size a compressed layer or archive, or a tar with holes, may
	// expand to, once that is more than ratioFrom bytes.
	Ratio = 200
	// RatioFrom is how many bytes anything may expand to.
	RatioFrom = 64 << 20
)

// RatioError says that a compressed file or a file with holes expands to far more than its size.
type RatioError struct {
	Size  int64 // of the file itself, in bytes
	Ratio int64 // the largest one that is allowed
}

func (e *RatioError) Error() string {
	return fmt.Sprintf("it expands to more than %d times its size (%d bytes); raise with --max-ratio N, 0 disables", e.Ratio, e.Size)
}

// MaxRatio is the largest allowed ratio of expanded bytes to compressed ones. 0 means Ratio, and a
// negative one any ratio.
type MaxRatio int64

// Check returns a *RatioError when out bytes are more than RatioFrom, and too many for in.
func (r MaxRatio) Check(in, out int64) error {
	if r == 0 {
		r = Ratio
	}
	if r < 0 || out <= RatioFrom || out/int64(r) < in {
		return nil
	}
	return &RatioError{Size: in, Ratio: int64(r)}
}

// Reader reads what in bytes expand to. The error is a *RatioError when that is too much.
func (r MaxRatio) Reader(unpacked io.Reader, in int64) io.Reader {
	return &ratioReader{r: unpacked, ratio: r, in: in}
}

type ratioReader struct {
	r       io.Reader
	ratio   MaxRatio
	in, out int64
}

func (r *ratioReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.out += int64(n)
	if tooMuch := r.ratio.Check(r.in, r.out); tooMuch != nil {
		return n, tooMuch
	}
	return n, err
}
