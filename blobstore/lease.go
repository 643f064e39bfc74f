package blobstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"drayage/blobstore/durable"
	"drayage/blobstore/internal/disk"
	"drayage/blobstore/internal/files"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Lease is the right to add to a store, and the promise that what was found or
// added under it stays until the lease ends: with Close, or with the process.
// Its methods may be called from several goroutines.
type Lease struct {
	store *Store
	file  *os.File // locked; lists the digests kept
	gate  *os.File // locked, shared, while one is written: no sweep is under way then

	mu      sync.Mutex
	kept    map[digest.Digest]bool
	hashed  map[digest.Digest]bool // of which every blob that is found is hashed, when not nil
	damaged func(digest.Digest)
}

// HashAll has every blob that is found under the lease hashed before it is used, once. It must be
// called before the first use.
func (l *Lease) HashAll() { l.hashed = make(map[digest.Digest]bool) }

// OnDamage sets what is told of blobs that were found damaged, and are as if absent now. It must
// be called before the first use.
func (l *Lease) OnDamage(f func(digest.Digest)) { l.damaged = f }

// Lease begins one. It also clears away what processes that died have left.
func (s *Store) Lease() (*Lease, error) {
	s.dropDeadLeases()
	s.paths.DropDeadIngests(s.partialAge)
	s.dropDeadDrafts()
	id := ownLease() + files.RandomHex(6)
	f, err := disk.Lock(context.Background(), s.paths.Lease(id), nil)
	if err != nil {
		return nil, fmt.Errorf("taking a lease on the store: %w", err)
	}
	gate, err := durable.OpenPlain(s.paths.Gate(), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("taking a lease on the store: %w", err), os.Remove(f.Name()), f.Close())
	}
	return &Lease{store: s, file: f, gate: gate, kept: make(map[digest.Digest]bool)}, nil
}

// ownLease is what the names of this process's leases begin with.
func ownLease() string { return strconv.Itoa(os.Getpid()) + "-" }

// Close ends the lease.
func (l *Lease) Close() error {
	return errors.Join(os.Remove(l.file.Name()), l.file.Close(), l.gate.Close())
}

// excludeKeepers waits until nobody writes to a lease, and lets nobody do so until
// unlock is called: what isn't kept then, nobody counts on.
func (s *Store) excludeKeepers() (unlock func(), err error) {
	gate, err := durable.OpenPlain(s.paths.Gate(), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := disk.LockOpen(gate, true); err != nil {
		return nil, errors.Join(err, gate.Close())
	}
	return func() { gate.Close() }, nil
}

// Has is as Store.Has, and keeps a blob that is there. A blob whose file was changed since it was
// verified is hashed: one that is damaged is moved to quarantine, and is as if absent.
func (l *Lease) Has(desc ocispec.Descriptor) (bool, error) {
	// Kept before it is looked for: in the other order a sweep could come between.
	if err := l.keep(desc.Digest); err != nil {
		return false, err
	}
	has, err := l.store.Has(desc)
	var size *SizeError
	if errors.As(err, &size) {
		// Either the descriptor lies or the disk has lost bytes: which of them, the file tells,
		// and nothing is hashed for it when that is as it was verified.
		if sound, errSound := l.sound(desc.Digest); errSound != nil || !sound {
			return false, errSound
		}
	}
	if !has || err != nil {
		return has, err
	}
	return l.sound(desc.Digest)
}

// Keep is as Has for what is not read now: a blob is kept and not hashed.
func (l *Lease) Keep(desc ocispec.Descriptor) (bool, error) {
	if err := l.keep(desc.Digest); err != nil {
		return false, err
	}
	return l.store.Has(desc)
}

// sound reports whether a blob that is there is as it was verified.
func (l *Lease) sound(d digest.Digest) (bool, error) {
	info, err := os.Stat(l.store.paths.Blob(d))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for blob: %w", err)
	}
	l.mu.Lock()
	hash := l.hashed != nil && !l.hashed[d]
	l.mu.Unlock()
	if !hash && l.store.stamps.Same(d, info) {
		return true, nil
	}
	gone, err := l.store.quarantine(d)
	if err != nil {
		return false, err
	}
	if gone {
		l.tellDamage(d)
		return false, nil
	}
	l.store.stamps.Put(d, info)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.hashed != nil {
		l.hashed[d] = true
	}
	return true, nil
}

