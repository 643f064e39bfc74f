package transfer

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"time"

	"drayage/engine/fault"
	"drayage/engine/internal/retry"
	"drayage/engine/internal/transfer/internal/buffer"
	"drayage/engine/internal/transfer/internal/interval"
	"drayage/engine/internal/transfer/internal/prefix"
	"drayage/engine/internal/transfer/internal/record"
	"drayage/engine/internal/transfer/internal/rotation"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Source is a place that has the blob.
type Source interface {
	// Open begins to read the blob. Its errors wrap ErrRange when the source
	// can't begin where it was asked to, and ErrPassing when another try, there
	// or elsewhere, may succeed.
	Open(ctx context.Context, a Ask) (*Body, error)
	// Host names the source in messages.
	Host() string
}

// Ask is what a source is asked for.
type Ask struct {
	From, To int64 // bytes from offset From up to, and without, To
	Size     int64 // of the whole blob
	// Budget is what tries are drawn from. Where Once is set there should be
	// only one: there are other sources.
	Budget *retry.Budget
	Once   bool
}

// Body is an answer. The caller closes it.
type Body struct {
	io.ReadCloser
	From   int64 // where it begins, at or before what was asked for
	Ranged bool  // the source gave a range because it was asked to
}

var (
	// ErrRange is wrapped by a Source when it can give a blob from its start
	// but not from where it was asked to begin.
	ErrRange = errors.New("the server can't begin within the blob")
	// ErrPassing is wrapped by a Source's errors that may pass.
	ErrPassing = errors.New("another try may succeed")
	// ErrOdd is wrapped by a Source's errors that tell of an answer that is
	// something else than the blob, which a later one may be.
	ErrOdd = errors.New("this is not the blob")
	// ErrGaveUp is wrapped when connections to a source broke until patience ended.
	ErrGaveUp = fault.New(fault.Network, "the connection broke again and again")
	// errWasteful is wrapped when a source that can't begin within a blob
	// broke so often that trying on would only fetch the same bytes again.
	errWasteful = fault.New(fault.Network, "the server can't continue a blob, and the connection doesn't hold for a whole one")
)

// TotalError is wrapped, together with ErrRange, by a Source that says how
// many bytes the blob has there.
type TotalError struct{ Total int64 }

func (e *TotalError) Error() string { return fmt.Sprintf("the blob has %d bytes there", e.Total) }

// MismatchError says that a source's content is not what the descriptor says,
// at the second try too.
type MismatchError struct {
	Want, Got         digest.Digest // Got is "" when the sizes differ
	WantSize, GotSize int64         // bytes; GotSize is one more than WantSize for all that is longer
	Host              string
}

func (e *MismatchError) Error() string {
	switch {
	case e.GotSize > e.WantSize:
		return fmt.Sprintf("%s sends more for %s than the %d bytes that its descriptor says", e.Host, e.Want, e.WantSize)
	case e.GotSize < e.WantSize:
		return fmt.Sprintf("%s has %d bytes for %s, and its descriptor says %d", e.Host, e.GotSize, e.Want, e.WantSize)
	}
	return fmt.Sprintf("content of %s from %s has the digest %s", e.Want, e.Host, e.Got)
}

// FaultKind is its kind: see fault.Of.
func (*MismatchError) FaultKind() fault.Kind { return fault.Content }

// FaultHint is what can be done: see fault.HintOf.
func (*MismatchError) FaultHint() string {
	return "the registry, or something on the way to it, changes content"
}

// localError is a fault of where the bytes should go.
type localError struct{ Err error }

func (e *localError) Error() string { return e.Err.Error() }

// FaultKind is its kind: see fault.Of.
func (*localError) FaultKind() fault.Kind { return fault.Local }

// Unwrap is the fault itself.
func (e *localError) Unwrap() error { return e.Err }

// Sink is where the bytes go, with a journal beside them. What was noted is
// found again by the next transfer into the same sink, in Notes.
type Sink interface {
	io.WriterAt
	io.ReaderAt
	Hash() hash.Hash              // a new one, for the blob's content
	Notes() [][]byte              // of earlier transfers, oldest first
	Note(p []byte) error          // is kept if the process dies
	Checkpoint() error            // what was noted is kept at a power cut too
	Forget() error                // drops all notes
	StartWriting(off, size int64) // begin to write back; size 0 means to the end
}

