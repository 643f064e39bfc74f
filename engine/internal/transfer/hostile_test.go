package transfer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"drayage/engine/internal/retry"
	"drayage/engine/internal/transfer"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func describe(b []byte) ocispec.Descriptor {
	return ocispec.Descriptor{Digest: digest.FromBytes(b), Size: int64(len(b))}
}

// poisoned gives changed bytes for the first MiB, and nothing else.
type poisoned struct{ content []byte }

func (p poisoned) Host() string { return "host" }

func (p poisoned) Open(ctx context.Context, a transfer.Ask) (*transfer.Body, error) {
	if a.From >= 1<<20 {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &transfer.Body{ReadCloser: io.NopCloser(bytes.NewReader(p.content[a.From:a.To])), From: a.From, Ranged: true}, nil
}

// A block that was damaged, and fetched again from a source that changed it,
// has a right checksum. The state of the hash of what was there before must not
// vouch for it in a later run.
func TestAStateIsNotTrustedAfterItsBytesWereFetchedAnew(t *testing.T) {
	synctest.Test(t, stateAfterRefetch)
}

func stateAfterRefetch(t *testing.T) {
	const size, block = 8 << 20, 128 << 10
	whole := content(size)
	dst := &sink{}
	// run ends, as if the process died, once so many bytes have arrived.
	run := func(src transfer.Source, after int64) error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var arrived atomic.Int64
		_, err := transfer.Fetch(ctx, describe(whole), []transfer.Source{src}, dst, transfer.Options{Progress: func(n int64) {
			if arrived.Add(n) >= after {
				cancel()
			}
		}})
		dst.old, dst.notes = append(dst.old, dst.notes...), nil
		return err
	}
	if err := run(&lineSource{content: whole, line: steady(256 << 20)}, size/2); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	// The lead must not be at the rest, which never comes, when the damage is found.
	dst.data[300_000] ^= 1 // the disk
	changed := bytes.Clone(whole)
	changed[300_001] ^= 1 // a proxy
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var arrived atomic.Int64
	tr := transfer.New(describe(whole), []transfer.Source{poisoned{changed}}, dst, transfer.Options{Progress: func(n int64) {
		if arrived.Add(n) >= block {
			cancel()
		}
	}})
	var helpers sync.WaitGroup
	for range 2 {
		helpers.Go(func() {
			for ctx.Err() == nil {
				time.Sleep(50 * time.Millisecond) // the clock is synctest's
				if tr.Rest() > 0 {
					if err := tr.Help(ctx, func() bool { return false }); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	_, err := tr.Run(ctx)
	helpers.Wait()
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	dst.old, dst.notes = append(dst.old, dst.notes...), nil
	if err := run(&script{content: whole}, 1<<40); err != nil || !bytes.Equal(dst.data, whole) {
		t.Errorf("%v; the content is right: %v", err, bytes.Equal(dst.data, whole))
	}
}

// mixed is a source whose first connection breaks, and that refuses ranges
// after it has given one: servers of two kinds behind one name.
type mixed struct {
	*lineSource
	refuses atomic.Bool
	n       atomic.Int64
}

func (m *mixed) Open(ctx context.Context, a transfer.Ask) (*transfer.Body, error) {
	nth := m.n.Add(1)
	ranged := a.From > 0 || a.To < a.Size
	if ranged && m.refuses.Load() {
		return nil, fmt.Errorf("400: %w", transfer.ErrRange)
	}
	b, err := m.lineSource.Open(ctx, a)
	if ranged {
		m.refuses.Store(true)
	}
	if err == nil && nth == 1 {
		b.ReadCloser = breakingBody{b.ReadCloser.(*lineBody)}
	}
	return b, err
}

// A body that passes over the whole blob has no helpers beside it, who would
// write to the same places.
func TestAPassSendsHelpersAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 64 << 20
		whole := content(size)
		src := &mixed{lineSource: &lineSource{content: whole, line: func(nth int) (int, int) {
			switch nth {
			case 0:
				return 4 << 20, 24 << 20
			case 1:
				return 1 << 20, -1
			}
			return 8 << 20, -1
		}}}
		dst := &sink{data: make([]byte, size)}
		var lost atomic.Int64
		tr := transfer.New(describe(whole), []transfer.Source{src}, dst, transfer.Options{Progress: func(n int64) { lost.Add(min(n, 0)) }})
		var helper sync.WaitGroup
		helper.Go(func() {
			for !src.refuses.Load() {
				time.Sleep(100 * time.Millisecond) // the clock is synctest's
				if tr.Rest() > 0 {
					if err := tr.Help(t.Context(), func() bool { return false }); err != nil {
						t.Error(err)
					}
				}
			}
		})
		_, err := tr.Run(t.Context())
		helper.Wait()
		if err != nil || lost.Load() != 0 || !bytes.Equal(dst.data, whole) {
			t.Errorf("%v; %d bytes were thrown away", err, -lost.Load())
		}
	})
}

// slowDisk takes its time to read, or to write at the start.
type slowDisk struct {
	*sink
	read, write time.Duration
}

func (s slowDisk) ReadAt(p []byte, off int64) (int, error) {
	time.Sleep(s.read)
	return s.sink.ReadAt(p, off)
}

func (s slowDisk) WriteAt(p []byte, off int64) (int, error) {
	if off == 0 {
		time.Sleep(s.write)
	}
	return s.sink.WriteAt(p, off)
}

// Damage may be found just where a body is passing.
func TestDamageIsFoundUnderAPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 8 << 20
		whole := content(size)
		dst := &sink{}
		ctx, cancel := context.WithCancel(t.Context())
		_, err := transfer.Fetch(ctx, describe(whole), []transfer.Source{&script{content: whole, tries: []try{{most: size / 2, end: syscall.ECONNRESET}}}},
			dst, transfer.Options{Retrying: func(int, time.Duration, error) { cancel() }})
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		dst.old, dst.notes = dst.notes, nil
		dst.data[20*(128<<10)+5] ^= 1
		src := &lineSource{content: whole, ignores: true, line: steady(1250 << 10)}
		_, err = transfer.Fetch(t.Context(), describe(whole), []transfer.Source{src}, slowDisk{sink: dst, read: 100 * time.Millisecond},
			transfer.Options{IgnoresRange: func(string) bool { return true }})
		if err != nil || !bytes.Equal(dst.data, whole) {
			t.Errorf("%v; the content is right: %v", err, bytes.Equal(dst.data, whole))
		}
	})
}

