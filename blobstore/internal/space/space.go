// Package space works out how much of the disk is reserved for blobs that are on their way.
package space

import (
	"fmt"
	"slices"
	"sync"

	"drayage/blobstore/durable"
)

// Reservation is what of a file has its space on the disk reserved: what was written, its beginning,
// and ahead of all ranges that are written together a share of what was, so that large files don't
// come in pieces, and whoever announces much and sends little takes little. Its methods may be called from several
// goroutines.
type Reservation struct {
	mu       sync.Mutex
	written  int64  // bytes so far
	reserved int64  // bytes of all ranges
	ranges   []span // by offset; none touches another
}

// span is a range of offsets.
type span struct{ from, to int64 }

// First is how many bytes are reserved of a blob before any of it comes: most are no larger.
const First = 16 << 20

const (
	usualAhead = 4 << 20 // of all ranges, while that is left of the first space
	mostAhead  = 32 << 20
	aheadShare = 4 // a part of what was written
)

// Ahead is how many bytes are reserved ahead, beside the beginning of a file, when so many were
// written.
func Ahead(written int64) int64 { return min(written/aheadShare, mostAhead) }

// Begin has the space of a file's beginning reserved.
func (r *Reservation) Begin(f durable.File, size int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reserved = min(size, First)
	r.ranges = []span{{0, r.reserved}}
	return f.Reserve(0, r.reserved)
}

// Reserve has the space of n bytes reserved that are to be written at an offset of a file that is
// going to have a size.
func (r *Reservation) Reserve(f durable.File, size, off, n int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.written += n
	at, inside := slices.BinarySearchFunc(r.ranges, off, func(s span, off int64) int {
		switch {
		case s.to < off:
			return -1
		case s.from > off:
			return 1
		}
		return 0 // it has the offset in it, or just behind it
	})
	end := off + n
	if inside && end <= r.ranges[at].to {
		return nil
	}
	left := r.written + First + Ahead(r.written) - r.reserved // for all ranges
	share := max(Ahead(r.written), usualAhead) / int64(len(r.ranges))
	ahead := min(share, max(0, left-n))
	added := span{off, max(end, min(end+ahead, size))}
	if inside {
		added.from = r.ranges[at].to
	}
	if err := f.Reserve(added.from, added.to-added.from); err != nil {
		return err
	}
	r.reserved += added.to - added.from
	last := at
	for ; last < len(r.ranges) && r.ranges[last].from <= added.to; last++ {
		r.reserved -= max(0, min(added.to, r.ranges[last].to)-max(added.from, r.ranges[last].from)) // it has them already
		added.from, added.to = min(added.from, r.ranges[last].from), max(added.to, r.ranges[last].to)
	}
	r.ranges = slices.Replace(r.ranges, at, last, added)
	return nil
}

// Promised is how many bytes more a blob is believed to need of which some are there: as many again,
// and somewhat more. What is announced beyond that may never come, and keeps nobody out.
func Promised(size, there int64) int64 {
	return max(0, min(size-there, there+First))
}

// MiB is a number of bytes as text for humans.
func MiB(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
