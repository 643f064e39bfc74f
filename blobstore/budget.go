package blobstore

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"time"

	"drayage/engine/fault"

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

	mu       sync.Mutex
	running  map[digest.Digest]int // rooms of blobs on their way; what is there of those isn't in used
	coming   int64                 // bytes that they have taken
	came     int64                 // of those that were
	used     int64                 // bytes of all others, at most
	vain     time.Time             // when a sweep last made no room
	vainNeed int64                 // how much
}

// otherShare is the part of a budget that is left for what the store has beside blobs.
const otherShare = 64

// NewBudget makes the budget of a store, in bytes. pinned, if not nil, finds out which images stay,
// whatever comes. Until the first Keep the store counts as full.
func NewBudget(s *Store, most int64, pinned func() (func(name string) bool, error)) *Budget {
	return &Budget{store: s, most: most, pinned: pinned, running: make(map[digest.Digest]int), used: most}
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

// FaultKind is its kind: see fault.Of.
func (*BudgetError) FaultKind() fault.Kind { return fault.Local }

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
	if desc.Size > b.most-b.most/otherShare {
		return nil, &BudgetError{Need: desc.Size, Most: b.most}
	}
	there := b.store.Partial(desc.Digest)
	r := &Room{budget: b, desc: desc}
	b.mu.Lock()
	if b.running[desc.Digest]++; b.running[desc.Digest] == 1 {
		b.used = max(0, b.used-there) // it is part of what comes now
	}
	b.mu.Unlock()
	if err := r.Grow(ctx, there); err != nil {
		r.End()
		return nil, err
	}
	return r, nil
}

// Grow tells how many bytes of the blob have arrived. What nobody fetches, and images that were
// used longest ago, go for those that are to come, if that makes room for them. It is a
// *BudgetError when that isn't enough.
func (r *Room) Grow(ctx context.Context, arrived int64) error {
	b := r.budget
	// What is reserved ahead of what arrives counts: the beginning, and some at each place that is written.
	least := min(r.desc.Size, arrived+arrived/aheadShare+firstRoom)
	want := min(r.desc.Size, least+arrived/aheadShare+firstRoom)
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
	const share, often = 20, time.Second // a share of the budget is freed beyond what is needed, so that not each blob is a sweep
	b.mu.Lock()
	lacking := least - r.taken
	useless := lacking >= b.vainNeed && time.Since(b.vain) < often
	b.mu.Unlock()
	if !useless {
		if err := b.sweep(ctx, lacking, lacking+b.most/share); err != nil {
			return err
		}
		if r.take(least, want) {
			return nil
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !useless {
		b.vain, b.vainNeed = time.Now(), lacking
	}
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
	return true
}

// End is to be called when the blob has come, or won't: what is there of it counts as used. It may
// be called again.
func (r *Room) End() {
	b := r.budget
	there, err := b.store.Stat(r.desc.Digest)
	if err != nil {
		there = b.store.Partial(r.desc.Digest)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.ended {
		return
	}
	r.ended = true
	b.coming -= r.taken
	if b.running[r.desc.Digest]--; b.running[r.desc.Digest] == 0 {
		delete(b.running, r.desc.Digest)
		b.came += there
		b.used += there
	}
	b.vain = time.Time{}
}

// Keep removes what is over the budget now.
func (b *Budget) Keep(ctx context.Context) error {
	b.sweeping.Lock()
	defer b.sweeping.Unlock()
	return b.sweep(ctx, 0, 0)
}

// sweep removes what is over the budget when more bytes are to come beside what is on its way, and
// counts what is left. When even all that may go would not make room for least of them, no image
// goes for them. Blobs on their way may be anything until they are verified: those that were used
// just now don't go for them when they would have most of the budget. The caller holds b.sweeping.
func (b *Budget) sweep(ctx context.Context, least, more int64) error {
	const lately = 90 * time.Second // uses are noted once a minute
	b.mu.Lock()
	came, most := b.came, b.most-b.most/otherShare-b.coming
	k := Keep{Coming: make(map[digest.Digest]bool, len(b.running))}
	for d := range b.running {
		k.Coming[d] = true
	}
	if len(b.running) > 1 && b.coming+least > b.most/4*3 {
		k.Spare = time.Now().Add(-lately)
	}
	b.mu.Unlock()
	if b.pinned != nil {
		pinned, err := b.pinned()
		if err != nil {
			return err
		}
		k.Pinned = pinned
	}
	k.Budget = max(1, most-more)
	g, err := b.store.FindGarbage(ctx, k)
	if err != nil {
		return err
	}
	if least > 0 && g.Left+g.LeftPartial > most-least {
		k.Budget = max(1, most) // in vain
		if most < g.Left+g.LeftPartial {
			k.Budget = 0 // also what is over it already doesn't go for what can't fit
		}
		if g, err = b.store.FindGarbage(ctx, k); err != nil {
			return err
		}
	}
	if err := b.store.Sweep(ctx, g); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used = b.most/otherShare + g.Left + g.LeftPartial + b.came - came
	return nil
}
