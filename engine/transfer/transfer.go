// Package transfer brings one blob from where it is to where it should be.
//
// The bytes come over one connection or several, each at work on a piece of
// what is missing, and are written where they belong as they arrive. Their hash
// follows the front, the offset before which all is there. What has arrived is
// noted beside the data, so that whoever comes next, in this process or a later
// one, goes on from there: a connection that breaks loses what was on the wire,
// a process that dies hardly more.
package transfer

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"time"

	"drayage/engine/retry"

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
	ErrGaveUp = errors.New("the connection broke again and again")
	// ErrWasteful is wrapped when a source that can't begin within a blob
	// broke so often that trying on would only fetch the same bytes again.
	ErrWasteful = errors.New("the server can't continue a blob, and the connection doesn't hold for a whole one")
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

// LocalError is a fault of where the bytes should go.
type LocalError struct{ Err error }

func (e *LocalError) Error() string { return e.Err.Error() }

// Unwrap is the fault itself.
func (e *LocalError) Unwrap() error { return e.Err }

// Sink is where the bytes go, with a journal beside them. What was noted is
// found again by the next transfer into the same sink, in Notes.
type Sink interface {
	io.WriterAt
	io.ReaderAt
	Notes() [][]byte              // of earlier transfers, oldest first
	Note(p []byte) error          // is kept if the process dies
	Checkpoint() error            // what was noted is kept at a power cut too
	Forget() error                // drops all notes
	StartWriting(off, size int64) // begin to write back; size 0 means to the end
}

// Options are how to transfer. The zero value is useful. The functions may be
// nil, and are called from several goroutines.
type Options struct {
	Budget *retry.Budget // for all tries; nil means one by the zero Policy
	Pulse  *retry.Pulse  // of the run; tells that others move while a connection is silent
	// Hush is how long a connection may be silent while others move; 0 means
	// 3 seconds. It is for links where one of several connections hangs.
	Hush time.Duration
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
	// Front is told how far all is there and hashed, as that grows; 0 when all is thrown
	// away. One call at a time.
	Front func(n int64)
}

func (o *Options) fill() {
	if o.Pulse == nil {
		o.Pulse = new(retry.Pulse)
	}
	if o.Budget == nil {
		o.Budget = retry.NewBudget(retry.Policy{}, o.Pulse, nil)
	}
	if o.Hush <= 0 {
		o.Hush = 3 * time.Second
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
	if o.Broken == nil {
		o.Broken = func(string) {}
	}
	if o.Front == nil {
		o.Front = func(int64) {}
	}
	if o.IgnoresRange == nil {
		o.IgnoresRange = func(string) bool { return false }
	}
}

// Transfer is a blob on its way. Run does it; Help, from other goroutines,
// makes it faster.
type Transfer struct {
	want ocispec.Descriptor
	sink Sink
	opts Options

	mu         sync.Mutex
	changed    *sync.Cond // anything below
	sources    []*source  // the one to ask first
	gaps       []*gap     // what is missing, by offset
	workers    map[*worker]bool
	begun      time.Time
	arrived    int64     // bytes since the start, or since all was thrown away
	kept       int64     // bytes from an earlier transfer
	wasted     int64     // bytes read over
	asked      int64     // from where the lead asked last
	askedWhole bool      // it asked for all of the blob
	stuck      int       // answers in a row that brought the lead nothing, and were no failures
	endedAt    int64     // where a body ended in good order but too early, or -1
	verified   bool      // what an earlier transfer left was checked
	alone      bool      // nobody may help now
	refused    time.Time // until then nobody may: help failed
	refusals   int       // in a row
	loaded     bool      // gaps says what is missing
	closed     bool      // no source may join any more
	over       bool      // Run is returning
	fault      error     // of the sink: ends everything
	front      front
}

// source is a Source with what was learned of it.
type source struct {
	Source
	joined   bool    // while Run was running
	beaten   float64 // then: how slow the one was, in bytes a second, that it is to be faster than
	noRanges bool    // it is to be asked for the whole
	honoured bool    // it has given a range as it was asked to
	odd      int     // answers since then that were no such thing
}

// mostOdd is how many odd answers in a row a source that has served ranges may
// give, before it is asked for the whole: behind one name there may be servers
// of several kinds.
const mostOdd = 3

// New prepares a transfer of the blob of a descriptor from any of the sources,
// the first one first, into sink.
func New(want ocispec.Descriptor, sources []Source, sink Sink, o Options) *Transfer {
	o.fill()
	t := &Transfer{want: want, sink: sink, opts: o, workers: make(map[*worker]bool), endedAt: -1, begun: time.Now()}
	t.changed = sync.NewCond(&t.mu)
	for _, s := range sources {
		t.sources = append(t.sources, &source{Source: s, noRanges: o.IgnoresRange(s.Host())})
	}
	t.gaps = wholeGap(want.Size)
	t.front.hash = t.newHash()
	return t
}

// Fetch is New and Run.
func Fetch(ctx context.Context, want ocispec.Descriptor, sources []Source, sink Sink, o Options) (digest.Digest, error) {
	return New(want, sources, sink, o).Run(ctx)
}

func (t *Transfer) newHash() hash.Hash { return t.want.Digest.Algorithm().Hash() }

// Run writes the blob to the sink and returns the digest of what it wrote,
// which is the descriptor's. A body that breaks is continued, with backoff, as
// long as bytes come; when a source gives up the next is tried. Content that
// doesn't match is thrown away and fetched once more, from the next source if
// there is one, before it is a *MismatchError. A fault of the sink is a
// *LocalError. What has arrived when Run fails otherwise is noted in the sink.
func (t *Transfer) Run(ctx context.Context) (got digest.Digest, err error) {
	t.load()
	var background sync.WaitGroup
	stop := make(chan struct{})
	background.Go(t.follow)
	background.Go(func() { t.listen(stop) })
	background.Go(func() { t.keep(stop) })
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
		t.next()
	}
}

