package pullthrough

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"drayage/engine/event"
	"drayage/engine/image"
	"drayage/engine/internal/limits"
	"drayage/engine/mirror"
	"drayage/engine/reference"
	"drayage/engine/registry"

	"github.com/opencontainers/go-digest"
)

// proofs are what registries said of whether a repository has something. That it has, is true
// for good: what it gave to somebody is no secret of others.
type proofs struct {
	asking    calls[struct{}] // by what is asked
	documents *turns          // of manifests that HEAD tells nothing of

	mu    sync.Mutex
	known *memory[proofKey, proof]
	down  map[string]time.Time // registries that could not be asked, and when
}

// proofKey is a question: the same digest may be a manifest of a repository, and no blob of it.
type proofKey struct {
	repoDigest
	manifest bool
}

type proof struct {
	err error // nil when it has; else ErrUnknown or ErrDenied of package mirror, and nothing else
	at  time.Time
}

func newProofs() proofs {
	return proofs{
		documents: newTurns(limits.DocumentsAtOnce, limits.DocumentsPerRegistry),
		known:     newMemory[proofKey, proof](limits.MemoryBytes),
		down:      make(map[string]time.Time),
	}
}

func (p *proofs) get(key proofKey) (known proof, ok bool) {
	const often = time.Minute // after which it is asked again for what it hadn't
	p.mu.Lock()
	defer p.mu.Unlock()
	known, ok = p.known.get(key)
	return known, ok && (known.err == nil || time.Since(known.at) < often)
}

// put keeps an answer. That there was none says nothing of the next time, and that this program
// had no turn to ask says nothing of the registry.
func (p *proofs) put(ref reference.Image, key proofKey, err error) {
	const entry = 200 // bytes, or about that
	p.mu.Lock()
	defer p.mu.Unlock()
	var kept error
	switch {
	case err == nil:
	case errors.Is(err, mirror.ErrUnknown):
		kept = mirror.ErrUnknown
	case errors.Is(err, mirror.ErrDenied):
		kept = mirror.ErrDenied
	case errors.Is(err, registry.ErrUnavailable), errors.Is(err, registry.ErrQuota):
		p.down[ref.Registry()] = time.Now()
		return
	default:
		return
	}
	delete(p.down, ref.Registry())
	p.known.put(key, proof{kept, time.Now()}, int64(len(key.repository)+len(key.digest)+entry))
}

// slow notes that a registry can't be asked for now.
func (p *proofs) slow(ref reference.Image) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down[ref.Registry()] = time.Now()
}

// isDown reports whether a registry could not be asked a moment ago.
func (p *proofs) isDown(ref reference.Image) bool {
	const often = 15 * time.Second
	p.mu.Lock()
	defer p.mu.Unlock()
	at, ok := p.down[ref.Registry()]
	return ok && time.Since(at) < often
}

// Holds implements mirror.Upstream. A question that several ask at once is asked once, and
// cancelled when the last of them has gone.
func (t *Cache) Holds(ctx context.Context, ref reference.Image, d digest.Digest, manifest bool) error {
	key := proofKey{repoDigestOf(ref, d), manifest}
	if known, ok := t.proofs.get(key); ok {
		return known.err
	}
	_, err := t.proofs.asking.do(ctx, t.ctx, &t.work, fmt.Sprintf("%s@%s %v", key.repository, d, manifest), func(ctx context.Context) (struct{}, error) {
		err := t.askHolds(ctx, ref, d, manifest)
		if ctx.Err() == nil {
			t.proofs.put(ref, key, err)
		}
		return struct{}{}, err
	})
	return err
}

// askHolds asks a registry whether it has something, when it is its turn.
func (t *Cache) askHolds(ctx context.Context, ref reference.Image, d digest.Digest, manifest bool) error {
	if !manifest {
		size, err := t.askSize(ctx, ref, d)
		if err != nil {
			return err
		}
		if have, err := t.opts.Store.Stat(d); err == nil && have != size {
			return fmt.Errorf("%w: upstream reports %d bytes for %s, and the store has %d", mirror.ErrUnknown, size, d, have)
		}
		return nil
	}
	got, err := ask(ctx, t.questions, ref.Registry(), t.within, func(ctx context.Context) (digest.Digest, error) {
		return t.opts.Manifests.Head(ctx, ref, d.String())
	})
	if err == nil && got == "" { // HEAD tells nothing: GET does
		// Who asks may hold a turn of t.documents, for the index that lists this one.
		_, err = ask(ctx, t.proofs.documents, ref.Registry(), t.within, func(ctx context.Context) (image.Document, error) {
			return t.opts.Manifests.Manifest(ctx, ref, d.String())
		})
		got = d
	}
	if err == nil && got != d {
		err = fmt.Errorf("%w: upstream has %s instead of %s", mirror.ErrUnknown, got, d)
	}
	return upstreamError(err)
}

// taking is the time that may be spent on asking what a registry has of one manifest's blobs.
type taking struct {
	most  time.Duration
	spent time.Duration
	over  bool // it was too little
}

// takes reports whether what the store has of a digest may become part of an image. What it has for
// others may not, unless the image's own registry has it there: else whoever can push a manifest
// could have it list, and so show, what is another's. One that isn't taken now is once it is asked
// for: a manifest that lists many waits so long for all the answers, and no longer.
func (t *Cache) takes(ctx context.Context, g *gathering, d digest.Digest, manifest bool) bool {
	if t.Withheld == nil || !t.Withheld(g.ref, d) {
		return true
	}
	if known, ok := t.proofs.get(proofKey{repoDigestOf(g.ref, d), manifest}); ok {
		return known.err == nil
	}
	if g.taking.over || t.proofs.isDown(g.ref) {
		return false
	}
	began := time.Now()
	asking, stop := context.WithTimeout(ctx, g.taking.most-g.taking.spent)
	err := t.Holds(asking, g.ref, d, manifest)
	late := asking.Err() != nil && ctx.Err() == nil
	stop()
	g.taking.spent += time.Since(began)
	if late || g.taking.spent >= g.taking.most {
		g.taking.over = true
		t.proofs.slow(g.ref) // so that the next manifest doesn't wait as long
		t.opts.observe(event.Warned{Message: fmt.Sprintf(
			"%s: upstream has not confirmed within %s which blobs it has; the others are checked when they are requested", g.ref, g.taking.most)})
	}
	return err == nil
}
