package engine

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"drayage/blobstore"
	"drayage/engine/event"
	"drayage/engine/fault"
	"drayage/engine/internal/pullthrough"
	"drayage/engine/internal/retry"
	"drayage/engine/internal/schedule"
	"drayage/engine/internal/transfer"
	"drayage/engine/reference"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// fetcher brings blobs into a store: it connects their sources, a transfer, an ingest of the store,
// the queue that bounds connections, and the events. Each pull has one, and each PullThrough has one
// for all its clients. Its methods may be called from several goroutines.
type fetcher struct {
	opts     Options
	queue    *schedule.Queue
	learning *learning
	active   atomic.Int32  // transfers under way
	commits  chan struct{} // holds a value per commit under way
	waits    chan struct{} // and per blob that waits for another process
}

const (
	// commitsAtOnce bounds the syncs that go on while their connections are at
	// the next blobs: enough for a disk to do many small ones in one go.
	commitsAtOnce = 32
	// waitsAtOnce bounds how many blobs that other processes are fetching are
	// waited for beside the work on others.
	waitsAtOnce = 64
)

func newFetcher(o Options) *fetcher {
	return &fetcher{
		opts: o, learning: newLearning(o.Store.Hosts()),
		commits: make(chan struct{}, commitsAtOnce), waits: make(chan struct{}, waitsAtOnce),
	}
}

// run runs the jobs that start adds to the fetcher's queue, and those that they add.
func (f *fetcher) run(ctx context.Context, start func(q *schedule.Queue)) error {
	return schedule.Run(ctx, f.opts.Limits, func(q *schedule.Queue) error {
		f.use(q)
		start(q)
		return nil
	})
}

// use has the fetcher run its jobs in a queue, which learns what earlier runs have found out.
func (f *fetcher) use(q *schedule.Queue) {
	f.queue = q
	f.learning.teach(q, f.opts.Registry)
}

// remember keeps in the store what was learned of hosts. What can't be kept is found out again.
func (f *fetcher) remember(lease *blobstore.Lease) {
	_ = lease.KeepHosts(func(old []byte) []byte {
		return f.learning.merge(old, f.queue.Learned(), f.opts.Registry.Learned())
	})
}

// request is a blob to fetch.
type request struct {
	ocispec.Descriptor
	lease   *blobstore.Lease // holds it in the store
	image   reference.Image  // that needs it
	sources []transfer.Source
	apart   bool                // don't wait for a fetch of the same digest with another size
	watch   pullthrough.Watcher // nil: nobody
}

// fetch brings a blob into the store, from any of its sources, and returns how
// many of its bytes came over the network now: none when another process was
// at it, fewer than all when an earlier run had begun.
func (f *fetcher) fetch(ctx context.Context, slot *schedule.Slot, r request) (int64, error) {
	desc := r.Descriptor
	in, err := f.ingest(ctx, slot, r)
	if errors.Is(err, blobstore.ErrExists) {
		f.opts.observe(event.Fetched{Digest: desc.Digest, Size: desc.Size, Reused: true})
		return 0, nil
	}
	if err != nil {
		return 0, local(err)
	}
	f.opts.observe(event.Fetching{Digest: desc.Digest, Size: desc.Size, Image: r.image.String()})
	if r.watch != nil {
		if err := r.watch.Begun(in); err != nil {
			return 0, errors.Join(local(err), in.Close())
		}
	}
	t := transfer.New(desc, r.sources, in, f.transferOptions(r, slot))
	f.active.Add(1)
	if r.watch != nil {
		r.watch.Transferring(t)
	}
	slot.Share(t)
	_, err = t.Run(ctx)
	slot.Share(nil)
	f.active.Add(-1)
	if err == nil {
		f.opts.observe(event.Verified{Digest: desc.Digest})
		if r.watch != nil {
			r.watch.Verified()
		}
		err = f.commit(ctx, slot, in, t.Hash())
	}
	if err = errors.Join(err, in.Close()); err != nil {
		return 0, err
	}
	f.opts.observe(event.Fetched{Digest: desc.Digest, Size: desc.Size})
	return desc.Size - t.Kept(), nil
}

// local marks an error of the store as a local fault, but for those that tell
// of the content, or of the run's end.
func local(err error) error {
	var size *blobstore.SizeError
	if errors.As(err, &size) || errors.Is(err, context.Canceled) {
		return err
	}
	return fault.As(fault.Local, err)
}

// ingest begins to add a blob. While another process is fetching it, its
// connection serves other blobs.
func (f *fetcher) ingest(ctx context.Context, slot *schedule.Slot, r request) (*blobstore.Ingest, error) {
	waited := false
	begin := r.lease.Ingest
	if r.apart {
		begin = r.lease.IngestApart
	}
	in, err := begin(ctx, r.Descriptor, func() {
		f.opts.observe(event.Waiting{Digest: r.Digest})
		select {
		case f.waits <- struct{}{}:
			waited = true
			slot.Release()
		default: // enough do
		}
	})
	if ctx.Err() != nil {
		if err == nil {
			err = in.Close()
		}
		return nil, errors.Join(context.Cause(ctx), err)
	}
	if !waited {
		return in, err
	}
	<-f.waits
	if err != nil {
		return nil, err
	}
	if err := slot.Regain(ctx); err != nil {
		return nil, errors.Join(err, in.Close())
	}
	return in, nil
}

// commit publishes a blob. The connection serves others while the disk is
// waited for.
func (f *fetcher) commit(ctx context.Context, slot *schedule.Slot, in *blobstore.Ingest, hashed hash.Hash) error {
	select {
	case f.commits <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-f.commits }()
	slot.Release()
	if err := in.Commit(hashed); err != nil {
		return local(err)
	}
	return nil
}

func (f *fetcher) transferOptions(r request, slot *schedule.Slot) transfer.Options {
	answered := sync.OnceFunc(slot.Answered) // Progress is called often
	var prefix func(int64)
	if r.watch != nil {
		prefix = r.watch.Prefix
	}
	return transfer.Options{
		Prefix: prefix,
		Budget: retry.NewBudget(f.opts.Retry, f.opts.Registry.Activity(), func(why retry.Failure) {
			if why.Congested() {
				f.queue.Trouble(why.Host, true)
			}
		}),
		Activity:     f.opts.Registry.Activity(),
		PeerStall:    f.opts.PeerStall,
		IgnoresRange: f.learning.ignoresRanges,
		Crowded:      func() bool { return int(f.active.Load()) >= runtime.GOMAXPROCS(0) },
		Resumed: func(n int64) {
			f.opts.observe(event.Resumed{Digest: r.Digest, N: n})
		},
		Checkpoint: f.opts.Checkpoint,
		Damaged: func(n int64) {
			f.opts.observe(event.Warned{Message: fmt.Sprintf(
				"%d bytes that an earlier run had fetched of blob %s are damaged on disk, and fetched again", n, r.Digest)})
		},
		Progress: func(n int64) {
			answered()
			f.opts.observe(event.Progress{Digest: r.Digest, N: n})
			if r.watch != nil {
				r.watch.Progress(n)
			}
		},
		Arrived: func(host string, n int64) { f.queue.Arrived(host, n) },
		Retrying: func(try int, wait time.Duration, why error) {
			f.opts.observe(event.Retrying{What: "blob " + r.Digest.String(), Why: why.Error(), Try: try, Delay: wait})
		},
		Ranged: func(host string, yes bool) {
			f.learning.ranged(host, yes)
			if yes {
				f.queue.Ranged(host)
			}
		},
		Broken: func(host string) { f.queue.Trouble(host, false) },
		Late:   slot.Nudge,
	}
}
