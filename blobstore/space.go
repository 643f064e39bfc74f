package blobstore

import (
	"os"

	"drayage/blobstore/internal/disk"
	"drayage/blobstore/internal/files"
	"drayage/blobstore/internal/space"

	"github.com/opencontainers/go-digest"
)

// CheckSpace says whether a folder, which need not exist yet, can take so many
// bytes more: a *SpaceError when not, and nil where that can't be told.
func CheckSpace(dir string, need int64) error {
	free, _, err := disk.Free(files.Existing(dir))
	if err == nil && need > free {
		return &SpaceError{Where: dir, Need: need, Free: free}
	}
	return nil
}

// Cheap reports whether a file made in dir of the store's blobs takes little
// space, since the file system lets files share their blocks; and otherwise
// whether it takes the space of the same disk.
func (s *Store) Cheap(dir string) (cheap, same bool) {
	dir = files.Existing(dir)
	_, shares, err := disk.Free(dir)
	same = disk.SameDisk(files.Existing(s.Dir()), dir)
	return same && shares && err == nil, same
}

// Free is how many bytes more the store's file system takes, or an error that
// is errors.ErrUnsupported where that can't be told.
func (s *Store) Free() (int64, error) {
	free, _, err := disk.Free(files.Existing(s.Dir()))
	return free, err
}

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
		there := disk.Allocated(info)
		if info.Size()-there > little && files.IsHeld(c.paths.IngestLock(p.Digest)) {
			n += space.Promised(info.Size(), there)
		}
	}
	return n
}

// journalFrom is the size from which on a blob has a journal. What is smaller
// arrives in one go or not at all.
const journalFrom = 256 << 10
