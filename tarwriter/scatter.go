package tarwriter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// awaited is how many blobs are waited for at once, and opened how many may be open. Where
// waiting and opening are one, it is opened for both.
const (
	awaited = 4096
	opened  = 64
)

// Waiter is what Blobs may be besides: it tells when a blob is there without opening it.
type Waiter interface {
	Wait(ctx context.Context, d digest.Digest) error
}

// scatter is Write into a file, where members need not come one after the other:
// each blob goes to its place as soon as it can be opened. So an archive whose blobs
// are still being fetched is nearly complete when the last of them arrives.
func scatter(ctx context.Context, out *os.File, members []Member, blobs Blobs, progress func(n int64)) (Moved, error) {
	if progress == nil {
		progress = func(int64) {}
	}
	s := &scattered{out: out, blobs: blobs, progress: progress, mover: mover{w: out}}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(opened)
	if _, ok := blobs.(Waiter); ok {
		group.SetLimit(awaited)
		s.open = make(chan struct{}, opened)
	}
	var at int64
	var err error
	for _, m := range members {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
			break
		}
		var h []byte
		if h, err = header(m, at); err != nil {
			break
		}
		if m.Blob == "" {
			h = append(h, m.Content...)
		}
		if _, err = out.WriteAt(h, at); err != nil {
			err = fmt.Errorf("writing the archive: %w", err)
			break
		}
		body := at + int64(len(h))
		at = padded(at + int64(len(h)))
		if m.Blob != "" {
			at = padded(body + m.Size)
			group.Go(func() error { return s.blob(ctx, m, body) })
		}
		s.tell(at - body - blobSize(m))
		s.tell(int64(len(h)))
	}
	if failed := group.Wait(); failed != nil { // which is why the loop ended, if it did
		err = failed
	}
	if err != nil {
		return s.mover.moved, err
	}
	// The file's end is zeros, as is the padding between members.
	if err := out.Truncate(at + trailer); err != nil {
		return s.mover.moved, fmt.Errorf("writing the archive: %w", err)
	}
	s.tell(trailer)
	_, err = out.Seek(0, io.SeekEnd)
	return s.mover.moved, err
}

func blobSize(m Member) int64 {
	if m.Blob == "" {
		return 0
	}
	return m.Size
}

// scattered is a run of scatter.
type scattered struct {
	out      *os.File
	blobs    Blobs
	progress func(int64)

	// One blob is copied at a time: a file system lets one write to a file anyway.
	mu    sync.Mutex
	mover mover

	open chan struct{} // one for each blob that is open; nil where the group's limit is that of these
}

func (s *scattered) tell(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.progress(n)
}

// blob copies a blob to its place, once it is there.
func (s *scattered) blob(ctx context.Context, m Member, at int64) error {
	if w, ok := s.blobs.(Waiter); ok {
		if err := w.Wait(ctx, m.Blob); err != nil {
			return err
		}
		s.open <- struct{}{} // those that are open are being copied
		defer func() { <-s.open }()
	}
	f, err := openBlob(ctx, s.blobs, m)
	if err != nil {
		return err
	}
	defer f.Close()
	for done := int64(0); done < m.Size; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		s.mu.Lock()
		n, err := s.mover.at(s.out, at+done, f, done, m.Size-done)
		s.progress(n)
		s.mu.Unlock()
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("writing %s: %w", m.Name, err)
		}
		done += n
	}
	return nil
}

// openBlob opens a member's blob, and wants it to have its size.
func openBlob(ctx context.Context, blobs Blobs, m Member) (*os.File, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	f, err := blobs.Open(ctx, m.Blob)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() != m.Size {
		err = fmt.Errorf("blob %s has %d bytes on disk and should have %d: it was damaged", m.Blob, info.Size(), m.Size)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reading blob: %w", err), f.Close())
	}
	return f, nil
}
