// Package pullthrough brings what a mirror is asked for and its store doesn't have from the
// registries that have it, and keeps it in the store with the images that need it.
//
// A Cache is a mirror.Upstream. What several clients ask for at once is asked for once:
//
//   - Manifests (manifests.go) and lists (lists.go) are queries: bounded in number, in all and per
//     registry, and in time; cancelled with the last client that waits for the answer (asking.go).
//   - Blobs (blobs.go) are in-flight fetches (inflight.go): each is one transfer into the store, and
//     clients read what of it is written and hashed. The last byte is held back until the whole
//     matches its digest. A repository that is asked for a blob that is being fetched from another
//     one may join as a source (guests.go).
//   - What came is added to the images that list it (images.go).
//
// What one repository says of a digest counts for that repository alone. Whether it has something
// that the store has for others, its registry is asked (holds.go), and the answer is remembered.
//
// The package decides what is fetched, and when. How, is up to a Fetcher.
package pullthrough

import (
	"context"
	"sync"
	"time"

	"drayage/blobstore"
	"drayage/blobstore/quota"
	"drayage/engine/cpulimit"
	"drayage/engine/event"
	"drayage/engine/internal/limits"
	"drayage/engine/internal/transfer"
	"drayage/engine/mirror"
	"drayage/engine/reference"
	"drayage/engine/registry"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"
)

// Fetcher downloads blobs. Its methods may be called from several goroutines.
type Fetcher interface {
	// Sources are where a blob of a repository can be had, the best first.
	Sources(ref reference.Image, d digest.Digest) []transfer.Source
	// Fetch brings a blob into the store, where the lease holds it. It returns when the blob is
	// committed, or was there; with an error when it could not be had, or ctx is done.
	Fetch(ctx context.Context, lease *blobstore.Lease, r Request) error
	// Wait waits for all goroutines, when every Fetch has returned.
	Wait()
}

// Request is a blob to fetch.
type Request struct {
	ocispec.Descriptor
	Image   reference.Image // the one that it was first asked for of
	Sources []transfer.Source
	Apart   bool    // don't wait for another fetch of the same digest, which is of another size
	Watcher Watcher // told of what arrives
}

// Watcher follows the fetch of one blob. When the blob was in the store already, none of its
// methods is called. They are called in order, but Progress from several goroutines.
type Watcher interface {
	Begun(in *blobstore.Ingest) error  // what is written can be read from now on
	Transferring(t *transfer.Transfer) // sources can join from now on
	Progress(n int64)                  // n more bytes have arrived
	Prefix(n int64)                    // the first n bytes are written and hashed; 0 if all was discarded
	Verified()                         // the whole matches its digest
}

// Options say what a Cache works with. Store, Manifests and Fetcher must be set.
type Options struct {
	Store *blobstore.Store
	// Manifests asks registries for everything but blobs. It is a client of its own, so that no
	// query waits for a blob.
	Manifests *registry.Client
	Fetcher   Fetcher
	// Fresh is how long an image is served from the store without a query, after its tag was found
	// to stand for it.
	Fresh    time.Duration
	Budget   *quota.Quota    // the store is kept below it; nil: no limit
	Work     *cpulimit.Limit // bounds how many documents are decoded at once; nil: no limit
	Observer event.Observer  // nil: nobody
}

func (o Options) observe(e event.Event) {
	if o.Observer != nil {
		o.Observer.Observe(e)
	}
}

// Cache brings what a mirror is asked for and its store doesn't have: every manifest
// and blob once, for however many ask for it. What came stays in the store, with the
// images that need it. It is a mirror.Upstream. Close it when done.
type Cache struct {
	// Withheld, if not nil, reports whether what the store has of a digest is for others than those
	// who may see a repository. It is set before the first call.
	Withheld func(ref reference.Image, d digest.Digest) bool
	proofs   proofs

	opts Options
	ctx  context.Context // of all fetches
	stop context.CancelFunc
	work sync.WaitGroup

	within    time.Duration // for a whole answer of a registry
	taking    time.Duration // for all questions about what is below one manifest
	grace     time.Duration // for an in-flight fetch that nobody follows
	questions *turns
	documents *turns // that are fetched
	listing   *turns
	fetches   *turns
	handling  *semaphore.Weighted // bytes of documents out of the store

	found     calls[mirror.Manifest] // by reference
	sizes     calls[int64]           // by repository and digest
	tagLists  calls[[]string]        // by repository
	referring calls[[]ocispec.Descriptor]

	mu       sync.Mutex
	inFlight map[fetchKey]*inFlight
	checked  *memory[string, check]
	down     map[string]time.Time // registries that can't be asked, and when that was last tried
	lists    *memory[string, list]
	needs    *memory[repoDigest, *needed]
	wrong    *memory[repoDigest, time.Time] // what had other content than its digest says, and spoiled it for others
	spoiled  *memory[string, time.Time]     // repositories that had, and are no sources for others meanwhile

	complained time.Time // of a store that can't be written
}

// check is what a tag was last found to stand for, and when.
type check struct {
	target digest.Digest
	at     time.Time
}

// fetchKey is what fetches are told apart by: those who say that a blob has another size have
// another one in mind, or lie.
type fetchKey struct {
	digest digest.Digest
	size   int64
}

// list are the tags of a repository, and when they were.
type list struct {
	tags []string
	at   time.Time
}

// repoDigest is a manifest or blob of a repository. What one repository says of a digest
// is nothing to others.
type repoDigest struct {
	repository string // with its registry
	digest     digest.Digest
}

func repoDigestOf(ref reference.Image, d digest.Digest) repoDigest {
	return repoDigest{ref.Registry() + "/" + ref.Repository(), d}
}

// New returns a Cache that works until it is closed, or ctx is done.
func New(ctx context.Context, o Options) *Cache {
	t := &Cache{
		opts: o, within: limits.QuestionTime, taking: limits.TakingTime, grace: limits.FetchGrace,
		proofs:    newProofs(),
		questions: newTurns(limits.QuestionsAtOnce, limits.QuestionsPerRegistry),
		documents: newTurns(limits.DocumentsAtOnce, limits.DocumentsPerRegistry),
		listing:   newTurns(limits.ListsAtOnce, 1),
		fetches:   newTurns(limits.FetchesAtOnce, limits.FetchesPerRegistry),
		handling:  semaphore.NewWeighted(limits.HandlingBytes),
		inFlight:  make(map[fetchKey]*inFlight),
		down:      make(map[string]time.Time),
		checked:   newMemory[string, check](limits.MemoryBytes),
		lists:     newMemory[string, list](limits.MemoryBytes),
		needs:     newMemory[repoDigest, *needed](limits.MemoryBytes),
		wrong:     newMemory[repoDigest, time.Time](limits.MemoryBytes),
		spoiled:   newMemory[string, time.Time](limits.MemoryBytes),
	}
	t.ctx, t.stop = context.WithCancel(ctx)
	return t
}

// Close ends all fetches, and waits for them. What has arrived is kept.
func (t *Cache) Close() {
	t.stop()
	t.work.Wait()
	t.opts.Fetcher.Wait()
}
