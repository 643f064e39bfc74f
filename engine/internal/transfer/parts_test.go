package transfer

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
	"time"
)

// newTestHasher is a hasher of content, all of which can be read back.
func newTestHasher(content []byte) *hasher {
	f := &hasher{changed: sync.NewCond(new(sync.Mutex)), read: bytes.NewReader(content),
		note: func(int64, hash.Hash) error { return nil }, grown: func(int64) {}, failed: func(error) {}}
	f.start(sha256.New(), 0)
	return f
}

// In whichever order blocks arrive, and whether they are handed over or read
// back, the sum is that of the whole.
func TestAHasherFollowsThePrefixInAnyOrder(t *testing.T) {
	for seed := range uint64(30) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		content := make([]byte, 1+rnd.IntN(40*largeBuffer))
		for i := range content {
			content[i] = byte(rnd.Uint32())
		}
		f, reached := newTestHasher(content), int64(0)
		f.grown = func(at int64) {
			if at < reached {
				t.Errorf("the prefix went back from %d to %d", reached, at)
			}
			reached = at
		}
		arrive(f, content, rnd)
		sum, done := f.sum(int64(len(content)))
		if want := sha256.Sum256(content); !done || !bytes.Equal(sum, want[:]) {
			t.Errorf("seed %d: %x (%v), want %x", seed, sum, done, want)
		}
		if reached != int64(len(content)) {
			t.Errorf("seed %d: told of %d bytes of %d", seed, reached, len(content))
		}
	}
}

func arrive(f *hasher, content []byte, rnd *rand.Rand) {
	size := int64(len(content))
	missing := allMissing(size)
	back := newBuffer(largeBuffer)
	f.changed.L.Lock()
	defer f.changed.L.Unlock()
	for !missing.IsEmpty() {
		all := slices.Collect(missing.All())
		g := all[rnd.IntN(min(3, len(all)))]
		if rnd.IntN(3) == 0 && g.Len() > 1 {
			missing.Split(g, g.Off+1+rnd.Int64N(g.Len()-1))
		}
		at, n := g.Off, min(g.Len(), int64(largeBuffer))
		missing.Fill(g, n)
		buf := newBuffer(size)
		copy(buf.p, content[at:at+n])
		switch {
		case f.isNext(at) && f.isIdle() && rnd.IntN(2) == 0:
			f.now(buf.p[:n])
			buf.free()
		case !f.offer(buf, at, n):
			buf.free()
		}
		if rnd.IntN(2) == 0 {
			f.step(missing.Prefix(size), back)
		}
	}
	for f.step(size, back) {
	}
}

// allMissing is what is missing of a blob of which nothing is there.
func allMissing(size int64) *ranges {
	var all ranges
	all.Add(0, size)
	return &all
}

func TestAHasherTakesOnlyWhatIsNext(t *testing.T) {
	content := make([]byte, 4*largeBuffer)
	f := newTestHasher(content)
	n := int64(largeBuffer)
	f.changed.L.Lock()
	defer f.changed.L.Unlock()
	if f.offer(newBuffer(largeBuffer), n, n) {
		t.Error("it took what is not next")
	}
	for i := range int64(hashQueue) {
		if !f.offer(newBuffer(largeBuffer), i*n, n) {
			t.Errorf("it did not take block %d", i)
		}
	}
	if !f.isFull() || f.offer(newBuffer(largeBuffer), hashQueue*n, n) {
		t.Error("its queue has no end")
	}
	f.hold()
	if f.offer(newBuffer(largeBuffer), 0, n) {
		t.Error("it takes something while it is held")
	}
}

