package blobstore

import (
	"os"
	"strings"
	"sync"

	"drayage/blobstore/durable"
	"drayage/blobstore/internal/files"
	"drayage/blobstore/internal/space"

	"github.com/opencontainers/go-digest"
)

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
// there is no space for it beside what else is on its way, in this process or another.
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
			n += space.Promised(b.size, s.Partial(d))
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
			n += space.Promised(info.Size(), there)
		}
	}
	return n
}
