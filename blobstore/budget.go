package blobstore

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"syscall"
	"time"

	"drayage/engine/fault"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Budget keeps a store below a number of bytes: what is added to it is announced, and something
// else is deleted before there would be too much. Its methods may be called from several goroutines.
type Budget struct {
	store  *Store
	most   int64
	pinned func() (func(name string) bool, error)

	sweeping chan struct{} // holds a token while room is made

	mu       sync.Mutex
	making   *Room                 // for which room is made
	promised int64                 // bytes of what is free that only it may take
	rooms    map[*Room]bool        // of blobs on their way
	running  map[digest.Digest]int // rooms by the names of their files; what is there under those isn't in used
	coming   int64                 // bytes that the rooms have taken
	came     int64                 // of those that were
	used     int64                 // bytes of all others, at most
	changed  chan struct{}         // closed when a room ends
	vain     time.Time             // when a sweep last made no room
	vainNeed int64                 // how much
	fixed    int64                 // bytes that can't be deleted
	fixedAt  time.Time             // when that was found out
}

const (
	// otherShare is the part of a budget that is left for what the store has beside blobs.
	otherShare = 64
	// often is how long what was found out about the store is good for.
	often = time.Second
	// graceOfRooms is how long a transfer may take until its progress is judged.
	graceOfRooms = 3 * time.Second
	// growthHalves is the time in which what a transfer has grown counts half.
	growthHalves = 3 * time.Second
	// growthShare is the part of its room that a transfer must have grown by lately, or it is stalled.
	// A room of 16 MiB that grows by 30 KiB/s is not.
	growthShare = 128
)

// NewBudget makes the budget of a store, in bytes. pinned, if not nil, finds out which images stay,
// whatever comes. Until the first Keep the store counts as full.
func NewBudget(s *Store, most int64, pinned func() (func(name string) bool, error)) *Budget {
	return &Budget{
		store: s, most: most, pinned: pinned, used: most, sweeping: make(chan struct{}, 1), changed: make(chan struct{}),
		rooms: make(map[*Room]bool), running: make(map[digest.Digest]int),
	}
}

// BudgetError says that a blob doesn't fit into a store's budget. It is an ENOSPC.
type BudgetError struct {
	Need, Most int64 // bytes: of the blob, of the budget
	Stays      int64 // bytes that can't be deleted: what is pinned, in use, or on its way
	Stalled    bool  // the blob was on its way, and gave way to another
}

func (e *BudgetError) Error() string {
	text := fmt.Sprintf("disk quota exceeded: %s needed, %s of %s available (--budget)", mebibytes(e.Need), mebibytes(max(0, e.Most-e.Stays)), mebibytes(e.Most))
	if e.Stalled {
		text += "; the transfer was the slowest and gave way to another"
	}
	return text
}

// FaultKind is its kind: see fault.Of.
func (*BudgetError) FaultKind() fault.Kind { return fault.Local }

// Is makes it what the system says when a disk is full.
func (e *BudgetError) Is(target error) bool { return target == syscall.ENOSPC }

// Room is what a blob that is on its way has of a budget: what has arrived, and some ahead. So
// whoever announces much and sends little takes little, and nothing is deleted for it.
type Room struct {
	budget  *Budget
	desc    ocispec.Descriptor
	giveWay func(error)   // ends the transfer; nil for one that goes on in any case
	gone    chan struct{} // closed when it has ended

	// Guarded by the budget's mu.
	from    []string  // registries that it is asked for of; the first one has its bytes counted
	begun   time.Time // when it was last asked for of a new one
	taken   int64     // bytes
	arrived int64     // bytes
	grown   float64   // bytes that arrived, those of a while ago counting less
	at      time.Time // when that was so
	yielded bool
	ended   bool
}

// Begin announces a blob, whose room is to be ended. It is a *BudgetError when the blob can't fit,
// whatever would be deleted for it, or there is no room to begin with it. giveWay, if not nil, is
// called with a *BudgetError when another blob needs the room, and this one has stalled or its
// registry has more of the budget than the other one's; it must have the room ended soon.
func (b *Budget) Begin(ctx context.Context, desc ocispec.Descriptor, from string, giveWay func(error)) (*Room, error) {
	r := &Room{budget: b, desc: desc, from: []string{from}, giveWay: giveWay, begun: time.Now(), gone: make(chan struct{})}
	if err := b.fits(desc); err != nil {
		return nil, err
	}
	var there int64
	for _, name := range r.names() {
		n := b.there(name)
		there += n
		b.mu.Lock()
		if b.running[name]++; b.running[name] == 1 { // it is part of what comes now
			b.used = max(0, b.used-n)
			b.came -= n
		}
		b.mu.Unlock()
	}
	b.mu.Lock()
	b.rooms[r] = true
	r.arrived, r.at = there, r.begun
	b.mu.Unlock()
	if err := r.Grow(ctx, there); err != nil {
		r.End()
		return nil, err
	}
	return r, nil
}

