package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"drayage/blobstore"
	"drayage/engine/event"
	"drayage/engine/fault"
	"drayage/engine/image"
	"drayage/engine/internal/schedule"
	"drayage/engine/plan"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Pull brings images into the store: every blob once, however many images
// share it and whatever the store has already. The results are in the order of
// refs, each reference once, and tell what became of each image; images that
// are complete are pinned even when others fail. The error is not nil when
// the run as a whole was ended, by ctx or by a fault of the store.
func Pull(ctx context.Context, o Options, refs []reference.Image) (results []Result, err error) {
	lease, err := o.Store.Lease()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lease.Close()) }()
	o.watch(lease)

	p := newPull(o, lease, unique(refs))
	o.observe(event.Started{Images: len(p.images)})
	runErr := p.run(ctx, func(q *schedule.Queue) {
		for _, img := range p.images {
			q.Add(schedule.Job{Host: p.opts.Registry.Host(img.ref), Kind: schedule.Small, Run: func(ctx context.Context, slot *schedule.Slot) error {
				return p.resolve(ctx, slot, img)
			}})
		}
	})
	if p.toFetch > 0 {
		p.remember()
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	} else if runErr != nil && !errors.Is(runErr, errImage) {
		err = runErr
	}
	return p.finish(), errors.Join(err, p.pin())
}

// watch has a lease tell of damage, and hash what it should.
func (o Options) watch(l *blobstore.Lease) {
	if o.HashAll {
		l.HashAll()
	}
	l.OnDamage(func(d digest.Digest) {
		o.observe(event.Warned{Message: fmt.Sprintf("blob %s is damaged on disk: it is in quarantine, and fetched again", d)})
	})
}

// errImage ends a run because an image failed, which its result tells.
var errImage = errors.New("an image failed")

// pull is a run of Pull.
type pull struct {
	*fetcher
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
		fetcher: newFetcher(o, lease), byImage: make(map[*plan.Image]*pulling), done: make(map[digest.Digest]bool),
		awaited: make(map[digest.Digest]chan struct{}), failed: make(map[digest.Digest]bool), excluded: make(map[digest.Digest]bool), unknown: len(refs),
	}
	for _, ref := range refs {
		p.images = append(p.images, &pulling{ref: ref})
	}
	return p
}

// resolve finds what an image's name stands for, and queues what it needs.
func (p *pull) resolve(ctx context.Context, slot *schedule.Slot, img *pulling) error {
	m := &manifests{opts: p.opts, discard: p.lease.Discard, keep: func(ctx context.Context, doc image.Document) error {
		return p.lease.Put(ctx, doc.Descriptor, doc.Raw)
	}}
	resolved, err := p.opts.resolve(ctx, m, img.ref)
	if err != nil {
		return p.fail(ctx, img, err)
	}
	for _, doc := range resolved.Documents { // also those that were here: the lease should keep them
		has, err := p.lease.Has(doc.Descriptor)
		if err == nil && !has { // it was swept since it was read
			err = p.lease.Put(ctx, doc.Descriptor, doc.Raw)
		}
		if err != nil {
			return p.fail(ctx, img, err)
		}
	}
	p.mu.Lock()
	img.image, img.fetched, img.reused = resolved, m.fetched, m.reused
	p.byImage[resolved] = img
	p.mu.Unlock()

	if main := resolved.Main(); p.opts.Platform.Explicit && main.Schema1 != nil {
		if err := p.checkPlatform(img); err != nil {
			return p.fail(ctx, img, err)
		}
	} else if p.opts.Platform.Explicit && main.Platform == nil && main.Runnable() {
		// Only the config tells the platform, so it goes ahead of the layers.
		if err := p.configFirst(ctx, slot, img); err != nil {
			return p.fail(ctx, img, err)
		}
	}
	return p.queueBlobs(ctx, img)
}

