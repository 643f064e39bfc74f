package transfer

import "time"

// gap is a range of bytes that is missing, and who is fetching it.
type gap struct {
	off, end int64
	taken    int64   // up to where the owner is writing just now; off when it isn't
	owner    *worker // nil when nobody is
}

func (g *gap) size() int64 { return g.end - g.off }

// wholeGap is what is missing of a blob of which nothing is there.
func wholeGap(size int64) []*gap {
	if size == 0 {
		return nil
	}
	return []*gap{{end: size}}
}

const (
	// least is the smallest piece that is worth a request of its own.
	least = 1 << 20
	// firstPiece is what a connection gets whose speed isn't known yet.
	firstPiece = 4 << 20
	// mostPiece bounds how far ahead of the front bytes arrive: what is there
	// early has to be read back.
	mostPiece = 48 << 20
	// mostLag bounds how far the hash may fall behind the front: when it can't
	// keep up, bytes that come faster only have to wait for it in the end.
	mostLag = 32 << 20
	// pieceTime is how long a piece should take when there is enough to do: long
	// beside a round trip, short beside the whole.
	pieceTime = 4 * time.Second
	// lastPieces is the same when little is left.
	lastPieces = time.Second
	// surely is so much that help pays on most links.
	surely = 64 << 20
	// worthTime is how long others must still be busy for help to pay.
	worthTime = 250 * time.Millisecond
)

// take gives a worker a piece to fetch: of what nobody is at, as close to the
// front as there is; else of what another would need long for. It returns nil
// when there is nothing to take. The caller holds t.mu.
func (t *Transfer) take(w *worker) *gap {
	if w.gap != nil {
		panic("transfer: a worker takes a second piece")
	}
	now := time.Now()
	for _, g := range t.gaps {
		if g.owner == nil {
			if n := t.pieceSize(w, now); len(t.workers) > 1 && g.size() > n+n/4 {
				t.split(g, g.off+n)
			}
			w.own(g)
			return g
		}
	}
	if t.sources[0].noRanges {
		return nil
	}
	slowest := t.slowest(w, now)
	if slowest == nil {
		return nil
	}
	g := t.cutOff(slowest, w, now)
	if g != nil {
		w.own(g)
	}
	return g
}

func (w *worker) own(g *gap) {
	g.owner, w.gap, w.began = w, g, time.Now()
}

// pieceSize is how much a worker should take at once.
func (t *Transfer) pieceSize(w *worker, now time.Time) int64 {
	var free int64
	for _, g := range t.gaps {
		if g.owner == nil {
			free += g.size()
		}
	}
	rate := w.rate(now)
	if rate == 0 {
		rate = t.typicalRate(now) / 2 // who turns out to be slower has to share
	}
	if rate == 0 {
		return max(least, min(firstPiece, free/int64(len(t.workers))))
	}
	lower := max(least, int64(rate*lastPieces.Seconds()))
	upper := max(least, min(t.mostAhead(now), int64(rate*pieceTime.Seconds())))
	lower = min(lower, upper)
	return max(lower, min(upper, free/int64(len(t.workers))))
}

// mostAhead is how large a piece may be so that, when the last byte arrives, the
// hash has not much left to do beside the time that the whole takes. That is
// much on a link that is slow beside the hash, and little on one that is as
// fast. The caller holds t.mu.
func (t *Transfer) mostAhead(now time.Time) int64 {
	const share = 0.02 // of the whole's time
	var rate float64
	for w := range t.workers {
		rate += w.rate(now)
	}
	rate = max(rate, float64(t.arrived)/max(now.Sub(t.begun), time.Second/20).Seconds())
	if rate == 0 || t.front.speed == 0 {
		return mostPiece
	}
	ahead := share * float64(t.want.Size) * t.front.speed / rate
	return max(least, min(mostPiece, int64(ahead)/int64(len(t.workers))))
}

// split makes two gaps of one; the second is nobody's, and returned. The caller
// holds t.mu.
func (t *Transfer) split(g *gap, at int64) *gap {
	rest := &gap{off: at, taken: at, end: g.end}
	g.end = at
	for i, other := range t.gaps {
		if other == g {
			t.gaps = append(t.gaps[:i+1], append([]*gap{rest}, t.gaps[i+1:]...)...)
			break
		}
	}
	return rest
}

// slowest is the owner who needs longest for its piece, if that is long enough
// for help to pay. The caller holds t.mu.
func (t *Transfer) slowest(helper *worker, now time.Time) *worker {
	var slowest *worker
	longest := worthTime
	for w := range t.workers {
		if w == helper || w.gap == nil || w.pass {
			continue
		}
		if left := w.left(now); left > longest {
			slowest, longest = w, left
		}
	}
	return slowest
}

// left is how long a worker will need for its piece.
func (w *worker) left(now time.Time) time.Duration {
	const forever = time.Hour
	rest := w.gap.end - max(w.gap.off, w.gap.taken)
	if rest <= 0 {
		return 0
	}
	rate := w.likelyRate(now)
	if rate <= 0 {
		if rest < surely && now.Sub(w.began) < patience {
			return 0 // it has hardly begun
		}
		return forever
	}
	return min(forever, time.Duration(float64(rest)/rate*float64(time.Second)))
}

