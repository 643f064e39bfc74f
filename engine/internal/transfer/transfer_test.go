package transfer_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"drayage/engine/internal/retry"
	"drayage/engine/internal/transfer"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// try is what one Open gives: bytes from where it was asked, at most some of
// them, ended by an error.
type try struct {
	most    int // bytes; 0 means all
	end     error
	open    error
	content []byte // instead of the right content
}

// script is a source that follows tries; after them it is faultless.
type script struct {
	content []byte
	tries   []try
	asked   []int64
	sent    int
}

func (s *script) Host() string { return "host" }

func (s *script) Open(_ context.Context, a transfer.Ask) (*transfer.Body, error) {
	from := a.From
	s.asked = append(s.asked, from)
	t := try{}
	if len(s.tries) > 0 {
		t, s.tries = s.tries[0], s.tries[1:]
	}
	if t.open != nil {
		return nil, t.open
	}
	content := s.content
	if t.content != nil {
		content = t.content
	}
	if from > int64(len(content)) || from > 0 && from == int64(len(content)) {
		return nil, transfer.ErrRange
	}
	content = content[from:]
	if t.most > 0 {
		content = content[:min(t.most, len(content))]
	}
	s.sent += len(content)
	end := t.end
	if end == nil {
		end = io.EOF
	}
	body := io.NopCloser(io.MultiReader(bytes.NewReader(content), failing{end}))
	return &transfer.Body{ReadCloser: body, From: from, Ranged: from > 0}, nil
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// sink is a file in memory.
type sink struct {
	mu    sync.Mutex
	data  []byte
	old   [][]byte // notes of earlier transfers
	notes [][]byte

	checkpoints int
}

func (s *sink) ReadAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if off > int64(len(s.data)) {
		return 0, io.EOF
	}
	n := copy(p, s.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (s *sink) Notes() [][]byte { return s.old }

func (s *sink) Hash() hash.Hash { return sha256.New() }

func (s *sink) Note(p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notes = append(s.notes, bytes.Clone(p))
	return nil
}

func (s *sink) Forget() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.old, s.notes = nil, nil
	return nil
}

func (s *sink) Checkpoint() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checkpoints++
	return nil
}

func (*sink) StartWriting(int64, int64) {}

func (s *sink) WriteAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if end := int(off) + len(p); end > len(s.data) {
		s.data = append(s.data, make([]byte, end-len(s.data))...)
	}
	return copy(s.data[off:], p), nil
}

func content(n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(i * 7)
	}
	return out
}

func TestFetchGoesOnWhereABodyBroke(t *testing.T) {
	whole := content(1000)
	flipped := bytes.Clone(whole)
	flipped[500] ^= 1
	reset := fmt.Errorf("read: %w", syscall.ECONNRESET)
	for _, c := range []struct {
		name  string
		tries []try
		asked []int64
	}{
		{"nothing wrong", nil, []int64{0}},
		{"reset", []try{{most: 300, end: reset}}, []int64{0, 300}},
		{"reset before the first byte", []try{{end: reset, content: []byte{}}}, []int64{0, 0}},
		{"reset after the last byte", []try{{most: 1000, end: reset}}, []int64{0}},
		{"many resets", []try{{most: 1, end: reset}, {most: 1, end: reset}, {most: 1, end: reset}, {most: 1, end: reset}, {most: 1, end: reset}, {most: 1, end: reset}, {most: 1, end: reset}}, []int64{0, 1, 2, 3, 4, 5, 6, 7}},
		{"G23 a clean end too early", []try{{most: 300}}, []int64{0, 300}},
		{"unexpected EOF", []try{{most: 999, end: io.ErrUnexpectedEOF}}, []int64{0, 999}},
		{"no ranges", []try{{most: 300, end: reset}, {open: transfer.ErrRange}}, []int64{0, 300, 0}},
		{"one byte changed", []try{{content: flipped}}, []int64{0, 0}},
		{"longer, once", []try{{content: content(1001)}}, []int64{0, 0}},
	} {
		synctest.Test(t, func(t *testing.T) {
			src, dst := &script{content: whole, tries: c.tries}, &sink{}
			var progress int64
			want := ocispec.Descriptor{Digest: digest.FromBytes(whole), Size: 1000}
			got, err := transfer.Fetch(t.Context(), want, []transfer.Source{src}, dst, transfer.Options{Progress: func(n int64) { progress += n }})
			if err != nil || got != want.Digest || !bytes.Equal(dst.data, whole) || progress != 1000 {
				t.Errorf("%s: %s, %v; %d bytes written, progress %d", c.name, got, err, len(dst.data), progress)
			}
			if fmt.Sprint(src.asked) != fmt.Sprint(c.asked) {
				t.Errorf("%s: asked from %v, want %v", c.name, src.asked, c.asked)
			}
		})
	}
}

func TestFetchAtEverySize(t *testing.T) {
	const buffer = 256 << 10
	for _, base := range []int{1, buffer, 3 * buffer} {
		for n := base - 1; n <= base+1; n++ {
			whole, dst := content(n), &sink{}
			want := ocispec.Descriptor{Digest: digest.FromBytes(whole), Size: int64(n)}
			if _, err := transfer.Fetch(t.Context(), want, []transfer.Source{&script{content: whole}}, dst, transfer.Options{}); err != nil || !bytes.Equal(dst.data, whole) {
				t.Errorf("%d bytes: %v", n, err)
			}
		}
	}
}