func (l *Lease) tellDamage(d digest.Digest) {
	if l.damaged != nil {
		l.damaged(d)
	}
}

// keep writes a digest to the lease. It needs no sync: after a power cut no
// process lives that could hold a lease.
func (l *Lease) keep(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("keeping blob %q: %w", d, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.kept[d] {
		return nil
	}
	if err := disk.LockOpen(l.gate, false); err != nil {
		return fmt.Errorf("writing the lease: %w", err)
	}
	_, err := l.file.WriteString("\n" + d.String() + "\n") // whatever a full disk has left before it
	if err = errors.Join(err, disk.UnlockOpen(l.gate)); err != nil {
		return fmt.Errorf("writing the lease: %w", err)
	}
	l.kept[d] = true
	return nil
}

// Leased lists the digests that living processes keep.
func (s *Store) Leased() (map[digest.Digest]bool, error) {
	return s.leased(func(string) bool { return false })
}

// leased is Leased without the leases in some files.
func (s *Store) leased(without func(path string) bool) (map[digest.Digest]bool, error) {
	kept, err := files.Listed(s.paths.Lease("*"), without)
	if err != nil {
		return nil, fmt.Errorf("reading a lease: %w", err)
	}
	return kept, nil
}

// Discard moves a blob to quarantine if it is damaged: then it is as if absent.
func (l *Lease) Discard(d digest.Digest) error {
	gone, err := l.store.quarantine(d)
	if err == nil && gone {
		l.tellDamage(d)
	}
	return err
}

// dropDeadLeases removes leases that nobody holds. What can't be removed stays
// for another time: it costs nothing but the space of what it keeps.
func (s *Store) dropDeadLeases() { files.DropUnlocked(s.paths.Lease("*")) }

// dropDeadDrafts removes the drafts of processes that died.
func (s *Store) dropDeadDrafts() { files.DropUnlocked(s.paths.Draft("*")) }

// Drop removes blobs that were added under the lease, but those that an image or another lease
// needs: what an archive had beside its images. They must not be used under this lease afterwards.
func (l *Lease) Drop(digests []digest.Digest) error {
	const batch = 4096 // removed while nobody else can come to need any
	for part := range slices.Chunk(digests, batch) {
		if err := l.drop(part); err != nil {
			return fmt.Errorf("removing what no image needs: %w", err)
		}
	}
	return nil
}

func (l *Lease) drop(digests []digest.Digest) error {
	s := l.store
	unlock, err := s.excludeKeepers()
	if err != nil {
		return err
	}
	defer unlock()
	kept, err := s.leasedBeside(l) // before the roots, as in FindGarbage
	if err != nil {
		return err
	}
	if err := s.addListed(kept, func(string) bool { return true }); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range digests {
		if kept[d] || d.Validate() != nil {
			continue
		}
		if err := os.Remove(s.paths.Blob(d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// leasedBeside is Leased without what one lease keeps, which is this process's.
func (s *Store) leasedBeside(l *Lease) (map[digest.Digest]bool, error) {
	own, err := filepath.Abs(l.file.Name())
	if err != nil {
		return nil, err
	}
	return s.leased(func(path string) bool {
		abs, err := filepath.Abs(path)
		return err == nil && abs == own
	})
}

// Fixed are the blobs that no sweep of this process can delete: those of images that pinned reports
// (nil for none), and those that other processes keep.
func (s *Store) Fixed(pinned func(name string) bool) (map[digest.Digest]bool, error) {
	fixed, err := s.leased(func(path string) bool { return strings.HasPrefix(filepath.Base(path), ownLease()) })
	if err != nil || pinned == nil {
		return fixed, err
	}
	return fixed, s.addListed(fixed, pinned)
}