// Options are how to transfer. The zero value is useful. The functions may be
// nil, and are called from several goroutines.
type Options struct {
	Budget   *retry.Budget   // for all tries; nil means one by the zero Policy
	Activity *retry.Activity // of the run; tells that others move while a connection is silent
	// PeerStall is how long a connection may be silent while others receive data; 0 means
	// 3 seconds. It is for links where one of several connections hangs.
	PeerStall time.Duration
	// IgnoresRange reports whether a host is known to give whole blobs only.
	IgnoresRange func(host string) bool
	// Crowded reports whether other transfers keep all processors busy: then
	// what arrives is hashed by who received it, else beside it.
	Crowded func() bool
	// Checkpoint is how often what was noted is made to outlast a power cut; 0
	// means every 5 seconds.
	Checkpoint time.Duration

	Resumed  func(n int64)                                // n bytes were here from an earlier transfer, or are thrown away when negative
	Damaged  func(n int64)                                // n bytes that it had noted are not what they were
	Progress func(n int64)                                // n bytes have arrived, or are thrown away when negative
	Retrying func(try int, wait time.Duration, why error) // a body broke
	Arrived  func(host string, n int64)                   // n of the bytes of Progress came from there
	Ranged   func(host string, yes bool)                  // it gave a connection its first range, or ignores ranges
	Broken   func(host string)                            // a connection broke, or fell silent
	Late     func()                                       // a connection is late: Help would ask on another one
	// Prefix is called with the offset up to which all is present and hashed; with 0 when all is thrown
	// away. One call at a time.
	Prefix func(n int64)
}

func (o *Options) fill() {
	if o.Activity == nil {
		o.Activity = new(retry.Activity)
	}
	if o.Budget == nil {
		o.Budget = retry.NewBudget(retry.Policy{}, o.Activity, nil)
	}
	if o.PeerStall <= 0 {
		o.PeerStall = 3 * time.Second
	}
	if o.Crowded == nil {
		o.Crowded = func() bool { return false }
	}
	if o.Checkpoint <= 0 {
		o.Checkpoint = 5 * time.Second
	}
	if o.Damaged == nil {
		o.Damaged = func(int64) {}
	}
	if o.Resumed == nil {
		o.Resumed = func(int64) {}
	}
	if o.Progress == nil {
		o.Progress = func(int64) {}
	}
	if o.Retrying == nil {
		o.Retrying = func(int, time.Duration, error) {}
	}
	if o.Arrived == nil {
		o.Arrived = func(string, int64) {}
	}
	if o.Ranged == nil {
		o.Ranged = func(string, bool) {}
	}
	if o.Late == nil {
		o.Late = func() {}
	}
	if o.Broken == nil {
		o.Broken = func(string) {}
	}
	if o.Prefix == nil {
		o.Prefix = func(int64) {}
	}
	if o.IgnoresRange == nil {
		o.IgnoresRange = func(string) bool { return false }
	}
}

// Transfer is a blob on its way. Run does it; Help and Join, from other
// goroutines, make it faster.
type Transfer struct {
	want ocispec.Descriptor
	sink Sink
	opts Options

	mu      sync.Mutex
	changed *sync.Cond // anything below
	phase   phase
	sources rotation.Rotation[Source]
	missing ranges
	workers map[*worker]bool
	prefix  *prefix.Hasher
	begun   time.Time
	arrived int64 // bytes since the start, or since all was thrown away
	kept    int64 // bytes from an earlier transfer
	wasted  int64 // bytes read over
	primary primary
	help    help
	whole   hash.Hash // of all of the blob, or nil
	fault   error     // of the sink: ends everything
}

type (
	source = rotation.Source[Source]
	ranges = interval.Set[worker]
	gap    = interval.Range[worker]
)

// New prepares a transfer of the blob of a descriptor from any of the sources,
// the first one first, into sink.
func New(want ocispec.Descriptor, sources []Source, sink Sink, o Options) *Transfer {
	o.fill()
	t := &Transfer{want: want, sink: sink, opts: o, workers: make(map[*worker]bool), begun: time.Now()}
	t.changed = sync.NewCond(&t.mu)
	for _, s := range sources {
		t.sources.Add(&source{At: s, NoRanges: o.IgnoresRange(s.Host())})
	}
	t.missing = interval.Whole[worker](want.Size)
	t.primary.endedAt = -1
	t.prefix = prefix.New(t.changed, sink, prefix.Events{
		Grown: o.Prefix, Failed: t.failed, State: func(at int64, h hash.Hash) error { return sink.Note(record.Hashed(at, h)) },
	})
	t.prefix.Start(t.sink.Hash(), 0)
	return t
}

// fetchOne is New and Run.
func fetchOne(ctx context.Context, want ocispec.Descriptor, sources []Source, sink Sink, o Options) (digest.Digest, error) {
	return New(want, sources, sink, o).Run(ctx)
}

// Hash is the sink's hash that all of the blob was written to. It is there once
// Run has returned no error.
func (t *Transfer) Hash() hash.Hash {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.whole
}

