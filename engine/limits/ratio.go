package limits

import (
	"fmt"
	"io"
)

// RatioError says that something unpacks to far more than its size.
type RatioError struct {
	Size  int64 // bytes that it has itself
	Ratio int64 // what is allowed
}

func (e *RatioError) Error() string {
	return fmt.Sprintf("it unpacks to more than %d times its %d bytes, as what is made to fill disks does: --max-ratio N allows more, and 0 any", e.Ratio, e.Size)
}

// MaxRatio is how many bytes may be unpacked from each byte. 0 is Ratio, and less than that any
// number of them.
type MaxRatio int64

// Check is a *RatioError when out bytes are too many of in, and more than RatioFrom.
func (r MaxRatio) Check(in, out int64) error {
	if r == 0 {
		r = Ratio
	}
	if r < 0 || out <= RatioFrom || out/int64(r) < in {
		return nil
	}
	return &RatioError{Size: in, Ratio: int64(r)}
}

// Reader reads what in bytes unpack to, until that is too much: then the error is a *RatioError.
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
