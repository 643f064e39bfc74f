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

// lineSource is a source whose connections have speeds, and may hang. Its clock
// is synctest's.
type lineSource struct {
	content []byte
	ignores bool // ranges
	// line says what the nth connection is like: bytes a second, and after how
	// many it hangs, -1 for never.
	line func(nth int) (rate int, hang int)
	// wait, if not nil, is how long the nth connection waits for its answer.
	wait func(nth int) time.Duration

	mu    sync.Mutex
	asks  []transfer.Ask
	sent  atomic.Int64
	opens int
}

// lined is a source that knows what it gives.
type lined interface {
	transfer.Source
	whole() []byte
}

func (s *lineSource) whole() []byte { return s.content }

func (s *lineSource) Host() string { return "host" }

func (s *lineSource) Open(ctx context.Context, a transfer.Ask) (*transfer.Body, error) {
	s.mu.Lock()
	nth := s.opens
	s.opens++
	s.asks = append(s.asks, a)
	s.mu.Unlock()
	if s.wait != nil {
		select {
		case <-time.After(s.wait(nth)):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	rate, hang := s.line(nth)
	from, to := a.From, a.To
	if s.ignores || from == 0 && to == a.Size {
		from, to = 0, a.Size
	}
	ctx, cancel := context.WithCancel(ctx)
	body := &lineBody{source: s, ctx: ctx, cancel: cancel, rest: s.content[from:to], rate: rate, hang: hang}
	return &transfer.Body{ReadCloser: body, From: from, Ranged: !s.ignores && (from > 0 || to < a.Size)}, nil
}

type lineBody struct {
	source *lineSource
	ctx    context.Context
	cancel context.CancelFunc
	rest   []byte
	rate   int
	hang   int
}

func (b *lineBody) Read(p []byte) (int, error) {
	if b.hang == 0 {
		<-b.ctx.Done()
	}
	if b.ctx.Err() != nil {
		return 0, errors.New("closed")
	}
	if len(b.rest) == 0 {
		return 0, io.EOF
	}
	n := min(len(p), len(b.rest), 16<<10)
	if b.hang > 0 {
		n = min(n, b.hang)
		b.hang -= n
	}
	t := time.NewTimer(time.Duration(float64(n) / float64(b.rate) * float64(time.Second)))
	defer t.Stop()
	select {
	case <-t.C:
	case <-b.ctx.Done():
		return 0, errors.New("closed")
	}
	copy(p, b.rest[:n])
	b.rest = b.rest[n:]
	b.source.sent.Add(int64(n))
	return n, nil
}

func (b *lineBody) Close() error { b.cancel(); return nil }

func steady(rate int) func(int) (int, int) { return func(int) (int, int) { return rate, -1 } }

// fetchWith fetches with so many helpers, who come when there is something to
// take, and returns how long it took.
func fetchWith(t *testing.T, src lined, dst *sink, helpers int, o transfer.Options) time.Duration {
	t.Helper()
	whole := src.whole()
	want := describe(whole)
	if o.Activity == nil {
		o.Activity = new(retry.Activity)
	}
	beat := o.Progress
	o.Progress = func(n int64) {
		o.Activity.Beat()
		if beat != nil {
			beat(n)
		}
	}
	tr := transfer.New(want, []transfer.Source{src}, dst, o)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range helpers {
		wg.Go(func() {
			for ctx.Err() == nil {
				if tr.Rest() > 0 {
					if err := tr.Help(ctx, func() bool { return false }); err != nil {
						t.Error(err)
					}
				}
				time.Sleep(50 * time.Millisecond) // the clock is synctest's
			}
		})
	}
	start := time.Now()
	got, err := tr.Run(t.Context())
	took := time.Since(start)
	cancel()
	wg.Wait()
	if err != nil || got != want.Digest || !bytes.Equal(dst.data, whole) {
		t.Errorf("%s, %v; the content is right: %v", got, err, bytes.Equal(dst.data, whole))
	}
	return took
}

func TestConnectionsShareABlob(t *testing.T) {
	const size, rate = 64 << 20, 4 << 20
	whole := content(size)
	for helpers, most := range map[int]time.Duration{0: 16100 * time.Millisecond, 1: 8800 * time.Millisecond, 3: 5 * time.Second, 7: 3 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			src := &lineSource{content: whole, line: steady(rate)}
			took := fetchWith(t, src, &sink{}, helpers, transfer.Options{})
			if took > most {
				t.Errorf("with %d helpers it took %v, want at most %v", helpers, took, most)
			}
			// Only the first body may have been left before its end.
			if over := src.sent.Load() - size; over > 1<<20 {
				t.Errorf("with %d helpers %d bytes came in vain, in %d requests", helpers, over, len(src.asks))
			}
		})
	}
}

