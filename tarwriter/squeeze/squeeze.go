// Package squeeze compresses and decompresses streams, on all cores where the
// format allows it.
//
// What is compressed is cut into pieces of a fixed size, each a gzip member or a
// zstd frame of its own, which may follow each other by both formats (RFC
// 1952, section 2.2; RFC 8878, section 3). So the bytes depend on nothing but the
// content: neither on the number of cores nor on how the content was written.
package squeeze

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/metrics"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Format is a compression.
type Format int

// The formats.
const (
	None Format = iota
	Gzip
	Zstd
	Bzip2 // is read, and not written
)

// String is the format's name, as flags have it.
func (f Format) String() string { return [...]string{"none", "gzip", "zstd", "bzip2"}[f] }

// ParseFormat reads a format's name.
func ParseFormat(s string) (Format, error) {
	for f := None; f <= Zstd; f++ {
		if f.String() == s {
			return f, nil
		}
	}
	return None, fmt.Errorf("compression %q: want none, gzip or zstd", s)
}

// Version is raised whenever the same content is compressed to other bytes than
// before, as it may be with another version of the library.
const Version = "1"

const (
	// pieceSize is how much is compressed at once: smaller pieces compress
	// worse, larger ones take more memory, twice on each core.
	pieceSize = 1 << 20
	// MaxWindow is the largest window of a zstd stream that is read, in bytes: as much memory it
	// takes. That of zstd -19 is a quarter of it.
	MaxWindow = 32 << 20
)

// Writer compresses what is written to it, on as many cores as there are.
type Writer struct {
	filling *piece
	todo    chan *piece // for any worker
	order   chan *piece // for who writes, in order
	free    chan *piece
	workers sync.WaitGroup
	closed  bool

	mu  sync.Mutex
	err error
}

type piece struct {
	in, out []byte
	ready   chan struct{}
}

// NewWriter makes a Writer to w. The caller must call Close, which waits for all
// that the Writer started.
func NewWriter(w io.Writer, f Format) *Writer {
	cores := runtime.GOMAXPROCS(0)
	n := cores + 1 // one is being filled
	z := &Writer{todo: make(chan *piece, n), order: make(chan *piece, n), free: make(chan *piece, n)}
	for range n {
		// What doesn't compress gets a little larger.
		z.free <- &piece{in: make([]byte, 0, pieceSize), out: make([]byte, 0, pieceSize+pieceSize/64), ready: make(chan struct{}, 1)}
	}
	for range cores {
		z.workers.Go(func() {
			compress := compressor(f)
			for p := range z.todo {
				p.out = compress(p.out[:0], p.in)
				p.ready <- struct{}{}
			}
		})
	}
	z.workers.Go(func() {
		for p := range z.order {
			<-p.ready
			if z.failure() == nil {
				if _, err := w.Write(p.out); err != nil {
					z.fail(err)
				}
			}
			p.in = p.in[:0]
			z.free <- p
		}
	})
	return z
}

func (z *Writer) failure() error {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.err
}

func (z *Writer) fail(err error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.err = err
}

// compressor returns a function that appends in, compressed, to out. It is for
// one goroutine.
func compressor(f Format) func(out, in []byte) []byte {
	switch f {
	case Gzip:
		var to appender
		zip := gzip.NewWriter(&to)
		return func(out, in []byte) []byte {
			to.b = out
			zip.Reset(&to)
			_, err := zip.Write(in)
			if err = errors.Join(err, zip.Close()); err != nil {
				panic(err) // an appender takes everything
			}
			return to.b
		}
	case Zstd:
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(pieceSize), zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic(err) // the options are our own
		}
		return func(out, in []byte) []byte { return enc.EncodeAll(in, out) }
	}
	return func(out, in []byte) []byte { return append(out, in...) }
}

// appender appends what is written.
type appender struct{ b []byte }

func (a *appender) Write(p []byte) (int, error) {
	a.b = append(a.b, p...)
	return len(p), nil
}

