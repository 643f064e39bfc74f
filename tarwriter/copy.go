package tarwriter

import (
	"io"
	"os"
	"sync"
)

// copyBlob copies up to n bytes from a blob to where the archive goes.
//
// Between files the kernel does it, by copy_file_range: that is what the
// ReadFrom of os.File uses, and on file systems that share extents it becomes
// a reflink. Into pipes it is sendfile's work, and otherwise ours.
func copyBlob(w io.Writer, blob *os.File, n int64) (int64, error) {
	out, ok := w.(*os.File)
	if !ok {
		return copyByHand(w, blob, n)
	}
	if info, err := out.Stat(); err == nil && info.Mode().IsRegular() {
		return out.ReadFrom(&io.LimitedReader{R: blob, N: n})
	}
	if done, handled, err := sendFile(out, blob, n); handled {
		return done, err
	}
	return copyByHand(w, blob, n)
}

// copyBuffers are reused: a run copies thousands of blobs.
var copyBuffers = sync.Pool{New: func() any { return new([1 << 20]byte) }}

func copyByHand(w io.Writer, blob *os.File, n int64) (int64, error) {
	buf := copyBuffers.Get().(*[1 << 20]byte)
	defer copyBuffers.Put(buf)
	// Without their ReadFrom and WriteTo, which would copy by smaller buffers.
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{io.LimitReader(blob, n)}, buf[:])
}