// One connection of eight that is twenty times slower hardly matters.
func TestASlowConnectionLosesItsRest(t *testing.T) {
	const size, rate = 64 << 20, 4 << 20
	whole := content(size)
	var even, uneven time.Duration
	synctest.Test(t, func(t *testing.T) {
		even = fetchWith(t, &lineSource{content: whole, line: steady(rate)}, &sink{}, 7, transfer.Options{})
	})
	for slow := range 8 {
		synctest.Test(t, func(t *testing.T) {
			src := &lineSource{content: whole, line: func(nth int) (int, int) {
				if nth == slow {
					return rate / 20, -1
				}
				return rate, -1
			}}
			uneven = fetchWith(t, src, &sink{}, 7, transfer.Options{})
			if slow > 0 && uneven > even*27/20 {
				t.Errorf("with connection %d slow it took %v, without %v", slow, uneven, even)
			}
		})
	}
}

// A connection that falls silent while others move is replaced long before it
// would be given up by itself.
func TestASilentConnectionIsReplaced(t *testing.T) {
	const size, rate = 32 << 20, 4 << 20
	whole := content(size)
	for silent := range 4 {
		synctest.Test(t, func(t *testing.T) {
			var broken atomic.Int64
			src := &lineSource{content: whole, line: func(nth int) (int, int) {
				if nth == silent {
					return rate, 300_000
				}
				return rate, -1
			}}
			took := fetchWith(t, src, &sink{}, 3, transfer.Options{PeerStall: 2 * time.Second, Broken: func(string) { broken.Add(1) }})
			if took > 8*time.Second { // alone it would take as long
				t.Errorf("with connection %d silent it took %v", silent, took)
			}
		})
	}
}

// What the bytes of an earlier transfer have left is not fetched again.
// A connection that falls silent, or isn't answered, costs about a second, though no other moves: a
// second one asks for the same, and has it when it is answered.
func TestALateConnectionGetsARival(t *testing.T) {
	const size, rate = 16 << 20, 4 << 20
	for name, line := range map[string]func(nth int) (rate, hang int, wait time.Duration){
		"the only one": func(nth int) (int, int, time.Duration) {
			if nth == 0 {
				return rate, 5 << 20, 0
			}
			return rate, -1, 0
		},
		"the first two": func(nth int) (int, int, time.Duration) {
			if nth < 2 {
				return rate, 5 << 20, 0
			}
			return rate, -1, 0
		},
		"an answer": func(nth int) (int, int, time.Duration) {
			if nth == 1 { // to the rival of the first
				return rate, -1, time.Hour
			}
			return rate, 5 << 20, 10 * time.Millisecond
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &lineSource{content: content(size), line: func(nth int) (int, int) { r, h, _ := line(nth); return r, h }, wait: func(nth int) time.Duration { _, _, w := line(nth); return w }}
				took := fetchWith(t, src, new(sink), 2, transfer.Options{})
				if most := size/rate*time.Second + 5*time.Second; took > most {
					t.Errorf("it took %s, want %s", took, most)
				}
				if sent, most := src.sent.Load(), int64(size+size/20); sent > most {
					t.Errorf("%d bytes were sent of %d", sent, size)
				}
			})
		})
	}
}

