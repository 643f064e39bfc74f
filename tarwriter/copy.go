package tarwriter

import (
	"io"
	"os"
	"sync"
)

// mover copies blobs to where an archive goes, and counts how.
//
// Between files on a file system that shares extents it clones them; else the
// kernel copies, between files and into pipes and sockets; and where it can't,
// this process does. What is refused once is not tried again.
type mover struct {
	w     io.Writer
	moved Moved

	noClone, noKernel bool
}

// move copies some of the next n bytes of a blob, which is read up to off.
func (m *mover) move(blob *os.File, off, n int64) (int64, error) {
	var out *os.File
	rest := n
	switch w := m.w.(type) {
	case *os.File:
		out = w
	case *volumes:
		f, room, err := w.current()
		if err != nil {
			return 0, err
		}
		out, n = f, min(n, room)
		defer func() { w.at, _ = f.Seek(0, io.SeekCurrent) }()
	default:
		return m.byHand(m.w, blob, min(n, piece))
	}
	if !m.noClone {
		done, err := cloneRange(out, blob, off, n, n == rest)
		m.moved.Cloned += done
		m.noClone = err != nil
		if done > 0 {
			return done, nil
		}
	}
	if !m.noKernel {
		done, handled, err := kernelCopy(out, blob, min(n, piece))
		m.moved.Kernel += done
		if handled {
			return done, err
		}
		m.noKernel = true
	}
	return m.byHand(out, blob, min(n, piece))
}

// copyBuffers are reused: a run copies thousands of blobs.
var copyBuffers = sync.Pool{New: func() any { return new([1 << 20]byte) }}

func (m *mover) byHand(w io.Writer, blob *os.File, n int64) (int64, error) {
	buf := copyBuffers.Get().(*[1 << 20]byte)
	defer copyBuffers.Put(buf)
	// Without their ReadFrom and WriteTo, which would copy by smaller buffers.
	done, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{io.LimitReader(blob, n)}, buf[:])
	m.moved.ByHand += done
	return done, err
}
