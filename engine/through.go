package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"drayage/blobstore"
	"drayage/engine/event"
	"drayage/engine/image"
	"drayage/engine/mirror"
	"drayage/engine/plan"
	"drayage/engine/reference"
	"drayage/engine/registry"
	"drayage/engine/schedule"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Through brings what a mirror is asked for and its store doesn't have: every manifest
// and blob once, for however many ask for it. What came stays in the store, with the
// image that it is of. It is a mirror.Upstream. Close it when done.
type Through struct {
	opts  Options
	fresh time.Duration
	ctx   context.Context // of all fetches
	stop  context.CancelFunc
	work  sync.WaitGroup

	mu      sync.Mutex
	flights map[digest.Digest]*flight
	asked   map[string]*question // tags that are being asked for
	checked map[string]time.Time // when a tag was last found to be fresh
	needs   map[digest.Digest]need
}

// need is what a manifest or blob is needed for.
type need struct {
	desc ocispec.Descriptor
	root string             // the image's name
	of   ocispec.Descriptor // what that stood for
}

// NewThrough makes one. An image is taken as it is in the store for a time since it was
// last found to be what its tag stands for.
func NewThrough(ctx context.Context, o Options, fresh time.Duration) *Through {
	t := &Through{opts: o, fresh: fresh, flights: make(map[digest.Digest]*flight), asked: make(map[string]*question),
		checked: make(map[string]time.Time), needs: make(map[digest.Digest]need)}
	t.ctx, t.stop = context.WithCancel(ctx)
	return t
}

// Close ends all fetches, and waits for them. What has arrived is kept.
func (t *Through) Close() {
	t.stop()
	t.work.Wait()
}

// question is one that several may wait for the answer of.
type question struct {
	done   chan struct{}
	answer mirror.Manifest
	err    error
}

// Manifest implements mirror.Upstream.
func (t *Through) Manifest(ctx context.Context, ref reference.Image) (mirror.Manifest, error) {
	name := ref.Name()
	t.mu.Lock()
	q := t.asked[name]
	if q == nil {
		q = &question{done: make(chan struct{})}
		t.asked[name] = q
		t.work.Go(func() {
			q.answer, q.err = t.find(t.ctx, ref)
			t.mu.Lock()
			delete(t.asked, name)
			t.mu.Unlock()
			close(q.done)
		})
	}
	t.mu.Unlock()
	select {
	case <-q.done:
		return q.answer, q.err
	case <-ctx.Done():
		return mirror.Manifest{}, context.Cause(ctx)
	}
}

// find finds what a reference stands for: in the store when that is known to be fresh, by
// HEAD when it may be, else by GET.
func (t *Through) find(ctx context.Context, ref reference.Image) (mirror.Manifest, error) {
	if ref.Digest() != "" {
		return t.fetchManifest(ctx, ref, ref.Digest().String())
	}
	root, err := t.opts.Store.Root(ref.Tagged())
	have := err == nil
	if have && t.isFresh(root.Name) {
		if m, err := t.stored(root); err == nil {
			return m, nil
		}
	}
	want := ref.Tag()
	if have {
		d, err := t.opts.Registry.Head(ctx, ref, ref.Tag())
		switch {
		case err == nil && d == root.Target.Digest:
			if m, err := t.stored(root); err == nil {
				t.found(root.Name)
				return m, nil
			}
		case err == nil && d != "":
			want = d.String()
		case err != nil && !errors.Is(err, registry.ErrNotFound) && !errors.Is(err, registry.ErrDenied):
			return t.stale(root, err)
		}
	}
	m, err := t.fetchManifest(ctx, ref, want)
	if have && err != nil && !errors.Is(err, mirror.ErrUnknown) && !errors.Is(err, mirror.ErrDenied) {
		return t.stale(root, err)
	}
	return m, err
}

// stored is what a root stands for, out of the store.
func (t *Through) stored(root blobstore.Root) (mirror.Manifest, error) {
	raw, err := t.opts.Store.Read(root.Target.Digest, image.MaxSize)
	if err != nil {
		return mirror.Manifest{}, err
	}
	doc, err := image.DecodeVerified(raw, root.Target.Digest)
	if err != nil {
		return mirror.Manifest{}, err
	}
	t.learn(doc, root.Name, root.Target)
	_ = t.opts.Store.Use(root.Name) // what can't be noted is used all the same
	return sent(doc), nil
}

// stale is what a root stood for, when upstream can't be asked.
func (t *Through) stale(root blobstore.Root, why error) (mirror.Manifest, error) {
	m, err := t.stored(root)
	if err != nil {
		return m, upstreamError(why)
	}
	t.opts.observe(event.Warned{Message: fmt.Sprintf("%s: upstream can't be asked, and what it was earlier is served: %v", familiarName(root.Name), why)})
	m.Stale = true
	return m, nil
}

func familiarName(name string) string {
	if ref, err := reference.Parse(name); err == nil {
		return ref.String()
	}
	return name
}

func sent(doc image.Document) mirror.Manifest {
	return mirror.Manifest{Digest: doc.Descriptor.Digest, MediaType: doc.Descriptor.MediaType, Raw: doc.Raw}
}