// configFirst fetches the config of an image, and checks its platform.
func (p *pull) configFirst(ctx context.Context, slot *schedule.Slot, img *pulling) error {
	config := img.image.Main().Config
	has, err := p.has(ctx, config)
	if err != nil {
		return err
	}
	var fetched int64
	if !has {
		p.opts.observe(event.Queued{Digest: config.Digest, Size: config.Size})
		if fetched, err = p.fetch(ctx, slot, config, []*plan.Image{img.image}, p.sources(config.Digest, []*plan.Image{img.image})); err != nil {
			return fmt.Errorf("config %s: %w", config.Digest, err)
		}
		if err := slot.Regain(ctx); err != nil {
			return err
		}
	}
	p.mu.Lock()
	img.fetched += fetched
	img.reused -= fetched // queueBlobs is going to find it here
	p.mu.Unlock()
	return p.checkPlatform(img)
}

// checkPlatform holds an image that no index led to against the platform
// wanted, by its config, which is in the store. One that a person asked for
// must match; the default only warns.
func (p *pull) checkPlatform(img *pulling) error {
	raw, err := configOf(p.opts.Store, img.image.Main())
	if err != nil {
		return err
	}
	has, err := image.ConfigPlatform(raw)
	if err != nil || has.OS == "" || has.Architecture == "" || p.opts.Platform.Matches(has) {
		return nil // odd configs are for the runtime to judge
	}
	have := image.FormatPlatform(has)
	if p.opts.Platform.Explicit {
		return &image.NoPlatformError{Want: p.opts.Platform.String(), Have: []string{have}}
	}
	p.opts.observe(event.Warned{Message: fmt.Sprintf("%s is for %s, not %s; taken all the same, since it is the only one there is",
		img.ref, have, p.opts.Platform)})
	return nil
}

// configOf reads a variant's config, or what stands for it.
func configOf(store *blobstore.Store, v *plan.Variant) ([]byte, error) {
	if v.Schema1 != nil {
		return v.Schema1.Top(), nil
	}
	return store.Read(v.Config.Digest, image.MaxSize)
}

// queueBlobs queues what an image needs and nobody has asked for yet.
func (p *pull) queueBlobs(ctx context.Context, img *pulling) error {
	here, excluded, err := p.local(ctx, img.image)
	if err != nil {
		return p.fail(ctx, img, err)
	}
	n, err := p.add(img, here, excluded)
	if err != nil {
		return p.fail(ctx, img, err)
	}
	p.opts.observe(event.Resolved{Image: img.ref.String(), Digest: img.image.Target().Digest,
		Blobs: n.blobs + len(img.image.Documents), Size: n.size, Here: n.here})
	for _, b := range n.added {
		if b.Here {
			continue
		}
		p.opts.observe(event.Queued{Digest: b.Digest, Size: b.Size})
		p.queue.Add(schedule.Job{ID: b.Digest.String(), Host: p.opts.Registry.Host(img.ref), Kind: schedule.Bulk, Cost: b.Size, Run: func(ctx context.Context, slot *schedule.Slot) error {
			return p.blob(ctx, slot, b.Descriptor, img)
		}})
	}
	if n.complete {
		if err := p.complete(ctx, img); err != nil {
			return err
		}
	}
	p.resolvedOne()
	return nil
}

