// Package quota keeps a store below a number of bytes while blobs are added to it: by deleting
// partial blobs and images that were used longest ago, and by ending transfers that have stalled.
//
// Begin with New, and have Keep work out what there is. Each blob is announced by Quota.Begin, its
// progress by Space.Grow, and its end by Space.End.
package quota

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

	"drayage/blobstore"
	"drayage/blobstore/internal/layout"
	"drayage/blobstore/internal/space"
	"drayage/engine/fault"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Quota keeps a store below a number of bytes: what is added to it is announced, and something
// else is deleted before there would be too much. Its methods may be called from several goroutines.
type Quota struct {
	store  *blobstore.Store
	most   int64
	pinned func() (func(name string) bool, error)

	sweeping chan struct{} // holds a token while space is made

	mu       sync.Mutex
	making   *Space                // for which space is made
	promised int64                 // bytes of what is free that only it may take
	spaces   map[*Space]bool       // of blobs on their way
	running  map[digest.Digest]int // spaces by the names of their files; what is there under those isn't in used
	coming   int64                 // bytes that the spaces have taken
	came     int64                 // of those that were
	used     int64                 // bytes of all others, at most
	changed  chan struct{}         // closed when a space ends
	vain     time.Time             // when a sweep last made no space
	vainNeed int64                 // how much
	fixed    int64                 // bytes that can't be deleted
	fixedAt  time.Time             // when that was found out
}

const (
	// otherShare is the part of a quota that is left for what the store has beside blobs.
	otherShare = 64
	// often is how long what was found out about the store is good for.
	often = time.Second
	// graceOfTransfers is how long a transfer may take until its progress is judged.
	graceOfTransfers = 3 * time.Second
	// growthHalves is the time in which what a transfer has grown counts half.
	growthHalves = 3 * time.Second
	// growthShare is the part of its space that a transfer must have grown by lately, or it is stalled.
	// A space of 16 MiB that grows by 30 KiB/s is not.
	growthShare = 128
)

// New makes the quota of a store, in bytes. pinned, if not nil, finds out which images stay,
// whatever comes. Until the first Keep the store counts as full.
func New(s *blobstore.Store, most int64, pinned func() (func(name string) bool, error)) *Quota {
	return &Quota{
		store: s, most: most, pinned: pinned, used: most, sweeping: make(chan struct{}, 1), changed: make(chan struct{}),
		spaces: make(map[*Space]bool), running: make(map[digest.Digest]int),
	}
}

// ExceededError says that a blob doesn't fit into a store's quota. It is an ENOSPC.
type ExceededError struct {
	Need, Most int64 // bytes: of the blob, of the quota
	Stays      int64 // bytes that can't be deleted: what is pinned, in use, or on its way
	Stalled    bool  // the blob was on its way, and gave way to another
}

func (e *ExceededError) Error() string {
	text := fmt.Sprintf("disk quota exceeded: %s needed, %s of %s available (--budget)", space.MiB(e.Need), space.MiB(max(0, e.Most-e.Stays)), space.MiB(e.Most))
	if e.Stalled {
		text += "; the transfer was the slowest and gave way to another"
	}
	return text
}

// FaultKind is its kind: see fault.Of.
func (*ExceededError) FaultKind() fault.Kind { return fault.Local }

// Is makes it what the system says when a disk is full.
func (e *ExceededError) Is(target error) bool { return target == syscall.ENOSPC }

// Space is what a blob that is on its way has of a quota: what has arrived, and some ahead. So
// whoever announces much and sends little takes little, and nothing is deleted for it.
type Space struct {
	quota   *Quota
	desc    ocispec.Descriptor
	giveWay func(error)   // ends the transfer; nil for one that goes on in any case
	gone    chan struct{} // closed when it has ended

	// Guarded by the quota's mu.
	from    []string  // registries that it is asked for of; the first one has its bytes counted
	begun   time.Time // when it was last asked for of a new one
	taken   int64     // bytes
	arrived int64     // bytes
	grown   float64   // bytes that arrived, those of a while ago counting less
	at      time.Time // when that was so
	yielded bool
	ended   bool
}

// Begin announces a blob, whose space is to be ended. It is an *ExceededError when the blob can't fit,
// whatever would be deleted for it, or there is no space to begin with it. giveWay, if not nil, is
// called with an *ExceededError when another blob needs the space, and this one has stalled or its
// registry has more of the quota than the other one's; it must have the space ended soon.
func (q *Quota) Begin(ctx context.Context, desc ocispec.Descriptor, from string, giveWay func(error)) (*Space, error) {
	r := &Space{quota: q, desc: desc, from: []string{from}, giveWay: giveWay, begun: time.Now(), gone: make(chan struct{})}
	if err := q.fits(desc); err != nil {
		return nil, err
	}
	var there int64
	for _, name := range r.names() {
		n := q.there(name)
		there += n
		q.mu.Lock()
		if q.running[name]++; q.running[name] == 1 { // it is part of what comes now
			q.used = max(0, q.used-n)
			q.came -= n
		}
		q.mu.Unlock()
	}
	q.mu.Lock()
	q.spaces[r] = true
	r.arrived, r.at = there, r.begun
	q.mu.Unlock()
	if err := r.Grow(ctx, there); err != nil {
		r.End()
		return nil, err
	}
	return r, nil
}