// Write implements io.Writer. An error of the target may come with a later call.
func (z *Writer) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		if err := z.failure(); err != nil {
			return n - len(b), err
		}
		if z.filling == nil {
			z.filling = <-z.free
		}
		p := z.filling
		take := min(len(b), pieceSize-len(p.in))
		p.in = append(p.in, b[:take]...)
		b = b[take:]
		if len(p.in) == pieceSize {
			z.send()
		}
	}
	return n, nil
}

func (z *Writer) send() {
	z.order <- z.filling
	z.todo <- z.filling
	z.filling = nil
}

// Close compresses what is left and waits until all is written. An empty stream
// becomes an empty piece: a valid file.
func (z *Writer) Close() error {
	if !z.closed {
		z.closed = true
		if z.filling == nil {
			z.filling = <-z.free
		}
		z.send()
		close(z.todo)
		close(z.order)
		z.workers.Wait()
	}
	return z.failure()
}

// ErrFormat is wrapped for streams in a compression that isn't read.
var ErrFormat = errors.New("compressed in a way that is not supported")

// FormatError is an ErrFormat that names the compression, and the program that undoes it.
type FormatError struct{ Name, Program string }

func (e *FormatError) Error() string { return ErrFormat.Error() + ": " + e.Name }

// Unwrap makes it an ErrFormat.
func (e *FormatError) Unwrap() error { return ErrFormat }

// Detect tells a stream's format by its first bytes, which need not be more than
// six. The error wraps ErrFormat, and is a *FormatError.
func Detect(head []byte) (Format, error) {
	for _, m := range []struct {
		magic string
		f     Format
	}{{"\x1f\x8b", Gzip}, {"\x28\xb5\x2f\xfd", Zstd}, {"BZh1", Bzip2}, {"BZh2", Bzip2}, {"BZh3", Bzip2}, {"BZh4", Bzip2},
		{"BZh5", Bzip2}, {"BZh6", Bzip2}, {"BZh7", Bzip2}, {"BZh8", Bzip2}, {"BZh9", Bzip2}} {
		if bytes.HasPrefix(head, []byte(m.magic)) {
			return m.f, nil
		}
	}
	if len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte("\x2a\x4d\x18")) {
		return Zstd, nil // a skippable frame (RFC 8878, section 3.1.2)
	}
	for magic, format := range map[string]FormatError{
		"\xfd7zXZ": {"xz", "xz -dc"}, "PK\x03\x04": {"zip", "unzip -p"}, "\x04\x22\x4d\x18": {"lz4", "lz4 -dc"}, "LZIP": {"lzip", "lzip -dc"},
		"\x89LZO": {"lzop", "lzop -dc"}, "7z\xbc\xaf": {"7-Zip", "7z x -so"},
	} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return None, &format
		}
	}
	return None, nil
}

// windowed is a zstd stream. Its window may be the largest part of a program's memory: it is
// collected when the stream is closed, so that those of several streams, one after the other, don't
// add up.
type windowed struct {
	*zstd.Decoder
	before uint64
}

func (w *windowed) Close() error {
	w.Decoder.Close()
	if allocated()-w.before > MaxWindow/4 {
		runtime.GC()
	}
	return nil
}

// allocated is how many bytes this program has allocated on the heap so far.
func allocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// NewReader reads a stream decompressed, in whichever format it is; what is in
// none comes as it is. The caller must call Close, which leaves r open.
func NewReader(r io.Reader) (io.ReadCloser, Format, error) {
	const look = 6
	in := bufio.NewReaderSize(r, 256<<10)
	head, err := in.Peek(look)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, None, err
	}
	f, err := Detect(head)
	if err != nil {
		return nil, None, err
	}
	switch f {
	case Gzip:
		zip, err := gzip.NewReader(in)
		if err != nil {
			return nil, f, err
		}
		return zip, f, nil
	case Bzip2:
		return io.NopCloser(bzip2.NewReader(in)), f, nil
	case Zstd:
		before := allocated()
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(min(4, runtime.GOMAXPROCS(0))), zstd.WithDecoderMaxWindow(MaxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, f, err
		}
		return &windowed{z, before}, f, nil
	}
	return io.NopCloser(in), None, nil
}
