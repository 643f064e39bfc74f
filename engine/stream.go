package engine

import (
	"context"
	"os"

	"drayage/blobstore"

	"github.com/opencontainers/go-digest"
)

// Stream is a run's images while their blobs come.
type Stream struct {
	Results []Result // without what only the end of the run tells
	Lease   *blobstore.Lease

	wait   func(ctx context.Context, d digest.Digest) error
	open   func(d digest.Digest) (*os.File, error)
	prefer func(ids []string)
}

// Open opens a blob for reading, and waits for it when it is still on its way,
// until ctx is done: when it doesn't come, that is soon.
func (s *Stream) Open(ctx context.Context, d digest.Digest) (*os.File, error) {
	if err := s.wait(ctx, d); err != nil {
		return nil, err
	}
	return s.open(d)
}

// Wait waits until a blob is there, or ctx is done, which is soon when it doesn't come.
func (s *Stream) Wait(ctx context.Context, d digest.Digest) error { return s.wait(ctx, d) }

// Prefer has blobs fetched in a given order, from now on.
func (s *Stream) Prefer(order []digest.Digest) {
	ids := make([]string, 0, len(order))
	for _, d := range order {
		ids = append(ids, d.String())
	}
	s.prefer(ids)
}