// For notes that the blob is asked for of another registry, too: it gives way to none of a registry's
// for what others have of the quota, and has time to come from there.
func (r *Space) For(registry string) {
	r.quota.mu.Lock()
	defer r.quota.mu.Unlock()
	if !slices.Contains(r.from, registry) {
		r.from = append(r.from, registry)
		r.begun = time.Now()
	}
}

// over reports whether registries have more left without a space than another one would have. The
// caller holds the quota's mu.
func (r *Space) over(held map[string]int64, other string, has int64) bool {
	for _, registry := range r.from {
		if registry == other || held[registry]-r.taken < has {
			return false
		}
	}
	return true
}

// names are those that the blob's files may have.
func (r *Space) names() [2]digest.Digest {
	return [2]digest.Digest{r.desc.Digest, layout.ApartName(r.desc)}
}

// there is how many bytes there are of a blob, whole or partial.
func (q *Quota) there(name digest.Digest) int64 {
	if n, err := q.store.Stat(name); err == nil {
		return n
	}
	return q.store.Partial(name)
}

// fits is an *ExceededError for a blob that can't fit beside what can't be deleted for it.
func (q *Quota) fits(desc ocispec.Descriptor) error {
	most := q.most - q.most/otherShare
	if desc.Size > most {
		return &ExceededError{Need: desc.Size, Most: q.most}
	}
	q.mu.Lock()
	easily := desc.Size <= q.most-q.used-q.coming
	fixed, known := q.fixed, time.Since(q.fixedAt) < often
	q.mu.Unlock()
	if easily {
		return nil
	}
	if !known {
		var err error
		if fixed, err = q.findFixed(); err != nil {
			return err
		}
		q.mu.Lock()
		q.fixed, q.fixedAt = fixed, time.Now()
		q.mu.Unlock()
	}
	if desc.Size > most-fixed+q.there(desc.Digest) { // which may be part of that
		return &ExceededError{Need: desc.Size, Most: q.most, Stays: q.most - most + fixed}
	}
	return nil
}

// findFixed is how many bytes can't be deleted: of pinned images, and of what other processes hold.
func (q *Quota) findFixed() (n int64, err error) {
	var pinned func(string) bool
	if q.pinned != nil {
		if pinned, err = q.pinned(); err != nil {
			return 0, err
		}
	}
	fixed, err := q.store.Fixed(pinned)
	if err != nil {
		return 0, err
	}
	for d := range fixed {
		n += q.there(d)
	}
	return n, nil
}

