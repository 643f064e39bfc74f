package tarwriter

import (
	"io"
	"os"
	"sync"
)

// piece is how many bytes are copied between two checks of the context: less than a tenth of a second
// at 200 MB/s.
const piece = 16 << 20

// copier moves bytes from blobs into an archive, and counts how.
//
// Between files on a file system that shares extents it shares them; otherwise the kernel copies,
// between files and into pipes and sockets; and where it cannot, this process does. What the system
// refuses once is not attempted again.
type copier struct {
	w     io.Writer
	moved Moved

	noClone, noKernel bool
}

// move copies some of the n bytes of a blob from offset off to the current end of the archive, and
// returns how many.
func (c *copier) move(blob *os.File, off, n int64) (int64, error) {
	var out *os.File
	last := true
	switch w := c.w.(type) {
	case *os.File:
		out = w
	case *volumes:
		f, left, err := w.current()
		if err != nil {
			return 0, err
		}
		last = n <= left
		out, n = f, min(n, left)
		defer func() { w.at, _ = f.Seek(0, io.SeekCurrent) }()
	default:
		return c.byHand(c.w, blob, off, min(n, piece))
	}
	if at, err := out.Seek(0, io.SeekCurrent); err == nil && isFile(out) {
		done, err := c.within(out, at, blob, off, n, last)
		if done > 0 || err != nil {
			_, seekErr := out.Seek(at+done, io.SeekStart)
			if err == nil {
				err = seekErr
			}
			return done, err
		}
	} else if !c.noKernel {
		done, handled, err := sendFile(out, blob, off, min(n, piece))
		c.moved.Kernel += done
		if handled {
			return done, err
		}
		c.noKernel = true
	}
	return c.byHand(out, blob, off, min(n, piece))
}

// within copies some of the n bytes of a blob from offset off to an offset of a file, within the
// kernel, or nothing where that is not possible. last is whether the blob ends after them.
func (c *copier) within(out *os.File, at int64, blob *os.File, off, n int64, last bool) (int64, error) {
	if !c.noClone {
		done, err := cloneRange(out, at, blob, off, n, last)
		c.moved.Cloned += done
		c.noClone = err != nil
		if done > 0 {
			return done, nil
		}
	}
	if c.noKernel {
		return 0, nil
	}
	done, handled, err := copyRange(out, at, blob, off, min(n, piece))
	c.moved.Kernel += done
	c.noKernel = !handled
	return done, err
}

// at copies some of the n bytes of a blob from offset off to an offset of a file.
func (c *copier) at(out *os.File, at int64, blob *os.File, off, n int64) (int64, error) {
	if done, err := c.within(out, at, blob, off, n, true); done > 0 || err != nil {
		return done, err
	}
	return c.byHand(io.NewOffsetWriter(out, at), blob, off, min(n, piece))
}

func isFile(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode().IsRegular()
}

// copyBuffers are reused: an archive may have thousands of blobs.
var copyBuffers = sync.Pool{New: func() any { return new([1 << 20]byte) }}

// byHand copies n bytes of a blob from offset off through a buffer of this process.
func (c *copier) byHand(w io.Writer, blob *os.File, off, n int64) (int64, error) {
	buf := copyBuffers.Get().(*[1 << 20]byte)
	defer copyBuffers.Put(buf)
	// Hides ReadFrom and WriteTo, which would use smaller buffers.
	done, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{io.NewSectionReader(blob, off, n)}, buf[:])
	c.moved.ByHand += done
	return done, err
}