// blockFirst never answers its first request.
type blockFirst struct {
	*lineSource
	n atomic.Int64
}

func (b *blockFirst) Open(ctx context.Context, a transfer.Ask) (*transfer.Body, error) {
	if b.n.Add(1) == 1 {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return b.lineSource.Open(ctx, a)
}

// The run may end while a helper is writing the very first bytes.
func TestARunEndsWhileAHelperWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		src := &blockFirst{lineSource: &lineSource{content: content(128 << 20), line: steady(10 << 20)}}
		tr := transfer.New(describe(src.content), []transfer.Source{src}, slowDisk{sink: &sink{}, write: time.Second},
			transfer.Options{Crowded: func() bool { return true }})
		var helper sync.WaitGroup
		helper.Go(func() {
			time.Sleep(3 * time.Second) // the clock is synctest's
			if err := tr.Help(ctx, func() bool { return false }); err != nil {
				t.Error(err)
			}
		})
		time.AfterFunc(3500*time.Millisecond, func() { cancel(cause) })
		if _, err := tr.Run(ctx); !errors.Is(err, cause) {
			t.Error(err)
		}
		helper.Wait()
	})
}

// totals says once, in the middle, that the blob has another size.
type totals struct {
	*lineSource
	n atomic.Int64
}

func (s *totals) Open(ctx context.Context, a transfer.Ask) (*transfer.Body, error) {
	switch s.n.Add(1) {
	case 1:
		b, err := s.lineSource.Open(ctx, a)
		if err == nil {
			b.ReadCloser.(*lineBody).hang = 4 << 20
			b.ReadCloser = breakingBody{b.ReadCloser.(*lineBody)}
		}
		return b, err
	case 2:
		return nil, fmt.Errorf("%w: %w", transfer.ErrRange, &transfer.TotalError{Total: 5})
	}
	return s.lineSource.Open(ctx, a)
}

