package engine

import (
	"context"
	"errors"
	"fmt"

	"drayage/blobstore"
	"drayage/engine/event"
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
		p.remember(lease)
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

// resolve finds what an image's name stands for, and queues what it needs.
func (p *pull) resolve(ctx context.Context, slot *schedule.Slot, img *pulling) error {
	m := &manifests{opts: p.opts, answered: slot.Answered, discard: p.lease.Discard, keep: func(ctx context.Context, doc image.Document) error {
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

// resolvedOne counts an image that is resolved and queued. After the last one the
// stream begins, as a job that needs no connection.
func (p *pull) resolvedOne() {
	p.mu.Lock()
	p.unknown--
	if p.unknown > 0 || p.opts.Stream == nil || p.opts.KeepGoing {
		p.mu.Unlock()
		return
	}
	s := &Stream{Lease: p.lease, wait: p.wait, open: p.opts.Store.Open, prefer: p.queue.Prefer}
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
