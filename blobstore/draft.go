package blobstore

import (
	"cmp"
	"fmt"

	"drayage/blobstore/internal/files"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Scratch is a temporary file of the store's disk, which is gone once it is closed, and never a
// blob. What a process that died has left of one is cleared away by the next lease. Write and Close
// must not run beside anything else; ReadAt may run beside ReadAt.
type Scratch struct{ file *files.Temp }

// Scratch makes an empty one. The caller must call Close.
func (l *Lease) Scratch() (*Scratch, error) {
	s := l.store
	file, err := files.NewTemp(s.disk, s.sync, func() string { return s.paths.Draft(files.RandomHex(8)) })
	if err != nil {
		return nil, fmt.Errorf("creating a temporary file: %w", err)
	}
	return &Scratch{file}, nil
}

// Write implements io.Writer: it appends.
func (t *Scratch) Write(p []byte) (int, error) { return t.file.Write(p) }

// ReadAt implements io.ReaderAt, for what was written so far.
func (t *Scratch) ReadAt(p []byte, at int64) (int, error) { return t.file.ReadAt(p, at) }

// Sync waits until what was written is on the disk, in a store that syncs.
func (t *Scratch) Sync() error { return t.file.Sync() }

// Close removes the file.
func (t *Scratch) Close() error { return t.file.Close() }

// Draft is content on its way into the store whose digest is known only when all of it is written:
// a layer that is being converted, a member of an archive. It hashes what is written to it. Its
// methods must not run beside each other.
type Draft struct {
	lease *Lease
	file  *files.Temp
	sum   digest.Digester
}

// Draft begins one whose digest is of an algorithm; "" is digest.Canonical. The caller must call
// Close.
func (l *Lease) Draft(algorithm digest.Algorithm) (*Draft, error) {
	algorithm = cmp.Or(algorithm, digest.Canonical)
	if !algorithm.Available() {
		return nil, fmt.Errorf("storing a blob: %w %q", digest.ErrDigestUnsupported, algorithm)
	}
	t, err := l.Scratch()
	if err != nil {
		return nil, err
	}
	return &Draft{l, t.file, algorithm.Digester()}, nil
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
func (d *Draft) Size() int64 { return d.file.Size() }

// Commit makes what was written a blob of the store, and returns its descriptor without a media
// type. want, if not "", is the digest that the content should have; with another one it is refused,
// and the error wraps ErrMismatch. When the store has the blob already, that is as good. When Commit
// returns nil the blob is on the disk for good. Close must still be called.
func (d *Draft) Commit(want digest.Digest) (ocispec.Descriptor, error) {
	l := d.lease
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
	if err := l.store.publish(d.file.Path(), desc.Digest); err != nil {
		return desc, fmt.Errorf("committing %s: %w", desc.Digest, err)
	}
	l.store.stampBlob(desc.Digest)
	d.file.Keep()
	return desc, nil
}

// Close ends the draft. What was not committed is gone.
func (d *Draft) Close() error { return d.file.Close() }
