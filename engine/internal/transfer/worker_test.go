package transfer

import (
	"slices"
	"testing"
)

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
