package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash"
	"runtime"
	"strings"
	"syscall"
	"time"

	"drayage/blobstore"
	"drayage/engine/event"
	"drayage/engine/fault"
	"drayage/engine/internal/retry"
	"drayage/engine/internal/schedule"
	"drayage/engine/internal/transfer"
	"drayage/engine/plan"
	"drayage/engine/reference"
	"drayage/engine/registry"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// fetchAnywhere fetches a blob from the repositories of all images that need
// it, those too that came to need it while others were tried.
func (p *pull) fetchAnywhere(ctx context.Context, place *schedule.Place, desc ocispec.Descriptor, needing []*plan.Image) (fetched int64, err error) {
	tried := 0
	for {
		sources := p.sources(desc.Digest, needing)
		if len(sources) <= tried { // none that is new
			places, refused := p.places(desc, needing)
			if len(places) > 0 {
				return p.fetch(ctx, place, desc, needing, places)
			}
			if refused != nil && err != nil {
				err = fmt.Errorf("%w; %w", err, refused)
			}
			return fetched, err
		}
		fetched, err = p.fetch(ctx, place, desc, needing, sources[tried:])
		if err == nil || !errors.Is(err, registry.ErrNotFound) && !errors.Is(err, registry.ErrDenied) {
			return fetched, err
		}
		tried = len(sources)
		p.mu.Lock()
		needing = append([]*plan.Image(nil), p.plan.Needing(desc.Digest)...)
		p.mu.Unlock()
	}
}

