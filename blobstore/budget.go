package blobstore

import (
	"context"
	"fmt"
	"sync"
	"syscall"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Budget keeps a store below a number of bytes: what is added to it is announced, and something
// else goes before there would be too much. Its methods may be called from several goroutines.
type Budget struct {
	store  *Store
	most   int64
	pinned func() (func(name string) bool, error)

	sweeping sync.Mutex // held while room is made

	mu      sync.Mutex
	running map[digest.Digest]int64 // bytes of the blobs that are on their way, as wholes
	coming  int64                   // of all of them
	came    int64                   // of those that were
	used    int64                   // bytes of all others, at most
}

// NewBudget makes the budget of a store, in bytes. pinned, if not nil, finds out which images stay,
// whatever comes. Until the first Keep the store counts as full.
func NewBudget(s *Store, most int64, pinned func() (func(name string) bool, error)) *Budget {
	return &Budget{store: s, most: most, pinned: pinned, running: make(map[digest.Digest]int64), used: most}
}

// BudgetError says that a blob doesn't fit into a store's budget. It is an ENOSPC.
type BudgetError struct {
	Need, Most int64 // bytes: of the blob, of the budget
	Stays      int64 // bytes that can't go: what is pinned, in use, or on its way
}

func (e *BudgetError) Error() string {
	if e.Need > e.Most {
		return fmt.Sprintf("the blob has %s, and the store's budget is %s", mebibytes(e.Need), mebibytes(e.Most))
	}
	return fmt.Sprintf("the blob has %s, and of the store's budget of %s what is pinned, in use or on its way takes %s", mebibytes(e.Need), mebibytes(e.Most), mebibytes(e.Stays))
}

// Is makes it what the system says when a disk is full.
func (e *BudgetError) Is(target error) bool { return target == syscall.ENOSPC }

// Begin announces a blob, until ended is called: what nobody fetches and images
// that were used longest ago go for it. It is a *BudgetError when that isn't enough.
func (b *Budget) Begin(ctx context.Context, desc ocispec.Descriptor) (ended func(), err error) {
	size := desc.Size
	if size > b.most {
		return nil, &BudgetError{Need: size, Most: b.most}
	}
	if ended := b.fit(desc); ended != nil {
		return ended, nil
	}
	b.sweeping.Lock()
	defer b.sweeping.Unlock()
	if ended := b.fit(desc); ended != nil { // who was before has made room
		return ended, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	const share = 20 // of the budget is freed beyond what is needed, so that not each blob is a sweep
	if err := b.sweep(ctx, size+b.most/share); err != nil {
		return nil, err
	}
	if ended := b.fit(desc); ended != nil {
		return ended, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return nil, &BudgetError{Need: size, Most: b.most, Stays: b.used + b.coming}
}

// fit takes the room for a blob; nil when there is none. What is returned gives it back when the
// blob has come, or won't: what of it is there then counts as the whole until the next sweep.
func (b *Budget) fit(desc ocispec.Descriptor) (ended func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if desc.Size > b.most-b.used-b.coming {
		return nil
	}
	b.coming += desc.Size
	b.running[desc.Digest] += desc.Size
	return sync.OnceFunc(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.coming -= desc.Size
		b.came += desc.Size
		b.used += desc.Size
		if b.running[desc.Digest] -= desc.Size; b.running[desc.Digest] == 0 {
			delete(b.running, desc.Digest)
		}
	})
}

// Keep removes what is over the budget now.
func (b *Budget) Keep(ctx context.Context) error {
	b.sweeping.Lock()
	defer b.sweeping.Unlock()
	return b.sweep(ctx, 0)
}

// sweep removes what is over the budget when so many bytes are to come beside what is on its way,
// and counts what is left. The caller holds b.sweeping.
func (b *Budget) sweep(ctx context.Context, more int64) error {
	b.mu.Lock()
	came, most := b.came, b.most-b.coming-more
	for d := range b.running { // what is there of it is counted by the sweep, too
		most += b.store.Partial(d)
	}
	b.mu.Unlock()
	k := Keep{Budget: max(1, most)}
	if b.pinned != nil {
		pinned, err := b.pinned()
		if err != nil {
			return err
		}
		k.Pinned = pinned
	}
	g, err := b.store.FindGarbage(ctx, k)
	if err != nil {
		return err
	}
	if err := b.store.Sweep(ctx, g); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used = g.Left + g.LeftPartial + b.came - came
	for d := range b.running {
		b.used = max(0, b.used-b.store.Partial(d))
	}
	return nil
}
