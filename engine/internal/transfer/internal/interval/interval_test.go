package interval_test

import (
	"math/rand/v2"
	"testing"

	"drayage/engine/internal/transfer/internal/interval"
)

// A model is a blob byte by byte: whether it is missing, and whose it is.
type model struct {
	missing []bool
	owner   []*int
}

func newModel(size int) *model {
	return &model{make([]bool, size), make([]*int, size)}
}

func (m *model) set(off, end int64, missing bool, owner *int) {
	for i := off; i < end; i++ {
		m.missing[i], m.owner[i] = missing, owner
	}
}

func (m *model) check(t *testing.T, s *interval.Set[int]) {
	t.Helper()
	got := newModel(len(m.missing))
	last, free, owned := int64(-1), int64(0), int64(0)
	for r := range s.All() {
		if r.Off < last || r.Len() <= 0 {
			t.Fatalf("[%d, %d) follows %d", r.Off, r.End, last)
		}
		last = r.End
		got.set(r.Off, r.End, true, r.Owner)
		if r.Owner == nil {
			free += r.Len()
		} else {
			owned += r.Left()
		}
	}
	prefix := int64(len(m.missing))
	for i := range m.missing {
		if m.missing[i] && int64(i) < prefix {
			prefix = int64(i)
		}
		if got.missing[i] != m.missing[i] || got.owner[i] != m.owner[i] {
			t.Fatalf("byte %d: missing %v, owner %v; want %v, %v", i, got.missing[i], got.owner[i], m.missing[i], m.owner[i])
		}
	}
	if p := s.Prefix(int64(len(m.missing))); p != prefix {
		t.Errorf("prefix %d, want %d", p, prefix)
	}
	if f, o := s.Sizes(); f != free || o != owned {
		t.Errorf("sizes %d and %d, want %d and %d", f, o, free, owned)
	}
	if s.IsEmpty() != (prefix == int64(len(m.missing))) {
		t.Errorf("IsEmpty %v with prefix %d", s.IsEmpty(), prefix)
	}
}

// Whatever is done to a set, in whichever order, it says of each byte what a
// list of bytes says.
func TestASetSaysOfEachByteWhatIsSo(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		size := 1 + rnd.Int64N(300)
		s, m := interval.Whole[int](size), newModel(int(size))
		m.set(0, size, true, nil)
		for range 100 {
			step(rnd, &s, m)
			m.check(t, &s)
		}
	}
}

func step(rnd *rand.Rand, s *interval.Set[int], m *model) {
	var all []*interval.Range[int]
	for r := range s.All() {
		all = append(all, r)
	}
	if len(all) == 0 || rnd.IntN(10) == 0 { // a byte turns out to be damaged
		at := rnd.Int64N(int64(len(m.missing)))
		if !m.missing[at] {
			s.Add(at, at+1)
			m.set(at, at+1, true, nil)
		}
		return
	}
	r := all[rnd.IntN(len(all))]
	switch rnd.IntN(4) {
	case 0: // somebody takes it
		r.Owner = new(int)
		m.set(r.Off, r.End, true, r.Owner)
	case 1: // and gives it back
		m.set(r.Off, r.End, true, nil)
		s.Release(r)
	case 2:
		if r.Len() > 1 {
			at := r.Off + 1 + rnd.Int64N(r.Len()-1)
			rest := s.Split(r, at)
			m.set(rest.Off, rest.End, true, nil)
		}
	case 3:
		n := 1 + rnd.Int64N(r.Len())
		m.set(r.Off, r.Off+n, false, nil)
		s.Fill(r, n)
	}
}

func TestRangesAreFoundByTheirPlace(t *testing.T) {
	var s interval.Set[int]
	s.Add(50, 60)
	s.Add(10, 20)
	s.Add(30, 30) // nothing
	first := s.FirstFree()
	if first.Off != 10 || s.StartingAt(50).End != 60 || s.StartingAt(11) != nil {
		t.Errorf("first %+v, at 50 %+v, at 11 %+v", first, s.StartingAt(50), s.StartingAt(11))
	}
	first.Owner = new(int)
	if r := s.FirstFree(); r.Off != 50 {
		t.Errorf("the first free one is %+v", r)
	}
	for off, want := range map[int64]int64{0: 10, 19: 10, 20: 50, 59: 50} {
		if r := s.After(off); r == nil || r.Off != want {
			t.Errorf("after %d: %+v, want the one at %d", off, r, want)
		}
	}
	if s.After(60) != nil {
		t.Error("something is missing behind the last range")
	}
}

func TestReleaseJoinsNeighbours(t *testing.T) {
	s := interval.Whole[int](100)
	a := s.FirstFree()
	b := s.Split(a, 40)
	a.Owner, b.Owner = new(int), new(int)
	c := s.Split(b, 70)
	s.Release(b)
	if b.End != 100 || s.StartingAt(70) != nil {
		t.Errorf("%+v and %+v are still two", b, c)
	}
	if s.Release(a); a.Len() != 100 {
		t.Errorf("%+v is not the whole", a)
	}
}

func TestMistakesPanic(t *testing.T) {
	for name, do := range map[string]func(){
		"missing twice":          func() { s := interval.Whole[int](9); s.Add(3, 4) },
		"overlap at the end":     func() { var s interval.Set[int]; s.Add(5, 9); s.Add(4, 6) },
		"cut at its start":       func() { s := interval.Whole[int](9); s.Split(s.FirstFree(), 0) },
		"cut at its end":         func() { s := interval.Whole[int](9); s.Split(s.FirstFree(), 9) },
		"cut in what is written": func() { s := interval.Whole[int](9); s.FirstFree().Taken = 5; s.Split(s.FirstFree(), 4) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("nothing happened")
				}
			}()
			do()
		})
	}
}