// For notes that the blob is asked for of another registry, too: it gives way to none of a registry's
// for what others have of the budget, and has time to come from there.
func (r *Room) For(registry string) {
	r.budget.mu.Lock()
	defer r.budget.mu.Unlock()
	if !slices.Contains(r.from, registry) {
		r.from = append(r.from, registry)
		r.begun = time.Now()
	}
}

// over reports whether registries have more left without a room than another one would have. The
// caller holds the budget's mu.
func (r *Room) over(held map[string]int64, other string, has int64) bool {
	for _, registry := range r.from {
		if registry == other || held[registry]-r.taken < has {
			return false
		}
	}
	return true
}

// names are those that the blob's files may have.
func (r *Room) names() [2]digest.Digest { return [2]digest.Digest{r.desc.Digest, apartName(r.desc)} }

// there is how many bytes there are of a blob, whole or half-fetched.
func (b *Budget) there(name digest.Digest) int64 {
	if n, err := b.store.Stat(name); err == nil {
		return n
	}
	return b.store.Partial(name)
}

// fits is a *BudgetError for a blob that can't fit beside what can't be deleted for it.
func (b *Budget) fits(desc ocispec.Descriptor) error {
	most := b.most - b.most/otherShare
	if desc.Size > most {
		return &BudgetError{Need: desc.Size, Most: b.most}
	}
	b.mu.Lock()
	easily := desc.Size <= b.most-b.used-b.coming
	fixed, known := b.fixed, time.Since(b.fixedAt) < often
	b.mu.Unlock()
	if easily {
		return nil
	}
	if !known {
		var err error
		if fixed, err = b.findFixed(); err != nil {
			return err
		}
		b.mu.Lock()
		b.fixed, b.fixedAt = fixed, time.Now()
		b.mu.Unlock()
	}
	if desc.Size > most-fixed+b.there(desc.Digest) { // which may be part of that
		return &BudgetError{Need: desc.Size, Most: b.most, Stays: b.most - most + fixed}
	}
	return nil
}

// findFixed is how many bytes can't be deleted: of pinned images, and of what other processes hold.
func (b *Budget) findFixed() (n int64, err error) {
	fixed, err := b.store.leased(b.store.isOwnLease)
	if err != nil {
		return 0, err
	}
	if b.pinned != nil {
		pinned, err := b.pinned()
		if err != nil {
			return 0, err
		}
		roots, err := b.store.allRoots()
		if err != nil {
			return 0, err
		}
		for _, r := range roots {
			if pinned(r.Name) {
				for _, d := range r.all() {
					fixed[d] = true
				}
			}
		}
	}
	for d := range fixed {
		n += b.there(d)
	}
	return n, nil
}

