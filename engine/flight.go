package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"drayage/blobstore"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// flight is a blob that is being fetched, as those see it who read it meanwhile. They
// get what is there and hashed, and the last byte when the whole is verified: nobody
// gets all of a blob that is not what it should be.
type flight struct {
	store *blobstore.Store
	desc  ocispec.Descriptor

	mu      sync.Mutex
	changed *sync.Cond
	in      *blobstore.Ingest // while there is one
	there   int64             // bytes that may be read
	thrown  int               // how often all was thrown away
	whole   bool              // verified
	over    bool              // the fetch has ended
	err     error             // by which it did
}

func newFlight(store *blobstore.Store, desc ocispec.Descriptor) *flight {
	f := &flight{store: store, desc: desc}
	f.changed = sync.NewCond(&f.mu)
	return f
}

// begun is told of the ingest.
func (f *flight) begun(in *blobstore.Ingest) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.in = in
	f.changed.Broadcast()
	return nil
}

// front is told how far all is there.
func (f *flight) front(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n == 0 && f.there > 0 {
		f.thrown++
	}
	f.there = min(n, f.desc.Size-1)
	f.changed.Broadcast()
}

// verified is told that the whole has the right digest.
func (f *flight) verified() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.there, f.whole = f.desc.Size, true
	f.changed.Broadcast()
}

// end is told how the fetch has ended.
func (f *flight) end(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over, f.err, f.in = true, err, nil
	f.changed.Broadcast()
}

// errThrown ends reading of what has turned out to be wrong.
var errThrown = errors.New("what came of the blob was not what it should be, and is fetched anew")

// follower reads a blob on its way. It is for one goroutine.
type follower struct {
	ctx    context.Context
	flight *flight
	file   *os.File // nil until something can be read
	at     int64
	thrown int
}

func (f *flight) follow(ctx context.Context) *follower {
	return &follower{ctx: ctx, flight: f, thrown: -1}
}

// Seek implements io.Seeker.
func (r *follower) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += r.flight.desc.Size
	}
	if offset < 0 {
		return r.at, errors.New("seeking before the beginning")
	}
	r.at = offset
	return offset, nil
}

// Read implements io.Reader.
func (r *follower) Read(p []byte) (int, error) {
	if r.at >= r.flight.desc.Size {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	there, err := r.wait()
	if err != nil {
		return 0, err
	}
	n, err := r.file.ReadAt(p[:min(int64(len(p)), there-r.at)], r.at)
	r.at += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

// wait waits until the byte at r.at may be read, and returns how many bytes may.
func (r *follower) wait() (int64, error) {
	f := r.flight
	defer context.AfterFunc(r.ctx, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.changed.Broadcast()
	})()
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		switch {
		case r.ctx.Err() != nil:
			return 0, context.Cause(r.ctx)
		case r.thrown >= 0 && r.thrown != f.thrown:
			return 0, errThrown
		case f.over && f.err != nil:
			return 0, f.err
		case f.over && r.file == nil: // it was there, or another process fetched it
			file, err := f.store.Open(f.desc.Digest)
			if err != nil {
				return 0, err
			}
			r.file = file
			return f.desc.Size, nil
		case f.over:
			return f.desc.Size, nil
		case f.there > r.at && r.file == nil && f.in != nil:
			file, err := f.in.Reader()
			if err != nil {
				return 0, fmt.Errorf("reading what has arrived: %w", err)
			}
			r.file, r.thrown = file, f.thrown
			return f.there, nil
		case f.there > r.at && r.file != nil:
			return f.there, nil
		}
		f.changed.Wait()
	}
}

// Close implements io.Closer.
func (r *follower) Close() error {
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}
