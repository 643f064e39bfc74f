package blobstore

import (
	"context"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"

	"drayage/blobstore/durable"
	"drayage/blobstore/internal/disk"
	"drayage/blobstore/internal/journal"
	"drayage/blobstore/internal/layout"
	"drayage/blobstore/internal/space"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Ingest is a blob on its way into the store: a file of its own, of the blob's
// size from the start, that one process at a time may write. Of the disk it takes what has
// arrived, and somewhat more ahead of it. Beside it is a
// journal, in which the writer notes what has arrived: what an ingest that was
// closed or died holds, the next one of the same blob finds again.
//
// The methods may be called from several goroutines, but for Commit, Close,
// Forget and Notes.
type Ingest struct {
	store   *Store
	desc    ocispec.Descriptor
	at      digest.Digest // by which its files are named: desc.Digest, most often
	lock    *os.File
	data    durable.File
	journal *journal.Journal
	notes   [][]byte
	named   bool // the names of the files are on the disk
	done    bool // committed
	ended   func()

	unopened bool // what is there could not be looked at

	reserved space.Reservation
}

// Ingest begins to add a blob, or returns ErrExists. Where another process is
// adding the same blob, waiting (if not nil) is called once, and Ingest waits
// until that process has added it, gave up, or died, or until ctx is done. A blob for which the
// disk has no room beside all else that is on its way is a *SpaceError, before anything is written.
func (l *Lease) Ingest(ctx context.Context, desc ocispec.Descriptor, waiting func()) (*Ingest, error) {
	return l.ingest(ctx, desc, desc.Digest, waiting)
}

// IngestApart is as Ingest, but doesn't wait for who is adding a blob of the same digest with
// another size: one of them is wrong, and the other one should not have to wait for it.
func (l *Lease) IngestApart(ctx context.Context, desc ocispec.Descriptor, waiting func()) (*Ingest, error) {
	at := layout.ApartName(desc)
	if err := l.keep(at); err != nil { // so that nobody takes it for abandoned
		return nil, err
	}
	return l.ingest(ctx, desc, at, waiting)
}

// ingest is Ingest with what is named like a digest's files.
func (l *Lease) ingest(ctx context.Context, desc ocispec.Descriptor, at digest.Digest, waiting func()) (*Ingest, error) {
	if has, err := l.Has(desc); err != nil {
		return nil, err
	} else if has {
		return nil, ErrExists
	}
	s := l.store
	ended, err := s.begin(at, desc.Size)
	if err != nil {
		return nil, err
	}
	if err := disk.Folder(s.paths.Ingest(at)); err != nil {
		ended()
		return nil, fmt.Errorf("making room for a blob: %w", err)
	}
	lock, err := disk.Lock(ctx, s.paths.IngestLock(at), waiting)
	if err != nil {
		ended()
		return nil, fmt.Errorf("waiting for %s: %w", desc.Digest, err)
	}
	in := &Ingest{store: s, desc: desc, at: at, lock: lock, ended: ended}
	has, err := l.Has(desc) // who held the lock may have added it
	if err == nil && has {
		err = ErrExists
	}
	if err == nil {
		err = in.open()
		in.unopened = err != nil
	}
	if errors.Is(err, ErrExists) {
		s.paths.RemoveIngest(at)
	}
	if err != nil {
		return nil, errors.Join(err, in.Close())
	}
	return in, nil
}

// open opens the files of an ingest, and finds what an earlier one has noted.
// Data without a journal, and a journal without data, are of no use.
func (in *Ingest) open() (err error) {
	s, d := in.store, in.at
	_, noData := os.Stat(s.paths.IngestData(d))
	if in.data, err = s.disk.Open(s.paths.IngestData(d)); err != nil {
		return err
	}
	if in.desc.Size < journalFrom {
		return in.data.Truncate(0) // grows as it is written: cheaper than reserving little
	}
	if in.journal, in.notes, err = journal.Open(s.disk, s.paths.IngestJournal(d), in.desc, s.boot); err != nil {
		return err
	}
	if noData != nil && len(in.notes) > 0 {
		if err := in.Forget(); err != nil {
			return err
		}
	}
	if err := in.data.Truncate(in.desc.Size); err != nil {
		return err
	}
	if err := in.reserved.Begin(in.data, in.desc.Size); err != nil {
		return fmt.Errorf("reserving space for %s: %w", d, err)
	}
	return nil
}

// WriteAt implements io.WriterAt.
func (in *Ingest) WriteAt(p []byte, off int64) (int, error) {
	if in.journal != nil {
		if err := in.reserved.Reserve(in.data, in.desc.Size, off, int64(len(p))); err != nil {
			return 0, fmt.Errorf("reserving space for %s: %w", in.desc.Digest, err)
		}
	}
	return in.data.WriteAt(p, off)
}

// ReadAt implements io.ReaderAt.
func (in *Ingest) ReadAt(p []byte, off int64) (int, error) { return in.data.ReadAt(p, off) }

// Reader opens what is written for reading, for as long as the caller likes: also when
// it has become a blob, and when the ingest is closed.
func (in *Ingest) Reader() (*os.File, error) {
	return os.Open(in.store.paths.IngestData(in.at))
}

// StartWriting has the system begin to write a range to the disk.
func (in *Ingest) StartWriting(off, n int64) {
	if in.store.sync {
		in.data.StartWriting(off, n)
	}
}

// Note appends to the journal. It should be called after what it speaks of was
// written: then it is found again however this process dies. After a power cut
// it is found only when a Checkpoint began later and succeeded. Blobs that are
// too small for a journal have none, and Note does nothing.
func (in *Ingest) Note(p []byte) error {
	if in.journal == nil {
		return nil
	}
	if err := in.journal.Note(p); err != nil {
		return fmt.Errorf("noting what arrived of %s: %w", in.desc.Digest, err)
	}
	return nil
}

// Notes are those that earlier ingests of the blob have left, oldest first, as
// far as they count: what they speak of was written, though disks and people
// may have changed it since.
func (in *Ingest) Notes() [][]byte { return in.notes }

// Checkpoint makes all that was noted so far outlast a power cut: what was
// written is on the disk before the journal says so. One at a time.
func (in *Ingest) Checkpoint() error {
	if in.journal == nil || !in.store.sync {
		return nil
	}
	if err := in.journal.Checkpoint(in.data); err != nil {
		return fmt.Errorf("syncing %s: %w", in.desc.Digest, err)
	}
	if in.named {
		return nil
	}
	err := errors.Join(in.store.disk.SyncFolder(in.store.paths.Ingest(in.at)), in.store.disk.SyncFolder(in.store.paths.Ingests()))
	if err != nil {
		return fmt.Errorf("syncing %s: %w", in.desc.Digest, err)
	}
	in.named = true
	return nil
}

// Forget drops the journal: what was written is of no use.
func (in *Ingest) Forget() error {
	in.notes = nil
	if in.journal == nil {
		return nil
	}
	if err := in.journal.Reset(in.desc, in.store.sync); err != nil {
		return fmt.Errorf("starting over with %s: %w", in.desc.Digest, err)
	}
	return nil
}

// Hash is a new hash for the blob's content, for who hashes what it writes.
// Commit takes the sum of such a one, and of no other, so that nothing gets a
// digest's name that has not been hashed. It can be marshalled, to go on from the
// journal.
func (in *Ingest) Hash() hash.Hash {
	return &contentHash{in.desc.Digest.Algorithm().Hash(), in}
}

// contentHash is a hash of what an ingest holds.
type contentHash struct {
	hash.Hash
	in *Ingest
}

// MarshalBinary implements encoding.BinaryMarshaler.
func (h *contentHash) MarshalBinary() ([]byte, error) {
	return h.Hash.(encoding.BinaryMarshaler).MarshalBinary()
}

// UnmarshalBinary implements encoding.BinaryUnmarshaler.
func (h *contentHash) UnmarshalBinary(state []byte) error {
	return h.Hash.(encoding.BinaryUnmarshaler).UnmarshalBinary(state)
}

// Commit makes what was written a blob of the store. hashed is one of Hash that
// all of it was written to, in order; nil has Commit read and hash it all. It
// refuses with an ErrMismatch when the digest or the size is not the
// descriptor's. When Commit returns nil the blob is on the disk, under its name,
// for good. Close must still be called.
func (in *Ingest) Commit(hashed hash.Hash) error {
	n := size(in.data.Stat())
	if n != in.desc.Size {
		return fmt.Errorf("%w: %s has %d bytes, and should have %d", ErrMismatch, in.desc.Digest, n, in.desc.Size)
	}
	got, err := in.sum(hashed)
	if err != nil {
		return fmt.Errorf("committing %s: %w", in.desc.Digest, err)
	}
	if got != in.desc.Digest {
		return fmt.Errorf("%w: content of %s has the digest %s", ErrMismatch, in.desc.Digest, got)
	}
	if in.store.sync {
		if err := in.data.SyncData(); err != nil {
			return fmt.Errorf("syncing %s: %w", in.desc.Digest, err)
		}
	}
	if err := in.store.publish(in.store.paths.IngestData(in.at), in.desc.Digest); err != nil {
		return fmt.Errorf("committing %s: %w", in.desc.Digest, err)
	}
	in.store.stampBlob(in.desc.Digest)
	in.done = true
	return nil
}

// sum is the digest that a hash of the content has, or the content when there is
// none.
func (in *Ingest) sum(hashed hash.Hash) (digest.Digest, error) {
	algorithm := in.desc.Digest.Algorithm()
	if hashed == nil {
		return algorithm.FromReader(io.NewSectionReader(in.data, 0, in.desc.Size))
	}
	if own, ok := hashed.(*contentHash); !ok || own.in != in {
		return "", errors.New("the hash is none of the ingest's")
	}
	return digest.NewDigestFromBytes(algorithm, hashed.Sum(nil)), nil
}

// publish gives a synced file its name among the blobs.
func (s *Store) publish(from string, d digest.Digest) error {
	to := s.paths.Blob(d)
	if d.Algorithm() == digest.SHA256 {
		if err := s.disk.Rename(from, to); err != nil || !s.sync {
			return err
		}
		return s.folder.Sync()
	}
	folder := s.paths.Blobs(d.Algorithm())
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	if err := s.disk.Rename(from, to); err != nil || !s.sync {
		return err
	}
	return errors.Join(s.disk.SyncFolder(folder), s.disk.SyncFolder(s.paths.Join(ocispec.ImageBlobsDir)))
}

// Close ends the ingest and lets others have it. What was noted of a blob that
// was not committed stays for the next one.
func (in *Ingest) Close() error {
	defer in.ended()
	keep := in.unopened
	var errs []error
	if in.journal != nil {
		keep = !in.done && !in.journal.Empty()
		errs = append(errs, in.journal.Close())
	}
	if in.data != nil {
		errs = append(errs, in.data.Close())
	}
	if !keep {
		in.store.paths.RemoveIngest(in.at)
	}
	return errors.Join(append(errs, in.lock.Close())...)
}

// Partial is how many bytes of the disk are taken by what was fetched of a
// blob that isn't in the store yet.
func (s *Store) Partial(d digest.Digest) int64 { return s.paths.Arrived(d) }

// size is how many bytes a file has, or -1.
func size(info fs.FileInfo, err error) int64 {
	if err != nil {
		return -1
	}
	return info.Size()
}

// stampBlob remembers how a blob is that was just verified.
func (s *Store) stampBlob(d digest.Digest) {
	if info, err := os.Stat(s.paths.Blob(d)); err == nil {
		s.stamps.Put(d, info)
	}
}

// Put adds a small blob that is already in memory, such as a manifest, after
// checking it against its descriptor. One that is there already is left.
func (l *Lease) Put(ctx context.Context, desc ocispec.Descriptor, content []byte) error {
	in, err := l.Ingest(ctx, desc, nil)
	if errors.Is(err, ErrExists) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := in.WriteAt(content, 0); err != nil {
		return errors.Join(fmt.Errorf("storing %s: %w", desc.Digest, err), in.Close())
	}
	h := in.Hash()
	h.Write(content)
	return errors.Join(in.Commit(h), in.Close())
}