// A state is noted each MiB, and one that can't be kept, or bytes that can't be
// read back, are told.
func TestAHasherNotesItsStateAndTellsFaults(t *testing.T) {
	content := make([]byte, 5<<20)
	f := newTestHasher(content)
	var noted []int64
	f.note = func(at int64, _ hash.Hash) error { noted = append(noted, at); return nil }
	f.changed.L.Lock()
	defer f.changed.L.Unlock()
	back := newBuffer(largeBuffer)
	for f.step(int64(len(content)), back) {
	}
	if !slices.Equal(noted, []int64{1 << 20, 2 << 20, 3 << 20, 4 << 20, 5 << 20}) {
		t.Errorf("states at %v", noted)
	}

	broken := errors.New("broken")
	var told error
	f.failed = func(err error) { told = err }
	f.note = func(int64, hash.Hash) error { return broken }
	f.start(sha256.New(), 0)
	for f.step(1<<20, back) {
	}
	if !errors.Is(told, broken) {
		t.Errorf("a state that was not kept: %v", told)
	}
	f.read, told = strings.NewReader(""), nil
	f.start(sha256.New(), 0)
	if f.step(1, back); !errors.Is(told, io.EOF) {
		t.Errorf("bytes that could not be read: %v", told)
	}
}

func TestARotationKeepsOne(t *testing.T) {
	a, b, c := &source{noRanges: true}, &source{joined: true}, &source{noRanges: true}
	var r rotation
	for _, s := range []*source{a, b, c} {
		r.add(s)
	}
	handed := r.list
	r.turn()
	if r.first() != b || handed[0] != a {
		t.Error("turning changed a list that was handed out, or not its own")
	}
	if r.prefer(c); !slices.Equal(r.list, []*source{c, b, a}) {
		t.Error("the preferred one is not the first of all")
	}
	if !r.turnToRanges() || r.first() != b {
		t.Error("the one that gives ranges is not the first")
	}
	if !r.dropJoined() || r.has(b) || !r.closed || r.dropJoined() {
		t.Error("those who joined are still there, or dropped twice")
	}
	if r.turnToRanges() || !r.drop(a) || r.drop(c) || r.first() != c || r.len() != 1 {
		t.Error("the last one doesn't stay")
	}
	only := rotation{list: []*source{b}}
	if only.dropJoined() || only.len() != 1 {
		t.Error("a rotation without sources")
	}
}

func TestOddAnswersAreExcusedForAWhile(t *testing.T) {
	var s source
	for range mostOdd {
		if !s.isOdd() {
			t.Errorf("answer %d was too much", s.odd)
		}
	}
	if s.isOdd() {
		t.Error("they are excused for ever")
	}
}

// Every state has a name and a way back to idle, and the table holds.
func TestStatesFollowTheirTable(t *testing.T) {
	for s := range state(len(stateNames)) {
		if s.String() == "" || !slices.Contains(transitions[s], idle) {
			t.Errorf("state %d (%v) can't end", s, s)
		}
		if s.hasBody() && !slices.Contains(transitions[s], interrupted) {
			t.Errorf("a connection that is %v can't be interrupted", s)
		}
	}
	s := reading
	s.to(pacing)
	defer func() {
		if recover() == nil || s != pacing {
			t.Error("what waits for the hash was opened anew")
		}
	}()
	s.to(opening)
}

func TestAMeterFallsWhileNothingComes(t *testing.T) {
	start := time.Unix(1000, 0)
	var m meter
	if m.rate(start) != 0 {
		t.Error("a rate before anything came")
	}
	m.restart(start)
	m.count(1000, start.Add(10*time.Millisecond))
	if m.rate(start.Add(10*time.Millisecond)) != 0 {
		t.Error("a rate after 10 ms")
	}
	m.count(9000, start.Add(time.Second))
	if got := m.rate(start.Add(time.Second)); got != 10_000 {
		t.Errorf("%g bytes a second, want 10000", got)
	}
	m.count(20_000, start.Add(2*time.Second))
	if got := m.rate(start.Add(2 * time.Second)); got != 14_000 {
		t.Errorf("smoothed to %g bytes a second, want 14000", got)
	}
	if got := m.rate(start.Add(12 * time.Second)); got != 0 {
		t.Errorf("%g bytes a second after 10 s without one", got)
	}
}
