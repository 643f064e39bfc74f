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
	"drayage/engine/internal/schedule"
	"drayage/engine/internal/transfer"
	"drayage/engine/limits"
	"drayage/engine/mirror"
	"drayage/engine/reference"
	"drayage/engine/registry"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"
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

	within    time.Duration // for a whole answer of a registry
	taking    time.Duration // for all questions about what is below one manifest
	grace     time.Duration // for a flight that nobody follows
	questions *turns
	documents *turns // that are fetched
	listing   *turns
	fetches   *turns
	handling  *semaphore.Weighted // bytes of documents out of the store

	found     calls[mirror.Manifest] // by reference
	sizes     calls[int64]           // by place
	tagLists  calls[[]string]        // by repository
	referring calls[[]ocispec.Descriptor]

	mu      sync.Mutex
	flights map[flightKey]*flight
	checked *memory[string, check]
	down    map[string]time.Time // registries that can't be asked, and when that was last tried
	lists   *memory[string, list]
	needs   *memory[place, *needed]
	wrong   *memory[place, time.Time]  // what had other content than its digest says, and spoiled it for others
	spoiled *memory[string, time.Time] // repositories that had, and are no sources for others meanwhile

	complained time.Time // of a store that can't be written
}

// check is what a tag was last found to stand for, and when.
type check struct {
	target digest.Digest
	at     time.Time
}

// flightKey is what flights are told apart by: those who say that a blob has another size have
// another one in mind, or lie.
type flightKey struct {
	digest digest.Digest
	size   int64
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
	size  int64                    // by the manifests that list it; 0 when they don't agree
	roots map[string]digest.Digest // what they stand for, by their names
}

// NewThrough makes one. An image is taken as it is in the store for a time since it was
// last found to be what its tag stands for. Manifests have a client of their own, so that
// they never wait for blobs.
func NewThrough(ctx context.Context, o Options, manifests *registry.Client, fresh time.Duration) *Through {
	t := &Through{
		opts: o, manifests: manifests, fresh: fresh, within: limits.QuestionTime, taking: limits.TakingTime, grace: limits.FlightGrace,
		proofs:    newProofs(),
		questions: newTurns(limits.QuestionsAtOnce, limits.QuestionsPerRegistry),
		documents: newTurns(limits.DocumentsAtOnce, limits.DocumentsPerRegistry),
		listing:   newTurns(limits.ListsAtOnce, 1),
		fetches:   newTurns(limits.FlightsAtOnce, limits.FlightsPerRegistry),
		handling:  semaphore.NewWeighted(limits.HandlingBytes),
		flights:   make(map[flightKey]*flight),
		down:      make(map[string]time.Time),
		checked:   newMemory[string, check](limits.MemoryBytes),
		lists:     newMemory[string, list](limits.MemoryBytes),
		needs:     newMemory[place, *needed](limits.MemoryBytes),
		wrong:     newMemory[place, time.Time](limits.MemoryBytes),
		spoiled:   newMemory[string, time.Time](limits.MemoryBytes),
	}
	t.ctx, t.stop = context.WithCancel(ctx)
	return t
}

// Close ends all fetches, and waits for them. What has arrived is kept.
func (t *Through) Close() {
	t.stop()
	t.work.Wait()
}

// Manifest implements mirror.Upstream.
func (t *Through) Manifest(ctx context.Context, ref reference.Image) (mirror.Manifest, error) {
	return t.found.do(ctx, t.ctx, &t.work, ref.Name(), func(ctx context.Context) (mirror.Manifest, error) { return t.find(ctx, ref) })
}