// Grow tells how many bytes of the blob have arrived. For those that are to come, half-fetched blobs
// that nobody fetches and then images that were used longest ago are deleted, and then transfers
// give way that have stalled, or that take more than their registry's share. It waits for those,
// and is a *BudgetError when that isn't enough.
func (r *Room) Grow(ctx context.Context, arrived int64) error {
	least := min(r.desc.Size, arrived+firstRoom+aheadOf(arrived)) // as a file has its space reserved
	if r.take(arrived, least) {
		return nil
	}
	b := r.budget
	for {
		b.mu.Lock()
		changed := b.changed
		b.mu.Unlock()
		made, until, err := b.makeRoom(ctx, r, arrived, least)
		if made || err != nil {
			return err
		}
		b.mu.Lock()
		over := &BudgetError{Need: r.desc.Size, Most: b.most, Stays: b.used + b.coming - r.taken}
		b.mu.Unlock()
		if until.IsZero() {
			return over
		}
		judged := time.NewTimer(time.Until(until))
		select {
		case <-judged.C:
		case <-changed:
		case <-ctx.Done():
		}
		judged.Stop()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// makeRoom has a room take so many bytes in all, and makes room for them. When it can't, until is
// when a transfer may be found to have stalled, or zero.
func (b *Budget) makeRoom(ctx context.Context, r *Room, arrived, least int64) (made bool, until time.Time, err error) {
	select {
	case b.sweeping <- struct{}{}:
		defer func() { <-b.sweeping }()
	case <-ctx.Done():
		return false, until, context.Cause(ctx)
	}
	if r.take(arrived, least) { // who was before has made room
		return true, until, nil
	}
	b.mu.Lock()
	b.making, b.promised = r, least-r.taken // what is freed for it nobody else takes
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.making, b.promised = nil, 0
		b.mu.Unlock()
	}()
	const share = 20 // of the budget, that is freed beyond what is needed, so that not each blob is a sweep
	b.mu.Lock()
	lacking := least - r.taken
	useless := lacking >= b.vainNeed && time.Since(b.vain) < often
	b.mu.Unlock()
	if !useless {
		if err := b.sweep(ctx, lacking, lacking+b.most/share); err != nil {
			return false, until, err
		}
		if r.take(arrived, least) {
			return true, until, nil
		}
		b.mu.Lock()
		b.vain, b.vainNeed = time.Now(), lacking
		b.mu.Unlock()
	}
	yielding, until := b.yielding(r, lacking)
	for _, v := range yielding {
		v.giveWay(&BudgetError{Need: v.desc.Size, Most: b.most, Stays: b.most, Stalled: true})
	}
	for _, v := range yielding {
		select {
		case <-v.gone:
		case <-ctx.Done():
			return false, until, context.Cause(ctx)
		}
	}
	if len(yielding) > 0 {
		if err := b.sweep(ctx, lacking, lacking); err != nil {
			return false, until, err
		}
	}
	return r.take(arrived, least), until, nil
}

// yielding are the transfers that are to give way to a room that lacks some bytes, or none when all
// of those would not be enough: those that have stalled, and those of registries that have more
// left without them than the room's registry would have. until is when another may be judged.
func (b *Budget) yielding(r *Room, lacking int64) (out []*Room, until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	need := lacking - (b.most - b.used - b.coming)
	held := make(map[string]int64)
	for v := range b.rooms {
		held[v.from[0]] += v.taken
	}
	slowest := slices.SortedFunc(maps.Keys(b.rooms), func(v, w *Room) int { return cmp.Compare(v.growth(now), w.growth(now)) })
	for _, v := range slowest {
		if v == r || v.giveWay == nil || v.yielded || v.taken == 0 || need <= 0 {
			continue
		}
		judged := now.Sub(v.begun) >= graceOfRooms
		stalled := judged && v.growth(now) < 1.0/growthShare
		if !stalled && !v.over(held, r.from[0], held[r.from[0]]+lacking) {
			if at := v.begun.Add(graceOfRooms); !judged && (until.IsZero() || at.Before(until)) {
				until = at
			}
			continue
		}
		out = append(out, v)
		need -= v.taken
		held[v.from[0]] -= v.taken
	}
	if need > 0 {
		return nil, until
	}
	for _, v := range out {
		v.yielded = true
	}
	return out, until
}

// growth is the part of its room that has arrived lately. The caller holds the budget's mu.
func (r *Room) growth(now time.Time) float64 {
	return r.grown * math.Exp2(-float64(now.Sub(r.at))/float64(growthHalves)) / float64(max(1, r.taken))
}

// take notes what has arrived, takes so many bytes in all, and reports whether it has that much.
func (r *Room) take(arrived, least int64) bool {
	b := r.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if arrived > r.arrived {
		now := time.Now()
		r.grown = r.grown*math.Exp2(-float64(now.Sub(r.at))/float64(growthHalves)) + float64(arrived-r.arrived)
		r.arrived, r.at = arrived, now
	} else if arrived < r.arrived/2 { // it has begun anew
		r.arrived = arrived
	}
	if r.ended || r.taken >= least {
		return true
	}
	free := b.most - b.used - b.coming
	if b.making != r {
		free -= b.promised
	}
	more := least - r.taken
	if more > free {
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
	names := r.names()
	var there [len(names)]int64
	for i, name := range names {
		there[i] = b.there(name)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.ended {
		return
	}
	r.ended = true
	delete(b.rooms, r)
	b.coming -= r.taken
	for i, name := range names {
		if b.running[name]--; b.running[name] == 0 {
			delete(b.running, name)
			b.came += there[i]
			b.used += there[i]
		}
	}
	b.vain = time.Time{}
	close(r.gone)
	close(b.changed)
	b.changed = make(chan struct{})
}

// Keep removes what is over the budget now.
func (b *Budget) Keep(ctx context.Context) error {
	select {
	case b.sweeping <- struct{}{}:
		defer func() { <-b.sweeping }()
		return b.sweep(ctx, 0, 0)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// sweep removes what is over the budget when more bytes are to come beside what is on its way, and
// counts what is left. When even all that may go would not make room for least of them, no image
// goes for them. Blobs on their way may be anything until they are verified: those that were used
// just now don't go for them when they would have most of the budget. The caller has the token of b.sweeping.
func (b *Budget) sweep(ctx context.Context, least, more int64) error {
	const lately = 90 * time.Second // uses are noted once a minute
	b.mu.Lock()
	came, most := b.came, b.most-b.most/otherShare-b.coming
	k := Keep{Coming: make(map[digest.Digest]bool, len(b.running))}
	for d := range b.running {
		k.Coming[d] = true
	}
	if len(b.rooms) > 1 && b.coming+least > b.most/4*3 {
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