// A source that has failed, and makes its next try wait, gets no second request meanwhile.
func TestAFailingSourceGetsNoRival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, rate = 4 << 20, 4 << 20
		src := &lineSource{content: content(size), line: steady(rate)}
		o := transfer.Options{Budget: retry.NewBudget(retry.Policy{}, new(retry.Activity), nil), Late: func() { t.Error("somebody was told to help") }}
		src.wait = func(int) time.Duration {
			o.Budget.Next(retry.Failure{Host: "host", Err: errors.New("429"), Reached: true})
			return 20 * time.Second
		}
		fetchWith(t, src, new(sink), 0, o)
	})
}

// Who can help is told of a late connection, though nothing arrives that would have it look.
func TestHelpersAreToldOfLateConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, rate = 4 << 20, 4 << 20
		src := &lineSource{content: content(size), line: func(nth int) (int, int) {
			if nth == 0 {
				return rate, 1 << 20
			}
			return rate, -1
		}}
		var tr *transfer.Transfer
		var helping sync.WaitGroup
		help := sync.OnceFunc(func() {
			helping.Go(func() {
				if err := tr.Help(t.Context(), func() bool { return false }); err != nil {
					t.Error(err)
				}
			})
		})
		want := describe(src.content)
		tr = transfer.New(want, []transfer.Source{src}, new(sink), transfer.Options{Late: help})
		began := time.Now()
		if got, err := tr.Run(t.Context()); err != nil || got != want.Digest {
			t.Errorf("%s, %v", got, err)
		}
		if took, most := time.Since(began), 3*time.Second; took > most {
			t.Errorf("it took %s, want %s", took, most)
		}
		helping.Wait()
	})
}

// A host that is slow with everything, and silent for seconds again and again, is asked little more
// than once, and what comes counts.
func TestASlowHostGetsFewRivals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, rate = 256 << 10, 8 << 10 // 16 KiB in 2 seconds
		src := &lineSource{content: content(size), line: steady(rate)}
		took := fetchWith(t, src, new(sink), 1, transfer.Options{})
		if most := size/rate*time.Second + 2*time.Second; took > most {
			t.Errorf("it took %s, want %s", took, most)
		}
		if src.opens > 5 {
			t.Errorf("%d requests", src.opens)
		}
	})
}

func TestFetchGoesOnFromNotes(t *testing.T) {
	const size = 4 << 20
	whole := content(size)
	want := ocispec.Descriptor{Digest: digest.FromBytes(whole), Size: size}
	begin := func(t *testing.T) *sink { // half of it
		dst := &sink{}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		src := &script{content: whole, tries: []try{{most: size / 2, end: syscall.ECONNRESET}}}
		_, err := transfer.Fetch(ctx, want, []transfer.Source{src}, dst, transfer.Options{Retrying: func(int, time.Duration, error) { cancel() }})
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		dst.old, dst.notes = dst.notes, nil
		return dst
	}
	for _, c := range []struct {
		name    string
		change  func(s *sink)
		most    int64 // bytes fetched again besides the second half
		damaged bool
	}{
		{"as it was left", func(*sink) {}, 0, false},
		{"a byte changed", func(s *sink) { s.data[300_000] ^= 1 }, 128 << 10, true},
		{"the last byte changed", func(s *sink) { s.data[size/2-1] ^= 1 }, 128 << 10, true},
		{"the first and another", func(s *sink) { s.data[0] ^= 1; s.data[1<<20] ^= 1 }, 256 << 10, true},
		{"all of it", func(s *sink) { clear(s.data) }, size / 2, true},
		{"no notes", func(s *sink) { s.old = nil }, size / 2, false},
		{"rubbish for notes", func(s *sink) {
			for i := range s.old {
				s.old[i] = bytes.Repeat([]byte{byte(i)}, i%40)
			}
		}, size / 2, false},
		{"notes in another order", func(s *sink) { s.old[0], s.old[5] = s.old[5], s.old[0] }, 0, false},
		{"the file is shorter than the notes say", func(s *sink) { s.data = s.data[:1<<20] }, size / 4, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dst := begin(t)
			c.change(dst)
			src := &lineSource{content: whole, line: steady(1 << 30)}
			var resumed, damaged int64
			tr := transfer.New(want, []transfer.Source{src}, dst, transfer.Options{
				Resumed: func(n int64) { resumed = n }, Damaged: func(n int64) { damaged = n },
			})
			got, err := tr.Run(t.Context())
			if err != nil || got != want.Digest || !bytes.Equal(dst.data, whole) {
				t.Fatalf("%s, %v", got, err)
			}
			if sent := src.sent.Load(); sent > size/2+c.most {
				t.Errorf("%d bytes fetched, want at most %d", sent, size/2+c.most)
			}
			if (damaged > 0) != c.damaged || tr.Kept() != resumed {
				t.Errorf("%d bytes damaged; %d resumed, %d kept", damaged, resumed, tr.Kept())
			}
		})
	}
}

