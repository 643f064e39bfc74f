package pullthrough

import (
	"context"
	"errors"
	"fmt"
	"time"

	"drayage/blobstore"
	"drayage/blobstore/quota"
	"drayage/engine/event"
	"drayage/engine/internal/transfer"
	"drayage/engine/mirror"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Size implements mirror.Upstream.
func (t *Cache) Size(ctx context.Context, ref reference.Image, d digest.Digest) (int64, error) {
	if size := t.listedSize(repoDigestOf(ref, d)); size > 0 {
		return size, nil
	}
	return t.askSize(ctx, ref, d)
}

// listedSize is the size of a blob by the manifests that list it, or by an in-flight fetch for the
// same repository, which may hold the connection that would be asked over; 0 when it isn't known.
func (t *Cache) listedSize(at repoDigest) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n, ok := t.needs.get(at); ok && n.size > 0 {
		return n.size
	}
	for key, f := range t.inFlight {
		if key.digest == at.digest && f.of(at.repository) != nil {
			return key.size
		}
	}
	return 0
}

// askSize asks a repository for the size of a blob, and so whether it has it.
func (t *Cache) askSize(ctx context.Context, ref reference.Image, d digest.Digest) (int64, error) {
	at := repoDigestOf(ref, d)
	size, err := t.sizes.do(ctx, t.ctx, &t.work, at.repository+"@"+d.String(), func(ctx context.Context) (int64, error) {
		return ask(ctx, t.questions, ref.Registry(), t.within, func(ctx context.Context) (int64, error) { return t.opts.Manifests.BlobSize(ctx, ref, d) })
	})
	if err != nil {
		return 0, upstreamError(err)
	}
	if size == 0 && d.Algorithm().FromBytes(nil) != d {
		return 0, fmt.Errorf("upstream reports a size of 0 bytes for %s, which is not empty", d)
	}
	return size, nil
}

// Blob implements mirror.Upstream.
func (t *Cache) Blob(ctx context.Context, ref reference.Image, d digest.Digest) (mirror.Blob, error) {
	const tries = 3
	for try := 1; ; try++ {
		r, err := t.follow(ctx, ref, d)
		if err != nil {
			return nil, err
		}
		if err = t.ready(ctx, r); err == nil { // so that the client is told, and not cut off
			return r, nil
		}
		// What failed may have been another repository's fault: it counts for that alone. So does that
		// it was slow, or that its registry has had its share of the disk quota.
		var over *quota.ExceededError
		quota := errors.As(err, &over)
		again := try < tries && ctx.Err() == nil && (r.fetch.several() && (quota || !errors.Is(err, mirror.ErrLocal)) || quota && over.Stalled)
		if err = errors.Join(err, r.Close()); !again {
			return nil, err
		}
	}
}

// ready waits until the first byte of a blob may be read. Where all has come from elsewhere, its
// own repository is asked whether it has it.
func (t *Cache) ready(ctx context.Context, r *follower) error {
	err := r.ready()
	if !errors.Is(err, errUnknown) {
		return err
	}
	d := r.fetch.desc
	size, err := t.askSize(ctx, r.origin.ref, d.Digest)
	if err != nil {
		return err
	}
	if size != d.Size {
		return &sizesError{d.Digest, d.Size, size}
	}
	r.fetch.prove(r.origin)
	if err := t.adopt(r.fetch, nil); err != nil {
		return t.kept(r.origin.ref, err)
	}
	return r.ready()
}

// adopt adds an in-flight fetch's blob, which is in the store, to the images that need it of the
// repositories that are known to have it. A lease, if not nil, holds it there.
func (t *Cache) adopt(f *inFlight, lease *blobstore.Lease) (err error) {
	holders := f.holders()
	if len(holders) == 0 {
		return nil
	}
	if lease == nil {
		if lease, err = t.opts.Store.Lease(); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, lease.Close()) }()
		if has, err := lease.Keep(f.desc); err != nil || !has {
			return err
		}
	}
	for _, at := range holders {
		if err := t.extend(lease, t.rootsOf(at), at.digest); err != nil {
			return err
		}
	}
	return nil
}

// follow follows the fetch of a blob, which begins if there is none. One that is under way for
// another repository is joined: when this one is known to have the blob, it is a source of it, too.
func (t *Cache) follow(ctx context.Context, ref reference.Image, d digest.Digest) (*follower, error) {
	const long = time.Minute
	at := repoDigestOf(ref, d)
	size := t.listedSize(at)
	known := size <= 0
	if known {
		var err error
		if size, err = t.askSize(ctx, ref, d); err != nil {
			return nil, err
		}
	}
	key := fetchKey{d, size}
	t.mu.Lock()
	defer t.mu.Unlock()
	if when, ok := t.wrong.get(at); ok && time.Since(when) < long {
		return nil, fmt.Errorf("%s served content that does not match digest %s; it is asked again after a minute", at.repository, d)
	}
	if f := t.inFlight[key]; f != nil && f.of(at.repository) == nil && !known {
		t.mu.Unlock()
		told, err := t.askSize(ctx, ref, d)
		if err == nil && told != size {
			t.doubt(at)
			err = &sizesError{d, size, told}
		}
		t.mu.Lock()
		if err != nil {
			return nil, err
		}
		known = true
	}
	f := t.inFlight[key]                // it may be another one now
	if f == nil || f.ctx.Err() != nil { // it is ending
		f = newInFlight(t.ctx, t.opts.Store, ocispec.Descriptor{Digest: d, Size: size})
		f.idle = func() { t.idle(key, f) }
		for other := range t.inFlight {
			f.apart = f.apart || other.digest == d
		}
		t.inFlight[key] = f
		o := f.add(at, ref, known)
		t.work.Go(func() { t.takeTurn(f, ref.Registry()) })
		t.work.Go(func() { t.fly(key, f, o) })
		return f.follow(ctx, o), nil
	}
	o := f.of(at.repository)
	switch {
	case o == nil:
		o = f.add(at, ref, known)
		t.work.Go(func() { t.takeTurn(f, ref.Registry()) }) // it may come sooner
		if !t.isExcluded(at.repository) {
			for _, s := range t.sources(f, o) {
				f.with(func(tr *transfer.Transfer) { t.work.Go(func() { tr.Join(f.ctx, s) }) })
			}
		}
	case known:
		f.prove(o)
	}
	return f.follow(ctx, o), nil
}

