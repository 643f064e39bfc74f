package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"sync"
	"syscall"
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
// images that need it. It is a mirror.Upstream. Close it when done.
type Through struct {
	// Withheld, if not nil, reports whether what the store has of a digest is for others than those
	// who may see a repository. It is set before the first call.
	Withheld func(ref reference.Image, d digest.Digest) bool
	proofs   proofs

	opts      Options
	manifests *registry.Client
	fresh     time.Duration
	ctx       context.Context // of all fetches
	stop      context.CancelFunc
	work      sync.WaitGroup

	mu      sync.Mutex
	flights map[place]*flight
	asked   map[string]*question // references that are being asked for
	checked map[string]time.Time // when a tag was last found to be fresh
	down    map[string]time.Time // registries that can't be asked, and when that was last tried
	lists   map[string]list      // of tags, by repository
	needs   map[place]*needed

	complained time.Time // of a store that can't be written
}

// list are the tags of a repository, and when they were.
type list struct {
	tags []string
	at   time.Time
}

// place is a manifest or blob of a repository. What one repository says of a digest
// is nothing to others.
type place struct {
	repository string // with its registry
	digest     digest.Digest
}

func placeOf(ref reference.Image, d digest.Digest) place {
	return place{ref.Registry() + "/" + ref.Repository(), d}
}

// needed is what a manifest or blob is, and which images need it.
type needed struct {
	desc  ocispec.Descriptor
	roots map[string]digest.Digest // what they stand for, by their names
}

