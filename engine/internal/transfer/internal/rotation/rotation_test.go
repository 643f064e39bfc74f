package rotation

import (
	"slices"
	"testing"
)

type place struct{}

func (place) Host() string { return "" }

func TestARotationKeepsOne(t *testing.T) {
	a, b, c := &Source[place]{NoRanges: true}, &Source[place]{Joined: true}, &Source[place]{NoRanges: true}
	var r Rotation[place]
	for _, s := range []*Source[place]{a, b, c} {
		r.Add(s)
	}
	handed := r.list
	r.Turn()
	if r.First() != b || handed[0] != a {
		t.Error("turning changed a list that was handed out, or not its own")
	}
	if r.Prefer(c); !slices.Equal(r.list, []*Source[place]{c, b, a}) {
		t.Error("the preferred one is not the first of all")
	}
	if !r.TurnToRanges() || r.First() != b {
		t.Error("the one that gives ranges is not the first")
	}
	if !r.DropJoined() || r.Has(b) || !r.closed || r.DropJoined() {
		t.Error("those who joined are still there, or dropped twice")
	}
	if r.TurnToRanges() || !r.Drop(a) || r.Drop(c) || r.First() != c || r.Len() != 1 {
		t.Error("the last one doesn't stay")
	}
	only := Rotation[place]{list: []*Source[place]{b}}
	if only.DropJoined() || only.Len() != 1 {
		t.Error("a rotation without sources")
	}
}

func TestOddAnswersAreExcusedForAWhile(t *testing.T) {
	var s Source[place]
	for range MostOdd {
		if !s.IsOdd() {
			t.Errorf("answer %d was too much", s.Odd)
		}
	}
	if s.IsOdd() {
		t.Error("they are excused for ever")
	}
}
