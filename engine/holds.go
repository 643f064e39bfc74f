package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"drayage/engine/mirror"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
)

// proofs are what registries said of whether a repository has something. That it has, is true
// for good: what it gave to somebody is no secret of others.
type proofs struct {
	mu    sync.Mutex
	known map[place]proof
	down  map[string]time.Time // registries that could not be asked, and when
}

type proof struct {
	err error // nil when it has
	at  time.Time
}

func (p *proofs) get(at place) (known proof, ok bool) {
	const often = time.Minute // after which it is asked again for what it hadn't
	p.mu.Lock()
	defer p.mu.Unlock()
	known, ok = p.known[at]
	return known, ok && (known.err == nil || time.Since(known.at) < often)
}

// put keeps an answer. That there was none says nothing of the next time.
func (p *proofs) put(ref reference.Image, at place, err error) {
	const most = 100_000 // then all are forgotten
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil && !errors.Is(err, mirror.ErrUnknown) && !errors.Is(err, mirror.ErrDenied) {
		if p.down == nil || len(p.down) >= most {
			p.down = make(map[string]time.Time)
		}
		p.down[ref.Registry()] = time.Now()
		return
	}
	delete(p.down, ref.Registry())
	if p.known == nil || len(p.known) >= most {
		p.known = make(map[place]proof)
	}
	p.known[at] = proof{err, time.Now()}
}

// isDown reports whether a registry could not be asked a moment ago.
func (p *proofs) isDown(ref reference.Image) bool {
	const often = 15 * time.Second
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ok := p.down[ref.Registry()]
	return ok && time.Since(at) < often
}

// Holds implements mirror.Upstream.
func (t *Through) Holds(ctx context.Context, ref reference.Image, d digest.Digest, manifest bool) error {
	at := placeOf(ref, d)
	if known, ok := t.proofs.get(at); ok {
		return known.err
	}
	err := t.ask(ctx, ref, d, manifest)
	if ctx.Err() == nil {
		t.proofs.put(ref, at, err)
	}
	return err
}

// ask asks a registry whether it has something.
func (t *Through) ask(ctx context.Context, ref reference.Image, d digest.Digest, manifest bool) error {
	if manifest {
		got, err := t.manifests.Head(ctx, ref, d.String())
		if err == nil && got == "" { // HEAD tells nothing: GET does
			_, err = t.manifests.Manifest(ctx, ref, d.String())
			got = d
		}
		if err == nil && got != d {
			err = fmt.Errorf("%w: it has %s in its place", mirror.ErrUnknown, got)
		}
		return upstreamError(err)
	}
	size, err := t.manifests.BlobSize(ctx, ref, d)
	if err != nil {
		return upstreamError(err)
	}
	if have, err := t.opts.Store.Stat(d); err == nil && have != size {
		return fmt.Errorf("%w: it says %d bytes, and %s has %d", mirror.ErrUnknown, size, d, have)
	}
	return nil
}

// takes reports whether what the store has of a digest may become part of an image. What it has for
// others may not, unless the image's own registry has it there: else whoever can push a manifest
// could have it list, and so show, what is another's.
func (t *Through) takes(ctx context.Context, ref reference.Image, d digest.Digest, manifest bool) bool {
	if t.Withheld == nil || !t.Withheld(ref, d) {
		return true
	}
	if known, ok := t.proofs.get(placeOf(ref, d)); ok {
		return known.err == nil
	}
	// An image may list many: one that isn't taken now is once it is asked for.
	return !t.proofs.isDown(ref) && t.Holds(ctx, ref, d, manifest) == nil
}