// A journal that lies about the hash's state makes for a mismatch, and that for
// starting over: the result is right all the same.
func TestALyingStateIsFoundOut(t *testing.T) {
	const size = 4 << 20
	whole := content(size)
	want := ocispec.Descriptor{Digest: digest.FromBytes(whole), Size: size}
	other := bytes.Clone(whole)
	other[17] ^= 1 // what the state is of
	first := &sink{}
	tr := transfer.New(ocispec.Descriptor{Digest: digest.FromBytes(other), Size: size},
		[]transfer.Source{&script{content: other}}, first, transfer.Options{})
	if _, err := tr.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	dst := &sink{}
	if _, err := transfer.Fetch(t.Context(), want, []transfer.Source{&script{content: whole}}, dst, transfer.Options{}); err != nil {
		t.Fatal(err)
	}
	for _, n := range dst.notes {
		if n[0] == 'e' {
			dst.old = append(dst.old, n)
		}
	}
	for _, n := range first.notes {
		if n[0] == 's' {
			dst.old = append(dst.old, n)
		}
	}
	dst.notes = nil
	src := &script{content: whole}
	if got, err := transfer.Fetch(t.Context(), want, []transfer.Source{src}, dst, transfer.Options{}); err != nil || got != want.Digest {
		t.Errorf("%s, %v", got, err)
	}
	if fmt.Sprint(src.asked) != "[0]" {
		t.Errorf("asked from %v, want once from the start", src.asked)
	}
}

// A server that ignores ranges, on a line that doesn't hold for a whole blob,
// can't be helped; what is wasted on it has an end.
func TestWasteHasAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 8 << 20
		whole := content(size)
		src := &lineSource{content: whole, ignores: true, line: func(int) (int, int) { return 1 << 30, 3 << 20 }}
		// Each connection breaks after 3 MiB.
		breaking := &breakingSource{src}
		_, err := transfer.Fetch(t.Context(), ocispec.Descriptor{Digest: digest.FromBytes(whole), Size: size},
			[]transfer.Source{breaking}, &sink{}, transfer.Options{Budget: retry.NewBudget(retry.Policy{Patience: time.Hour}, nil, nil)})
		if !errors.Is(err, transfer.ErrWasteful) {
			t.Errorf("%v", err)
		}
		if sent := src.sent.Load(); sent > 4*size+17<<20 {
			t.Errorf("%d bytes sent", sent)
		}
	})
}

// breakingSource breaks off where its lines would hang.
type breakingSource struct{ *lineSource }

