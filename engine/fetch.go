package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"drayage/blobstore"
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
func (p *pull) fetchAnywhere(ctx context.Context, slot *schedule.Slot, desc ocispec.Descriptor, needing []*plan.Image) (fetched int64, err error) {
	tried := 0
	for {
		sources := p.sources(desc.Digest, needing)
		if len(sources) <= tried { // none that is new
			places, refused := p.places(desc, needing)
			if len(places) > 0 {
				return p.fetch(ctx, slot, desc, needing, places)
			}
			if refused != nil && err != nil {
				err = fmt.Errorf("%w; %w", err, refused)
			}
			return fetched, err
		}
		fetched, err = p.fetch(ctx, slot, desc, needing, sources[tried:])
		if err == nil || !errors.Is(err, registry.ErrNotFound) && !errors.Is(err, registry.ErrDenied) {
			return fetched, err
		}
		tried = len(sources)
		p.mu.Lock()
		needing = append([]*plan.Image(nil), p.plan.Needing(desc.Digest)...)
		p.mu.Unlock()
	}
}

// fetch fetches a blob that images need from any of the sources, as fetcher.fetch does.
func (p *pull) fetch(ctx context.Context, slot *schedule.Slot, desc ocispec.Descriptor, needing []*plan.Image, sources []transfer.Source) (int64, error) {
	n, err := p.fetcher.fetch(ctx, slot, request{Descriptor: desc, lease: p.lease, image: needing[0].Ref, sources: sources})
	return n, p.tellSpace(err)
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
