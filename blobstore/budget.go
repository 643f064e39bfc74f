package blobstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Budget keeps a store below a number of bytes: what is added to it is announced, and something
// else goes before there would be too much. Its methods may be called from several goroutines.
type Budget struct {
	// Wait is how long a blob waits for its share before it begins; 0 means 30 seconds. It is to
	// be set before anything begins.
	Wait time.Duration

	store  *Store
	most   int64
	pinned func() (func(name string) bool, error)

	sweeping sync.Mutex // held while room is made

	mu      sync.Mutex
	rooms   []*Room                 // of blobs on their way, in the order in which they began
	running map[digest.Digest]int64 // bytes that they have taken
	coming  int64                   // of all of them
	came    int64                   // of those that were
	used    int64                   // bytes of all others, at most
	vain    time.Time               // when a sweep last made no room
	changed chan struct{}           // closed, and made anew, when a room ends
}

// coming blobs are whatever their sender says until they are verified. Together they take at most
// half of a budget, so that what is here and in use doesn't go for them; but the first of them may
// have all.
const comingShare = 2

// NewBudget makes the budget of a store, in bytes. pinned, if not nil, finds out which images stay,
// whatever comes. Until the first Keep the store counts as full.
func NewBudget(s *Store, most int64, pinned func() (func(name string) bool, error)) *Budget {
	return &Budget{store: s, most: most, pinned: pinned, running: make(map[digest.Digest]int64), used: most, changed: make(chan struct{})}
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

// Begin announces a blob, whose room is to be ended. It waits for a while as long as other blobs
// that are on their way have all that such blobs may have. It is a *BudgetError when the blob is
// larger than the budget, or there is no room to begin with it.
func (b *Budget) Begin(ctx context.Context, desc ocispec.Descriptor) (*Room, error) {
	if desc.Size > b.most {
		return nil, &BudgetError{Need: desc.Size, Most: b.most}
	}
	r := &Room{budget: b, desc: desc}
	if err := b.enter(ctx, r); err != nil {
		return nil, err
	}
	if err := r.Grow(ctx, b.store.Partial(desc.Digest)); err != nil {
		r.End()
		return nil, err
	}
	return r, nil
}

// enter waits for a share, and puts a room among those of blobs on their way.
func (b *Budget) enter(ctx context.Context, r *Room) error {
	const wait = 30 * time.Second
	patience := time.NewTimer(cmp.Or(b.Wait, wait))
	defer patience.Stop()
	for {
		b.mu.Lock()
		if len(b.rooms) == 0 || b.coming+min(r.desc.Size, firstRoom) <= b.most/comingShare {
			b.rooms = append(b.rooms, r)
			b.mu.Unlock()
			return nil
		}
		changed, stays := b.changed, b.used+b.coming
		b.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-patience.C:
			return &BudgetError{Need: r.desc.Size, Most: b.most, Stays: stays}
		}
	}
}

// Grow tells how many bytes of the blob have arrived. What nobody fetches, and images that were
// used longest ago, go for those that are to come, if that makes room for them. It is a
// *BudgetError when that isn't enough, or other blobs that came before are still on their way.
func (r *Room) Grow(ctx context.Context, arrived int64) error {
	b := r.budget
	// What is reserved ahead of what arrives counts: the beginning, and some at each place that is written.
	want, least := min(r.desc.Size, 2*arrived+2*firstRoom), min(r.desc.Size, arrived+arrived/aheadShare+firstRoom)
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
	more := want - r.taken
	useless := !r.mayTake(least-r.taken) || time.Since(b.vain) < often
	b.mu.Unlock()
	if !useless {
		if err := b.sweep(ctx, least-r.taken, more+b.most/share); err != nil {
			return err
		}
		if r.take(least, want) {
			return nil
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !useless {
		b.vain = time.Now()
	}
	return &BudgetError{Need: r.desc.Size, Most: b.most, Stays: b.used + b.coming - r.taken}
}

// mayTake reports whether a room may have so many bytes more, as far as other blobs on their way
// are concerned. The caller holds the budget's mu.
func (r *Room) mayTake(more int64) bool {
	b := r.budget
	return b.coming+more <= b.most/comingShare || len(b.rooms) > 0 && b.rooms[0] == r
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
	if !r.mayTake(more) {
		more = min(more, b.most/comingShare-b.coming)
	}
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
	b.rooms = slices.DeleteFunc(b.rooms, func(o *Room) bool { return o == r })
	close(b.changed)
	b.changed = make(chan struct{})
}

// Keep removes what is over the budget now.
func (b *Budget) Keep(ctx context.Context) error {
	b.sweeping.Lock()
	defer b.sweeping.Unlock()
	return b.sweep(ctx, 0, 0)
}

// sweep removes what is over the budget when more bytes are to come beside what is on its way, and
// counts what is left. When even all that may go would not make room for least of them, no image
// goes for them. The caller holds b.sweeping.
func (b *Budget) sweep(ctx context.Context, least, more int64) error {
	const other = 64 // a share of the budget is for what the store has beside blobs
	b.mu.Lock()
	came, most := b.came, b.most-b.most/other-b.coming
	for d := range b.running { // what is there of it is counted by the sweep, too
		most += b.store.Partial(d)
	}
	b.mu.Unlock()
	var k Keep
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
		if g, err = b.store.FindGarbage(ctx, k); err != nil {
			return err
		}
	}
	if err := b.store.Sweep(ctx, g); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used = b.most/other + g.Left + g.LeftPartial + b.came - came
	for d := range b.running {
		b.used = max(0, b.used-b.store.Partial(d))
	}
	return nil
}
