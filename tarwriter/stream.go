package tarwriter

import (
	"context"
	"io"
	"os"

	"drayage/tarwriter/compress"
)

// Stream writes archives to a pipe or a program, which can begin to read at once: members come in
// order.
type Stream struct {
	Out      *os.File        // the caller closes it
	Compress compress.Format // of the archive as a whole
}

// Write writes the archive. progress is as for the function Write, with numbers of bytes before
// compression. After an error, the stream ends in the middle of the archive: the caller should let
// the reader know, for example by its own exit status.
func (s Stream) Write(ctx context.Context, members []Member, blobs Blobs, progress func(n int64)) (Result, error) {
	size, err := Size(members)
	if err != nil {
		return Result{}, err
	}
	widen(s.Out)
	count := &counter{w: s.Out}
	if s.Compress == compress.None {
		moved, err := Write(ctx, s.Out, members, blobs, progress)
		return Result{Size: size, Moved: moved}, err
	}
	moved, err := writeCompressed(ctx, count, s.Compress, members, blobs, progress)
	return Result{Size: count.n, Moved: moved}, err
}

// Close does nothing, so that a Stream can be used like a File or Dir: Out is the caller's.
func (Stream) Close() error { return nil }

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