func (s *breakingSource) Open(ctx context.Context, a transfer.Ask) (*transfer.Body, error) {
	b, err := s.lineSource.Open(ctx, a)
	if err == nil {
		b.ReadCloser = breakingBody{b.ReadCloser.(*lineBody)}
	}
	return b, err
}

type breakingBody struct{ *lineBody }

func (b breakingBody) Read(p []byte) (int, error) {
	if b.hang == 0 {
		return 0, syscall.ECONNRESET
	}
	return b.lineBody.Read(p)
}

// Sources that fail for now are tried in turn, with a wait after each round;
// one that fails for good is left out.
func TestSourcesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		whole := content(1000)
		passing := fmt.Errorf("503: %w", transfer.ErrPassing)
		first := &script{content: whole, tries: []try{{open: passing}, {open: passing}, {open: passing}}}
		second := &script{content: whole, tries: []try{{open: passing}, {open: passing}, {most: 500, end: syscall.ECONNRESET}, {open: errors.New("gone")}}}
		dst := &sink{}
		want := ocispec.Descriptor{Digest: digest.FromBytes(whole), Size: 1000}
		if _, err := transfer.Fetch(t.Context(), want, []transfer.Source{first, second}, dst, transfer.Options{}); err != nil || !bytes.Equal(dst.data, whole) {
			t.Errorf("%v", err)
		}
		if fmt.Sprint(first.asked, second.asked) != "[0 0 0 500] [0 0 0 500]" {
			t.Errorf("asked from %v and %v", first.asked, second.asked)
		}
	})
}

// Patience counts from the last byte of the whole run.
func TestPatienceLastsWhileOthersMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		activity := new(retry.Activity)
		budget := retry.NewBudget(retry.Policy{Patience: 10 * time.Second}, activity, nil)
		stop := time.AfterFunc(0, func() {})
		defer stop.Stop()
		go func() {
			for range 60 { // another blob moves for a minute
				activity.Beat()
				time.Sleep(time.Second) // the clock is synctest's
			}
		}()
		src := &script{content: content(10)}
		for range 1000 {
			src.tries = append(src.tries, try{content: []byte{}, end: syscall.ECONNRESET})
		}
		start := time.Now()
		_, err := transfer.Fetch(t.Context(), ocispec.Descriptor{Digest: digest.FromBytes(src.content), Size: 10},
			[]transfer.Source{src}, &sink{}, transfer.Options{Budget: budget})
		if took := time.Since(start); !errors.Is(err, transfer.ErrGaveUp) || took < time.Minute || took > 75*time.Second {
			t.Errorf("gave up after %v: %v", took, err)
		}
	})
}

// What was noted is made to last now and then, while bytes come, and not while
// none do.
func TestCheckpointsComeWhileBytesDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &lineSource{content: content(8 << 20), line: func(int) (int, int) { return 256 << 10, -1 }} // 32 seconds
		dst := &sink{}
		fetchWith(t, src, dst, 0, transfer.Options{})
		if dst.checkpoints < 5 || dst.checkpoints > 7 {
			t.Errorf("%d checkpoints in 32 seconds, want one every 5", dst.checkpoints)
		}
	})
}

// A disk that can't be synced ends the transfer.
func TestAFailedCheckpointIsALocalFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &lineSource{content: content(8 << 20), line: func(int) (int, int) { return 256 << 10, -1 }}
		_, err := transfer.Fetch(t.Context(), ocispec.Descriptor{Digest: digest.FromBytes(src.content), Size: 8 << 20},
			[]transfer.Source{src}, &unsyncable{}, transfer.Options{})
		var local *transfer.LocalError
		if !errors.As(err, &local) || !errors.Is(err, syscall.EIO) || src.sent.Load() > 2<<20 {
			t.Errorf("%v, after %d bytes", err, src.sent.Load())
		}
	})
}

type unsyncable struct{ sink }

func (*unsyncable) Checkpoint() error { return syscall.EIO }