// One answer that tells another size is a fault of who gave it, and costs
// nothing of what is there.
func TestOneWrongTotalCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		whole := content(16 << 20)
		src := &totals{lineSource: &lineSource{content: whole, line: steady(1 << 20)}}
		dst := &sink{}
		if _, err := transfer.Fetch(t.Context(), describe(whole), []transfer.Source{src}, dst, transfer.Options{}); err != nil || !bytes.Equal(dst.data, whole) {
			t.Error(err)
		}
		if sent := src.sent.Load(); sent > 17<<20 {
			t.Errorf("%d bytes came", sent)
		}
	})
}

// A source that tells another size always has another blob.
func TestALastingWrongTotalIsAMismatch(t *testing.T) {
	whole := content(1000)
	wrong := fmt.Errorf("%w: %w", transfer.ErrRange, &transfer.TotalError{Total: 2000})
	for n := 1; n <= 3; n++ {
		var sources []transfer.Source
		asked := func() int { return 0 }
		for i := range n {
			src := &script{content: whole}
			if i == 0 {
				src.tries = []try{{most: 500, end: syscall.ECONNRESET}}
			}
			for range 40 {
				src.tries = append(src.tries, try{open: wrong})
			}
			before := asked
			asked = func() int { return before() + len(src.asked) }
			sources = append(sources, src)
		}
		_, err := transfer.Fetch(t.Context(), describe(whole), sources, &sink{}, transfer.Options{})
		var mismatch *transfer.MismatchError
		if !errors.As(err, &mismatch) || asked() > 12*n {
			t.Errorf("%v after %d requests to %d sources", err, asked(), n)
		}
	}
}

// pausing gives whole blobs only, and pauses.
type pausing struct {
	content []byte
	opens   atomic.Int64
}

func (s *pausing) Host() string { return "host" }

func (s *pausing) Open(ctx context.Context, _ transfer.Ask) (*transfer.Body, error) {
	s.opens.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	return &transfer.Body{ReadCloser: &pauseBody{ctx: ctx, cancel: cancel, rest: s.content}}, nil
}

type pauseBody struct {
	ctx    context.Context
	cancel context.CancelFunc
	rest   []byte
	n      int
}

func (b *pauseBody) Close() error { b.cancel(); return nil }

func (b *pauseBody) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		return 0, io.EOF
	}
	wait := 10 * time.Millisecond
	if b.n++; b.n%100 == 0 {
		wait = 5 * time.Second
	}
	select {
	case <-time.After(wait):
	case <-b.ctx.Done():
		return 0, errors.New("closed")
	}
	n := copy(p[:min(len(p), 32<<10)], b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// A body that can't be continued is not left because it pauses while others
// move.
func TestWholesMayPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		activity := new(retry.Activity)
		ctx, cancel := context.WithCancel(t.Context())
		var others sync.WaitGroup
		others.Go(func() {
			for ctx.Err() == nil {
				activity.Beat()
				time.Sleep(100 * time.Millisecond) // the clock is synctest's
			}
		})
		src := &pausing{content: content(8 << 20)}
		_, err := transfer.Fetch(t.Context(), describe(src.content), []transfer.Source{src}, &sink{}, transfer.Options{Activity: activity})
		cancel()
		others.Wait()
		if err != nil || src.opens.Load() != 1 {
			t.Errorf("%v after %d requests", err, src.opens.Load())
		}
	})
}

// refusing gives the whole, and refuses ranges.
type refusing struct {
	*lineSource
	with   error
	ranges atomic.Int64
}

func (s *refusing) Open(ctx context.Context, a transfer.Ask) (*transfer.Body, error) {
	if a.From > 0 || a.To < a.Size {
		s.ranges.Add(1)
		return nil, s.with
	}
	return s.lineSource.Open(ctx, a)
}

// Help that is refused does not come again and again, and costs the body
// nothing that it is not needed for.
func TestRefusedHelpStaysAway(t *testing.T) {
	for _, with := range []error{fmt.Errorf("416: %w", transfer.ErrRange), errors.New("403"), fmt.Errorf("503: %w", transfer.ErrPassing)} {
		synctest.Test(t, func(t *testing.T) {
			whole := content(64 << 20)
			src := &refusing{lineSource: &lineSource{content: whole, line: steady(2 << 20)}, with: with} // 32 seconds
			fetchWith(t, src, &sink{}, 3, transfer.Options{})
			if n := src.ranges.Load(); n > 20 || src.sent.Load() != 64<<20 {
				t.Errorf("%v: %d requests for ranges, %d bytes", with, n, src.sent.Load())
			}
		})
	}
}
