package pullthrough

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"drayage/blobstore"
	"drayage/blobstore/quota"
	"drayage/engine/internal/transfer"
	"drayage/engine/reference"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// inFlight is a blob that is being fetched, as those see it who read it meanwhile. They
// get what is there and hashed, and the last byte when the whole is verified: nobody
// gets all of a blob that is not what it should be.
type inFlight struct {
	store  *blobstore.Store
	desc   ocispec.Descriptor
	ctx    context.Context // of the fetch
	cancel context.CancelCauseFunc
	turns  chan func() // by which it may begin; what is received is to be called when it is over
	apart  bool        // another one is under way, of the same digest and another size
	seed   maphash.Seed
	grow   func(arrived int64) error // takes room for what comes; nil when that is no matter
	idle   func()                    // is told when nobody follows any more

	arrived atomic.Int64 // bytes

	mu        sync.Mutex
	room      *quota.Space       // of the budget; nil before it begins, or without one
	origins   map[string]*origin // by repository, with its registry
	followers int
	left      int                // how often the last one of them has left
	transfer  *transfer.Transfer // nil before it begins
	joining   []func(*transfer.Transfer)

	changed *sync.Cond
	file    *os.File // what is written, while anybody reads it; nil before
	users   int      // of the file: who follows, and the fetch
	there   int64    // bytes that may be read
	thrown  int      // how often all was thrown away
	over    bool     // the fetch has ended
	err     error    // by which it did
}

// origin is a repository that an in-flight fetch's blob was asked for of.
type origin struct {
	ref   reference.Image
	at    repoDigest
	guest bool // it has joined
	known bool // it is known to have the blob: who follows for its sake gets nothing before
	kept  bool // the blob was added to its images
	wrong bool // it has given other content

	excluded atomic.Bool // as a guest, for what it gave here or elsewhere
	given    []*stretch  // since all was thrown away last
	thrown   []*stretch  // of a guest, that was thrown away
}

func newInFlight(ctx context.Context, store *blobstore.Store, desc ocispec.Descriptor) *inFlight {
	f := &inFlight{store: store, desc: desc, users: 1, seed: maphash.MakeSeed(), origins: make(map[string]*origin), turns: make(chan func())}
	f.ctx, f.cancel = context.WithCancelCause(ctx)
	f.changed = sync.NewCond(&f.mu)
	return f
}

// of is the origin that a repository is, nil when the blob wasn't asked for of it.
func (f *inFlight) of(repository string) *origin {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.origins[repository]
}

// several reports whether the blob was asked for of more than one repository.
func (f *inFlight) several() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.origins) > 1
}

// holders are the repositories that are known to have the blob since this was last asked, and that
// gave no other content. What manifests say is no knowledge of that.
func (f *inFlight) holders() (out []repoDigest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range f.origins {
		if o.known && !o.kept && !o.wrong {
			o.kept = true
			out = append(out, o.at)
		}
	}
	return out
}

// hasThrown reports whether what a guest gave was thrown away.
func (f *inFlight) hasThrown() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range f.origins {
		if len(o.thrown) > 0 {
			return true
		}
	}
	return false
}

// add adds a repository.
func (f *inFlight) add(at repoDigest, ref reference.Image, known bool) *origin {
	f.mu.Lock()
	defer f.mu.Unlock()
	o := &origin{ref: ref, at: at, known: known, guest: len(f.origins) > 0}
	f.origins[at.repository] = o
	if f.room != nil {
		f.room.For(ref.Registry())
	}
	return o
}

// takes has an in-flight fetch take its room.
func (f *inFlight) takes(room *quota.Space) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.room = room
	for _, o := range f.origins {
		room.For(o.ref.Registry())
	}
}

// isKnown reports whether an origin is known to have the blob.
func (f *inFlight) isKnown(o *origin) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return o.known
}

// prove notes that an origin has the blob.
func (f *inFlight) prove(o *origin) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o.known = true
	f.changed.Broadcast()
}

// Transferring is told of the transfer.
func (f *inFlight) Transferring(t *transfer.Transfer) {
	f.mu.Lock()
	f.transfer = t
	joining := f.joining
	f.joining = nil
	f.mu.Unlock()
	for _, join := range joining {
		join(t)
	}
}

// with calls join with the transfer when there is one.
func (f *inFlight) with(join func(*transfer.Transfer)) {
	f.mu.Lock()
	t := f.transfer
	if t == nil {
		f.joining = append(f.joining, join)
	}
	f.mu.Unlock()
	if t != nil {
		join(t)
	}
}