// fetchManifest fetches a manifest, and keeps it with its image.
func (t *Through) fetchManifest(ctx context.Context, ref reference.Image, tagOrDigest string) (_ mirror.Manifest, err error) {
	doc, err := t.opts.Registry.Manifest(ctx, ref, tagOrDigest)
	if err != nil {
		return mirror.Manifest{}, upstreamError(err)
	}
	lease, err := t.opts.Store.Lease()
	if err != nil {
		return mirror.Manifest{}, err
	}
	defer func() { err = errors.Join(err, lease.Close()) }()
	if err := lease.Put(ctx, doc.Descriptor, doc.Raw); err != nil {
		return mirror.Manifest{}, err
	}
	n, known := t.needOf(doc.Descriptor.Digest)
	if ref.Digest() == "" {
		n, known = need{root: ref.Tagged(), of: doc.Descriptor}, true
		t.found(n.root)
	}
	if known {
		if err := lease.Pin(blobstore.Root{Name: n.root, Target: n.of, Blobs: []digest.Digest{doc.Descriptor.Digest}}); err != nil {
			return mirror.Manifest{}, err
		}
		t.learn(doc, n.root, n.of)
	}
	return sent(doc), nil
}

// upstreamError is an error as a mirror tells its clients of it.
func upstreamError(err error) error {
	for _, k := range []struct{ from, to error }{
		{registry.ErrNotFound, mirror.ErrUnknown}, {registry.ErrDenied, mirror.ErrDenied}, {registry.ErrQuota, mirror.ErrBusy},
	} {
		if errors.Is(err, k.from) {
			return fmt.Errorf("%w: %w", k.to, err)
		}
	}
	return err
}

func (t *Through) isFresh(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	at, ok := t.checked[name]
	return ok && time.Since(at) < t.fresh
}

func (t *Through) found(name string) {
	const most = 100_000 // names; then all are asked for anew
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.checked) >= most {
		clear(t.checked)
	}
	t.checked[name] = time.Now()
}

// learn notes what a manifest needs, and for which image.
func (t *Through) learn(doc image.Document, root string, of ocispec.Descriptor) {
	const most = 100_000 // then all are forgotten: their images are found again by their manifests
	var all []ocispec.Descriptor
	switch {
	case doc.Index != nil:
		all = doc.Index.Manifests
	case doc.Manifest != nil:
		all = append([]ocispec.Descriptor{doc.Manifest.Config}, doc.Manifest.Layers...)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.needs) >= most {
		clear(t.needs)
	}
	for _, d := range all {
		t.needs[d.Digest] = need{desc: d, root: root, of: of}
	}
}

func (t *Through) needOf(d digest.Digest) (need, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, ok := t.needs[d]
	return n, ok
}

// Blob implements mirror.Upstream.
func (t *Through) Blob(ctx context.Context, ref reference.Image, d digest.Digest) (mirror.Blob, error) {
	n, known := t.needOf(d)
	if !known {
		size, err := t.opts.Registry.BlobSize(ctx, ref, d)
		if err != nil {
			return nil, upstreamError(err)
		}
		n.desc = ocispec.Descriptor{Digest: d, Size: size}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.flights[d]
	if f == nil {
		f = newFlight(t.opts.Store, n.desc)
		t.flights[d] = f
		t.work.Go(func() {
			err := t.fetch(t.ctx, ref, n, f)
			t.mu.Lock()
			delete(t.flights, d)
			t.mu.Unlock()
			if err != nil {
				err = upstreamError(err)
				t.opts.observe(event.Failed{Digest: d, Why: err.Error()})
			}
			f.end(err)
		})
	}
	return f.follow(ctx), nil
}

// fetch fetches a blob for whoever follows its flight, and keeps it with its image.
func (t *Through) fetch(ctx context.Context, ref reference.Image, n need, f *flight) (err error) {
	lease, err := t.opts.Store.Lease()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lease.Close()) }()
	p := newPull(t.opts, lease, nil)
	p.watch = f
	from := []*plan.Image{{Ref: ref}}
	t.opts.observe(event.Queued{Digest: n.desc.Digest, Size: n.desc.Size})
	err = schedule.Run(ctx, t.opts.Limits, func(q *schedule.Queue) error {
		p.queue = q
		p.learning.teach(q, t.opts.Registry)
		q.Add(schedule.Job{ID: n.desc.Digest.String(), Host: t.opts.Registry.Host(ref), Kind: schedule.Bulk, Cost: n.desc.Size, Run: func(ctx context.Context, place *schedule.Place) error {
			_, err := p.fetch(ctx, place, n.desc, from, slices.Concat(p.sources(n.desc.Digest, from), p.places(n.desc)))
			return err
		}})
		return nil
	})
	if err != nil {
		return err
	}
	const worth = 1 << 20 // bytes, from which on something was learned of the host
	if n.desc.Size >= worth {
		_ = lease.KeepHosts(func(old []byte) []byte { // what can't be kept is found out again
			return p.learning.merge(old, p.queue.Learned(), t.opts.Registry.Learned())
		})
	}
	if n.root == "" {
		return nil
	}
	return lease.Pin(blobstore.Root{Name: n.root, Target: n.of, Blobs: []digest.Digest{n.of.Digest, n.desc.Digest}})
}
