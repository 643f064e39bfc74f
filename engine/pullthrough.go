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
	f := newFetcher(o)
	f.use(schedule.New(ctx, o.Limits))
	return pullthrough.New(ctx, pullthrough.Options{
		Store: o.Store, Manifests: manifests, Fetcher: blobFetcher{f}, Fresh: fresh,
		Budget: o.Budget, Work: o.Work, Observer: o.Observer,
	})
}

// blobFetcher implements pullthrough.Fetcher: the fetches of all clients share a queue, and so its
// limits.
type blobFetcher struct{ *fetcher }

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
	const worth = 1 << 20 // bytes: from which on a blob counts as bulk, and tells something of the host
	kind := schedule.Small
	if r.Size >= worth {
		kind = schedule.Bulk
	}
	// No cost: who has waited longest comes first.
	err := b.queue.Do(ctx, schedule.Job{ID: r.Digest.String(), Host: b.opts.Registry.Host(r.Image), Kind: kind, Run: func(ctx context.Context, slot *schedule.Slot) error {
		_, err := b.fetch(ctx, slot, request{Descriptor: r.Descriptor, lease: lease, image: r.Image, sources: r.Sources, apart: r.Apart, watch: r.Watcher})
		return err
	}})
	if err == nil && r.Size >= worth {
		b.remember(lease)
	}
	return err
}

// Wait implements pullthrough.Fetcher.
func (b blobFetcher) Wait() { b.queue.Wait() }
