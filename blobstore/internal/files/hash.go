package files

import (
	"context"
	"io"
	"os"
	"sync"

	"drayage/blobstore/internal/disk"

	"github.com/opencontainers/go-digest"
	"golang.org/x/time/rate"
)

// Pace is how fast a file is read.
type Pace struct {
	Limit    *rate.Limiter // waited for with every byte; nil is no limit
	Progress func(n int64) // told of bytes that were read; may be nil
}

// buffer is how many bytes are read at once.
const buffer = 1 << 20

var buffers = sync.Pool{New: func() any { return new([buffer]byte) }}

// Hashes reports whether a file has the content of a digest. One that can't be read hasn't; the
// error is that of ctx.
func Hashes(ctx context.Context, f *os.File, want digest.Digest, pace Pace) (bool, error) {
	const much = 64 << 10 // bytes, from which on the memory that they take counts
	hash := want.Algorithm().Hash()
	in := &paced{ctx: ctx, in: f, v: pace}
	buf := buffers.Get().(*[buffer]byte)
	defer buffers.Put(buf)
	n, err := io.CopyBuffer(struct{ io.Writer }{hash}, in, buf[:])
	if n >= much {
		disk.DontCache(f) // others need the memory more
	}
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	if err != nil {
		return false, nil // the disk has lost some of it
	}
	return digest.NewDigest(want.Algorithm(), hash) == want, nil
}

// paced reads as fast as it may, and tells of it.
type paced struct {
	ctx context.Context
	in  io.Reader
	v   Pace
}

func (p *paced) Read(b []byte) (int, error) {
	if p.v.Limit != nil {
		b = b[:min(len(b), p.v.Limit.Burst())]
		if err := p.v.Limit.WaitN(p.ctx, len(b)); err != nil {
			return 0, err
		}
	} else if p.ctx.Err() != nil {
		return 0, context.Cause(p.ctx)
	}
	n, err := p.in.Read(b)
	if n > 0 && p.v.Progress != nil {
		p.v.Progress(int64(n))
	}
	return n, err
}
