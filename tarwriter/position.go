package tarwriter

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// At most maxWaiting blobs are waited for and maxOpen are open at a time. Where only opening waits,
// maxOpen is the limit of both.
const (
	maxWaiting = 4096
	maxOpen    = 64
)

// waiter is what Blobs may be in addition: it waits for a blob without opening it.
type waiter interface {
	Wait(ctx context.Context, d digest.Digest) error
}

// writeAnyOrder is Write into a file, where members need not be written one after the other: each
// blob is written at its final offset as soon as it can be opened. So an archive whose blobs are
// still being downloaded is nearly complete when the last of them arrives.
func writeAnyOrder(ctx context.Context, out *os.File, members []Member, blobs Blobs, progress func(n int64)) (Moved, error) {
	if progress == nil {
		progress = func(int64) {}
	}
	p := &positional{out: out, blobs: blobs, progress: progress, copier: copier{w: out}}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxOpen)
	if _, ok := blobs.(waiter); ok {
		group.SetLimit(maxWaiting)
		p.open = make(chan struct{}, maxOpen)
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
			group.Go(func() error { return p.blob(ctx, m, body) })
		}
		p.report(at - body - blobSize(m))
		p.report(int64(len(h)))
	}
	if failed := group.Wait(); failed != nil { // the reason for which the loop ended, if it did
		err = failed
	}
	if err != nil {
		return p.copier.moved, err
	}
	// The file's end is zeros, as is the padding between members.
	if err := out.Truncate(at + trailer); err != nil {
		return p.copier.moved, fmt.Errorf("writing the archive: %w", err)
	}
	p.report(trailer)
	_, err = out.Seek(0, io.SeekEnd)
	return p.copier.moved, err
}

// blobSize is how much of a member is written later than its header.
func blobSize(m Member) int64 {
	if m.Blob == "" {
		return 0
	}
	return m.Size
}

// positional writes blobs at their offsets in a file.
type positional struct {
	out      *os.File
	blobs    Blobs
	progress func(int64)

	// One blob is copied at a time: a file system serialises writes to a file anyway.
	mu     sync.Mutex
	copier copier

	open chan struct{} // has an element per open blob; nil where the group's limit is that of open blobs
}

// report calls progress, never from two goroutines at a time.
func (p *positional) report(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.progress(n)
}

// blob waits for a blob and copies it to an offset.
func (p *positional) blob(ctx context.Context, m Member, at int64) error {
	if w, ok := p.blobs.(waiter); ok {
		if err := w.Wait(ctx, m.Blob); err != nil {
			return err
		}
		p.open <- struct{}{} // open blobs are being copied, so this ends
		defer func() { <-p.open }()
	}
	f, err := openBlob(ctx, p.blobs, m)
	if err != nil {
		return err
	}
	defer f.Close()
	for done := int64(0); done < m.Size; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p.mu.Lock()
		n, err := p.copier.at(p.out, at+done, f, done, m.Size-done)
		p.progress(n)
		p.mu.Unlock()
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
