// Package transfer brings one blob from where it is to where it should be:
// hashed as it passes, continued where a connection broke, from another source
// when one gives up.
package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"drayage/engine/retry"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Source is a place that has the blob.
type Source interface {
	// Open begins to read the bytes from offset from up to, and without, to.
	// When it fails the source has done its own tries and gives up; the error
	// wraps ErrRange when it can only give the blob from its start.
	Open(ctx context.Context, d digest.Digest, from, to int64) (io.ReadCloser, error)
	// Host names the source in messages.
	Host() string
}

// ErrRange is wrapped by a Source, and by the body that it opened, when it can
// give a blob from its start but not from where it was asked to begin.
var ErrRange = errors.New("the server can't begin within the blob")

// ErrGaveUp is wrapped when connections to a source broke until patience ended.
var ErrGaveUp = errors.New("the connection broke again and again")

// MismatchError says that a source's content is not what the descriptor says,
// at the second try too.
type MismatchError struct {
	Want, Got         digest.Digest // Got is "" when the sizes differ
	WantSize, GotSize int64         // bytes; GotSize is one more than WantSize for all that is longer
	Host              string
}

func (e *MismatchError) Error() string {
	switch {
	case e.GotSize > e.WantSize:
		return fmt.Sprintf("%s sends more for %s than the %d bytes that its descriptor says", e.Host, e.Want, e.WantSize)
	case e.GotSize < e.WantSize:
		return fmt.Sprintf("%s has %d bytes for %s, and its descriptor says %d", e.Host, e.GotSize, e.Want, e.WantSize)
	}
	return fmt.Sprintf("content of %s from %s has the digest %s", e.Want, e.Host, e.Got)
}

// LocalError is a fault of where the bytes should go.
type LocalError struct{ Err error }

func (e *LocalError) Error() string { return e.Err.Error() }

// Unwrap is the fault itself.
func (e *LocalError) Unwrap() error { return e.Err }

// Options are how to transfer. The zero value is useful.
type Options struct {
	Retry    retry.Policy                                 // of bodies that break
	Progress func(n int64)                                // n bytes have arrived, or are thrown away when negative
	Retrying func(try int, wait time.Duration, why error) // a body broke
}

// Fetch writes the blob of a descriptor to sink and returns the digest of what
// it wrote, which is the descriptor's. A body that breaks is continued, with
// backoff, as long as bytes come; when a source gives up the next is tried.
// Content that doesn't match is fetched once more, from the next source if
// there is one, before it is a *MismatchError. A fault of the sink is a
// *LocalError.
func Fetch(ctx context.Context, want ocispec.Descriptor, sources []Source, sink io.WriterAt, o Options) (digest.Digest, error) {
	if o.Progress == nil {
		o.Progress = func(int64) {}
	}
	if o.Retrying == nil {
		o.Retrying = func(int, time.Duration, error) {}
	}
	f := &fetch{want: want, sink: sink, opts: o, hash: want.Digest.Algorithm().Digester(), endedAt: -1}
	got, err := f.fromAny(ctx, sources)
	if err != nil {
		f.restart() // what arrived is of no use now, and doesn't count
	}
	return got, err
}

// fromAny fetches from one source after the other.
func (f *fetch) fromAny(ctx context.Context, sources []Source) (digest.Digest, error) {
	err := errors.New("nobody has it")
	mismatched := false
	for i := 0; i < len(sources); {
		err = f.from(ctx, sources[i])
		if err == nil {
			return f.hash.Digest(), nil
		}
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		var mismatch *MismatchError
		var local *LocalError
		switch {
		case errors.As(err, &local):
			return "", err
		case errors.As(err, &mismatch):
			if mismatched {
				return "", err
			}
			mismatched = true
			f.restart()
			i = min(i+1, len(sources)-1)
		default:
			i++
		}
	}
	return "", err
}

