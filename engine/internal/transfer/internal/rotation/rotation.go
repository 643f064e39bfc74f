// Package rotation has the sources of a transfer in the order in which they are asked, with what was
// learned of each.
package rotation

import "slices"

// hosted is where a blob is.
type hosted interface{ Host() string }

// A Source is where a blob is, with what was learned of it.
type Source[P hosted] struct {
	At       P
	Joined   bool    // while the transfer was running
	Beaten   float64 // then: how slow the one was, in bytes per second, that it is to be faster than
	NoRanges bool    // it is to be asked for the whole
	Honoured bool    // it has given a range as it was asked to
	Odd      int     // answers since then that were no such thing
}

// Host names the source in messages.
func (s *Source[P]) Host() string { return s.At.Host() }

// MostOdd is how many odd answers in a row a source that has served ranges may
// give, before it is asked for the whole: behind one name there may be servers
// of several kinds.
const MostOdd = 3

// IsOdd counts an odd answer, and reports whether it may be excused: it may have
// been one server of several.
func (s *Source[P]) IsOdd() bool {
	s.Odd++
	return s.Odd <= MostOdd
}

// A Rotation is the sources of a transfer, of which there is always one, in the
// order in which they are asked. Whoever changes it doesn't change a list that
// was handed out.
type Rotation[P hosted] struct {
	list   []*Source[P]
	closed bool // no source may join any more
}

// First is the one to ask now.
func (r *Rotation[P]) First() *Source[P] { return r.list[0] }

// Len is how many there are.
func (r *Rotation[P]) Len() int { return len(r.list) }

// Has reports whether a source is one of them.
func (r *Rotation[P]) Has(s *Source[P]) bool { return slices.Contains(r.list, s) }

// HasHost reports whether one of the sources is at a host.
func (r *Rotation[P]) HasHost(host string) bool {
	return slices.ContainsFunc(r.list, func(s *Source[P]) bool { return s.Host() == host })
}

// Add puts a source behind the others.
func (r *Rotation[P]) Add(s *Source[P]) { r.list = append(slices.Clip(r.list), s) }

// Turn puts the first source behind the others.
func (r *Rotation[P]) Turn() { r.list = append(r.list[1:len(r.list):len(r.list)], r.list[0]) }

// TurnToRanges turns to a source that may give ranges, and reports whether there
// is one.
func (r *Rotation[P]) TurnToRanges() bool {
	if !slices.ContainsFunc(r.list, func(s *Source[P]) bool { return !s.NoRanges }) {
		return false
	}
	for r.First().NoRanges {
		r.Turn()
	}
	return true
}

// Prefer puts a source before the others.
func (r *Rotation[P]) Prefer(s *Source[P]) { r.list = append([]*Source[P]{s}, r.without(s)...) }

// Drop leaves a source out, unless it is the last, and reports whether it did.
func (r *Rotation[P]) Drop(s *Source[P]) bool {
	left := r.without(s)
	if len(left) == 0 {
		return false
	}
	r.list = left
	return true
}

// IsClosed reports whether no source may join any more.
func (r *Rotation[P]) IsClosed() bool { return r.closed }

// DropJoined leaves out the sources that have joined, if there are others, lets
// no more join, and reports whether there were any.
func (r *Rotation[P]) DropJoined() bool {
	r.closed = true
	left := slices.DeleteFunc(slices.Clone(r.list), func(s *Source[P]) bool { return s.Joined })
	if len(left) == 0 || len(left) == len(r.list) {
		return false
	}
	r.list = left
	return true
}

func (r *Rotation[P]) without(s *Source[P]) []*Source[P] {
	return slices.DeleteFunc(slices.Clone(r.list), func(o *Source[P]) bool { return o == s })
}
