package tarwriter

import (
	"context"
	"io"
	"os"

	"drayage/tarwriter/compress"
)

// NewStream returns an Output that writes archives to a pipe or a program, compressed as a whole by c.
// The reader can begin at once: members come in order. Out is the caller's to close, after Close. After
// an error of Write, out ends in the middle of the archive: the caller should let the reader know, for
// example by its own exit status.
func NewStream(out *os.File, c compress.Format) Output { return stream{out, c} }

type stream struct {
	out      *os.File
	compress compress.Format
}

func (s stream) Write(ctx context.Context, members []Member, blobs Blobs, progress func(n int64)) (Result, error) {
	size, err := Size(members)
	if err != nil {
		return Result{}, err
	}
	widen(s.out)
	count := &counter{w: s.out}
	if s.compress == compress.None {
		moved, err := Write(ctx, s.out, members, blobs, progress)
		return Result{Size: size, Moved: moved}, err
	}
	moved, err := writeCompressed(ctx, count, s.compress, members, blobs, progress)
	return Result{Size: count.n, Moved: moved}, err
}

func (stream) Close() error { return nil }

// counter counts the bytes that are written.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// writeCompressed is Write with compression.
func writeCompressed(ctx context.Context, w io.Writer, c compress.Format, members []Member, blobs Blobs, progress func(n int64)) (Moved, error) {
	if c == compress.None {
		return Write(ctx, w, members, blobs, progress)
	}
	z := compress.NewWriter(w, c)
	moved, err := Write(ctx, z, members, blobs, progress)
	if closed := z.Close(); err == nil { // else it is the same error again
		err = closed
	}
	return moved, err
}