// local finds which blobs of an image need not be fetched: those that are in the store, and those
// that are excluded, since others have them.
func (p *pull) local(ctx context.Context, img *plan.Image) (here, excluded map[digest.Digest]bool, err error) {
	here, excluded = make(map[digest.Digest]bool), make(map[digest.Digest]bool)
	carried := p.opts.carried(img)
	for _, d := range img.Blobs() {
		has, err := p.has(ctx, d)
		if err != nil {
			return nil, nil, err
		}
		excluded[d.Digest] = !has && carried[d.Digest]
		here[d.Digest] = has || carried[d.Digest]
	}
	return here, excluded, nil
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

// blob fetches a blob that images wait for. It counts as fetched for the image
// that queued it.
func (p *pull) blob(ctx context.Context, slot *schedule.Slot, desc ocispec.Descriptor, img *pulling) error {
	p.mu.Lock()
	needing := p.alive(desc.Digest)
	if len(needing) == 0 { // whoever needed it has failed
		p.plan.Remove(desc.Digest)
	}
	p.mu.Unlock()
	if len(needing) == 0 {
		return nil
	}
	fetched, err := p.fetchAnywhere(ctx, slot, desc, needing)
	if err != nil {
		return p.failBlob(ctx, desc, err)
	}

	var complete []*pulling
	p.mu.Lock()
	p.arrived(desc.Digest)
	img.fetched -= desc.Size - fetched // another process, or an earlier run, did the rest
	img.reused += desc.Size - fetched
	for _, needs := range p.alive(desc.Digest) {
		waiting := p.byImage[needs]
		if waiting.missing--; waiting.missing == 0 {
			complete = append(complete, waiting)
		}
	}
	p.mu.Unlock()
	for _, img := range complete {
		if err := p.complete(ctx, img); err != nil {
			return err
		}
	}
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

// complete ends an image of which all is in the store.
func (p *pull) complete(ctx context.Context, img *pulling) error {
	if main := img.image.Main(); main.Platform == nil && !p.opts.Platform.Explicit && main.Runnable() {
		if err := p.checkPlatform(img); err != nil {
			return p.fail(ctx, img, err)
		}
	}
	p.mu.Lock()
	img.over = true
	e := event.Pulled{Image: img.ref.String(), Digest: img.image.Target().Digest, Fetched: img.fetched, Reused: img.reused}
	p.mu.Unlock()
	p.opts.observe(e)
	return nil
}

// failBlob fails every image that needs a blob.
func (p *pull) failBlob(ctx context.Context, desc ocispec.Descriptor, why error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p.opts.observe(event.Failed{Digest: desc.Digest, Why: why.Error()})
	p.mu.Lock()
	needing := p.alive(desc.Digest)
	p.plan.Remove(desc.Digest)
	p.failed[desc.Digest] = true
	var waiting []*pulling
	for _, img := range needing {
		waiting = append(waiting, p.byImage[img])
	}
	p.mu.Unlock()
	var end error
	for _, img := range waiting {
		role := "layer"
		if img.image.Main().Config.Digest == desc.Digest {
			role = "config"
		}
		end = p.fail(ctx, img, fmt.Errorf("%s %s: %w", role, desc.Digest, why))
	}
	return end
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

// finish makes the results. All jobs have ended.
func (p *pull) finish() []Result {
	out := make([]Result, 0, len(p.images))
	for _, img := range p.images {
		if !img.over {
			img.err = ErrStopped
		}
		out = append(out, Result{Ref: img.ref, Image: img.image, Fetched: img.fetched, Reused: img.reused, Err: img.err})
	}
	return out
}

// pin records the images that are complete.
func (p *pull) pin() error {
	var roots []blobstore.Root
	for _, img := range p.images {
		if img.err != nil || !img.over {
			continue
		}
		if img.partial { // another image may have brought what this one could do without
			if whole, err := p.whole(img.image); err != nil || !whole {
				if err != nil {
					return err
				}
				continue
			}
		}
		name := img.ref.Tagged()
		if name == "" {
			name = img.ref.Name()
		}
		target := img.image.Target()
		if len(img.image.Documents) == 1 {
			target = img.image.Main().Descriptor()
		}
		roots = append(roots, blobstore.Root{Name: name, Target: target, Blobs: img.image.Digests(), Beside: referrers(img.image), From: blobstore.Origin{Kind: blobstore.FromRegistry, Where: img.image.Ref.Registry()}})
	}
	if len(roots) == 0 {
		return nil
	}
	return p.lease.Pin(roots...)
}

// whole reports whether the store has all blobs of an image.
func (p *pull) whole(img *plan.Image) (bool, error) {
	for _, d := range img.Blobs() {
		if has, err := p.lease.Has(d); err != nil || !has {
			return false, err
		}
	}
	return true, nil
}
