// Package interval knows which ranges of a blob are missing, and who is
// fetching which. It has no lock and no clock: a Set is guarded by its owner.
package interval

import (
	"fmt"
	"iter"
	"slices"
)

// A Range is the bytes from Off up to, and without, End. All of them are
// missing.
type Range[O any] struct {
	Off, End int64
	// Taken is the offset up to which the owner is writing just now; Off when it
	// isn't.
	Taken int64
	Owner *O // nil when nobody fetches it
}

// Len is the range's length in bytes.
func (r *Range[O]) Len() int64 { return r.End - r.Off }

// Left is how many bytes its owner has not even begun to write.
func (r *Range[O]) Left() int64 { return r.End - max(r.Off, r.Taken) }

// A Set is the missing ranges of a blob, by offset. They are not empty and
// don't overlap. The zero value is a blob of which nothing is missing.
type Set[O any] struct{ list []*Range[O] }

// Whole is the set of a blob of size bytes of which all is missing.
func Whole[O any](size int64) Set[O] {
	var s Set[O]
	s.Add(0, size)
	return s
}

// Add puts a range into the set that is in none of its ranges, and belongs to
// nobody. An empty one changes nothing.
func (s *Set[O]) Add(off, end int64) {
	if off >= end {
		return
	}
	i, _ := slices.BinarySearchFunc(s.list, off, func(r *Range[O], off int64) int { return compare(r.Off, off) })
	if i > 0 && s.list[i-1].End > off || i < len(s.list) && s.list[i].Off < end {
		panic(fmt.Sprintf("interval: [%d, %d) is missing already", off, end))
	}
	s.list = slices.Insert(s.list, i, &Range[O]{Off: off, Taken: off, End: end})
}

func compare(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// Split cuts a range in two at an offset within it, and returns the second,
// which is nobody's.
func (s *Set[O]) Split(r *Range[O], at int64) *Range[O] {
	if at <= r.Off || at >= r.End || at < r.Taken {
		panic(fmt.Sprintf("interval: [%d, %d), written to %d, is cut at %d", r.Off, r.End, r.Taken, at))
	}
	rest := &Range[O]{Off: at, Taken: at, End: r.End}
	r.End = at
	s.list = slices.Insert(s.list, slices.Index(s.list, r)+1, rest)
	return rest
}

// Fill takes the first n bytes of a range out of the set, and reports whether
// that was all of it.
func (s *Set[O]) Fill(r *Range[O], n int64) (all bool) {
	r.Off += n
	r.Taken = r.Off
	if r.Off < r.End {
		return false
	}
	i := slices.Index(s.list, r)
	s.list = slices.Delete(s.list, i, i+1)
	return true
}

// Release makes a range nobody's. Neighbours that are nobody's become one, so
// pointers to ranges without an owner don't outlast it.
func (s *Set[O]) Release(r *Range[O]) {
	r.Owner, r.Taken = nil, r.Off
	merged := s.list[:0]
	for _, r := range s.list {
		if n := len(merged); n > 0 && merged[n-1].Owner == nil && r.Owner == nil && merged[n-1].End == r.Off {
			merged[n-1].End = r.End
			continue
		}
		merged = append(merged, r)
	}
	clear(s.list[len(merged):])
	s.list = merged
}

// All are the ranges by offset. The set must not change meanwhile.
func (s *Set[O]) All() iter.Seq[*Range[O]] { return slices.Values(s.list) }

// IsEmpty reports whether nothing is missing.
func (s *Set[O]) IsEmpty() bool { return len(s.list) == 0 }

// FirstFree is the range closest to the start that nobody fetches, or nil.
func (s *Set[O]) FirstFree() *Range[O] {
	for _, r := range s.list {
		if r.Owner == nil {
			return r
		}
	}
	return nil
}

// StartingAt is the range that starts at an offset, or nil.
func (s *Set[O]) StartingAt(off int64) *Range[O] {
	for _, r := range s.list {
		if r.Off == off {
			return r
		}
	}
	return nil
}

// After is the first range that ends behind an offset, or nil.
func (s *Set[O]) After(off int64) *Range[O] {
	for _, r := range s.list {
		if r.End > off {
			return r
		}
	}
	return nil
}

// Prefix is the offset up to which nothing is missing of a blob of size bytes.
func (s *Set[O]) Prefix(size int64) int64 {
	if len(s.list) == 0 {
		return size
	}
	return s.list[0].Off
}

// Sizes are the bytes that nobody fetches, and those that owners have not begun
// to write.
func (s *Set[O]) Sizes() (free, owned int64) {
	for _, r := range s.list {
		if r.Owner == nil {
			free += r.Len()
		} else {
			owned += r.Left()
		}
	}
	return free, owned
}