// fetch brings a blob into the store, from any of the sources, and returns how
// many of its bytes came over the network now: none when another process was
// at it, fewer than all when an earlier run had begun.
func (p *pull) fetch(ctx context.Context, place *schedule.Place, desc ocispec.Descriptor, needing []*plan.Image, sources []transfer.Source) (int64, error) {
	in, err := p.ingest(ctx, place, desc)
	if errors.Is(err, blobstore.ErrExists) {
		p.opts.observe(event.Fetched{Digest: desc.Digest, Size: desc.Size, Reused: true})
		return 0, nil
	}
	if err != nil {
		return 0, p.tellSpace(local(err))
	}
	p.opts.observe(event.Fetching{Digest: desc.Digest, Size: desc.Size, Image: needing[0].Ref.String()})
	if p.watch != nil {
		if err := p.watch.begun(in); err != nil {
			return 0, errors.Join(local(err), in.Close())
		}
	}
	t := transfer.New(desc, sources, in, p.transferOptions(desc))
	p.flying.Add(1)
	if p.watch != nil {
		p.watch.flying(t)
	}
	place.Share(t)
	_, err = t.Run(ctx)
	place.Share(nil)
	p.flying.Add(-1)
	if err == nil {
		p.opts.observe(event.Verified{Digest: desc.Digest})
		if p.watch != nil {
			p.watch.verified()
		}
		err = p.commit(ctx, place, in, t.Hash())
	}
	if err = errors.Join(err, in.Close()); err != nil {
		return 0, p.tellSpace(err)
	}
	p.opts.observe(event.Fetched{Digest: desc.Digest, Size: desc.Size})
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

// tellSpace adds to a full disk's error how much is missing for the whole run,
// as far as that is known.
func (p *pull) tellSpace(err error) error {
	if !errors.Is(err, syscall.ENOSPC) {
		return err
	}
	p.mu.Lock()
	need := int64(0)
	for _, b := range p.plan.Blobs() {
		if !p.done[b.Digest] {
			need += max(0, b.Size-p.opts.Store.Partial(b.Digest))
		}
	}
	p.mu.Unlock()
	free, freeErr := p.opts.Store.Free()
	if freeErr != nil || need <= free {
		return err
	}
	return &blobstore.SpaceError{Where: p.opts.Store.Dir(), Need: need, Free: free}
}

// ingest begins to add a blob. While another process is fetching it, its
// connection serves other blobs.
func (p *pull) ingest(ctx context.Context, place *schedule.Place, desc ocispec.Descriptor) (*blobstore.Ingest, error) {
	waited := false
	begin := p.lease.Ingest
	if p.apart {
		begin = p.lease.IngestApart
	}
	in, err := begin(ctx, desc, func() {
		p.opts.observe(event.Waiting{Digest: desc.Digest})
		select {
		case p.waits <- struct{}{}:
			waited = true
			place.Release()
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
	<-p.waits
	if err != nil {
		return nil, err
	}
	if err := place.Regain(ctx); err != nil {
		return nil, errors.Join(err, in.Close())
	}
	return in, nil
}

// commit publishes a blob. The connection serves others while the disk is
// waited for.
func (p *pull) commit(ctx context.Context, place *schedule.Place, in *blobstore.Ingest, hashed hash.Hash) error {
	select {
	case p.commits <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-p.commits }()
	place.Release()
	if err := in.Commit(hashed); err != nil {
		return local(err)
	}
	return nil
}

func (p *pull) transferOptions(desc ocispec.Descriptor) transfer.Options {
	var front func(int64)
	if p.watch != nil {
		front = p.watch.front
	}
	return transfer.Options{
		Front: front,
		Budget: retry.NewBudget(p.opts.Retry, p.opts.Registry.Pulse(), func(f retry.Failure) {
			if f.Congested() {
				p.queue.Trouble(f.Host, true)
			}
		}),
		Pulse:        p.opts.Registry.Pulse(),
		Hush:         p.opts.Hush,
		IgnoresRange: p.learning.ignoresRanges,
		Crowded:      func() bool { return int(p.flying.Load()) >= runtime.GOMAXPROCS(0) },
		Resumed: func(n int64) {
			p.opts.observe(event.Resumed{Digest: desc.Digest, N: n})
		},
		Checkpoint: p.opts.Checkpoint,
		Damaged: func(n int64) {
			p.opts.observe(event.Warned{Message: fmt.Sprintf(
				"%d bytes that an earlier run had fetched of blob %s are damaged on disk, and fetched again", n, desc.Digest)})
		},
		Progress: func(n int64) {
			p.opts.observe(event.Progress{Digest: desc.Digest, N: n})
			if p.watch != nil {
				p.watch.progress(n)
			}
		},
		Arrived: func(host string, n int64) { p.queue.Arrived(host, n) },
		Retrying: func(try int, wait time.Duration, why error) {
			p.opts.observe(event.Retrying{What: "blob " + desc.Digest.String(), Why: why.Error(), Try: try, Delay: wait})
		},
		Ranged: func(host string, yes bool) {
			p.learning.ranged(host, yes)
			if yes {
				p.queue.Ranged(host)
			}
		},
		Broken: func(host string) { p.queue.Trouble(host, false) },
	}
}

// errForeign is the error of a layer that its registry doesn't have, and may not have.
var errForeign = errors.New("it is a foreign layer, which its registry may not give away: --foreign-layers fetches it from the URLs in its manifest")

// isForeign reports whether a media type is one of layers that may not be redistributed: those
// alone have URLs (Docker's image manifest, version 2, schema 2; OCI image spec, "Non-Distributable
// Layers").
func isForeign(mediaType string) bool {
	return strings.HasPrefix(mediaType, "application/vnd.docker.image.rootfs.foreign.diff.tar") ||
		strings.HasPrefix(mediaType, "application/vnd.oci.image.layer.nondistributable.")
}

// places are where the descriptor of a foreign layer says that its blob is besides the registry,
// for the images that need it; or why none is asked.
func (p *pull) places(desc ocispec.Descriptor, needing []*plan.Image) ([]transfer.Source, error) {
	if len(desc.URLs) == 0 || !isForeign(desc.MediaType) {
		return nil, nil
	}
	if !p.opts.ForeignLayers {
		return nil, errForeign
	}
	var refs []reference.Image
	for _, img := range needing {
		refs = append(refs, img.Ref)
	}
	const most = 16 // of one layer
	var out []transfer.Source
	var refused error
	for _, place := range desc.URLs[:min(len(desc.URLs), most)] {
		b, err := p.opts.Registry.Foreign(place, desc.Digest, refs...)
		if err != nil {
			refused = cmp.Or(refused, err)
			continue
		}
		out = append(out, b)
	}
	return out, refused
}

// sources are the repositories that the images come from, and their mirrors, each
// once.
func (p *pull) sources(d digest.Digest, needing []*plan.Image) []transfer.Source {
	seen := make(map[string]bool)
	var out []transfer.Source
	for _, img := range needing {
		for _, b := range p.opts.Registry.Blobs(img.Ref, d) {
			if !seen[b.Where()] {
				seen[b.Where()] = true
				out = append(out, b)
			}
		}
	}
	return out
}
