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
	running map[digest.Digest]int64 // bytes that blobs on their way have taken
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

// Room is what a blob that is on its way has of a budget: what has arrived, and as much ahead. So
// whoever announces much and sends little takes little, and nothing goes for it.
type Room struct {
	budget *Budget
	desc   ocispec.Descriptor

	taken int64 // bytes; guarded by the budget's mu
	ended bool
}

// Begin announces a blob, whose room is to be ended. It is a *BudgetError when the blob is larger
// than the budget, or there is no room to begin with it.
func (b *Budget) Begin(ctx context.Context, desc ocispec.Descriptor) (*Room, error) {
	if desc.Size > b.most {
		return nil, &BudgetError{Need: desc.Size, Most: b.most}
	}
	r := &Room{budget: b, desc: desc}
	if err := r.Grow(ctx, b.store.Partial(desc.Digest)); err != nil {
		r.End()
		return nil, err
	}
	return r, nil
}

// Grow tells how many bytes of the blob have arrived. What nobody fetches, and images that were
// used longest ago, go for those that are to come. It is a *BudgetError when that isn't enough.
func (r *Room) Grow(ctx context.Context, arrived int64) error {
	b := r.budget
	want, least := min(r.desc.Size, 2*arrived+firstRoom), min(r.desc.Size, arrived+firstRoom/2)
	if r.take(least, want) {
		return nil
	}
	b.sweeping.Lock()
	defer b.sweeping.Unlock()
	if r.take(least, want) { // who was before has made room
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	b.mu.Lock()
	more := want - r.taken
	b.mu.Unlock()
	const share = 20 // of the budget is freed beyond what is needed, so that not each blob is a sweep
	if err := b.sweep(ctx, more+b.most/share); err != nil {
		return err
	}
	if r.take(least, want) {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return &BudgetError{Need: r.desc.Size, Most: b.most, Stays: b.used + b.coming - r.taken}
}

// take takes so many bytes in all, or as many more than least as there are, if it has less than
// least, and reports whether it has that much.
func (r *Room) take(least, want int64) bool {
	b := r.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.ended || r.taken >= least {
		return true
	}
	more := min(want-r.taken, b.most-b.used-b.coming)
	if r.taken+more < least {
		return false
	}
	r.taken += more
	b.coming += more
	b.running[r.desc.Digest] += more
	return true
}

// End is to be called when the blob has come, or won't: what was taken for it counts as used until
// the next sweep finds out what is there. It may be called again.
func (r *Room) End() {
	b := r.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.ended {
		return
	}
	r.ended = true
	b.coming -= r.taken
	b.came += r.taken
	b.used += r.taken
	if b.running[r.desc.Digest] -= r.taken; b.running[r.desc.Digest] == 0 {
		delete(b.running, r.desc.Digest)
	}
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
