package prefix

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"drayage/engine/internal/transfer/internal/buffer"
	"drayage/engine/internal/transfer/internal/interval"
)

// newTestHasher is a hasher of content, all of which can be read back.
func newTestHasher(content []byte) *Hasher {
	f := New(sync.NewCond(new(sync.Mutex)), bytes.NewReader(content), Events{
		State: func(int64, hash.Hash) error { return nil }, Grown: func(int64) {}, Failed: func(error) {},
	})
	f.Start(sha256.New(), 0)
	return f
}

// In whichever order blocks arrive, and whether they are handed over or read
// back, the sum is that of the whole.
func TestAHasherFollowsThePrefixInAnyOrder(t *testing.T) {
	for seed := range uint64(30) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		content := make([]byte, 1+rnd.IntN(40*buffer.Large))
		for i := range content {
			content[i] = byte(rnd.Uint32())
		}
		f, reached := newTestHasher(content), int64(0)
		f.events.Grown = func(at int64) {
			if at < reached {
				t.Errorf("the prefix went back from %d to %d", reached, at)
			}
			reached = at
		}
		arrive(f, content, rnd)
		sum, done := f.Sum(int64(len(content)))
		if want := sha256.Sum256(content); !done || !bytes.Equal(sum, want[:]) {
			t.Errorf("seed %d: %x (%v), want %x", seed, sum, done, want)
		}
		if reached != int64(len(content)) {
			t.Errorf("seed %d: told of %d bytes of %d", seed, reached, len(content))
		}
	}
}

func arrive(f *Hasher, content []byte, rnd *rand.Rand) {
	size := int64(len(content))
	missing := allMissing(size)
	back := buffer.New(buffer.Large)
	f.changed.L.Lock()
	defer f.changed.L.Unlock()
	for !missing.IsEmpty() {
		all := slices.Collect(missing.All())
		g := all[rnd.IntN(min(3, len(all)))]
		if rnd.IntN(3) == 0 && g.Len() > 1 {
			missing.Split(g, g.Off+1+rnd.Int64N(g.Len()-1))
		}
		at, n := g.Off, min(g.Len(), int64(buffer.Large))
		missing.Fill(g, n)
		buf := buffer.New(size)
		copy(buf.P, content[at:at+n])
		switch {
		case f.IsNext(at) && f.IsIdle() && rnd.IntN(2) == 0:
			f.Now(buf.P[:n])
			buf.Free()
		case !f.Offer(buf, at, n):
			buf.Free()
		}
		if rnd.IntN(2) == 0 {
			f.Step(missing.Prefix(size), back)
		}
	}
	for f.Step(size, back) {
	}
}

// allMissing is what is missing of a blob of which nothing is there.
func allMissing(size int64) *interval.Set[int] {
	var all interval.Set[int]
	all.Add(0, size)
	return &all
}

func TestAHasherTakesOnlyWhatIsNext(t *testing.T) {
	content := make([]byte, 4*buffer.Large)
	f := newTestHasher(content)
	n := int64(buffer.Large)
	f.changed.L.Lock()
	defer f.changed.L.Unlock()
	if f.Offer(buffer.New(buffer.Large), n, n) {
		t.Error("it took what is not next")
	}
	for i := range int64(hashQueue) {
		if !f.Offer(buffer.New(buffer.Large), i*n, n) {
			t.Errorf("it did not take block %d", i)
		}
	}
	if !f.IsFull() || f.Offer(buffer.New(buffer.Large), hashQueue*n, n) {
		t.Error("its queue has no end")
	}
	f.Hold()
	if f.Offer(buffer.New(buffer.Large), 0, n) {
		t.Error("it takes something while it is held")
	}
}

// A state is noted each MiB, and one that can't be kept, or bytes that can't be
// read back, are told.
func TestAHasherNotesItsStateAndTellsFaults(t *testing.T) {
	content := make([]byte, 5<<20)
	f := newTestHasher(content)
	var noted []int64
	f.events.State = func(at int64, _ hash.Hash) error { noted = append(noted, at); return nil }
	f.changed.L.Lock()
	defer f.changed.L.Unlock()
	back := buffer.New(buffer.Large)
	for f.Step(int64(len(content)), back) {
	}
	if !slices.Equal(noted, []int64{1 << 20, 2 << 20, 3 << 20, 4 << 20, 5 << 20}) {
		t.Errorf("states at %v", noted)
	}

	broken := errors.New("broken")
	var told error
	f.events.Failed = func(err error) { told = err }
	f.events.State = func(int64, hash.Hash) error { return broken }
	f.Start(sha256.New(), 0)
	for f.Step(1<<20, back) {
	}
	if !errors.Is(told, broken) {
		t.Errorf("a state that was not kept: %v", told)
	}
	f.read, told = strings.NewReader(""), nil
	f.Start(sha256.New(), 0)
	if f.Step(1, back); !errors.Is(told, io.EOF) {
		t.Errorf("bytes that could not be read: %v", told)
	}
}
