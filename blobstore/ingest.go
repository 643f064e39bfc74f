package blobstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"drayage/blobstore/durable"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ErrExists is what Ingest returns for a blob that the store has already.
var ErrExists = errors.New("already in the store")

// MismatchError says that content is not what its descriptor promised.
type MismatchError struct {
	Want, Got         digest.Digest
	WantSize, GotSize int64 // bytes
}

func (e *MismatchError) Error() string {
	if e.WantSize != e.GotSize {
		return fmt.Sprintf("content of %s has %d bytes, and should have %d", e.Want, e.GotSize, e.WantSize)
	}
	return fmt.Sprintf("content of %s has the digest %s", e.Want, e.Got)
}

// Ingest is a blob on its way into the store: a file of its own that one
// process at a time may write. WriteAt and ReadAt may be called from several
// goroutines; Commit and Close may not be called beside them.
type Ingest struct {
	store *Store
	desc  ocispec.Descriptor
	lock  *os.File
	data  *os.File
}

// Ingest begins to add a blob, or returns ErrExists. Where another process is
// adding the same blob, waiting (if not nil) is called once, and Ingest waits
// until that process has added it, gave up, or died, or until ctx is done.
func (l *Lease) Ingest(ctx context.Context, desc ocispec.Descriptor, waiting func()) (*Ingest, error) {
	if has, err := l.Has(desc); err != nil {
		return nil, err
	} else if has {
		return nil, ErrExists
	}
	s := l.store
	if err := os.MkdirAll(s.paths.ingest(desc.Digest), 0o755); err != nil {
		return nil, fmt.Errorf("making room for a blob: %w", err)
	}
	lock, err := durable.Lock(ctx, s.paths.ingestLock(desc.Digest), waiting)
	if err != nil {
		return nil, fmt.Errorf("waiting for %s: %w", desc.Digest, err)
	}
	in := &Ingest{store: s, desc: desc, lock: lock}
	has, err := l.Has(desc) // who held the lock may have added it
	if err == nil && has {
		err = ErrExists
	}
	if err == nil {
		in.data, err = os.OpenFile(s.paths.ingestData(desc.Digest), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	}
	if err != nil {
		return nil, errors.Join(err, in.Close())
	}
	return in, nil
}

// WriteAt implements io.WriterAt.
func (in *Ingest) WriteAt(p []byte, off int64) (int, error) { return in.data.WriteAt(p, off) }

// ReadAt implements io.ReaderAt.
func (in *Ingest) ReadAt(p []byte, off int64) (int, error) { return in.data.ReadAt(p, off) }

// Commit makes what was written a blob of the store. got is the digest of all
// that was written, by who wrote it; Commit refuses with a *MismatchError when
// it or the size is not the descriptor's. When Commit returns nil the blob is
// on the disk, under its name, for good. Close must still be called.
func (in *Ingest) Commit(got digest.Digest) error {
	info, err := in.data.Stat()
	if err != nil {
		return fmt.Errorf("committing %s: %w", in.desc.Digest, err)
	}
	if got != in.desc.Digest || info.Size() != in.desc.Size {
		return &MismatchError{Want: in.desc.Digest, Got: got, WantSize: in.desc.Size, GotSize: info.Size()}
	}
	if err := durable.SyncData(in.data); err != nil {
		return fmt.Errorf("syncing %s: %w", in.desc.Digest, err)
	}
	if err := in.publish(); err != nil {
		return fmt.Errorf("committing %s: %w", in.desc.Digest, err)
	}
	return nil
}

func (in *Ingest) publish() error {
	s, d := in.store, in.desc.Digest
	from, to := s.paths.ingestData(d), s.paths.blob(d)
	if d.Algorithm() == digest.SHA256 {
		if err := os.Rename(from, to); err != nil {
			return err
		}
		return s.folder.sync()
	}
	folder := s.paths.blobs(d.Algorithm())
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return errors.Join(durable.SyncFolder(folder), durable.SyncFolder(s.paths.join(ocispec.ImageBlobsDir)))
}

// Close ends the ingest and lets others have it. What was not committed is
// thrown away.
func (in *Ingest) Close() error {
	var errs []error
	if in.data != nil {
		errs = append(errs, in.data.Close())
	}
	in.store.removeIngest(in.desc.Digest)
	errs = append(errs, in.lock.Close())
	return errors.Join(errs...)
}

// removeIngest clears an ingest away. The caller holds its lock. Files that it
// doesn't know keep the folder from going.
func (s *Store) removeIngest(d digest.Digest) {
	os.Remove(s.paths.ingestData(d))
	os.Remove(s.paths.ingestLock(d))
	os.Remove(s.paths.ingest(d))
}

// dropDeadIngests clears away the ingests that no process is at work on. What
// can't be removed stays for another time.
func (s *Store) dropDeadIngests() {
	entries, _ := os.ReadDir(s.paths.ingests())
	for _, e := range entries {
		algorithm, hex, _ := strings.Cut(e.Name(), "-")
		d := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex)
		if d.Validate() != nil {
			continue // not ours
		}
		path := s.paths.ingestLock(d)
		lock, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			continue
		}
		if won, err := durable.TryLock(lock); err == nil && won && durable.StillNamed(lock, path) {
			s.removeIngest(d)
		}
		lock.Close()
	}
}
