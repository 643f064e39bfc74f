package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptrace"
	"sync"
	"time"

	"drayage/blobstore"
	"drayage/engine/registry"

	"github.com/opencontainers/go-digest"
)

// readNext makes the n-th read of a step and measures it. reserve is asked for its
// bytes; if it refuses, nothing is read, and readNext returns false. received is
// called with the number of bytes that have arrived.
func (t *Target) readNext(ctx context.Context, n int, reserve func(int64) bool, s *Sample, received func(int64)) bool {
	if t.schedule == nil {
		n = int(t.asked.Add(1)) - 1 // continue where the last step has stopped
	}
	p := t.parts[n%len(t.parts)]
	if !reserve(p.to - p.from) {
		return false
	}
	_, again := t.seen.LoadOrStore(p, true)
	s.First = !again
	t.read(ctx, p, s, received)
	return true
}

// read reads a part.
func (t *Target) read(ctx context.Context, p part, s *Sample, received func(int64)) {
	w := t.wholes[p.blob]
	s.Host = w.source.Host()
	trace := &connectionTrace{sample: s}
	body, err := w.source.Open(httptrace.WithClientTrace(ctx, trace.client()), registry.Ask{From: p.from, To: p.to, Size: w.desc.Size, Once: true})
	trace.finish()
	if err != nil {
		s.Err = errorKind(ctx, err)
		return
	}
	defer body.Close()
	if body.From != p.from {
		s.Err = "ignores ranges"
		return
	}
	out, err := t.output(p)
	if err != nil {
		s.Err = errDisk
		return
	}
	s.Err = drain(ctx, body, p.to-p.from, out, s, received)
	if err := out.end(s.Err == ""); err != nil && s.Err == "" {
		s.Err = errDisk
		if errors.Is(err, errContent) {
			s.Err = "wrong content"
		}
	}
}

// buffers are what bodies are read into.
var buffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// drain reads a number of bytes of a body, and returns the kind of error, if any.
func drain(ctx context.Context, body io.Reader, left int64, out *output, s *Sample, received func(int64)) string {
	buf := buffers.Get().(*[256 << 10]byte)
	defer buffers.Put(buf)
	for left > 0 {
		n, err := body.Read(buf[:min(left, int64(len(buf)))])
		if n > 0 {
			if s.Bytes == 0 {
				s.FirstByte = time.Since(s.Start)
			}
			s.Bytes += int64(n)
			left -= int64(n)
			received(int64(n))
			if err := out.write(buf[:n]); err != nil {
				return errDisk
			}
		}
		if err != nil && left > 0 {
			return errorKind(ctx, err)
		}
	}
	return ""
}

// output is where the bytes of one read go, if anywhere.
type output struct {
	want  digest.Digest      // "" for a part of a blob
	hash  digest.Digester    // of a whole blob that isn't stored
	draft *blobstore.Draft   // of a whole one that is: it hashes by itself
	part  *blobstore.Scratch // of a part, which can't be verified and is never a blob
}

func (t *Target) output(p part) (o *output, err error) {
	o = new(output)
	blob := t.wholes[p.blob].desc
	whole := p.from == 0 && p.to == blob.Size
	switch {
	case whole && t.store != nil:
		o.want = blob.Digest
		o.draft, err = t.store.Draft(blob.Digest.Algorithm())
	case whole && t.verify:
		o.want, o.hash = blob.Digest, blob.Digest.Algorithm().Digester()
	case t.store != nil:
		o.part, err = t.store.Scratch()
	}
	return o, err
}

func (o *output) write(b []byte) (err error) {
	switch {
	case o.draft != nil:
		_, err = o.draft.Write(b)
	case o.part != nil:
		_, err = o.part.Write(b)
	case o.hash != nil:
		_, _ = o.hash.Hash().Write(b) // never fails, by its contract
	}
	return err
}

// errContent means that a whole blob does not have its digest.
var errContent = errors.New("wrong content")

// end verifies what was read, if all of it was, and syncs it to disk.
func (o *output) end(all bool) (err error) {
	switch {
	case o.draft != nil:
		defer func() { err = errors.Join(err, o.draft.Close()) }()
	case o.part != nil:
		defer func() { err = errors.Join(err, o.part.Close()) }()
	}
	switch {
	case !all:
		return nil
	case o.hash != nil && o.hash.Digest() != o.want:
		return errContent
	case o.part != nil:
		return o.part.Sync()
	case o.draft == nil:
		return nil
	}
	if _, err = o.draft.Commit(o.want); errors.Is(err, blobstore.ErrMismatch) {
		return errContent
	}
	return err
}

// Kinds of errors that have more than one cause.
const (
	errCancelled = "cancelled" // by the end of the benchmark: not counted
	errDisk      = "disk"
)

// errorKind is what a sample's Err has for an error.
func errorKind(ctx context.Context, err error) string {
	switch {
	case ctx.Err() != nil:
		return errCancelled
	case errors.Is(err, registry.ErrQuota):
		return "quota"
	case errors.Is(err, registry.ErrDenied):
		return "denied"
	case errors.Is(err, registry.ErrNotFound):
		return "not found"
	case errors.Is(err, registry.ErrRange):
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