// Run writes the blob to the sink and returns the digest of what it wrote,
// which is the descriptor's. A body that breaks is continued, with backoff, as
// long as bytes come; when a source gives up the next is tried. Content that
// doesn't match is thrown away and fetched once more, from the next source if
// there is one, before it is a *MismatchError. A fault of the sink is a
// *localError. What has arrived when Run fails otherwise is noted in the sink.
func (t *Transfer) Run(ctx context.Context) (got digest.Digest, err error) {
	t.load()
	var background sync.WaitGroup
	stop := make(chan struct{})
	background.Go(t.hashPrefix)
	background.Go(func() { t.watch(stop) })
	background.Go(func() { t.save(stop) })
	defer func() {
		close(stop)
		t.end()
		background.Wait()
	}()

	mismatched := false
	for {
		got, err := t.round(ctx)
		var mismatch *MismatchError
		if !errors.As(err, &mismatch) {
			return got, err
		}
		guests := t.dropJoined()
		if err := t.restart(); err != nil {
			return "", err
		}
		if guests { // it may have been them
			continue
		}
		if mismatched {
			return "", mismatch
		}
		mismatched = true
		t.turn()
	}
}

// round fetches what is missing, and holds the whole against its digest.
func (t *Transfer) round(ctx context.Context) (digest.Digest, error) {
	if err := t.fetchAll(ctx); err != nil {
		return "", err
	}
	sum, err := t.await(ctx)
	if err != nil {
		return "", err
	}
	got := digest.NewDigestFromBytes(t.want.Digest.Algorithm(), sum)
	if got != t.want.Digest {
		return "", &MismatchError{Want: t.want.Digest, Got: got, WantSize: t.want.Size, GotSize: t.want.Size, Host: t.source().Host()}
	}
	return got, nil
}

// hashPrefix keeps the hash at the end of the prefix until the transfer is over.
// First it checks what an earlier transfer has left.
func (t *Transfer) hashPrefix() {
	t.mu.Lock()
	unchecked := t.phase == checking
	t.mu.Unlock()
	if unchecked {
		t.check()
	}
	buf := buffer.New(t.want.Size)
	defer buf.Free()
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.phase != over || t.prefix.IsBusy() {
		there := t.missing.Prefix(t.want.Size)
		if t.fault != nil {
			there = -1 // nothing can be read
		}
		if !t.prefix.Step(there, buf) {
			t.changed.Wait()
		}
	}
	t.prefix.Start(nil, 0)
}

// await waits for the hash of the whole.
func (t *Transfer) await(ctx context.Context) ([]byte, error) {
	defer context.AfterFunc(ctx, t.wake)()
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		if t.fault != nil {
			return nil, t.fault
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if sum, done := t.prefix.Sum(t.want.Size); done {
			t.whole = t.prefix.Hash()
			return sum, nil
		}
		t.changed.Wait()
	}
}

// end lets all others who are at work on the transfer leave, and waits for
// them.
func (t *Transfer) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.phase = over
	t.interruptAll()
	t.changed.Broadcast()
	for len(t.workers) > 0 {
		t.changed.Wait()
	}
}

// restart throws away what has arrived.
func (t *Transfer) restart() error {
	t.mu.Lock()
	t.help.excluded = true
	t.interruptAll()
	for len(t.workers) > 0 || t.prefix.IsBusy() || t.phase == checking && t.fault == nil {
		t.changed.Wait()
	}
	lost, kept := t.arrived, t.kept
	t.opts.Prefix(0)
	t.help.excluded = false
	t.missing = interval.Whole[worker](t.want.Size)
	t.arrived, t.kept, t.phase = 0, 0, fetching
	t.primary.endedAt, t.primary.began = -1, false
	t.prefix.Start(t.sink.Hash(), 0)
	t.mu.Unlock()
	t.opts.Progress(-lost)
	if kept > 0 {
		t.opts.Resumed(-kept)
	}
	if err := t.sink.Forget(); err != nil {
		return &localError{err}
	}
	return nil
}

// stopped reports whether nothing is to be done any more. The caller holds t.mu.
func (t *Transfer) stopped() bool { return t.phase == over || t.fault != nil }

// interruptAll ends what all workers wait for. The caller holds t.mu.
func (t *Transfer) interruptAll() {
	for w := range t.workers {
		w.interrupt()
	}
}

func (t *Transfer) wake() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changed.Broadcast()
}

// source is the one to ask now.
func (t *Transfer) source() *source {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sources.First()
}

func (t *Transfer) turn() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sources.Turn()
}

func (t *Transfer) drop(s *source) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sources.Drop(s)
}

func (t *Transfer) dropJoined() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sources.DropJoined()
}

// fail records a fault of the sink, which ends the transfer.
func (t *Transfer) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed(err)
}

// failed is fail for who holds t.mu.
func (t *Transfer) failed(err error) {
	if t.fault == nil {
		t.fault = &localError{err}
	}
	t.interruptAll()
	t.changed.Broadcast()
}

// Kept is how many bytes an earlier transfer had left, checked and of use. It
// is right once Run has returned.
func (t *Transfer) Kept() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.kept
}