// Grow tells how many bytes of the blob have arrived. For those that are to come, partial blobs
// that nobody fetches and then images that were used longest ago are deleted, and then transfers
// give way that have stalled, or that take more than their registry's share. It waits for those,
// and is an *ExceededError when that isn't enough.
func (r *Space) Grow(ctx context.Context, arrived int64) error {
	least := min(r.desc.Size, arrived+space.First+space.Ahead(arrived)) // as a file has its space reserved
	if r.take(arrived, least) {
		return nil
	}
	q := r.quota
	for {
		q.mu.Lock()
		changed := q.changed
		q.mu.Unlock()
		made, until, err := q.makeSpace(ctx, r, arrived, least)
		if made || err != nil {
			return err
		}
		q.mu.Lock()
		over := &ExceededError{Need: r.desc.Size, Most: q.most, Stays: q.used + q.coming - r.taken}
		q.mu.Unlock()
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

// makeSpace has a space take so many bytes in all, and makes space for them. When it can't, until is
// when a transfer may be found to have stalled, or zero.
func (q *Quota) makeSpace(ctx context.Context, r *Space, arrived, least int64) (made bool, until time.Time, err error) {
	select {
	case q.sweeping <- struct{}{}:
		defer func() { <-q.sweeping }()
	case <-ctx.Done():
		return false, until, context.Cause(ctx)
	}
	if r.take(arrived, least) { // who was before has made space
		return true, until, nil
	}
	q.mu.Lock()
	q.making, q.promised = r, least-r.taken // what is freed for it nobody else takes
	q.mu.Unlock()
	defer func() {
		q.mu.Lock()
		q.making, q.promised = nil, 0
		q.mu.Unlock()
	}()
	const share = 20 // of the quota, that is freed beyond what is needed, so that not each blob is a sweep
	q.mu.Lock()
	lacking := least - r.taken
	useless := lacking >= q.vainNeed && time.Since(q.vain) < often
	q.mu.Unlock()
	if !useless {
		if err := q.sweep(ctx, lacking, lacking+q.most/share); err != nil {
			return false, until, err
		}
		if r.take(arrived, least) {
			return true, until, nil
		}
		q.mu.Lock()
		q.vain, q.vainNeed = time.Now(), lacking
		q.mu.Unlock()
	}
	yielding, until := q.yielding(r, lacking)
	for _, v := range yielding {
		v.giveWay(&ExceededError{Need: v.desc.Size, Most: q.most, Stays: q.most, Stalled: true})
	}
	for _, v := range yielding {
		select {
		case <-v.gone:
		case <-ctx.Done():
			return false, until, context.Cause(ctx)
		}
	}
	if len(yielding) > 0 {
		if err := q.sweep(ctx, lacking, lacking); err != nil {
			return false, until, err
		}
	}
	return r.take(arrived, least), until, nil
}

// yielding are the transfers that are to give way to a space that lacks some bytes, or none when all
// of those would not be enough: those that have stalled, and those of registries that have more
// left without them than the space's registry would have. until is when another may be judged.
func (q *Quota) yielding(r *Space, lacking int64) (out []*Space, until time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	need := lacking - (q.most - q.used - q.coming)
	held := make(map[string]int64)
	for v := range q.spaces {
		held[v.from[0]] += v.taken
	}
	slowest := slices.SortedFunc(maps.Keys(q.spaces), func(v, w *Space) int { return cmp.Compare(v.growth(now), w.growth(now)) })
	for _, v := range slowest {
		if v == r || v.giveWay == nil || v.yielded || v.taken == 0 || need <= 0 {
			continue
		}
		judged := now.Sub(v.begun) >= graceOfTransfers
		stalled := judged && v.growth(now) < 1.0/growthShare
		if !stalled && !v.over(held, r.from[0], held[r.from[0]]+lacking) {
			if at := v.begun.Add(graceOfTransfers); !judged && (until.IsZero() || at.Before(until)) {
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

// growth is the part of its space that has arrived lately. The caller holds the quota's mu.
func (r *Space) growth(now time.Time) float64 {
	return r.grown * math.Exp2(-float64(now.Sub(r.at))/float64(growthHalves)) / float64(max(1, r.taken))
}

// take notes what has arrived, takes so many bytes in all, and reports whether it has that much.
func (r *Space) take(arrived, least int64) bool {
	q := r.quota
	q.mu.Lock()
	defer q.mu.Unlock()
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
	free := q.most - q.used - q.coming
	if q.making != r {
		free -= q.promised
	}
	more := least - r.taken
	if more > free {
		return false
	}
	r.taken += more
	q.coming += more
	return true
}

// End is to be called when the blob has come, or won't: what is there of it counts as used. It may
// be called again.
func (r *Space) End() {
	q := r.quota
	names := r.names()
	var there [len(names)]int64
	for i, name := range names {
		there[i] = q.there(name)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if r.ended {
		return
	}
	r.ended = true
	delete(q.spaces, r)
	q.coming -= r.taken
	for i, name := range names {
		if q.running[name]--; q.running[name] == 0 {
			delete(q.running, name)
			q.came += there[i]
			q.used += there[i]
		}
	}
	q.vain = time.Time{}
	close(r.gone)
	close(q.changed)
	q.changed = make(chan struct{})
}

// Keep removes what is over the quota now.
func (q *Quota) Keep(ctx context.Context) error {
	select {
	case q.sweeping <- struct{}{}:
		defer func() { <-q.sweeping }()
		return q.sweep(ctx, 0, 0)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// sweep removes what is over the quota when more bytes are to come beside what is on its way, and
// counts what is left. When even all that may go would not make space for least of them, no image
// goes for them. Blobs on their way may be anything until they are verified: those that were used
// just now don't go for them when they would have most of the quota. The caller has the token of q.sweeping.
func (q *Quota) sweep(ctx context.Context, least, more int64) error {
	const lately = 90 * time.Second // uses are noted once a minute
	q.mu.Lock()
	came, most := q.came, q.most-q.most/otherShare-q.coming
	k := blobstore.Keep{Coming: make(map[digest.Digest]bool, len(q.running))}
	for d := range q.running {
		k.Coming[d] = true
	}
	if len(q.spaces) > 1 && q.coming+least > q.most/4*3 {
		k.Spare = time.Now().Add(-lately)
	}
	q.mu.Unlock()
	if q.pinned != nil {
		pinned, err := q.pinned()
		if err != nil {
			return err
		}
		k.Pinned = pinned
	}
	k.Budget = max(1, most-more)
	g, err := q.store.FindGarbage(ctx, k)
	if err != nil {
		return err
	}
	if least > 0 && g.Left+g.LeftPartial > most-least {
		k.Budget = max(1, most) // in vain
		if most < g.Left+g.LeftPartial {
			k.Budget = 0 // also what is over it already doesn't go for what can't fit
		}
		if g, err = q.store.FindGarbage(ctx, k); err != nil {
			return err
		}
	}
	if err := q.store.Sweep(ctx, g); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.used = q.most/otherShare + g.Left + g.LeftPartial + q.came - came
	return nil
}
