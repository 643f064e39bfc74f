package warm_test

import (
	"testing"

	"drayage/cmd/drayage/internal/warm"
	"drayage/engine/limitstest"
)

// Whatever a note of the store is, reading it as a group's state takes little memory.
func TestReadStateTakesLittleMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes minutes on an emulated processor")
	}
	for _, unit := range []string{`{}`, `{"history":[{},{}]}`, `""`} {
		raw := limitstest.Filled(`{"version":1,"group":"g","images":[`, unit, `]}`, 4<<20)
		limitstest.Within(t, limitstest.Most, func() { warm.ReadState(raw, "g") })
	}
	raw := []byte(`{"version":1,"group":"g","images":[{"name":"a","history":[{"digest":"sha256:x"}]},{"name":"b"}],"fetched":3}`)
	if s := warm.ReadState(raw, "g"); len(s.Images) != 2 || s.Images[0].Name != "a" || len(s.Images[0].History) != 1 || s.Fetched != 3 {
		t.Errorf("%+v", s)
	}
	if s := warm.ReadState(append(raw, '{'), "g"); len(s.Images) != 0 || s.Version != 1 {
		t.Errorf("what follows it: %+v", s)
	}
}