// Progress is told of bytes that arrived. When there is no room for more it ends the fetch.
func (f *inFlight) Progress(n int64) {
	arrived := f.arrived.Add(n)
	if f.grow == nil {
		return
	}
	if err := f.grow(arrived); err != nil {
		f.cancel(err)
	}
}

// Begun is told of the ingest. Its file stays readable, whatever name it has later.
func (f *inFlight) Begun(in *blobstore.Ingest) error {
	file, err := in.Reader()
	if err != nil {
		return fmt.Errorf("opening the partial blob: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.file = file
	f.changed.Broadcast()
	return nil
}

// leave lets go of the file. The caller holds f.mu.
func (f *inFlight) leave() {
	if f.users--; f.users == 0 && f.file != nil {
		f.file.Close()
		f.file = nil
	}
}

// Prefix is told how far all is there.
func (f *inFlight) Prefix(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n == 0 {
		f.throw()
	}
	if n == 0 && f.there > 0 {
		f.thrown++
	}
	f.there = min(n, f.desc.Size-1)
	f.changed.Broadcast()
}

// Verified is told that the whole has the right digest.
func (f *inFlight) Verified() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.there = f.desc.Size
	f.changed.Broadcast()
}

// end is told how the fetch has ended.
func (f *inFlight) end(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over, f.err = true, err
	f.changed.Broadcast()
	f.leave()
}

// errUnknown is what a follower is told when all has come, and it isn't known yet whether its
// repository has the blob.
var errUnknown = errors.New("the repository has not confirmed that it has the blob")

// errThrown ends reading of what has turned out to be wrong.
var errThrown = errors.New("content does not match the digest; fetching the blob again")

// follower reads a blob on its way. It is for one goroutine.
type follower struct {
	ctx    context.Context
	fetch  *inFlight
	origin *origin
	own    *os.File // of the store, where nobody had to fetch it
	at     int64
	thrown int // what the fetch's count was when the first byte was read; -1 before
	left   bool
}

func (f *inFlight) follow(ctx context.Context, o *origin) *follower {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.users++
	f.followers++
	return &follower{ctx: ctx, fetch: f, origin: o, thrown: -1}
}

// Seek implements io.Seeker.
func (r *follower) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += r.fetch.desc.Size
	}
	if offset < 0 {
		return r.at, errors.New("seek to a negative offset")
	}
	r.at = offset
	return offset, nil
}

// Read implements io.Reader.
func (r *follower) Read(p []byte) (int, error) {
	if r.at >= r.fetch.desc.Size {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	there, from, err := r.wait()
	if err != nil {
		return 0, err
	}
	n, err := from.ReadAt(p[:min(int64(len(p)), there-r.at)], r.at)
	r.at += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

// ready waits until the first byte may be read, or it is known that none will come.
func (r *follower) ready() error {
	if r.fetch.desc.Size == 0 {
		return nil
	}
	_, _, err := r.wait()
	return err
}

// wait waits until the byte at r.at may be read, and returns how many bytes may, and
// where.
func (r *follower) wait() (int64, *os.File, error) {
	f := r.fetch
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
			return 0, nil, context.Cause(r.ctx)
		case r.own != nil:
			return f.desc.Size, r.own, nil
		case r.thrown >= 0 && r.thrown != f.thrown:
			return 0, nil, errThrown
		case f.over && f.err != nil:
			return 0, nil, f.err
		case f.over && !r.origin.known:
			return 0, nil, errUnknown
		case f.over && f.file == nil: // it was there, or another process has fetched it
			file, err := f.store.Open(f.desc.Digest)
			if err != nil {
				return 0, nil, err
			}
			r.own = file
		case f.there > r.at && f.file != nil && r.origin.known && (f.thrown == 0 || f.there == f.desc.Size): // whose second try is verified first
			r.thrown = f.thrown
			return f.there, f.file, nil
		default:
			f.changed.Wait()
		}
	}
}

// Close implements io.Closer.
func (r *follower) Close() error {
	f := r.fetch
	f.mu.Lock()
	idle := false
	if !r.left {
		r.left = true
		f.leave()
		f.followers--
		if idle = f.followers == 0 && !f.over; idle {
			f.left++
		}
	}
	f.mu.Unlock()
	if idle {
		f.idle()
	}
	if r.own == nil {
		return nil
	}
	return r.own.Close()
}
