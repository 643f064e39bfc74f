package pullthrough

import (
	"context"
	"errors"
	"fmt"
	"time"

	"drayage/blobstore"
	"drayage/engine/event"
	"drayage/engine/image"
	"drayage/engine/internal/limits"
	"drayage/engine/mirror"
	"drayage/engine/reference"
	"drayage/engine/registry"

	"github.com/opencontainers/go-digest"
)

// Manifest implements mirror.Upstream.
func (t *Cache) Manifest(ctx context.Context, ref reference.Image) (mirror.Manifest, error) {
	return t.found.do(ctx, t.ctx, &t.work, ref.Name(), func(ctx context.Context) (mirror.Manifest, error) { return t.find(ctx, ref) })
}

// find finds what a reference stands for: in the store when that is known to be fresh, by
// HEAD when it may be, else by GET.
func (t *Cache) find(ctx context.Context, ref reference.Image) (mirror.Manifest, error) {
	if ref.Digest() != "" {
		return t.byDigest(ctx, ref)
	}
	root, err := t.opts.Store.Root(ref.Tagged())
	have := err == nil
	if have && t.isFresh(root) {
		if m, err := t.stored(ctx, ref, root); err == nil {
			return m, nil
		}
	}
	if have && t.isDown(ref) {
		return t.stale(ctx, ref, root, errDown)
	}
	want := ref.Tag()
	if have {
		d, err := t.head(ctx, ref)
		if err != nil || d != "" { // else it may have got no answer: GET tells
			t.answered(ref, err)
		}
		switch {
		case err == nil && d == root.Target.Digest:
			if m, err := t.stored(ctx, ref, root); err == nil {
				t.check(root.Name, d)
				return m, nil
			}
		case err == nil && d != "":
			want = d.String()
		case err != nil && !errors.Is(err, registry.ErrNotFound) && !errors.Is(err, registry.ErrDenied):
			return t.stale(ctx, ref, root, err)
		}
	}
	m, err := t.byTag(ctx, ref, want)
	if have && err != nil && !errors.Is(err, mirror.ErrUnknown) && !errors.Is(err, mirror.ErrDenied) {
		return t.stale(ctx, ref, root, err)
	}
	return m, err
}

// errDown is why a registry isn't asked that couldn't be asked a moment ago.
var errDown = errors.New("unavailable a moment ago")

// head asks what a tag stands for.
func (t *Cache) head(ctx context.Context, ref reference.Image) (digest.Digest, error) {
	return ask(ctx, t.questions, ref.Registry(), t.within, func(ctx context.Context) (digest.Digest, error) {
		return t.opts.Manifests.Head(ctx, ref, ref.Tag())
	})
}

// byDigest finds a manifest that is of an image, most often, whose tag was asked for.
func (t *Cache) byDigest(ctx context.Context, ref reference.Image) (mirror.Manifest, error) {
	d := ref.Digest()
	hold := func(doc image.Document) error {
		roots := t.rootsOf(repoDigestOf(ref, d))
		if len(roots) == 0 { // asked for by its digest alone: it is an image of that name
			return t.kept(ref, t.settle(ctx, ref, doc))
		}
		return t.kept(ref, t.keep(ctx, ref, doc, roots))
	}
	m, err := t.handle(ctx, d, hold)
	if errors.Is(err, blobstore.ErrNotFound) {
		m, err = t.document(ctx, ref, d.String(), func(error) {}, hold)
	}
	if err != nil {
		return mirror.Manifest{}, upstreamError(err)
	}
	return m, nil
}

// document fetches a manifest, and has it held. Few are fetched, decoded and held at a time, which
// is what bounds the memory that they take.
func (t *Cache) document(ctx context.Context, ref reference.Image, tagOrDigest string, answered func(error), hold func(image.Document) error) (mirror.Manifest, error) {
	return ask(ctx, t.documents, ref.Registry(), t.within, func(asking context.Context) (mirror.Manifest, error) {
		doc, err := t.opts.Manifests.Manifest(asking, ref, tagOrDigest)
		if err != nil && asking.Err() != nil {
			err = context.Cause(asking)
		}
		answered(err)
		if err != nil {
			return mirror.Manifest{}, err
		}
		return sent(doc, false), hold(doc)
	})
}

