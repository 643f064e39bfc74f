// Package compress compresses streams with gzip or zstd on all cores, reproducibly to the byte, and
// decompresses gzip, zstd and bzip2.
//
// Content is split into pieces of 1 MiB, each compressed to a gzip member or zstd frame of its own;
// both formats allow several in a row (RFC 1952, section 2.2; RFC 8878, section 3). So the result
// depends on the content only: neither on the number of cores nor on the sizes of writes.
//
// Begin with [NewWriter] and [NewReader]. [Detect] recognises a format.
package compress

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

// Format is a compression format. The zero value is None.
type Format int

// The formats that are written. A Format that was detected may also be bzip2, which is only read.
const (
	None Format = iota // not compressed
	Gzip
	Zstd
	formatBzip2
)

// String is the format's name: none, gzip, zstd or bzip2.
func (f Format) String() string { return [...]string{"none", "gzip", "zstd", "bzip2"}[f] }

// ParseFormat returns the format of a name: none, gzip or zstd.
func ParseFormat(s string) (Format, error) {
	for f := None; f <= Zstd; f++ {
		if f.String() == s {
			return f, nil
		}
	}
	return None, fmt.Errorf("invalid compression %q: must be none, gzip or zstd", s)
}

// Version identifies what content is compressed to. It changes whenever the same content results in
// other bytes, for example with another version of the compression library.
const Version = "1"

const (
	// pieceSize is how many bytes are compressed at once: smaller pieces compress worse, larger ones
	// take more memory, twice per core.
	pieceSize = 1 << 20
	// MaxWindow is the largest window, in bytes, of a zstd stream that is read: it takes that much
	// memory. The window of zstd -19 is a quarter of it.
	MaxWindow = 32 << 20
)

// writer compresses what is written to it on all cores.
type writer struct {
	filling *piece
	todo    chan *piece // for any compressor
	order   chan *piece // for the goroutine that writes, in order
	free    chan *piece
	workers sync.WaitGroup
	closed  bool

	mu  sync.Mutex
	err error
}

// piece is a part of the content, before and after compression.
type piece struct {
	in, out []byte
	ready   chan struct{}
}

// NewWriter returns a writer that compresses on all cores and writes to w, from a goroutine of its own.
// It returns an error of w at a later Write, or at Close. Its memory is bounded: 2 MiB per core, and
// what the compressors take. It is for one goroutine, which must call Close: that compresses the rest,
// waits until everything is written to w, and leaves w open. An empty stream becomes an empty gzip
// member or zstd frame. Close may be called again, and returns the same error.
func NewWriter(w io.Writer, f Format) io.WriteCloser {
	cores := runtime.GOMAXPROCS(0)
	n := cores + 1 // one is being filled
	z := &writer{todo: make(chan *piece, n), order: make(chan *piece, n), free: make(chan *piece, n)}
	for range n {
		// Incompressible data gets slightly larger.
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

func (z *writer) failure() error {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.err
}

func (z *writer) fail(err error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.err = err
}

// compressor returns a function that compresses in and appends the result to out. It is for one
// goroutine.
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
				panic(err) // an appender does not fail
			}
			return to.b
		}
	case Zstd:
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(pieceSize), zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic(err) // the options are constants
		}
		return func(out, in []byte) []byte { return enc.EncodeAll(in, out) }
	}
	return func(out, in []byte) []byte { return append(out, in...) }
}

// appender is an io.Writer to a slice.
type appender struct{ b []byte }

func (a *appender) Write(p []byte) (int, error) {
	a.b = append(a.b, p...)
	return len(p), nil
}

// Write implements io.Writer.
func (z *writer) Write(b []byte) (int, error) {
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

// send hands the piece that is full, or the last one, to a compressor.
func (z *writer) send() {
	z.order <- z.filling
	z.todo <- z.filling
	z.filling = nil
}

// Close implements io.Closer.
func (z *writer) Close() error {
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

// FormatError is the error for a compression format that is recognised but not supported.
type FormatError struct {
	Name    string // of the format, such as xz
	Program string // that decompresses it from standard input to standard output, such as xz -dc
}

// Error implements error.
func (e *FormatError) Error() string { return "unsupported compression: " + e.Name }

// Detect recognises a stream's format by its first bytes, of which six are enough. What has no known
// format is None. The error is a *FormatError.
func Detect(head []byte) (Format, error) {
	for _, m := range []struct {
		magic string
		f     Format
	}{{"\x1f\x8b", Gzip}, {"\x28\xb5\x2f\xfd", Zstd}, {"BZh1", formatBzip2}, {"BZh2", formatBzip2}, {"BZh3", formatBzip2}, {"BZh4", formatBzip2},
		{"BZh5", formatBzip2}, {"BZh6", formatBzip2}, {"BZh7", formatBzip2}, {"BZh8", formatBzip2}, {"BZh9", formatBzip2}} {
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

// windowed is a zstd stream. Its window may be the largest part of a program's memory: it is collected
// when the stream is closed, so that those of several streams, one after the other, do not add up.
type windowed struct {
	*zstd.Decoder
	before uint64
}

// Close implements io.Closer.
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

// decoders is how many goroutines decode a zstd stream. A large window, of which
// one that ends late would leave a second behind, has none besides the reader.
func decoders(in *bufio.Reader) int {
	const usual = 8 << 20 // that of zstd -19
	var h zstd.Header
	head, _ := in.Peek(zstd.HeaderMaxSize) // less serves, too
	if err := h.Decode(head); err != nil || h.WindowSize > usual || h.SingleSegment && h.FrameContentSize > usual {
		return 1
	}
	return min(4, runtime.GOMAXPROCS(0))
}

// NewReader decompresses a stream, whatever its format, and returns that format; a stream without one
// is passed through. It reads ahead. An error is a *FormatError, that of a damaged header, or that of
// r. The caller must call Close, which leaves r open.
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
	case formatBzip2:
		return io.NopCloser(bzip2.NewReader(in)), f, nil
	case Zstd:
		before := allocated()
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(decoders(in)), zstd.WithDecoderMaxWindow(MaxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, f, err
		}
		return &windowed{z, before}, f, nil
	}
	return io.NopCloser(in), None, nil
}
