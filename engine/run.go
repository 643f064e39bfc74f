package engine

import (
	"context"
	"errors"
	"slices"
	"sync"

	"drayage/blobstore"
	"drayage/engine/event"
	"drayage/engine/fault"
	"drayage/engine/plan"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// errImage ends a run because an image failed, which its result tells.
var errImage = errors.New("an image failed")

// pull is a run of Pull.
type pull struct {
	*fetcher
	lease  *blobstore.Lease
	images []*pulling

	mu       sync.Mutex // guards what follows, and the fields of pulling below its ref
	plan     plan.Plan
	byImage  map[*plan.Image]*pulling
	done     map[digest.Digest]bool          // blobs of the plan that are in the store
	awaited  map[digest.Digest]chan struct{} // closed when the blob is there
	unknown  int                             // images that are not resolved yet
	failed   map[digest.Digest]bool          // blobs that don't come
	excluded map[digest.Digest]bool          // blobs that count as here since they need not be fetched
	toFetch  int64                           // bytes of the disk that the blobs to fetch will take
}

// pulling is an image on its way.
type pulling struct {
	ref     reference.Image
	image   *plan.Image // set once resolved
	missing int         // blobs still to come
	fetched int64
	reused  int64
	err     error
	over    bool // pulled, or failed
	partial bool // what others have was not fetched
}

func newPull(o Options, lease *blobstore.Lease, refs []reference.Image) *pull {
	p := &pull{
		fetcher: newFetcher(o), lease: lease, byImage: make(map[*plan.Image]*pulling), done: make(map[digest.Digest]bool),
		awaited: make(map[digest.Digest]chan struct{}), failed: make(map[digest.Digest]bool), excluded: make(map[digest.Digest]bool), unknown: len(refs),
	}
	for _, ref := range refs {
		p.images = append(p.images, &pulling{ref: ref})
	}
	return p
}

// has reports whether a blob is in the store, and puts it there when its
// descriptor carries it. Data that doesn't fit is as if it weren't there (OCI image
// spec, "Descriptors", data).
func (p *pull) has(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	has, err := p.lease.Has(d)
	if err != nil || has || len(d.Data) == 0 || int64(len(d.Data)) != d.Size || d.Digest.Algorithm().FromBytes(d.Data) != d.Digest {
		return has, err
	}
	return true, p.lease.Put(ctx, d, d.Data)
}

// needs is what an image needs.
type needs struct {
	added      []plan.Blob // those that no image before it needs
	blobs      int         // in all, less what is excluded
	size, here int64       // bytes, manifests included: of all, and of those in the store
	complete   bool        // nothing is to come
}

// add adds an image to the plan, and counts what it needs. It holds the lock all along: no other
// image may count on these blobs before it is known that they come.
func (p *pull) add(img *pulling, here, excluded map[digest.Digest]bool) (n needs, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := img.image.Blobs()
	p.exclude(img, all, here, excluded)
	n.added, err = p.plan.Add(img.image, func(d ocispec.Descriptor) (bool, error) { return here[d.Digest], nil })
	if err != nil {
		return n, err
	}
	if err := p.announce(img.image, n.added); err != nil {
		return n, err
	}
	n.size = img.image.ManifestSize()
	n.here = n.size
	all = slices.DeleteFunc(all, func(d ocispec.Descriptor) bool { return excluded[d.Digest] && p.excluded[d.Digest] })
	n.blobs = len(all)
	for _, b := range all {
		n.size += b.Size
		if p.done[b.Digest] {
			n.here += b.Size
		} else {
			img.missing++
		}
	}
	fetch, reuse := shares(all, n.added)
	img.fetched += fetch
	img.reused += reuse
	n.complete = img.missing == 0
	return n, nil
}

// exclude notes which blobs an image does without. The caller holds p.mu.
func (p *pull) exclude(img *pulling, all []ocispec.Descriptor, here, excluded map[digest.Digest]bool) {
	for _, d := range all {
		switch {
		case excluded[d.Digest]:
			img.partial = true
			if p.plan.Needing(d.Digest) == nil {
				p.excluded[d.Digest] = true
			}
		case p.excluded[d.Digest] && !here[d.Digest]: // others do without it, this image doesn't
			p.plan.Remove(d.Digest)
			delete(p.excluded, d.Digest)
			delete(p.done, d.Digest)
		}
	}
}

// announce counts the disk space that an image's blobs will take, and asks whether it is there. If
// not, they are taken out of the plan again. The caller holds p.mu.
func (p *pull) announce(img *plan.Image, added []plan.Blob) error {
	var fresh int64 // bytes of the disk that this image adds
	for _, b := range added {
		if b.Here {
			p.done[b.Digest] = true
		} else {
			fresh += max(0, b.Size-p.opts.Store.Partial(b.Digest))
		}
	}
	if p.opts.Room != nil {
		if err := p.opts.Room(img, p.toFetch+fresh); err != nil {
			for _, b := range added {
				p.plan.Remove(b.Digest)
			}
			return fault.As(fault.Local, err)
		}
	}
	p.toFetch += fresh
	return nil
}

// alive lists the images that need a blob and have not failed. The caller
// holds p.mu.
func (p *pull) alive(d digest.Digest) []*plan.Image {
	var out []*plan.Image
	for _, img := range p.plan.Needing(d) {
		if !p.byImage[img].over {
			out = append(out, img)
		}
	}
	return out
}

// fail ends an image with an error, and the run with it unless it is to keep
// going. An error that comes from the run's own end is not the image's.
func (p *pull) fail(ctx context.Context, img *pulling, why error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p.mu.Lock()
	again := img.over
	if !again {
		img.err, img.over = why, true
	}
	p.mu.Unlock()
	if !again {
		p.opts.observe(event.Lost{Image: img.ref.String(), Why: why.Error()})
	}
	if p.opts.KeepGoing {
		return nil
	}
	return errImage
}

// arrived notes that a blob is in the store. The caller holds p.mu.
func (p *pull) arrived(d digest.Digest) {
	p.done[d] = true
	if ready := p.awaited[d]; ready != nil {
		close(ready)
		delete(p.awaited, d)
	}
}

// wait waits until a blob is there, or ctx is done, which is soon when it doesn't come.
func (p *pull) wait(ctx context.Context, d digest.Digest) error {
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
