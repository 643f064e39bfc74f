package meter

import (
	"testing"
	"time"
)

func TestAMeterFallsWhileNothingComes(t *testing.T) {
	start := time.Unix(1000, 0)
	var m Meter
	if m.Rate(start) != 0 {
		t.Error("a rate before anything came")
	}
	m.Restart(start)
	m.Count(1000, start.Add(10*time.Millisecond))
	if m.Rate(start.Add(10*time.Millisecond)) != 0 {
		t.Error("a rate after 10 ms")
	}
	m.Count(9000, start.Add(time.Second))
	if got := m.Rate(start.Add(time.Second)); got != 10_000 {
		t.Errorf("%g bytes a second, want 10000", got)
	}
	m.Count(20_000, start.Add(2*time.Second))
	if got := m.Rate(start.Add(2 * time.Second)); got != 14_000 {
		t.Errorf("smoothed to %g bytes a second, want 14000", got)
	}
	if got := m.Rate(start.Add(12 * time.Second)); got != 0 {
		t.Errorf("%g bytes a second after 10 s without one", got)
	}
}
