package engine

import (
	"context"
	"os"

	"drayage/blobstore"
	"drayage/engine/internal/schedule"

	"github.com/opencontainers/go-digest"
)

// Stream is a run's images while their blobs come.
type Stream struct {
	Results []Result // without what only the end of the run tells
	Lease   *blobstore.Lease

	pull *pull
}

// Open opens a blob for reading, and waits for it when it is still on its way,
// until ctx is done: when it doesn't come, that is soon.
func (s *Stream) Open(ctx context.Context, d digest.Digest) (*os.File, error) {
	if err := s.Wait(ctx, d); err != nil {
		return nil, err
	}
	return s.pull.opts.Store.Open(d)
}

// Wait waits until a blob is there, or ctx is done, which is soon when it doesn't come.
func (s *Stream) Wait(ctx context.Context, d digest.Digest) error {
	p := s.pull
	p.mu.Lock()
	failed := p.failed[d]
	var ready chan struct{}
	if p.plan.Needing(d) != nil && !p.done[d] {
		if ready = p.awaited[d]; ready == nil {
			ready = make(chan struct{})
			p.awaited[d] = ready
		}
	}
	p.mu.Unlock()
	if failed { // the run is about to end
		<-ctx.Done()
		return context.Cause(ctx)
	}
	if ready != nil {
		select {
		case <-ready:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// Prefer has blobs fetched in a given order, from now on.
func (s *Stream) Prefer(order []digest.Digest) {
	ids := make([]string, 0, len(order))
	for _, d := range order {
		ids = append(ids, d.String())
	}
	s.pull.queue.Prefer(ids)
}

// arrived notes that a blob is in the store. The caller holds p.mu.
func (p *pull) arrived(d digest.Digest) {
	p.done[d] = true
	if ready := p.awaited[d]; ready != nil {
		close(ready)
		delete(p.awaited, d)
	}
}

// resolvedOne counts an image that is resolved and queued. After the last one the
// stream begins, as a job that needs no connection.
func (p *pull) resolvedOne() {
	p.mu.Lock()
	p.unknown--
	if p.unknown > 0 || p.opts.Stream == nil || p.opts.KeepGoing {
		p.mu.Unlock()
		return
	}
	s := &Stream{Lease: p.lease, pull: p}
	for _, img := range p.images {
		s.Results = append(s.Results, Result{Ref: img.ref, Image: img.image})
	}
	p.mu.Unlock()
	p.queue.Add(schedule.Job{Host: p.opts.Registry.Host(p.images[0].ref), Kind: schedule.Small, Run: func(ctx context.Context, slot *schedule.Slot) error {
		slot.Release()
		err := p.opts.Stream(ctx, s)
		if ctx.Err() != nil { // it was stopped by what ended the run
			return context.Cause(ctx)
		}
		return err
	}})
}
