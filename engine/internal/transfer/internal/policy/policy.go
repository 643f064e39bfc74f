// Package policy decides how large the pieces of a blob are that connections
// fetch, when one takes over what another would need long for, and when a
// connection is to be replaced. Its functions know nothing but numbers: no
// lock, no clock, no connection.
package policy

import "time"

const (
	// least is the smallest piece, in bytes, that is worth a request of its own.
	least = 1 << 20
	// firstPiece is what a connection gets whose speed isn't known yet.
	firstPiece = 4 << 20
	// mostPiece bounds how far ahead of the prefix bytes arrive: what is there
	// early has to be read back to be hashed.
	mostPiece = 48 << 20
	// pieceTime is how long a piece should take when there is enough to do: long
	// beside a round trip, short beside the whole.
	pieceTime = 4 * time.Second
	// lastPieces is the same when little is left.
	lastPieces = time.Second
	// surely is so much that help pays on most links.
	surely = 64 << 20
	// patience is how long a connection may wait for its first byte before
	// others are believed to be faster.
	patience = 2 * time.Second

	// WorthTime is how long others must still be busy for help to pay.
	WorthTime = 250 * time.Millisecond
)

// A Transfer is what the policy knows of a transfer at a moment.
type Transfer struct {
	Size        int64   // of the blob, in bytes
	Free        int64   // bytes that are missing and nobody fetches
	Connections int     // at work; at least 1
	Best        float64 // the rate of the fastest connection, in bytes a second; 0 while none is known
	Total       float64 // the rate of all, in bytes a second; 0 while it isn't known
	Hashing     float64 // how fast what arrives is hashed, in bytes a second; 0 while it isn't known
}

// A Connection is what the policy knows of one connection.
type Connection struct {
	Rate   float64       // bytes a second; 0 while it isn't known
	Waited time.Duration // since it was given its piece, or its body's first byte was waited for
}

// PieceSize is how many bytes a connection should take at once: few while its
// rate isn't known, then so many that they keep it busy for some seconds, and
// leave the others their share.
func (t Transfer) PieceSize(rate float64) int64 {
	if rate == 0 {
		rate = t.Best / 2 // who turns out to be slower has to share
	}
	share := t.Free / int64(t.Connections)
	if rate == 0 {
		return max(least, min(firstPiece, share))
	}
	upper := max(least, min(t.MostAhead(), int64(rate*pieceTime.Seconds())))
	lower := min(upper, max(least, int64(rate*lastPieces.Seconds())))
	return max(lower, min(upper, share))
}

// Cut is how many bytes of a free range of length bytes a connection takes: a
// piece, or all of it when little more would be left or nobody else is there.
func (t Transfer) Cut(length int64, rate float64) int64 {
	if n := t.PieceSize(rate); t.Connections > 1 && length > n+n/4 {
		return n
	}
	return length
}

// MostAhead is how large a piece may be, in bytes, so that the hash has not
// much left to do when the last byte arrives, beside the time that the whole
// takes. That is much on a link that is slow beside the hash, and little on one
// that is as fast.
func (t Transfer) MostAhead() int64 {
	const share = 0.02 // of the whole's time
	if t.Total == 0 || t.Hashing == 0 {
		return mostPiece
	}
	ahead := share * float64(t.Size) * t.Hashing / t.Total
	return max(least, min(mostPiece, int64(ahead)/int64(t.Connections)))
}

// likely is a connection's rate, or as long as that can't be known the best of
// the others.
func (t Transfer) likely(c Connection) float64 {
	if c.Rate > 0 || c.Waited > patience {
		return c.Rate
	}
	return t.Best
}

// TimeLeft is how long a connection is going to need for the rest of its piece,
// in bytes; an hour when there is no end in sight.
func (t Transfer) TimeLeft(c Connection, rest int64) time.Duration {
	const forever = time.Hour
	if rest <= 0 {
		return 0
	}
	rate := t.likely(c)
	if rate <= 0 {
		if rest < surely && c.Waited < patience {
			return 0 // it has hardly begun
		}
		return forever
	}
	return min(forever, time.Duration(float64(rest)/rate*float64(time.Second)))
}

// TakeOver is how many of the rest bytes of a piece its owner keeps when
// another connection takes from it what the owner will not get to for long: so
// many that both end together, and none when the owner is hopelessly slow. It
// reports false when what there is to take isn't worth a request.
func (t Transfer) TakeOver(owner Connection, rest int64, taker float64) (keep int64, worth bool) {
	theirs := t.likely(owner)
	if taker == 0 {
		taker = max(theirs, t.Best)
	}
	share := 0.5
	if taker+theirs > 0 {
		share = theirs / (taker + theirs)
	}
	soon := int64(firstPiece * 4)
	if theirs > 0 {
		soon = max(least, min(t.MostAhead(), int64(theirs*pieceTime.Seconds())))
	}
	// What it doesn't get to soon is for whoever is there then.
	keep = min(soon, int64(float64(rest)*share))
	switch {
	case rest-keep < least && share > 0.25:
		return 0, false
	case keep >= least/4:
		return keep, true
	case owner.Waited > time.Second:
		return 0, true
	}
	return 0, false
}

// Helpful is how many bytes another connection could take with gain, of those
// that nobody fetches and those that owners have not begun to write. busy
// reports whether an owner is going to need long.
func (t Transfer) Helpful(owned int64, busy bool) int64 {
	switch {
	case t.Free >= least:
		return t.Free + owned
	case owned < 2*least || !busy:
		return 0
	}
	// The first body was asked for as a whole, and is going to be left in the
	// middle: what is on its way then must be little beside what is gained.
	const onItsWay, share = 512 << 10, 20
	if t.Connections == 1 && owned < share*min(onItsWay, int64(t.Best)/share) {
		return 0
	}
	return owned
}

const (
	slowTimes = 8
	// SlowWatch is how long a connection is watched before it is judged.
	SlowWatch = 2 * time.Second
	// SlowAgain is how long its successor is left alone.
	SlowAgain = 15 * time.Second
)

// TooSlow reports whether a connection at rate, with left bytes of its piece to
// go, is so much slower than the others that a new one, perhaps to another
// server behind the same name, should replace it: at least half of all are
// eight times as fast, and it would need more than two seconds.
func TooSlow(rate float64, left int64, others []float64) bool {
	faster := 0
	for _, o := range others {
		if o > slowTimes*rate {
			faster++
		}
	}
	return rate > 0 && faster > 0 && 2*faster >= len(others)+1 && float64(left) > rate*SlowWatch.Seconds()
}
