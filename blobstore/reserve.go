package blobstore

import (
	"os"
	"slices"
	"strings"
	"sync"

	"drayage/blobstore/durable"
	"drayage/blobstore/internal/files"

	"github.com/opencontainers/go-digest"
)

// reservation is what of a file has its space on the disk reserved: what was written, its beginning,
// and ahead of all ranges that are written together a share of what was, so that large files don't
// come in pieces, and whoever announces much and sends little takes little.
type reservation struct {
	mu       sync.Mutex
	written  int64  // bytes so far
	reserved int64  // bytes of all ranges
	ranges   []span // by offset; none touches another
}

// span is a range of offsets.
type span struct{ from, to int64 }

const (
	firstRoom  = 16 << 20 // of a blob, before any of it comes: most are no larger
	usualAhead = 4 << 20  // of all ranges, while that is left of the first room
	mostAhead  = 32 << 20
	aheadShare = 4 // a part of what was written
)

// aheadOf is how many bytes are reserved ahead, beside the beginning of a file, when so many were
// written.
func aheadOf(written int64) int64 { return min(written/aheadShare, mostAhead) }

// begin has the space of a file's beginning reserved.
func (r *reservation) begin(f durable.File, size int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reserved = min(size, firstRoom)
	r.ranges = []span{{0, r.reserved}}
	return f.Reserve(0, r.reserved)
}

// reserve has the space of n bytes reserved that are to be written at an offset of a file that is
// going to have a size.
func (r *reservation) reserve(f durable.File, size, off, n int64) error {
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
	left := r.written + firstRoom + aheadOf(r.written) - r.reserved // for all ranges
	share := max(aheadOf(r.written), usualAhead) / int64(len(r.ranges))
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

// coming are the blobs that this process is adding to a store.
type coming struct {
	mu    sync.Mutex
	begun map[digest.Digest]*begun
}

// begun is a blob that is being added, or waited for.
type begun struct {
	size int64 // bytes of the whole
	by   int   // how many
}

// begin notes that a blob is going to be added, until ended is called; a *SpaceError says that
// there is no room for it beside what else is on its way, in this process or another.
func (c *coming) begin(s *Store, d digest.Digest, size int64) (ended func(), err error) {
	if size < journalFrom { // it is written as soon as it could be counted
		return func() {}, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if free, err := s.Free(); err == nil {
		need := size - s.Partial(d)
		if others := c.others(s, d); need > free-others {
			const most = 1 << 62
			return nil, &SpaceError{Where: s.Dir(), Need: min(need, most) + others, Free: free}
		}
	}
	if c.begun == nil {
		c.begun = make(map[digest.Digest]*begun)
	}
	b := c.begun[d]
	if b == nil {
		b = new(begun)
		c.begun[d] = b
	}
	b.size, b.by = max(b.size, size), b.by+1
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if b.by--; b.by == 0 {
			delete(c.begun, d)
		}
	}), nil
}

// others is how many bytes of the disk all blobs but one are believed to need still that are being added. The
// caller holds c.mu.
func (c *coming) others(s *Store, but digest.Digest) (n int64) {
	for d, b := range c.begun {
		if d != but {
			n += promised(b.size, s.Partial(d))
		}
	}
	const little = 4 << 20 // bytes
	entries, _ := os.ReadDir(s.paths.Ingests())
	for _, e := range entries { // of other processes
		algorithm, hex, _ := strings.Cut(e.Name(), "-")
		d := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex)
		if d.Validate() != nil || d == but || c.begun[d] != nil {
			continue
		}
		info, err := os.Stat(s.paths.IngestData(d))
		if err != nil {
			continue
		}
		there := durable.Allocated(info)
		if info.Size()-there > little && files.IsHeld(s.paths.IngestLock(d)) {
			n += promised(info.Size(), there)
		}
	}
	return n
}

// promised is how many bytes more a blob is believed to need of which some are there: as many again,
// and somewhat more. What is announced beyond that may never come, and keeps nobody out.
func promised(size, there int64) int64 {
	return max(0, min(size-there, there+firstRoom))
}