// fetch is a transfer under way.
type fetch struct {
	want ocispec.Descriptor
	sink io.WriterAt
	opts Options

	hash    digest.Digester // of the bytes before off
	off     int64
	endedAt int64 // where a body ended in good order but too early, or -1
}

// restart throws away what has arrived.
func (f *fetch) restart() {
	f.opts.Progress(-f.off)
	f.hash, f.off, f.endedAt = f.want.Digest.Algorithm().Digester(), 0, -1
}

// from reads the rest of the blob from one source.
func (f *fetch) from(ctx context.Context, src Source) error {
	failures, restarted := 0, false
	lastByte := time.Now()
	for {
		before := f.off
		err := f.attempt(ctx, src)
		if err == nil {
			return f.verify(src)
		}
		if f.off > before {
			failures, lastByte = 0, time.Now()
		}
		var broken *brokenError
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, errLonger):
			return &MismatchError{Want: f.want.Digest, WantSize: f.want.Size, GotSize: f.want.Size + 1, Host: src.Host()}
		case errors.Is(err, errEnded) || errors.Is(err, ErrRange):
			// A body that ends early may be a bad proxy's. But if there is
			// nothing more to be had from there, the blob ends there.
			if f.endedAt == f.off {
				return &MismatchError{Want: f.want.Digest, WantSize: f.want.Size, GotSize: f.off, Host: src.Host()}
			}
			if errors.Is(err, errEnded) {
				f.endedAt = f.off
				continue
			}
			if restarted || f.off == 0 {
				return err
			}
			restarted = true
			f.restart()
			continue
		case !errors.As(err, &broken):
			return err
		}
		failures++
		wait, again := f.opts.Retry.Next(retry.Failure{
			Tries: failures, Since: time.Since(lastByte), Err: broken.err, Reached: true,
		}, time.Now())
		if !again {
			return fmt.Errorf("%s: %w: %w", src.Host(), ErrGaveUp, broken.err)
		}
		if f.off > before {
			wait = 0 // it moves: no reason to wait
		}
		f.opts.Retrying(failures+1, wait, broken.err)
		if err := retry.Sleep(ctx, wait); err != nil {
			return err
		}
	}
}

func (f *fetch) verify(src Source) error {
	if got := f.hash.Digest(); got != f.want.Digest {
		return &MismatchError{Want: f.want.Digest, Got: got, WantSize: f.want.Size, GotSize: f.want.Size, Host: src.Host()}
	}
	return nil
}

var (
	errEnded  = errors.New("the body ended too early")
	errLonger = errors.New("the body goes on after its end")
)

// brokenError is a body that broke off: reading on may help.
type brokenError struct{ err error }

func (e *brokenError) Error() string { return e.err.Error() }
func (e *brokenError) Unwrap() error { return e.err }

// buffers are as large as keeps a fast link busy and hashing in the cache; one
// is in use for each connection.
var buffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// attempt reads from where f is until the blob's end.
func (f *fetch) attempt(ctx context.Context, src Source) error {
	body, err := src.Open(ctx, f.want.Digest, f.off, f.want.Size)
	if err != nil {
		return err
	}
	defer body.Close()
	buf := buffers.Get().(*[256 << 10]byte)
	defer buffers.Put(buf)
	for {
		// Once the end is there, one byte is asked for that must not come.
		room := buf[:min(int64(len(buf)), max(f.want.Size-f.off, 1))]
		n, err := body.Read(room)
		if n > 0 && f.off == f.want.Size {
			return errLonger
		}
		if n > 0 {
			if _, err := f.sink.WriteAt(room[:n], f.off); err != nil {
				return &LocalError{err}
			}
			f.hash.Hash().Write(room[:n])
			f.off += int64(n)
			f.opts.Progress(int64(n))
		}
		switch {
		case errors.Is(err, ErrRange):
			return err
		case err != nil && f.off == f.want.Size:
			return nil // all is here, however the connection ended
		case errors.Is(err, io.EOF):
			return errEnded
		case err != nil:
			return &brokenError{err}
		}
	}
}
