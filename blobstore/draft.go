package blobstore

import (
	"errors"
	"fmt"
	"os"

	"drayage/blobstore/durable"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Draft is content on its way into the store whose digest is known only when all
// of it is written: a layer that is being converted, a member of an archive.
// What a process that died has left of one is cleared away by the next lease.
type Draft struct {
	lease *Lease
	path  string
	lock  *os.File
	data  durable.File
	size  int64
	done  bool
}

// Draft begins one. The caller must call Close.
func (l *Lease) Draft() (*Draft, error) {
	for {
		d := &Draft{lease: l, path: l.store.paths.draft(randomHex(8))}
		var err error
		if d.lock, err = os.OpenFile(d.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644); err != nil {
			return nil, fmt.Errorf("making room for a blob: %w", err)
		}
		won, err := durable.TryLock(d.lock)
		if err == nil && (!won || !durable.StillNamed(d.lock, d.path)) {
			// Before it was locked it looked like that of a process that died.
			if err = d.lock.Close(); err == nil {
				continue
			}
		}
		if err == nil {
			d.data, err = l.store.disk.Open(d.path)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("making room for a blob: %w", err), d.Close())
		}
		return d, nil
	}
}

// Write implements io.Writer.
func (d *Draft) Write(p []byte) (int, error) {
	n, err := d.data.WriteAt(p, d.size)
	const batch = 8 << 20 // handed to the disk at once
	if d.lease.store.sync && d.size/batch != (d.size+int64(n))/batch {
		end := (d.size + int64(n)) / batch * batch
		d.data.StartWriting(end-batch, batch)
	}
	d.size += int64(n)
	return n, err
}

// ReadAt implements io.ReaderAt, for what was written so far.
func (d *Draft) ReadAt(p []byte, at int64) (int, error) { return d.data.ReadAt(p, at) }

// Size is how many bytes were written so far.
func (d *Draft) Size() int64 { return d.size }

// Sync has what was written on the disk, in a store that syncs.
func (d *Draft) Sync() error {
	if !d.lease.store.sync {
		return nil
	}
	return d.data.SyncData()
}

// Commit makes what was written a blob of the store, under the digest that who
// wrote it has found it to have, and returns its descriptor without a media
// type. When the store has it already, that is as good. When Commit returns nil
// the blob is on the disk for good. Close must still be called.
func (d *Draft) Commit(got digest.Digest) (ocispec.Descriptor, error) {
	s := d.lease.store
	desc := ocispec.Descriptor{Digest: got, Size: d.size}
	has, err := d.lease.Has(desc)
	if err != nil || has {
		return desc, err
	}
	if err := d.Sync(); err != nil {
		return desc, fmt.Errorf("syncing %s: %w", got, err)
	}
	if err := s.publish(d.path, got); err != nil {
		return desc, fmt.Errorf("committing %s: %w", got, err)
	}
	s.stampBlob(got)
	d.done = true
	return desc, nil
}

// Close ends the draft. What was not committed is gone.
func (d *Draft) Close() error {
	var errs []error
	if !d.done {
		errs = append(errs, os.Remove(d.path))
	}
	if d.data != nil {
		errs = append(errs, d.data.Close())
	}
	return errors.Join(append(errs, d.lock.Close())...)
}

// dropDeadDrafts removes the drafts of processes that died.
func (s *Store) dropDeadDrafts() { dropUnlocked(s.paths.draft("*")) }
