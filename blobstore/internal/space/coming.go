package space

import (
	"sync"

	"github.com/opencontainers/go-digest"
)

// Disk is what Coming needs to know of the store that blobs are added to.
type Disk interface {
	// Free is how many bytes more the disk takes.
	Free() (int64, error)
	// Arrived is how many bytes of the disk are taken by what has arrived of a blob.
	Arrived(digest.Digest) int64
	// Others is how many bytes the blobs need still that other processes are adding; those that own
	// reports are not theirs.
	Others(own func(digest.Digest) bool) int64
}

// Coming are the blobs that a process is adding to a store. Its methods may be called from several
// goroutines.
type Coming struct {
	mu    sync.Mutex
	begun map[digest.Digest]*begun
}

// begun is a blob that is being added, or waited for.
type begun struct {
	size int64 // bytes of the whole
	by   int   // how many
}

// Begin announces a blob that is going to be added, until ended is called. ended is nil when the
// disk has less space free than that and what else is on its way need.
func (c *Coming) Begin(disk Disk, d digest.Digest, size int64) (ended func(), need, free int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if free, err := disk.Free(); err == nil {
		need := size - disk.Arrived(d)
		if others := c.others(disk, d); need > free-others {
			const most = 1 << 62
			return nil, min(need, most) + others, free
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
	}), 0, 0
}

// others is how many bytes of the disk all blobs but one are believed to need still that are being
// added. The caller holds c.mu.
func (c *Coming) others(disk Disk, but digest.Digest) (n int64) {
	for d, b := range c.begun {
		if d != but {
			n += Promised(b.size, disk.Arrived(d))
		}
	}
	return n + disk.Others(func(d digest.Digest) bool { return d == but || c.begun[d] != nil })
}
