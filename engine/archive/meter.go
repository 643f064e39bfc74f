package archive

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"drayage/tarwriter/compress"
)

// tempFile is a file that is gone once it is closed.
type tempFile interface {
	io.Writer
	io.ReaderAt
	io.Closer
}

// newTemp makes a temporary file where the system has them.
func newTemp() (tempFile, error) {
	f, err := os.CreateTemp("", "drayage-")
	if err != nil {
		return nil, err
	}
	return removed{f}, nil
}

// removed is a file that is removed when it is closed.
type removed struct{ *os.File }

func (r removed) Close() error { return errors.Join(r.File.Close(), os.Remove(r.Name())) }

// meter checks what an archive expands to, by its compression or the holes of sparse files, against
// its own size. The size of a pipe is not known. There the meter reads ahead into a temporary file,
// when and as far as the size must be known: what comes by a pipe is accepted exactly if it were
// accepted from a file. The temporary file has at most one byte for each N of --max-ratio N that the
// archive expands to.
type meter struct {
	ratio compress.MaxRatio
	whole bool // in is the archive's size, and else what was read so far
	temp  func() (tempFile, error)

	mu    sync.Mutex // guards the rest: decoders may read in goroutines of their own
	r     io.Reader
	in    int64 // bytes
	out   int64
	end   error // of r
	ahead tempFile
	wrote int64 // of ahead, in bytes
	taken int64 // of those
	buf   []byte
}

// Read implements io.Reader.
func (m *meter) Read(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.taken < m.wrote {
		n, err := m.ahead.ReadAt(p[:min(int64(len(p)), m.wrote-m.taken)], m.taken)
		m.taken += int64(n)
		if n > 0 {
			err = nil
		}
		return n, err
	}
	return m.next(p)
}

// next reads on in r.
func (m *meter) next(p []byte) (int, error) {
	if m.end != nil {
		return 0, m.end
	}
	n, err := m.r.Read(p)
	if !m.whole {
		m.in += int64(n)
	}
	m.end = err
	return n, err
}

// size is how large the archive is, as far as that is known yet.
func (m *meter) size() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.in
}

// made counts bytes that the archive expanded to.
func (m *meter) made(n int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.out += n
	return m.allow(m.out)
}

// expects reports whether n more bytes are going to be too many.
func (m *meter) expects(n int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.allow(m.out + n)
}

// allow is an error when the archive may not expand to so many bytes.
func (m *meter) allow(out int64) error {
	for {
		err := m.ratio.Check(m.in, out)
		switch {
		case err == nil:
			return nil
		case m.whole || errors.Is(m.end, io.EOF):
			return fmt.Errorf("%w: %w", errTooMuch, err)
		case m.end != nil:
			return m.end
		}
		if err := m.readAhead(); err != nil {
			return fmt.Errorf("reading ahead: %w", err)
		}
	}
}

// readAhead keeps a piece of r for later.
func (m *meter) readAhead() error {
	const piece = 256 << 10
	if m.ahead == nil {
		var err error
		if m.ahead, err = m.temp(); err != nil {
			return err
		}
		m.buf = make([]byte, piece)
	}
	n, _ := m.next(m.buf) // the error comes once more
	if _, err := m.ahead.Write(m.buf[:n]); err != nil {
		return err
	}
	m.wrote += int64(n)
	return nil
}

// close removes what was read ahead. Nothing reads any more.
func (m *meter) close() error {
	if m.ahead == nil {
		return nil
	}
	return m.ahead.Close()
}

// unpacked reads what is unpacked.
type unpacked struct {
	r io.Reader
	m *meter
}

func (u unpacked) Read(p []byte) (int, error) {
	n, err := u.r.Read(p)
	if tooMuch := u.m.made(int64(n)); tooMuch != nil {
		return 0, tooMuch
	}
	return n, err
}
