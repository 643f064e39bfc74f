package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"

	"drayage/engine/registry"
	"drayage/engine/transfer"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Target is an image whose blobs are read over and over.
type Target struct {
	Name   string        // as it was given
	Digest digest.Digest // of its manifest
	Blobs  []ocispec.Descriptor

	verify  bool
	parts   []part
	sources map[digest.Digest]*registry.Blob
	asked   atomic.Int64 // requests so far, over all steps
}

// part is a range of a blob.
type part struct {
	blob     ocispec.Descriptor
	from, to int64
}

// NewTarget makes one of an image's blobs as sources gives them. They are read in parts of at most
// size bytes, or whole when size is 0, in an order drawn from a fixed seed. verify hashes
// whole blobs.
func NewTarget(name string, d digest.Digest, blobs []ocispec.Descriptor, source func(digest.Digest) *registry.Blob, size int64, verify bool) (*Target, error) {
	t := &Target{Name: name, Digest: d, Blobs: blobs, verify: verify && size == 0, sources: make(map[digest.Digest]*registry.Blob)}
	for _, b := range blobs {
		t.sources[b.Digest] = source(b.Digest)
		step := size
		if step <= 0 {
			step = max(1, b.Size)
		}
		for from := int64(0); from < b.Size; from += step {
			t.parts = append(t.parts, part{b, from, min(b.Size, from+step)})
		}
	}
	if len(t.parts) == 0 {
		return nil, fmt.Errorf("%s: it has no blobs to read", name)
	}
	rnd := rand.New(rand.NewPCG(1, uint64(len(t.parts))))
	rnd.Shuffle(len(t.parts), func(i, j int) { t.parts[i], t.parts[j] = t.parts[j], t.parts[i] })
	return t, nil
}

// Size is how many bytes the blobs have.
func (t *Target) Size() int64 {
	var n int64
	for _, b := range t.Blobs {
		n += b.Size
	}
	return n
}

// largest is the size of the largest part.
func (t *Target) largest() int64 {
	var n int64
	for _, p := range t.parts {
		n = max(n, p.to-p.from)
	}
	return n
}

// next gives the next request. reserve is asked for its bytes before, and may
// refuse them: then the request does nothing, and ok is false.
func (t *Target) next(reserve func(int64) bool, r *Recorder) Work {
	n := int(t.asked.Add(1)) - 1
	p := t.parts[n%len(t.parts)]
	return func(ctx context.Context, s *Sample) {
		if !reserve(p.to - p.from) {
			s.Err = errSkipped
			return
		}
		s.First = n < len(t.parts)
		t.read(ctx, p, s, r)
	}
}

// errSkipped marks samples that are of no request.
const errSkipped = "skipped"

// buffers are read into; what is in them is thrown away.
var buffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// read reads a part, and measures it.
func (t *Target) read(ctx context.Context, p part, s *Sample, r *Recorder) {
	source := t.sources[p.blob.Digest]
	s.Host = source.Host()
	c := &clock{sample: s}
	body, err := source.Open(httptrace.WithClientTrace(ctx, c.trace()), transfer.Ask{From: p.from, To: p.to, Size: p.blob.Size, Once: true})
	c.finish()
	if err != nil {
		s.Err = kind(ctx, err)
		return
	}
	defer body.Close()
	if body.From != p.from {
		s.Err = "ignores ranges"
		return
	}
	var hash digest.Digester
	if t.verify {
		hash = p.blob.Digest.Algorithm().Digester()
	}
	buf := buffers.Get().(*[256 << 10]byte)
	defer buffers.Put(buf)
	for left := p.to - p.from; left > 0; {
		n, err := body.Read(buf[:min(left, int64(len(buf)))])
		if n > 0 {
			if s.Bytes == 0 {
				s.FirstByte = time.Since(s.Start)
			}
			if hash != nil {
				_, _ = hash.Hash().Write(buf[:n]) // never fails, by its contract
			}
			s.Bytes += int64(n)
			left -= int64(n)
			r.Bytes(int64(n))
		}
		if err != nil && left > 0 {
			s.Err = kind(ctx, err)
			return
		}
	}
	if hash != nil && hash.Digest() != p.blob.Digest {
		s.Err = "wrong content"
	}
}

// errCancelled marks samples that the end of the run has cut short.
const errCancelled = "cancelled"

// kind is an error in a word or two.
func kind(ctx context.Context, err error) string {
	switch {
	case ctx.Err() != nil:
		return errCancelled
	case errors.Is(err, registry.ErrQuota):
		return "quota"
	case errors.Is(err, registry.ErrDenied):
		return "denied"
	case errors.Is(err, registry.ErrNotFound):
		return "not found"
	case errors.Is(err, transfer.ErrRange):
		return "no ranges"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "cut short"
	}
	var e *registry.Error
	if errors.As(err, &e) && e.Status != 0 {
		return fmt.Sprintf("status %d", e.Status)
	}
	return "connection"
}

// clock measures the connections of a request, which may be several where the
// registry redirects. net/http may still call it when the request is over.
type clock struct {
	mu     sync.Mutex
	sample *Sample // nil once it is over

	dns, connect, tls time.Time
}

// with calls f with the sample while the request is under way.
func (c *clock) with(f func(s *Sample, now time.Time)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sample != nil {
		f(c.sample, time.Now())
	}
}

func (c *clock) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sample = nil
}

func (c *clock) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GetConn:      func(host string) { c.with(func(s *Sample, _ time.Time) { s.Host = host }) },
		GotConn:      func(i httptrace.GotConnInfo) { c.with(func(s *Sample, _ time.Time) { s.Fresh = s.Fresh || !i.Reused }) },
		DNSStart:     func(httptrace.DNSStartInfo) { c.with(func(_ *Sample, now time.Time) { c.dns = now }) },
		DNSDone:      func(httptrace.DNSDoneInfo) { c.with(func(s *Sample, now time.Time) { s.DNS += now.Sub(c.dns) }) },
		ConnectStart: func(string, string) { c.with(func(_ *Sample, now time.Time) { c.connect = now }) },
		ConnectDone: func(string, string, error) {
			c.with(func(s *Sample, now time.Time) { s.Connect += now.Sub(c.connect) })
		},
		TLSHandshakeStart: func() { c.with(func(_ *Sample, now time.Time) { c.tls = now }) },
		TLSHandshakeDone: func(tls.ConnectionState, error) {
			c.with(func(s *Sample, now time.Time) { s.TLS += now.Sub(c.tls) })
		},
	}
}
