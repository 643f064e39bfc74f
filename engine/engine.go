package engine

import (
	"context"
	"time"

	"drayage/blobstore"
	"drayage/blobstore/quota"
	"drayage/engine/cpulimit"
	"drayage/engine/event"
	"drayage/engine/image"
	"drayage/engine/internal/retry"
	"drayage/engine/internal/schedule"
	"drayage/engine/plan"
	"drayage/engine/registry"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Limits are how many connections there may be: in all, and to one host. Zero limits mean that as
// many are used as are found to be worth it.
type Limits = schedule.Limits

// Retry says how long to try again.
type Retry = retry.Policy

// Options say what to pull with, and how. Store and Registry must be set.
type Options struct {
	Store    *blobstore.Store
	Registry *registry.Client
	// Platform is the one wanted most, Others are wanted too, and with
	// AllPlatforms whatever an index lists.
	Platform     image.Platform
	Others       []image.Platform
	AllPlatforms bool
	// Referrers brings along what refers to an image: signatures, attestations,
	// bills of materials.
	Referrers bool
	Limits    schedule.Limits
	Retry     retry.Policy // of bodies that break
	// ForeignLayers fetches layers that their registry doesn't have, since it may not give them
	// away, from the URLs that their descriptors name.
	ForeignLayers bool
	// Checkpoint is how often what has arrived of a blob is made to outlast a
	// power cut; 0 means every 5 seconds.
	Checkpoint time.Duration
	// PeerStall is the peer stall timeout: how long a connection may be silent while others
	// receive data, before another one takes its place; 0 means 3 seconds.
	PeerStall time.Duration
	// KeepGoing pulls the other images when one fails.
	KeepGoing bool
	// Accept, if not nil, may refuse an image once it is resolved, before any
	// of its blobs is fetched.
	Accept func(*plan.Image) error
	// Room, if not nil, is called for each image once it is resolved, with the
	// bytes that all blobs known so far will take of the store's disk, and may
	// refuse the image: before its first byte, rather than when the disk is full.
	// One call at a time.
	Room func(img *plan.Image, toFetch int64) error
	// Work, if not nil, bounds how many documents a Through decodes at once.
	Work *cpulimit.Limit
	// Budget, if not nil, is what a Through keeps its store below: each blob is announced to it
	// before it is fetched.
	Budget *quota.Quota
	// HashAll hashes every blob that is in the store before it is used. Without it those are
	// hashed whose files were changed since they were verified.
	HashAll bool
	// Carried, if not nil, reports layers that need not be fetched: whoever gets
	// the images has them. An image that lacks some in the store isn't pinned there.
	Carried func(ocispec.Descriptor) bool
	// Stream, if not nil, is called once, when all images are resolved, while
	// blobs are still on their way: to write what can be written meanwhile. Pull
	// waits for it; its error ends the run. With KeepGoing it would have to do
	// with images that may yet fail, so there it is not called at all.
	Stream   func(ctx context.Context, s *Stream) error
	Observer event.Observer // nil means nobody
}

func (o Options) observe(e event.Event) {
	if o.Observer != nil {
		o.Observer.Observe(e)
	}
}