func TestFetchNamesWhatDoesNotMatch(t *testing.T) {
	whole := content(1000)
	d := digest.FromBytes(whole)
	other := content(1000)
	other[0] ^= 1
	for _, c := range []struct {
		name string
		size int64
		src  *script
		want transfer.MismatchError
	}{
		{"other bytes", 1000, &script{content: other}, transfer.MismatchError{Want: d, Got: digest.FromBytes(other), WantSize: 1000, GotSize: 1000, Host: "host"}},
		{"a size that is too small", 999, &script{content: whole}, transfer.MismatchError{Want: d, WantSize: 999, GotSize: 1000, Host: "host"}},
		{"a size that is too large", 1001, &script{content: whole}, transfer.MismatchError{Want: d, WantSize: 1001, GotSize: 1000, Host: "host"}},
		{"an empty blob", 1001, &script{content: nil}, transfer.MismatchError{Want: d, WantSize: 1001, GotSize: 0, Host: "host"}},
	} {
		_, err := transfer.Fetch(t.Context(), ocispec.Descriptor{Digest: d, Size: c.size}, []transfer.Source{c.src}, &sink{}, transfer.Options{})
		var got *transfer.MismatchError
		if !errors.As(err, &got) || *got != c.want {
			t.Errorf("%s: %v, want %v", c.name, err, &c.want)
		}
		if c.src.sent > 4000 {
			t.Errorf("%s: %d bytes fetched before giving up", c.name, c.src.sent)
		}
	}
}

// G55: a source that doesn't have the blob is left for the next, which goes on
// where the first stopped.
func TestFetchTakesTheNextSource(t *testing.T) {
	whole := content(1000)
	gone := errors.New("gone")
	first := &script{content: whole, tries: []try{{most: 400, end: syscall.ECONNRESET}, {open: gone}}}
	second := &script{content: whole}
	want := ocispec.Descriptor{Digest: digest.FromBytes(whole), Size: 1000}
	dst := &sink{}
	if _, err := transfer.Fetch(t.Context(), want, []transfer.Source{first, second}, dst, transfer.Options{}); err != nil || !bytes.Equal(dst.data, whole) {
		t.Errorf("Fetch: %v", err)
	}
	if len(second.asked) != 1 || second.asked[0] != 400 {
		t.Errorf("the second source was asked from %v, want 400", second.asked)
	}
	all := []transfer.Source{
		&script{content: whole, tries: []try{{most: 400, end: syscall.ECONNRESET}, {open: errors.New("first")}}}, &script{tries: []try{{open: gone}}},
	}
	var progress int64
	count := transfer.Options{Progress: func(n int64) { progress += n }}
	if _, err := transfer.Fetch(t.Context(), want, all, dst, count); !errors.Is(err, gone) || progress != 400 {
		t.Errorf("with no source left: %v; %d bytes count as arrived, want the 400 that are kept", err, progress)
	}
}

func TestFetchGivesUpWhenNoByteComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &script{content: content(10)}
		for range 1000 {
			src.tries = append(src.tries, try{content: []byte{}, end: syscall.ECONNRESET})
		}
		start := time.Now()
		_, err := transfer.Fetch(t.Context(), ocispec.Descriptor{Digest: digest.FromBytes(src.content), Size: 10},
			[]transfer.Source{src}, &sink{}, transfer.Options{Budget: retry.NewBudget(retry.Policy{Patience: time.Minute}, nil, nil)})
		if took := time.Since(start); !errors.Is(err, syscall.ECONNRESET) || took > time.Minute || took < 20*time.Second {
			t.Errorf("gave up after %v with %v", took, err)
		}
	})
}

type fullDisk struct{ sink }

func (*fullDisk) WriteAt([]byte, int64) (int, error) { return 0, syscall.ENOSPC }

func TestFetchDoesNotRetryALocalFault(t *testing.T) {
	src := &script{content: content(10)}
	_, err := transfer.Fetch(t.Context(), ocispec.Descriptor{Digest: digest.FromBytes(src.content), Size: 10},
		[]transfer.Source{src, src}, new(fullDisk), transfer.Options{})
	var local *transfer.LocalError
	if !errors.As(err, &local) || !errors.Is(err, syscall.ENOSPC) || len(src.asked) != 1 {
		t.Errorf("%v after %d requests", err, len(src.asked))
	}
}

func TestFetchEndsWithItsContext(t *testing.T) {
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	src := &script{content: content(10), tries: []try{{most: 5, end: syscall.ECONNRESET}, {most: 1, end: syscall.ECONNRESET}}}
	_, err := transfer.Fetch(ctx, ocispec.Descriptor{Digest: digest.FromBytes(src.content), Size: 10},
		[]transfer.Source{src}, &sink{}, transfer.Options{Retrying: func(int, time.Duration, error) { cancel(cause) }})
	if !errors.Is(err, cause) {
		t.Errorf("%v", err)
	}
}