// NewThrough makes one. An image is taken as it is in the store for a time since it was
// last found to be what its tag stands for. Manifests have a client of their own, so that
// they never wait for blobs.
func NewThrough(ctx context.Context, o Options, manifests *registry.Client, fresh time.Duration) *Through {
	t := &Through{opts: o, manifests: manifests, fresh: fresh, flights: make(map[place]*flight), asked: make(map[string]*question),
		checked: make(map[string]time.Time), lists: make(map[string]list), down: make(map[string]time.Time), needs: make(map[place]*needed)}
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
		return t.byDigest(ctx, ref)
	}
	root, err := t.opts.Store.Root(ref.Tagged())
	have := err == nil
	if have && t.isFresh(root.Name) {
		if m, err := t.stored(ctx, ref, root); err == nil {
			return m, nil
		}
	}
	if have && t.isDown(ref) {
		return t.stale(ctx, ref, root, errDown)
	}
	want := ref.Tag()
	if have {
		d, err := t.manifests.Head(ctx, ref, ref.Tag())
		if err != nil || d != "" { // else it may have got no answer: GET tells
			t.answered(ref, err)
		}
		switch {
		case err == nil && d == root.Target.Digest:
			if m, err := t.stored(ctx, ref, root); err == nil {
				t.found(root.Name)
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
var errDown = errors.New("it could not be asked a moment ago")

// byDigest finds a manifest that is of an image, most often, whose tag was asked for.
func (t *Through) byDigest(ctx context.Context, ref reference.Image) (mirror.Manifest, error) {
	d := ref.Digest()
	raw, err := t.opts.Store.Read(d, image.MaxSize)
	here := err == nil
	var doc image.Document
	if here {
		doc, err = image.DecodeVerified(raw, d)
	} else if errors.Is(err, blobstore.ErrNotFound) {
		doc, err = t.manifests.Manifest(ctx, ref, d.String())
	}
	if err != nil {
		return mirror.Manifest{}, upstreamError(err)
	}
	roots := t.rootsOf(placeOf(ref, d))
	if len(roots) == 0 { // asked for by its digest alone: it is an image of that name
		return sent(doc, here), t.kept(ref, t.settle(ctx, ref, doc))
	}
	return sent(doc, here), t.kept(ref, t.keep(ctx, ref, doc, roots))
}

// byTag fetches what a tag stands for, and makes an image of it.
func (t *Through) byTag(ctx context.Context, ref reference.Image, tagOrDigest string) (mirror.Manifest, error) {
	doc, err := t.manifests.Manifest(ctx, ref, tagOrDigest)
	t.answered(ref, err)
	if err != nil {
		return mirror.Manifest{}, upstreamError(err)
	}
	if err := t.kept(ref, t.settle(ctx, ref, doc)); err != nil {
		return mirror.Manifest{}, err
	}
	t.found(ref.Tagged())
	return sent(doc, false), nil
}

// stored is what a root stands for, out of the store.
func (t *Through) stored(ctx context.Context, ref reference.Image, root blobstore.Root) (mirror.Manifest, error) {
	raw, err := t.opts.Store.Read(root.Target.Digest, image.MaxSize)
	if err != nil {
		return mirror.Manifest{}, err
	}
	doc, err := image.DecodeVerified(raw, root.Target.Digest)
	if err != nil {
		return mirror.Manifest{}, err
	}
	if !t.isFresh(root.Name) || !t.knows(ref, doc) { // else nothing can be new
		if err := t.settle(ctx, ref, doc); err != nil {
			return mirror.Manifest{}, err
		}
	}
	_ = t.opts.Store.Use(root.Name) // what can't be noted is used all the same
	return sent(doc, true), nil
}

// stale is what a root stood for, when upstream can't be asked.
func (t *Through) stale(ctx context.Context, ref reference.Image, root blobstore.Root, why error) (mirror.Manifest, error) {
	m, err := t.stored(ctx, ref, root)
	if err != nil {
		return m, upstreamError(why)
	}
	if !errors.Is(why, errDown) {
		t.opts.observe(event.Warned{Message: fmt.Sprintf("%s: upstream can't be asked, and what it was earlier is served: %v", ref, why)})
	}
	m.Stale = true
	return m, nil
}

// answered notes whether a registry can be asked, by the error of a request.
func (t *Through) answered(ref reference.Image, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err == nil || !errors.Is(err, registry.ErrUnavailable) && !errors.Is(err, registry.ErrQuota):
		delete(t.down, ref.Registry()) // what it answers may be wrong for this image alone
	case t.ctx.Err() == nil:
		t.down[ref.Registry()] = time.Now()
	}
}

// isDown reports whether a registry couldn't be asked the last time. Whether it can be again is
// found out beside the answers, so that nobody but the first waits for one that hangs.
func (t *Through) isDown(ref reference.Image) bool {
	const often = 15 * time.Second
	t.mu.Lock()
	defer t.mu.Unlock()
	at, down := t.down[ref.Registry()]
	if down && time.Since(at) >= often && t.ctx.Err() == nil {
		t.down[ref.Registry()] = time.Now()
		t.work.Go(func() {
			d, err := t.manifests.Head(t.ctx, ref, ref.Tag())
			if err == nil && d == "" { // HEAD tells nothing, perhaps for want of an answer
				_, err = t.manifests.Manifest(t.ctx, ref, ref.Tag())
			}
			t.answered(ref, err)
		})
	}
	return down
}

// Tags implements mirror.Upstream.
func (t *Through) Tags(ctx context.Context, ref reference.Image) ([]string, error) {
	const most = 1000 // lists
	key := ref.Registry() + "/" + ref.Repository()
	t.mu.Lock()
	known, ok := t.lists[key]
	t.mu.Unlock()
	if ok && time.Since(known.at) < t.fresh {
		return known.tags, nil
	}
	tags, err := t.manifests.Tags(ctx, ref)
	if err != nil {
		return nil, upstreamError(err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lists) >= most {
		clear(t.lists)
	}
	t.lists[key] = list{tags, time.Now()}
	return tags, nil
}

// Referrers implements mirror.Upstream.
func (t *Through) Referrers(ctx context.Context, ref reference.Image, subject digest.Digest) ([]ocispec.Descriptor, error) {
	out, err := t.manifests.Referrers(ctx, ref, subject)
	return out, upstreamError(err)
}

func sent(doc image.Document, here bool) mirror.Manifest {
	return mirror.Manifest{Digest: doc.Descriptor.Digest, MediaType: doc.Descriptor.MediaType, Raw: doc.Raw, Here: here}
}

// settle makes an image of what a tag stands for now, with all of it that the store has.
func (t *Through) settle(ctx context.Context, ref reference.Image, doc image.Document) error {
	name := ref.Tagged()
	if name == "" {
		name = ref.Name()
	}
	return t.put(ctx, ref, doc, map[string]digest.Digest{name: doc.Descriptor.Digest}, func(lease *blobstore.Lease, here []digest.Digest) error {
		return lease.Pin(blobstore.Root{Name: name, Target: doc.Descriptor, Blobs: here, From: blobstore.Origin{Kind: blobstore.FromRegistry, Where: ref.Registry()}})
	})
}

// keep keeps a manifest with the images that need it.
func (t *Through) keep(ctx context.Context, ref reference.Image, doc image.Document, roots map[string]digest.Digest) error {
	return t.put(ctx, ref, doc, roots, func(lease *blobstore.Lease, here []digest.Digest) error {
		return t.extend(lease, roots, here...)
	})
}

// put adds a manifest to the store, and then does what holds it there, with all of it
// that is here.
func (t *Through) put(ctx context.Context, ref reference.Image, doc image.Document, roots map[string]digest.Digest, hold func(*blobstore.Lease, []digest.Digest) error) (err error) {
	lease, err := t.opts.Store.Lease()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lease.Close()) }()
	if err := lease.Put(ctx, doc.Descriptor, doc.Raw); err != nil {
		return err
	}
	here, err := t.gather(lease, ref, doc, roots)
	if err != nil {
		return err
	}
	return hold(lease, append([]digest.Digest{doc.Descriptor.Digest}, here...))
}

func (t *Through) extend(lease *blobstore.Lease, roots map[string]digest.Digest, blobs ...digest.Digest) error {
	for name, target := range roots {
		if err := lease.Extend(name, target, blobs...); err != nil {
			return err
		}
	}
	return nil
}

// gather notes what a manifest, and those below it that are here, need, and for which
// images, and returns which of it is here.
func (t *Through) gather(lease *blobstore.Lease, ref reference.Image, doc image.Document, roots map[string]digest.Digest) (here []digest.Digest, err error) {
	for _, d := range below(doc) {
		t.learn(ref, d, roots)
		has, err := lease.Keep(d)
		var size *blobstore.SizeError
		if errors.As(err, &size) { // the manifest lies: clients find out
			continue
		}
		if err != nil {
			return nil, err
		}
		if !has || !t.takes(ref, d.Digest, doc.Index != nil) {
			continue
		}
		here = append(here, d.Digest)
		if doc.Index == nil {
			continue
		}
		raw, err := t.opts.Store.Read(d.Digest, image.MaxSize)
		if err != nil {
			continue
		}
		child, err := image.DecodeVerified(raw, d.Digest)
		if err != nil || child.Index != nil { // an index in an index is looked at when it is asked for
			continue
		}
		more, err := t.gather(lease, ref, child, roots)
		if err != nil {
			return nil, err
		}
		here = append(here, more...)
	}
	return here, nil
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
func (t *Through) knows(ref reference.Image, doc image.Document) bool {
	all := below(doc)
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(all) > 0 && t.needs[placeOf(ref, all[0].Digest)] != nil
}

// learn notes that images need a manifest or blob.
func (t *Through) learn(ref reference.Image, d ocispec.Descriptor, roots map[string]digest.Digest) {
	const most = 100_000 // then all are forgotten, and found out again by their manifests
	at := placeOf(ref, d.Digest)
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.needs[at]
	if n == nil {
		if len(t.needs) >= most {
			clear(t.needs)
		}
		n = &needed{desc: d, roots: make(map[string]digest.Digest)}
		t.needs[at] = n
	}
	maps.Copy(n.roots, roots)
}

// rootsOf are the images that need something, by what is known now.
func (t *Through) rootsOf(at place) map[string]digest.Digest {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.needs[at]; n != nil {
		return maps.Clone(n.roots)
	}
	return nil
}

// upstreamError is an error as a mirror tells its clients of it.
func upstreamError(err error) error {
	if err == nil {
		return nil
	}
	if isLocal(err) {
		return fmt.Errorf("%w: %w", mirror.ErrLocal, err)
	}
	for _, k := range []struct{ from, to error }{
		{registry.ErrNotFound, mirror.ErrUnknown}, {registry.ErrDenied, mirror.ErrDenied}, {registry.ErrQuota, mirror.ErrBusy},
	} {
		if errors.Is(err, k.from) {
			return fmt.Errorf("%w: %w", k.to, err)
		}
	}
	return err
}

// isLocal reports whether it is the store that fails, and not upstream.
func isLocal(err error) bool {
	var path *fs.PathError
	var link *os.LinkError
	return errors.As(err, &path) || errors.As(err, &link) || errors.Is(err, syscall.ENOSPC)
}

// kept is what became of keeping what upstream gave, in a mirror's terms. A store that can't be
// written is told now and then: it fails each request.
func (t *Through) kept(ref reference.Image, err error) error {
	const often = time.Minute
	if err == nil || !isLocal(err) || t.ctx.Err() != nil {
		return upstreamError(err)
	}
	t.mu.Lock()
	due := time.Since(t.complained) >= often
	if due {
		t.complained = time.Now()
	}
	t.mu.Unlock()
	if due {
		t.opts.observe(event.Warned{Message: fmt.Sprintf("%s: what upstream gives can't be kept: %v", ref, err)})
	}
	return upstreamError(err)
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

// Size implements mirror.Upstream.
func (t *Through) Size(ctx context.Context, ref reference.Image, d digest.Digest) (int64, error) {
	t.mu.Lock()
	n, f := t.needs[placeOf(ref, d)], t.flights[placeOf(ref, d)]
	t.mu.Unlock()
	switch {
	case n != nil && n.desc.Size > 0:
		return n.desc.Size, nil
	case f != nil: // it holds the connection that would be asked over
		return f.desc.Size, nil
	}
	size, err := t.opts.Registry.BlobSize(ctx, ref, d)
	if err != nil {
		return 0, upstreamError(err)
	}
	if size == 0 && d.Algorithm().FromBytes(nil) != d {
		return 0, errors.New("upstream says that a blob is empty that isn't")
	}
	return size, nil
}

// Blob implements mirror.Upstream.
func (t *Through) Blob(ctx context.Context, ref reference.Image, d digest.Digest) (mirror.Blob, error) {
	size, err := t.Size(ctx, ref, d)
	if err != nil {
		return nil, err
	}
	at := placeOf(ref, d)
	t.mu.Lock()
	f := t.flights[at]
	if f == nil {
		f = newFlight(t.opts.Store, ocispec.Descriptor{Digest: d, Size: size})
		t.flights[at] = f
		t.work.Go(func() {
			err := t.fetch(t.ctx, ref, f)
			t.mu.Lock()
			delete(t.flights, at)
			t.mu.Unlock()
			if err != nil {
				err = t.kept(ref, err)
				t.opts.observe(event.Failed{Digest: d, Why: err.Error()})
			}
			f.end(err)
		})
	}
	r := f.follow(ctx)
	t.mu.Unlock()
	if err := r.ready(); err != nil { // so that the client is told, and not cut off
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// fetch fetches a blob for whoever follows its flight, and keeps it with the images that
// need it. Places that a manifest names besides its registry aren't asked: whoever can push a manifest could
// have this machine ask anything, and read the answer.
func (t *Through) fetch(ctx context.Context, ref reference.Image, f *flight) (err error) {
	lease, err := t.opts.Store.Lease()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lease.Close()) }()
	p := newPull(t.opts, lease, nil)
	p.watch = f
	d := f.desc
	from := []*plan.Image{{Ref: ref}}
	t.opts.observe(event.Queued{Digest: d.Digest, Size: d.Size})
	err = schedule.Run(ctx, t.opts.Limits, func(q *schedule.Queue) error {
		p.queue = q
		p.learning.teach(q, t.opts.Registry)
		q.Add(schedule.Job{ID: d.Digest.String(), Host: t.opts.Registry.Host(ref), Kind: schedule.Bulk, Cost: d.Size, Run: func(ctx context.Context, place *schedule.Place) error {
			_, err := p.fetch(ctx, place, d, from, p.sources(d.Digest, from))
			return err
		}})
		return nil
	})
	if err != nil {
		return err
	}
	const worth = 1 << 20 // bytes, from which on something was learned of the host
	if d.Size >= worth {
		_ = lease.KeepHosts(func(old []byte) []byte { // what can't be kept is found out again
			return p.learning.merge(old, p.queue.Learned(), t.opts.Registry.Learned())
		})
	}
	return t.extend(lease, t.rootsOf(placeOf(ref, d.Digest)), d.Digest)
}
