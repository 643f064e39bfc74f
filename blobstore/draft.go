package blobstore

import (
	"cmp"
	"errors"
	"fmt"
	"os"

	"drayage/blobstore/durable"
	"drayage/blobstore/internal/files"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Scratch is a temporary file of the store's disk, which is gone once it is closed, and never a
// blob. What a process that died has left of one is cleared away by the next lease. Write and Close
// must not run beside anything else; ReadAt may run beside ReadAt.
type Scratch struct {
	lease *Lease
	path  string
	lock  *os.File
	data  durable.File
	size  int64
	done  bool
}

// Scratch makes an empty one. The caller must call Close.
func (l *Lease) Scratch() (*Scratch, error) {
	for {
		t := &Scratch{lease: l, path: l.store.paths.Draft(files.RandomHex(8))}
		var err error
		if t.lock, err = os.OpenFile(t.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644); err != nil {
			return nil, fmt.Errorf("creating a temporary file: %w", err)
		}
		won, err := durable.TryLock(t.lock)
		if err == nil && (!won || !durable.StillNamed(t.lock, t.path)) {
			// Before it was locked it looked like that of a process that died.
			if err = t.lock.Close(); err == nil {
				continue
			}
		}
		if err == nil {
			t.data, err = l.store.disk.Open(t.path)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("creating a temporary file: %w", err), t.Close())
		}
		return t, nil
	}
}

// Write implements io.Writer: it appends.
func (t *Scratch) Write(p []byte) (int, error) {
	n, err := t.data.WriteAt(p, t.size)
	const batch = 8 << 20 // handed to the disk at once
	if t.lease.store.sync && t.size/batch != (t.size+int64(n))/batch {
		end := (t.size + int64(n)) / batch * batch
		t.data.StartWriting(end-batch, batch)
	}
	t.size += int64(n)
	return n, err
}

// ReadAt implements io.ReaderAt, for what was written so far.
func (t *Scratch) ReadAt(p []byte, at int64) (int, error) { return t.data.ReadAt(p, at) }

// Size is how many bytes were written so far.
func (t *Scratch) Size() int64 { return t.size }

// Sync waits until what was written is on the disk, in a store that syncs.
func (t *Scratch) Sync() error {
	if !t.lease.store.sync {
		return nil
	}
	return t.data.SyncData()
}

// Close removes the file, unless it was committed as a draft.
func (t *Scratch) Close() error {
	var errs []error
	if !t.done {
		errs = append(errs, os.Remove(t.path))
	}
	if t.data != nil {
		errs = append(errs, t.data.Close())
	}
	return errors.Join(append(errs, t.lock.Close())...)
}

// Draft is content on its way into the store whose digest is known only when all of it is written:
// a layer that is being converted, a member of an archive. It hashes what is written to it. Its
// methods must not run beside each other.
type Draft struct {
	file *Scratch // not embedded: nobody writes past the hash
	sum  digest.Digester
}

// Draft begins one whose digest is of an algorithm; "" is digest.Canonical. The caller must call
// Close.
func (l *Lease) Draft(algorithm digest.Algorithm) (*Draft, error) {
	algorithm = cmp.Or(algorithm, digest.Canonical)
	if !algorithm.Available() {
		return nil, fmt.Errorf("storing a blob: %w %q", digest.ErrDigestUnsupported, algorithm)
	}
	file, err := l.Scratch()
	if err != nil {
		return nil, err
	}
	return &Draft{file, algorithm.Digester()}, nil
}

// Write implements io.Writer: it appends, and hashes what was appended.
func (d *Draft) Write(p []byte) (int, error) {
	n, err := d.file.Write(p)
	d.sum.Hash().Write(p[:n])
	return n, err
}

// Digest is the digest of what was written so far.
func (d *Draft) Digest() digest.Digest { return d.sum.Digest() }

// Size is how many bytes were written so far.
func (d *Draft) Size() int64 { return d.file.size }

// Commit makes what was written a blob of the store, and returns its descriptor without a media
// type. want, if not "", is the digest that the content should have; with another one it is refused,
// and the error wraps ErrMismatch. When the store has the blob already, that is as good. When Commit
// returns nil the blob is on the disk for good. Close must still be called.
func (d *Draft) Commit(want digest.Digest) (ocispec.Descriptor, error) {
	l := d.file.lease
	desc := ocispec.Descriptor{Digest: d.Digest(), Size: d.Size()}
	if want != "" && want != desc.Digest {
		return desc, fmt.Errorf("%w: content of %s has the digest %s", ErrMismatch, want, desc.Digest)
	}
	has, err := l.Has(desc)
	if err != nil || has {
		return desc, err
	}
	if err := d.file.Sync(); err != nil {
		return desc, fmt.Errorf("syncing %s: %w", desc.Digest, err)
	}
	if err := l.store.publish(d.file.path, desc.Digest); err != nil {
		return desc, fmt.Errorf("committing %s: %w", desc.Digest, err)
	}
	l.store.stampBlob(desc.Digest)
	d.file.done = true
	return desc, nil
}

// Close ends the draft. What was not committed is gone.
func (d *Draft) Close() error { return d.file.Close() }

// dropDeadDrafts removes the drafts of processes that died.
func (s *Store) dropDeadDrafts() { files.DropUnlocked(s.paths.Draft("*")) }
