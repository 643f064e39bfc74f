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

// move copies some of the n bytes that a blob has from off on to where the
// archive is written next.
func (m *mover) move(blob *os.File, off, n int64) (int64, error) {
	var out *os.File
	last := true
	switch w := m.w.(type) {
	case *os.File:
		out = w
	case *volumes:
		f, room, err := w.current()
		if err != nil {
			return 0, err
		}
		last = n <= room
		out, n = f, min(n, room)
		defer func() { w.at, _ = f.Seek(0, io.SeekCurrent) }()
	default:
		return m.byHand(m.w, blob, off, min(n, piece))
	}
	if at, err := out.Seek(0, io.SeekCurrent); err == nil && isFile(out) {
		done, err := m.within(out, at, blob, off, n, last)
		if done > 0 || err != nil {
			_, seekErr := out.Seek(at+done, io.SeekStart)
			if err == nil {
				err = seekErr
			}
			return done, err
		}
	} else if !m.noKernel {
		done, handled, err := sendFile(out, blob, off, min(n, piece))
		m.moved.Kernel += done
		if handled {
			return done, err
		}
		m.noKernel = true
	}
	return m.byHand(out, blob, off, min(n, piece))
}

// within copies some of the n bytes that a blob has from off on to an offset of a
// file, without leaving the kernel. It copies nothing where that can't be. last says that
// the blob ends there.
func (m *mover) within(out *os.File, at int64, blob *os.File, off, n int64, last bool) (int64, error) {
	if !m.noClone {
		done, err := cloneRange(out, at, blob, off, n, last)
		m.moved.Cloned += done
		m.noClone = err != nil
		if done > 0 {
			return done, nil
		}
	}
	if m.noKernel {
		return 0, nil
	}
	done, handled, err := copyRange(out, at, blob, off, min(n, piece))
	m.moved.Kernel += done
	m.noKernel = !handled
	return done, err
}

// at copies some of the n bytes that a blob has from off on to an offset of a file.
func (m *mover) at(out *os.File, at int64, blob *os.File, off, n int64) (int64, error) {
	if done, err := m.within(out, at, blob, off, n, true); done > 0 || err != nil {
		return done, err
	}
	return m.byHand(io.NewOffsetWriter(out, at), blob, off, min(n, piece))
}

func isFile(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode().IsRegular()
}

// copyBuffers are reused: a run copies thousands of blobs.
var copyBuffers = sync.Pool{New: func() any { return new([1 << 20]byte) }}

func (m *mover) byHand(w io.Writer, blob *os.File, off, n int64) (int64, error) {
	buf := copyBuffers.Get().(*[1 << 20]byte)
	defer copyBuffers.Put(buf)
	// Without their ReadFrom and WriteTo, which would copy by smaller buffers.
	done, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{io.NewSectionReader(blob, off, n)}, buf[:])
	m.moved.ByHand += done
	return done, err
}
