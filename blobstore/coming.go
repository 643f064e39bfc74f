package blobstore

import (
	"os"

	"drayage/blobstore/durable"
	"drayage/blobstore/internal/files"
	"drayage/blobstore/internal/space"

	"github.com/opencontainers/go-digest"
)

// begin announces a blob that is going to be added, until ended is called; a *SpaceError says that
// there is no space for it with what else is on its way, in this process or another.
func (s *Store) begin(d digest.Digest, size int64) (ended func(), err error) {
	if size < journalFrom { // it is written as soon as it could be counted
		return func() {}, nil
	}
	ended, need, free := s.coming.Begin((*comingDisk)(s), d, size)
	if ended == nil {
		return nil, &SpaceError{Where: s.Dir(), Need: need, Free: free}
	}
	return ended, nil
}

// comingDisk is what space.Coming needs to know of a store.
type comingDisk Store

func (c *comingDisk) Free() (int64, error)          { return (*Store)(c).Free() }
func (c *comingDisk) Arrived(d digest.Digest) int64 { return c.paths.Arrived(d) }

// Others is how many bytes the blobs are believed to need still that other processes are adding.
func (c *comingDisk) Others(own func(digest.Digest) bool) (n int64) {
	const little = 4 << 20 // bytes
	for _, p := range c.paths.ListPartials() {
		info, err := os.Stat(p.Path)
		if err != nil || own(p.Digest) {
			continue
		}
		there := durable.Allocated(info)
		if info.Size()-there > little && files.IsHeld(c.paths.IngestLock(p.Digest)) {
			n += space.Promised(info.Size(), there)
		}
	}
	return n
}