// takeTurn has an in-flight fetch begin when it is a registry's turn, if it hasn't yet by another
// one's.
func (t *Cache) takeTurn(f *inFlight, registry string) {
	over, err := t.fetches.take(f.ctx, registry)
	if err != nil {
		return
	}
	select {
	case f.turns <- over:
	case <-f.ctx.Done():
		over()
	}
}

// errAbandoned ends an in-flight fetch that nobody follows any more.
var errAbandoned = errors.New("canceled: no client is waiting")

// idle ends an in-flight fetch after a while if nobody follows it until then. What has come is
// kept, and whoever asks later goes on with it.
func (t *Cache) idle(key fetchKey, f *inFlight) {
	f.mu.Lock()
	nth := f.left
	f.mu.Unlock()
	time.AfterFunc(t.grace, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.followers > 0 || f.over || f.left != nth {
			return
		}
		if t.inFlight[key] == f {
			delete(t.inFlight, key)
		}
		f.cancel(errAbandoned)
	})
}

// sources are where an origin's blob can be had.
func (t *Cache) sources(f *inFlight, o *origin) (out []transfer.Source) {
	for _, b := range t.opts.Fetcher.Sources(o.ref, f.desc.Digest) {
		out = append(out, proving{b, f, o})
	}
	return out
}

// fly runs an in-flight fetch, and reports to those who follow it how it ended.
func (t *Cache) fly(key fetchKey, f *inFlight, o *origin) {
	err := t.fetch(f.ctx, f, o)
	if err != nil && f.ctx.Err() != nil && !isLocal(err) {
		err = context.Cause(f.ctx)
	}
	f.cancel(nil)
	if err != nil && isLocal(err) && !f.isKnown(o) {
		// It may be that it has no room because a manifest says that it is large.
		if told, errAsk := t.askSize(t.ctx, o.ref, key.digest); errAsk == nil && told != key.size {
			t.doubt(repoDigestOf(o.ref, key.digest))
			err = &sizesError{key.digest, key.size, told}
		}
	}
	var mismatch *transfer.MismatchError
	t.mu.Lock()
	if t.inFlight[key] == f {
		delete(t.inFlight, key)
	}
	t.mu.Unlock()
	several := f.several() // nobody joins any more
	if errors.As(err, &mismatch) && several {
		for _, wrong := range f.spoilers(o) {
			t.exclude(wrong)
		}
	}
	if err == nil { // some may have said that they have it while it was added to others' images
		err = t.adopt(f, nil)
	}
	if mismatch != nil && mismatch.GotSize != mismatch.WantSize {
		t.doubt(repoDigestOf(o.ref, key.digest))
	}
	if err != nil {
		err = t.kept(o.ref, err)
		t.opts.observe(event.Failed{Digest: key.digest, Why: err.Error()})
		if several && (errors.Is(err, mirror.ErrUnknown) || errors.Is(err, mirror.ErrDenied)) {
			err = errors.New(err.Error()) // which of them said so isn't known
		}
	}
	f.end(err)
}

// fetch fetches a blob for whoever follows its fetch, and keeps it with the images that need it.
// Places that a manifest names besides its registry aren't asked: whoever can push a manifest could
// have this machine ask anything, and read the answer.
func (t *Cache) fetch(ctx context.Context, f *inFlight, o *origin) (err error) {
	select {
	case over := <-f.turns:
		defer over()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	d := f.desc
	if t.opts.Budget != nil {
		room, err := t.opts.Budget.Begin(ctx, d, o.ref.Registry(), f.cancel)
		if err != nil {
			return err
		}
		defer room.End()
		f.arrived.Store(t.opts.Store.Partial(d.Digest))
		f.takes(room)
		f.grow = func(n int64) error { return room.Grow(ctx, n) }
	}
	lease, err := t.opts.Store.Lease()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lease.Close()) }()
	t.opts.observe(event.Queued{Digest: d.Digest, Size: d.Size})
	err = t.opts.Fetcher.Fetch(ctx, lease, Request{Descriptor: d, Image: o.ref, Sources: t.sources(f, o), Apart: f.apart, Watcher: f})
	if err != nil {
		return err
	}
	if err := t.judge(f); err != nil {
		return err
	}
	return t.adopt(f, lease)
}