// patience is how long a worker may wait for its first byte before others are
// believed to be faster.
const patience = 2 * time.Second

// likelyRate is a worker's speed, or as long as that can't be known what others
// have. The caller holds t.mu.
func (w *worker) likelyRate(now time.Time) float64 {
	if rate := w.rate(now); rate > 0 || now.Sub(w.began) > patience {
		return rate
	}
	return w.t.typicalRate(now)
}

// cutOff takes from an owner's piece, for the helper, what the owner will not
// get to for long: so much that both end together, or all of it when the owner
// is hopelessly slow. The caller holds t.mu.
func (t *Transfer) cutOff(from, helper *worker, now time.Time) *gap {
	g := from.gap
	start := max(g.off, g.taken)
	rest := g.end - start
	mine, theirs := helper.rate(now), from.likelyRate(now)
	if mine == 0 {
		mine = max(theirs, t.typicalRate(now))
	}
	share := 0.5
	if mine+theirs > 0 {
		share = theirs / (mine + theirs)
	}
	keep := int64(float64(rest) * share)
	soon := int64(firstPiece * 4)
	if theirs > 0 {
		soon = max(least, min(t.mostAhead(now), int64(theirs*pieceTime.Seconds())))
	}
	keep = min(keep, soon) // what it doesn't get to soon is for whoever is there then
	switch {
	case rest-keep < least && share > 0.25:
		return nil // not worth a request
	case keep < least/4 && now.Sub(from.began) > time.Second:
		keep = 0
	case keep < least/4:
		return nil
	}
	if keep == 0 && g.taken <= g.off {
		// All of it, and the owner is not writing: it has nothing any more.
		t.oust(from, helper)
		return g
	}
	piece := t.split(g, start+keep)
	if n := t.pieceSize(helper, now); len(t.workers) > 1 && piece.size() > n+n/4 {
		t.split(piece, piece.off+n)
	}
	return piece
}

// typicalRate is the best rate of any worker.
func (t *Transfer) typicalRate(now time.Time) float64 {
	var best float64
	for w := range t.workers {
		best = max(best, w.rate(now))
	}
	return best
}

// give lets others have what a worker has not fetched. The caller holds t.mu.
func (t *Transfer) give(w *worker) {
	if w.gap == nil {
		return
	}
	w.gap.owner, w.gap.taken = nil, w.gap.off
	w.gap = nil
	// Neighbours that nobody is at become one again.
	merged := t.gaps[:0]
	for _, g := range t.gaps {
		if n := len(merged); n > 0 && merged[n-1].owner == nil && g.owner == nil && merged[n-1].end == g.off {
			merged[n-1].end = g.end
			continue
		}
		merged = append(merged, g)
	}
	t.gaps = merged
	t.changed.Broadcast()
}

// goOn gives a worker that has come to the end of its piece, and whose body
// goes on, what follows, if nobody is at it. The caller holds t.mu.
func (t *Transfer) goOn(w *worker, bodyEnd int64) bool {
	for _, g := range t.gaps {
		if o := g.owner; g.off == w.pos && o != nil && o != w && o.body == nil && g.taken <= g.off {
			// Who has taken it has no answer yet, and the bytes are here.
			o.gap, g.owner = nil, nil
			o.interrupt()
		}
		if g.owner == nil && g.off == w.pos && g.off < bodyEnd {
			if g.end > bodyEnd {
				t.split(g, bodyEnd)
			}
			if n := t.pieceSize(w, time.Now()); len(t.workers) > 1 && g.size() > n+n/4 {
				t.split(g, g.off+n)
			}
			w.own(g)
			return true
		}
	}
	return false
}

// filled records that a worker wrote n bytes at the start of its piece. The
// caller holds t.mu.
func (t *Transfer) filled(g *gap, n int64) {
	g.off += n
	g.taken = g.off
	if g.off < g.end {
		return
	}
	if g.owner != nil {
		g.owner.gap = nil
	}
	for i, other := range t.gaps {
		if other == g {
			t.gaps = append(t.gaps[:i], t.gaps[i+1:]...)
			break
		}
	}
}

// frontier is the offset before which all is there. The caller holds t.mu.
func (t *Transfer) frontier() int64 {
	if len(t.gaps) == 0 {
		return t.want.Size
	}
	return t.gaps[0].off
}

// Rest implements schedule.Sharer: how many bytes another connection could take
// with gain.
func (t *Transfer) Rest() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.workers) == 0 || !t.helpable() {
		return 0
	}
	now := time.Now()
	var rest, free int64
	for _, g := range t.gaps {
		if g.owner == nil {
			free += g.size()
		} else {
			rest += g.end - max(g.off, g.taken)
		}
	}
	if free >= least {
		return free + rest
	}
	if rest < 2*least || t.slowest(nil, now) == nil {
		return 0
	}
	// The first body was asked for as a whole, and is going to be left in the
	// middle: what is on its way then must be little beside what is gained.
	const onItsWay, share = 512 << 10, 20
	if len(t.workers) == 1 {
		rate := t.typicalRate(now)
		if rest < share*min(onItsWay, int64(rate)/share) {
			return 0
		}
	}
	return rest
}