// round fetches what is missing, and holds the whole against its digest.
func (t *Transfer) round(ctx context.Context) (digest.Digest, error) {
	if err := t.lead(ctx); err != nil {
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

// end lets all others who are at work on the transfer leave, and waits for
// them.
func (t *Transfer) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	for w := range t.workers {
		w.interrupt()
	}
	t.changed.Broadcast()
	for len(t.workers) > 0 {
		t.changed.Wait()
	}
}

// restart throws away what has arrived.
func (t *Transfer) restart() error {
	t.mu.Lock()
	t.alone = true
	for w := range t.workers {
		w.interrupt()
	}
	for len(t.workers) > 0 || t.front.busy || !t.verified && t.fault == nil {
		t.changed.Wait()
	}
	lost, kept := t.arrived, t.kept
	t.opts.Front(0)
	t.alone = false
	t.gaps = wholeGap(t.want.Size)
	t.arrived, t.kept, t.endedAt, t.verified = 0, 0, -1, true
	t.front.reset(t.newHash())
	t.mu.Unlock()
	t.opts.Progress(-lost)
	if kept > 0 {
		t.opts.Resumed(-kept)
	}
	if err := t.sink.Forget(); err != nil {
		return &LocalError{err}
	}
	return nil
}

// source is the one to ask now.
func (t *Transfer) source() *source {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sources[0]
}

// next puts the first source behind the others.
func (t *Transfer) next() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sources = append(t.sources[1:len(t.sources):len(t.sources)], t.sources[0])
}

// dropJoined leaves out the sources that have joined, if there are others, and reports whether
// there were any.
func (t *Transfer) dropJoined() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	var left []*source
	for _, s := range t.sources {
		if !s.joined {
			left = append(left, s)
		}
	}
	if len(left) == 0 || len(left) == len(t.sources) {
		return false
	}
	t.sources = left
	return true
}

// drop leaves a source out, and reports whether others are left.
func (t *Transfer) drop(s *source) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.sources) == 1 {
		return false
	}
	for i, other := range t.sources {
		if other == s {
			t.sources = append(t.sources[:i:i], t.sources[i+1:]...)
			break
		}
	}
	return true
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
		t.fault = &LocalError{err}
	}
	for w := range t.workers {
		w.interrupt()
	}
	t.changed.Broadcast()
}

// Kept is how many bytes an earlier transfer had left, checked and of use. It
// is right once Run has returned.
func (t *Transfer) Kept() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.kept
}
