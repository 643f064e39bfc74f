package engine

import (
	"context"
	"time"

	"drayage/blobstore"
	"drayage/engine/internal/pullthrough"
	"drayage/engine/internal/schedule"
	"drayage/engine/internal/transfer"
	"drayage/engine/reference"
	"drayage/engine/registry"

	"github.com/opencontainers/go-digest"
)

// PullThrough brings what a mirror is asked for and its store doesn't have: every manifest and blob
// once, for however many ask for it. What came stays in the store, with the images that need it. It
// is a mirror.Upstream, and safe for use by several goroutines. Close it when done: that ends all
// fetches, and what has arrived is kept.
type PullThrough = pullthrough.Cache

// NewPullThrough returns a PullThrough that fetches blobs as Pull does with the same options, within
// o.Budget. It asks for all else by the client manifests, which may be o.Registry, but then waits
// for blobs. An image is taken as it is in the store for the time fresh since its tag was last found
// to stand for it.
func NewPullThrough(ctx context.Context, o Options, manifests *registry.Client, fresh time.Duration) *PullThrough {
	return pullthrough.New(ctx, pullthrough.Options{
		Store: o.Store, Manifests: manifests, Fetcher: blobFetcher{o}, Fresh: fresh,
		Budget: o.Budget, Work: o.Work, Observer: o.Observer,
	})
}

// blobFetcher implements pullthrough.Fetcher.
type blobFetcher struct{ opts Options }

// Sources implements pullthrough.Fetcher. Places that a manifest names besides its registry aren't
// asked: whoever can push a manifest could have this machine ask anything, and read the answer.
func (b blobFetcher) Sources(ref reference.Image, d digest.Digest) (out []transfer.Source) {
	for _, blob := range b.opts.Registry.Blobs(ref, d) {
		out = append(out, blob)
	}
	return out
}

// Fetch implements pullthrough.Fetcher.
func (b blobFetcher) Fetch(ctx context.Context, lease *blobstore.Lease, r pullthrough.Request) error {
	f := newFetcher(b.opts, lease)
	err := f.run(ctx, func(q *schedule.Queue) {
		q.Add(schedule.Job{ID: r.Digest.String(), Host: b.opts.Registry.Host(r.Image), Kind: schedule.Bulk, Cost: r.Size, Run: func(ctx context.Context, slot *schedule.Slot) error {
			_, err := f.fetch(ctx, slot, request{Descriptor: r.Descriptor, image: r.Image, sources: r.Sources, apart: r.Apart, watch: r.Watcher})
			return err
		}})
	})
	const worth = 1 << 20 // bytes, from which on something was learned of the host
	if err == nil && r.Size >= worth {
		f.remember()
	}
	return err
}
