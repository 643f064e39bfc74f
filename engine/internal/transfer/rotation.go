package transfer

import "slices"

// source is a Source with what was learned of it.
type source struct {
	Source
	joined   bool    // while Run was running
	beaten   float64 // then: how slow the one was, in bytes a second, that it is to be faster than
	noRanges bool    // it is to be asked for the whole
	honoured bool    // it has given a range as it was asked to
	odd      int     // answers since then that were no such thing
}

// mostOdd is how many odd answers in a row a source that has served ranges may
// give, before it is asked for the whole: behind one name there may be servers
// of several kinds.
const mostOdd = 3

// isOdd counts an odd answer, and reports whether it may be excused: it may have
// been one server of several.
func (s *source) isOdd() bool {
	s.odd++
	return s.odd <= mostOdd
}

// A rotation is the sources of a transfer, of which there is always one, in the
// order in which they are asked. Whoever changes it doesn't change a list that
// was handed out.
type rotation struct {
	list   []*source
	closed bool // no source may join any more
}

// first is the one to ask now.
func (r *rotation) first() *source { return r.list[0] }

func (r *rotation) len() int { return len(r.list) }

func (r *rotation) has(s *source) bool { return slices.Contains(r.list, s) }

// hasHost reports whether one of the sources is at a host.
func (r *rotation) hasHost(host string) bool {
	return slices.ContainsFunc(r.list, func(s *source) bool { return s.Host() == host })
}

// add puts a source behind the others.
func (r *rotation) add(s *source) { r.list = append(slices.Clip(r.list), s) }

// turn puts the first source behind the others.
func (r *rotation) turn() { r.list = append(r.list[1:len(r.list):len(r.list)], r.list[0]) }

// turnToRanges turns to a source that may give ranges, and reports whether there
// is one.
func (r *rotation) turnToRanges() bool {
	if !slices.ContainsFunc(r.list, func(s *source) bool { return !s.noRanges }) {
		return false
	}
	for r.first().noRanges {
		r.turn()
	}
	return true
}

// prefer puts a source before the others.
func (r *rotation) prefer(s *source) { r.list = append([]*source{s}, r.without(s)...) }

// drop leaves a source out, unless it is the last, and reports whether it did.
func (r *rotation) drop(s *source) bool {
	left := r.without(s)
	if len(left) == 0 {
		return false
	}
	r.list = left
	return true
}

// dropJoined leaves out the sources that have joined, if there are others, lets
// no more join, and reports whether there were any.
func (r *rotation) dropJoined() bool {
	r.closed = true
	left := slices.DeleteFunc(slices.Clone(r.list), func(s *source) bool { return s.joined })
	if len(left) == 0 || len(left) == len(r.list) {
		return false
	}
	r.list = left
	return true
}

func (r *rotation) without(s *source) []*source {
	return slices.DeleteFunc(slices.Clone(r.list), func(o *source) bool { return o == s })
}