// handle reads a manifest out of the store, and has it held.
func (t *Cache) handle(ctx context.Context, d digest.Digest, hold func(image.Document) error) (mirror.Manifest, error) {
	size, err := t.opts.Store.Stat(d)
	if err != nil {
		return mirror.Manifest{}, err
	}
	weight := min(size+mostBeside, limits.HandlingBytes)
	if err := t.handling.Acquire(ctx, weight); err != nil {
		return mirror.Manifest{}, context.Cause(ctx)
	}
	defer t.handling.Release(weight)
	raw, err := t.opts.Store.Read(d, image.MaxSize)
	if err != nil {
		return mirror.Manifest{}, err
	}
	var doc image.Document
	t.opts.Work.Do(func() { doc, err = image.DecodeVerified(raw, d) })
	if err != nil {
		return mirror.Manifest{}, err
	}
	return sent(doc, true), hold(doc)
}

// mostBeside is how many bytes a manifest may have that is decoded beside the index that lists it.
const mostBeside = 1 << 20

// byTag fetches what a tag stands for, and makes an image of it.
func (t *Cache) byTag(ctx context.Context, ref reference.Image, tagOrDigest string) (mirror.Manifest, error) {
	m, err := t.document(ctx, ref, tagOrDigest, func(err error) { t.answered(ref, err) }, func(doc image.Document) error {
		return t.kept(ref, t.settle(ctx, ref, doc))
	})
	if err != nil {
		return mirror.Manifest{}, upstreamError(err)
	}
	t.check(ref.Tagged(), m.Digest)
	return m, nil
}

// stored is what a root stands for, out of the store.
func (t *Cache) stored(ctx context.Context, ref reference.Image, root blobstore.Root) (mirror.Manifest, error) {
	m, err := t.handle(ctx, root.Target.Digest, func(doc image.Document) error {
		if t.isFresh(root) && t.knows(ref, doc) { // nothing can be new
			return nil
		}
		return t.settle(ctx, ref, doc)
	})
	if err != nil {
		return mirror.Manifest{}, err
	}
	_ = t.opts.Store.Use(root.Name) // what can't be noted is used all the same
	return m, nil
}

// stale is what a root stood for, when upstream can't be asked.
func (t *Cache) stale(ctx context.Context, ref reference.Image, root blobstore.Root, why error) (mirror.Manifest, error) {
	m, err := t.stored(ctx, ref, root)
	if err != nil {
		return m, upstreamError(why)
	}
	if !errors.Is(why, errDown) {
		t.opts.observe(event.Warned{Message: fmt.Sprintf("%s: upstream unavailable, serving the previous version from the store: %v", ref, why)})
	}
	m.Stale = true
	return m, nil
}

// answered notes whether a registry can be asked, by the error of a request.
func (t *Cache) answered(ref reference.Image, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case errors.Is(err, context.Canceled): // nobody waited for it any more
	case err == nil || !errors.Is(err, registry.ErrUnavailable) && !errors.Is(err, registry.ErrQuota):
		delete(t.down, ref.Registry()) // what it answers may be wrong for this image alone
	case t.ctx.Err() == nil:
		t.down[ref.Registry()] = time.Now()
	}
}

// isDown reports whether a registry couldn't be asked the last time. Whether it can be again is
// found out beside the answers, so that nobody but the first waits for one that hangs.
func (t *Cache) isDown(ref reference.Image) bool {
	const often = 15 * time.Second
	t.mu.Lock()
	defer t.mu.Unlock()
	at, down := t.down[ref.Registry()]
	if down && time.Since(at) >= often && t.ctx.Err() == nil {
		t.down[ref.Registry()] = time.Now()
		t.work.Go(func() {
			d, err := t.head(t.ctx, ref)
			if err == nil && d == "" { // HEAD tells nothing, perhaps for want of an answer
				_, err = t.document(t.ctx, ref, ref.Tag(), func(error) {}, func(image.Document) error { return nil })
			}
			t.answered(ref, err)
		})
	}
	return down
}

func sent(doc image.Document, here bool) mirror.Manifest {
	return mirror.Manifest{Digest: doc.Descriptor.Digest, MediaType: doc.Descriptor.MediaType, Raw: doc.Raw, Here: here}
}

// isFresh reports whether an image's tag was found a short while ago to stand for what it stands
// for here. What else has given it its meaning meanwhile, such as an archive, doesn't count.
func (t *Cache) isFresh(root blobstore.Root) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := t.checked.get(root.Name)
	return ok && c.target == root.Target.Digest && time.Since(c.at) < t.opts.Fresh
}

// check notes what a tag was found to stand for.
func (t *Cache) check(name string, target digest.Digest) {
	const entry = 200 // bytes, or about that
	t.mu.Lock()
	defer t.mu.Unlock()
	t.checked.put(name, check{target, time.Now()}, int64(len(name)+len(target)+entry))
}
