package pullthrough

import (
	"context"
	"errors"
	"maps"

	"drayage/blobstore"
	"drayage/engine/image"
	"drayage/engine/internal/limits"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// needed is what a manifest or blob is, and which images need it.
type needed struct {
	size  int64                    // by the manifests that list it; 0 when they don't agree
	roots map[string]digest.Digest // what they stand for, by their names
}

// settle makes an image of what a tag stands for now, with all of it that the store has.
func (t *Cache) settle(ctx context.Context, ref reference.Image, doc image.Document) error {
	name := ref.Tagged()
	if name == "" {
		name = ref.Name()
	}
	return t.put(ctx, ref, doc, map[string]digest.Digest{name: doc.Descriptor.Digest}, func(lease *blobstore.Lease, here []digest.Digest) error {
		return lease.Pin(blobstore.Root{Name: name, Target: doc.Descriptor, Blobs: here, From: blobstore.Origin{Kind: blobstore.FromRegistry, Where: ref.Registry()}})
	})
}

// keep keeps a manifest with the images that need it.
func (t *Cache) keep(ctx context.Context, ref reference.Image, doc image.Document, roots map[string]digest.Digest) error {
	return t.put(ctx, ref, doc, roots, func(lease *blobstore.Lease, here []digest.Digest) error {
		return t.extend(lease, roots, here...)
	})
}

// put adds a manifest to the store, and then does what holds it there, with all of it
// that is here.
func (t *Cache) put(ctx context.Context, ref reference.Image, doc image.Document, roots map[string]digest.Digest, hold func(*blobstore.Lease, []digest.Digest) error) (err error) {
	lease, err := t.opts.Store.Lease()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lease.Close()) }()
	if err := t.add(ctx, lease, ref, doc); err != nil {
		return err
	}
	g := gathering{lease: lease, ref: ref, roots: roots, taking: taking{most: t.taking}, seen: map[digest.Digest]int64{doc.Descriptor.Digest: doc.Descriptor.Size}}
	if err := t.gather(ctx, &g, doc); err != nil {
		return err
	}
	return hold(lease, append([]digest.Digest{doc.Descriptor.Digest}, g.here...))
}

func (t *Cache) extend(lease *blobstore.Lease, roots map[string]digest.Digest, blobs ...digest.Digest) error {
	for name, target := range roots {
		if err := lease.Extend(name, target, blobs...); err != nil {
			return err
		}
	}
	return nil
}

// add adds a manifest to the store, within its budget.
func (t *Cache) add(ctx context.Context, lease *blobstore.Lease, ref reference.Image, doc image.Document) error {
	if t.opts.Budget != nil {
		if has, err := lease.Has(doc.Descriptor); has || err != nil {
			return err
		}
		room, err := t.opts.Budget.Begin(ctx, doc.Descriptor, ref.Registry(), nil)
		if err != nil {
			return err
		}
		defer room.End()
	}
	return lease.Put(ctx, doc.Descriptor, doc.Raw)
}

// gathering is what is found out below one manifest.
type gathering struct {
	lease *blobstore.Lease
	ref   reference.Image
	roots map[string]digest.Digest
	seen  map[digest.Digest]int64 // with the sizes that they were first listed with
	here  []digest.Digest         // of them
	read  int64                   // bytes of manifests

	taking taking
}

// gather notes what a manifest, and those below it that are here, need, and for which
// images, and which of it is here: each once, however often it is listed.
func (t *Cache) gather(ctx context.Context, g *gathering, doc image.Document) error {
	const mostRead = 16 << 20 // bytes of manifests in an index
	for _, d := range below(doc) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if size, ok := g.seen[d.Digest]; ok {
			if size != d.Size {
				t.doubt(repoDigestOf(g.ref, d.Digest))
			}
			continue
		}
		if len(g.seen) >= limits.NeededBelow {
			return nil
		}
		g.seen[d.Digest] = d.Size
		t.learn(g.ref, d, g.roots)
		if _, err := t.opts.Store.Stat(d.Digest); errors.Is(err, blobstore.ErrNotFound) {
			continue // most of what a large index lists; to keep costs more
		}
		has, err := g.lease.Keep(d)
		var size *blobstore.SizeError
		if errors.As(err, &size) { // the manifest lies: clients find out
			continue
		}
		if err != nil {
			return err
		}
		if !has || !t.takes(ctx, g, d.Digest, doc.Index != nil) {
			continue
		}
		g.here = append(g.here, d.Digest)
		if doc.Index == nil || d.Size > mostBeside || g.read+d.Size > mostRead {
			continue
		}
		g.read += d.Size
		raw, err := t.opts.Store.Read(d.Digest, mostBeside)
		if err != nil {
			continue
		}
		var child image.Document
		t.opts.Work.Do(func() { child, err = image.DecodeVerified(raw, d.Digest) })
		if err != nil || child.Index != nil { // an index in an index is looked at when it is asked for
			continue
		}
		if err := t.gather(ctx, g, child); err != nil {
			return err
		}
	}
	return nil
}

// below are the descriptors that a manifest or an index has.
func below(doc image.Document) []ocispec.Descriptor {
	switch {
	case doc.Index != nil:
		return doc.Index.Manifests
	case doc.Manifest != nil:
		return append([]ocispec.Descriptor{doc.Manifest.Config}, doc.Manifest.Layers...)
	}
	return nil
}

// knows reports whether it was noted what a manifest needs.
func (t *Cache) knows(ref reference.Image, doc image.Document) bool {
	all := below(doc)
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(all) == 0 {
		return false
	}
	_, ok := t.needs.get(repoDigestOf(ref, all[0].Digest))
	return ok
}

// learn notes that images need a manifest or blob.
func (t *Cache) learn(ref reference.Image, d ocispec.Descriptor, roots map[string]digest.Digest) {
	const (
		entry = 200  // bytes, or about that
		most  = 1000 // images that need the same; others find out by their manifests
	)
	at := repoDigestOf(ref, d.Digest)
	t.mu.Lock()
	defer t.mu.Unlock()
	n, ok := t.needs.get(at)
	if !ok {
		n = &needed{size: d.Size, roots: make(map[string]digest.Digest)}
	}
	if n.size != d.Size {
		n.size = 0
	}
	bytes := t.needs.of[at].bytes
	if !ok {
		bytes = int64(len(at.repository) + len(at.digest) + entry)
	}
	for name, target := range roots {
		if _, known := n.roots[name]; !known {
			if len(n.roots) >= most {
				continue
			}
			bytes += int64(len(name) + len(target) + entry/2)
		}
		n.roots[name] = target
	}
	t.needs.put(at, n, bytes)
}

// doubt forgets what size manifests say that a blob has: they don't agree, or it has another one.
func (t *Cache) doubt(at repoDigest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n, ok := t.needs.get(at); ok {
		n.size = 0
	}
}

// rootsOf are the images that need something, by what is known now.
func (t *Cache) rootsOf(at repoDigest) map[string]digest.Digest {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n, ok := t.needs.get(at); ok {
		return maps.Clone(n.roots)
	}
	return nil
}
