package blobstore

import (
	"context"
	"errors"
	"slices"
	"time"

	"drayage/blobstore/internal/garbage"

	"github.com/opencontainers/go-digest"
)

// Usage is what a store has and takes. Sizes are bytes.
type Usage struct {
	Images      int   `json:"images"`
	Blobs       int   `json:"blobs"`
	Bytes       int64 `json:"bytes"`     // of the blobs
	Unneeded    int64 `json:"unneeded"`  // of them, bytes of those that no image needs
	Converted   int   `json:"converted"` // blobs that were made of others
	Partial     int   `json:"partial"`   // partial blobs
	PartialSize int64 `json:"partialBytes"`
	Quarantined int   `json:"quarantined"` // that verifying, or a pull, found damaged
	Leases      int   `json:"leases"`      // digests that living processes keep
	Free        int64 `json:"free"`        // on the store's disk; -1 where that can't be told
}

// Usage works out what the store has and takes.
func (s *Store) Usage(ctx context.Context) (Usage, error) {
	kept, err := s.Leased()
	if err != nil {
		return Usage{}, err
	}
	images, err := s.Images()
	if err != nil {
		return Usage{}, err
	}
	roots := images.Roots
	blobs, err := s.paths.ListBlobs(ctx)
	if err != nil {
		return Usage{}, err
	}
	need := make(map[digest.Digest]bool)
	for _, r := range roots {
		need[r.Target.Digest] = true
		for _, d := range r.Blobs {
			need[d] = true
		}
	}
	u := Usage{Images: len(roots), Blobs: len(blobs), Leases: len(kept), Quarantined: len(s.paths.ListQuarantined()), Free: -1}
	u.Converted = len(garbage.MadeOf(made(s.conversions()), need))
	for _, b := range blobs {
		u.Bytes += b.Size
		if !need[b.Digest] {
			u.Unneeded += b.Size
		}
	}
	for _, p := range s.paths.ListPartials() {
		u.Partial++
		u.PartialSize += p.Size
	}
	if free, err := s.Free(); err == nil {
		u.Free = free
	}
	return u, nil
}

// ImageUsage is what an image takes. Sizes are bytes.
type ImageUsage struct {
	Root
	Size    int64           // of all its blobs
	Own     int64           // of those that no other image needs
	Missing []digest.Digest // blobs that are not there any more
	Used    time.Time       // last; the zero time when that can't be told
}

// ImageUsages works out what images take, by name.
func (s *Store) ImageUsages() ([]ImageUsage, error) {
	roots, err := s.Roots()
	if err != nil {
		return nil, err
	}
	needing := make(map[digest.Digest]int)
	for i := range roots {
		if !slices.Contains(roots[i].Blobs, roots[i].Target.Digest) {
			roots[i].Blobs = append(roots[i].Blobs, roots[i].Target.Digest)
		}
		for _, d := range roots[i].Blobs {
			needing[d]++
		}
	}
	out := make([]ImageUsage, 0, len(roots))
	for _, r := range roots {
		u := ImageUsage{Root: r, Used: s.lastUse(r.Name)}
		for _, d := range r.Blobs {
			n, err := s.Stat(d)
			if errors.Is(err, ErrNotFound) {
				u.Missing = append(u.Missing, d)
				continue
			}
			if err != nil {
				return nil, err
			}
			u.Size += n
			if needing[d] == 1 {
				u.Own += n
			}
		}
		out = append(out, u)
	}
	return out, nil
}