// find finds what a reference stands for: in the store when that is known to be fresh, by
// HEAD when it may be, else by GET.
func (t *Through) find(ctx context.Context, ref reference.Image) (mirror.Manifest, error) {
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
func (t *Through) head(ctx context.Context, ref reference.Image) (digest.Digest, error) {
	return ask(ctx, t.questions, ref.Registry(), t.within, func(ctx context.Context) (digest.Digest, error) {
		return t.manifests.Head(ctx, ref, ref.Tag())
	})
}

// byDigest finds a manifest that is of an image, most often, whose tag was asked for.
func (t *Through) byDigest(ctx context.Context, ref reference.Image) (mirror.Manifest, error) {
	d := ref.Digest()
	hold := func(doc image.Document) error {
		roots := t.rootsOf(placeOf(ref, d))
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
func (t *Through) document(ctx context.Context, ref reference.Image, tagOrDigest string, answered func(error), hold func(image.Document) error) (mirror.Manifest, error) {
	return ask(ctx, t.documents, ref.Registry(), t.within, func(asking context.Context) (mirror.Manifest, error) {
		doc, err := t.manifests.Manifest(asking, ref, tagOrDigest)
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
func (t *Through) handle(ctx context.Context, d digest.Digest, hold func(image.Document) error) (mirror.Manifest, error) {
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
func (t *Through) byTag(ctx context.Context, ref reference.Image, tagOrDigest string) (mirror.Manifest, error) {
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
func (t *Through) stored(ctx context.Context, ref reference.Image, root blobstore.Root) (mirror.Manifest, error) {
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
func (t *Through) stale(ctx context.Context, ref reference.Image, root blobstore.Root, why error) (mirror.Manifest, error) {
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
func (t *Through) answered(ref reference.Image, err error) {
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
func (t *Through) isDown(ref reference.Image) bool {
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

// Tags implements mirror.Upstream.
func (t *Through) Tags(ctx context.Context, ref reference.Image) ([]string, error) {
	key := ref.Registry() + "/" + ref.Repository()
	t.mu.Lock()
	known, ok := t.lists.get(key)
	t.mu.Unlock()
	if ok && time.Since(known.at) < t.fresh {
		return known.tags, nil
	}
	tags, err := t.tagLists.do(ctx, t.ctx, &t.work, key, func(ctx context.Context) ([]string, error) {
		return ask(ctx, t.listing, ref.Registry(), t.within, func(ctx context.Context) ([]string, error) { return t.manifests.Tags(ctx, ref) })
	})
	if err != nil {
		return nil, upstreamError(err)
	}
	const each = 32 // bytes that a string takes beside its text, or somewhat more
	bytes := int64(len(key) + each)
	for _, tag := range tags {
		bytes += int64(len(tag) + each)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lists.put(key, list{tags, time.Now()}, bytes)
	return tags, nil
}

// Referrers implements mirror.Upstream.
func (t *Through) Referrers(ctx context.Context, ref reference.Image, subject digest.Digest) ([]ocispec.Descriptor, error) {
	key := ref.Registry() + "/" + ref.Repository() + "@" + subject.String()
	out, err := t.referring.do(ctx, t.ctx, &t.work, key, func(ctx context.Context) ([]ocispec.Descriptor, error) {
		return ask(ctx, t.listing, ref.Registry(), t.within, func(ctx context.Context) ([]ocispec.Descriptor, error) {
			return t.manifests.Referrers(ctx, ref, subject)
		})
	})
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
	if err := t.add(ctx, lease, ref, doc); err != nil {
		return err
	}
	g := gathering{lease: lease, ref: ref, roots: roots, taking: taking{most: t.taking}, seen: map[digest.Digest]int64{doc.Descriptor.Digest: doc.Descriptor.Size}}
	if err := t.gather(ctx, &g, doc); err != nil {
		return err
	}
	return hold(lease, append([]digest.Digest{doc.Descriptor.Digest}, g.here...))
}

func (t *Through) extend(lease *blobstore.Lease, roots map[string]digest.Digest, blobs ...digest.Digest) error {
	for name, target := range roots {
		if err := lease.Extend(name, target, blobs...); err != nil {
			return err
		}
	}
	return nil
}

// add adds a manifest to the store, within its budget.
func (t *Through) add(ctx context.Context, lease *blobstore.Lease, ref reference.Image, doc image.Document) error {
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
func (t *Through) gather(ctx context.Context, g *gathering, doc image.Document) error {
	const mostRead = 16 << 20 // bytes of manifests in an index
	for _, d := range below(doc) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if size, ok := g.seen[d.Digest]; ok {
			if size != d.Size {
				t.doubt(placeOf(g.ref, d.Digest))
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
func (t *Through) knows(ref reference.Image, doc image.Document) bool {
	all := below(doc)
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(all) == 0 {
		return false
	}
	_, ok := t.needs.get(placeOf(ref, all[0].Digest))
	return ok
}

// learn notes that images need a manifest or blob.
func (t *Through) learn(ref reference.Image, d ocispec.Descriptor, roots map[string]digest.Digest) {
	const (
		entry = 200  // bytes, or about that
		most  = 1000 // images that need the same; others find out by their manifests
	)
	at := placeOf(ref, d.Digest)
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
func (t *Through) doubt(at place) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n, ok := t.needs.get(at); ok {
		n.size = 0
	}
}

// rootsOf are the images that need something, by what is known now.
func (t *Through) rootsOf(at place) map[string]digest.Digest {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n, ok := t.needs.get(at); ok {
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
		t.opts.observe(event.Warned{Message: fmt.Sprintf("%s: writing to the store failed: %v", ref, err)})
	}
	return upstreamError(err)
}

// isFresh reports whether an image's tag was found a short while ago to stand for what it stands
// for here. What else has given it its meaning meanwhile, such as an archive, doesn't count.
func (t *Through) isFresh(root blobstore.Root) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := t.checked.get(root.Name)
	return ok && c.target == root.Target.Digest && time.Since(c.at) < t.fresh
}

// check notes what a tag was found to stand for.
func (t *Through) check(name string, target digest.Digest) {
	const entry = 200 // bytes, or about that
	t.mu.Lock()
	defer t.mu.Unlock()
	t.checked.put(name, check{target, time.Now()}, int64(len(name)+len(target)+entry))
}

// Size implements mirror.Upstream.
func (t *Through) Size(ctx context.Context, ref reference.Image, d digest.Digest) (int64, error) {
	if size := t.listedSize(placeOf(ref, d)); size > 0 {
		return size, nil
	}
	return t.askSize(ctx, ref, d)
}

// listedSize is the size of a blob by the manifests that list it, or by a flight for the same
// repository, which may hold the connection that would be asked over; 0 when it isn't known.
func (t *Through) listedSize(at place) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n, ok := t.needs.get(at); ok && n.size > 0 {
		return n.size
	}
	for key, f := range t.flights {
		if key.digest == at.digest && f.of(at.repository) != nil {
			return key.size
		}
	}
	return 0
}

// askSize asks a repository for the size of a blob, and so whether it has it.
func (t *Through) askSize(ctx context.Context, ref reference.Image, d digest.Digest) (int64, error) {
	at := placeOf(ref, d)
	size, err := t.sizes.do(ctx, t.ctx, &t.work, at.repository+"@"+d.String(), func(ctx context.Context) (int64, error) {
		return ask(ctx, t.questions, ref.Registry(), t.within, func(ctx context.Context) (int64, error) { return t.manifests.BlobSize(ctx, ref, d) })
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
func (t *Through) Blob(ctx context.Context, ref reference.Image, d digest.Digest) (mirror.Blob, error) {
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
		var over *blobstore.BudgetError
		quota := errors.As(err, &over)
		again := try < tries && ctx.Err() == nil && (r.flight.several() && (quota || !errors.Is(err, mirror.ErrLocal)) || quota && over.Stalled)
		if err = errors.Join(err, r.Close()); !again {
			return nil, err
		}
	}
}

// ready waits until the first byte of a blob may be read. Where all has come from elsewhere, its
// own repository is asked whether it has it.
func (t *Through) ready(ctx context.Context, r *follower) error {
	err := r.ready()
	if !errors.Is(err, errUnknown) {
		return err
	}
	d := r.flight.desc
	size, err := t.askSize(ctx, r.origin.ref, d.Digest)
	if err != nil {
		return err
	}
	if size != d.Size {
		return &sizesError{d.Digest, d.Size, size}
	}
	r.flight.prove(r.origin)
	if err := t.adopt(r.flight, nil); err != nil {
		return t.kept(r.origin.ref, err)
	}
	return r.ready()
}

// adopt adds a flight's blob, which is in the store, to the images that need it of the repositories
// that are known to have it. A lease, if not nil, holds it there.
func (t *Through) adopt(f *flight, lease *blobstore.Lease) (err error) {
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

// sizesError says that a repository has another size for a blob than a manifest of it says.
type sizesError struct {
	digest       digest.Digest
	listed, told int64
}

func (e *sizesError) Error() string {
	return fmt.Sprintf("upstream reports %d bytes for %s, but its descriptor has size %d", e.told, e.digest, e.listed)
}

// follow follows the flight of a blob, which begins if there is none. One that is under way for
// another repository is joined: when this one is known to have the blob, it is a source of it, too.
func (t *Through) follow(ctx context.Context, ref reference.Image, d digest.Digest) (*follower, error) {
	const long = time.Minute
	at := placeOf(ref, d)
	size := t.listedSize(at)
	known := size <= 0
	if known {
		var err error
		if size, err = t.askSize(ctx, ref, d); err != nil {
			return nil, err
		}
	}
	key := flightKey{d, size}
	t.mu.Lock()
	defer t.mu.Unlock()
	if when, ok := t.wrong.get(at); ok && time.Since(when) < long {
		return nil, fmt.Errorf("%s served content that does not match digest %s; it is asked again after a minute", at.repository, d)
	}
	if f := t.flights[key]; f != nil && f.of(at.repository) == nil && !known {
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
	f := t.flights[key]                 // it may be another one now
	if f == nil || f.ctx.Err() != nil { // it is ending
		f = newFlight(t.ctx, t.opts.Store, ocispec.Descriptor{Digest: d, Size: size})
		f.idle = func() { t.idle(key, f) }
		for other := range t.flights {
			f.apart = f.apart || other.digest == d
		}
		t.flights[key] = f
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

// takeTurn has a flight begin when it is a registry's turn, if it hasn't yet by another one's.
func (t *Through) takeTurn(f *flight, registry string) {
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

// errAbandoned ends a flight that nobody follows any more.
var errAbandoned = errors.New("canceled: no client is waiting")

// idle ends a flight after a while if nobody follows it until then. What has come is kept, and
// whoever asks later goes on with it.
func (t *Through) idle(key flightKey, f *flight) {
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
		if t.flights[key] == f {
			delete(t.flights, key)
		}
		f.cancel(errAbandoned)
	})
}

// sources are where an origin's blob can be had.
func (t *Through) sources(f *flight, o *origin) (out []transfer.Source) {
	for _, b := range t.opts.Registry.Blobs(o.ref, f.desc.Digest) {
		out = append(out, proving{b, f, o})
	}
	return out
}

// fly fetches a flight's blob, and tells those who follow how that ended.
func (t *Through) fly(key flightKey, f *flight, o *origin) {
	err := t.fetch(f.ctx, f, o)
	if err != nil && f.ctx.Err() != nil && !isLocal(err) {
		err = context.Cause(f.ctx)
	}
	f.cancel(nil)
	if err != nil && isLocal(err) && !f.isKnown(o) {
		// It may be that it has no room because a manifest says that it is large.
		if told, errAsk := t.askSize(t.ctx, o.ref, key.digest); errAsk == nil && told != key.size {
			t.doubt(placeOf(o.ref, key.digest))
			err = &sizesError{key.digest, key.size, told}
		}
	}
	var mismatch *transfer.MismatchError
	t.mu.Lock()
	if t.flights[key] == f {
		delete(t.flights, key)
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
		t.doubt(placeOf(o.ref, key.digest))
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

// fetch fetches a blob for whoever follows its flight, and keeps it with the images that
// need it. Places that a manifest names besides its registry aren't asked: whoever can push a manifest could
// have this machine ask anything, and read the answer.
func (t *Through) fetch(ctx context.Context, f *flight, o *origin) (err error) {
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
	fetcher := newFetcher(t.opts, lease)
	t.opts.observe(event.Queued{Digest: d.Digest, Size: d.Size})
	err = fetcher.run(ctx, func(q *schedule.Queue) {
		q.Add(schedule.Job{ID: d.Digest.String(), Host: t.opts.Registry.Host(o.ref), Kind: schedule.Bulk, Cost: d.Size, Run: func(ctx context.Context, place *schedule.Place) error {
			_, err := fetcher.fetch(ctx, place, request{Descriptor: d, image: o.ref, sources: t.sources(f, o), apart: f.apart, watch: f})
			return err
		}})
	})
	if err != nil {
		return err
	}
	const worth = 1 << 20 // bytes, from which on something was learned of the host
	if d.Size >= worth {
		fetcher.remember()
	}
	if err := t.judge(f); err != nil {
		return err
	}
	return t.adopt(f, lease)
}

// judge excludes the guests of a flight that are known now to have given wrong content.
func (t *Through) judge(f *flight) error {
	if !f.hasThrown() {
		return nil
	}
	blob, err := t.opts.Store.Open(f.desc.Digest)
	if err != nil {
		return err
	}
	wrong := f.judge(blob)
	if err := blob.Close(); err != nil {
		return err
	}
	for _, o := range wrong {
		t.exclude(o)
	}
	return nil
}

// exclude keeps a repository that has given wrong content out of what is fetched for others, now
// and for a while: of its blobs and of all others that it says it has.
func (t *Through) exclude(o *origin) {
	t.mu.Lock()
	defer t.mu.Unlock()
	const entry = 200 // bytes, or about that
	now := time.Now()
	size := int64(len(o.at.repository) + len(o.at.digest) + entry)
	t.wrong.put(o.at, now, size)
	t.spoiled.put(o.at.repository, now, size)
	for _, f := range t.flights {
		if other := f.of(o.at.repository); other != nil && other.guest {
			other.excluded.Store(true)
		}
	}
}

// isExcluded reports whether a repository has given wrong content a while ago. The caller holds t.mu.
func (t *Through) isExcluded(repository string) bool {
	const long = 10 * time.Minute
	at, ok := t.spoiled.get(repository)
	return ok && time.Since(at) < long
}
