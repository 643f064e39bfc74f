package bench

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// A target with more errors is never called faster, and one that mostly fails is not
// compared at all.
func TestTargetsWithErrorsAreNotCalledFaster(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	share := func() float64 {
		if rnd.IntN(3) == 0 {
			return 0
		}
		return rnd.Float64()
	}
	for range 10_000 {
		a, b := &Result{Target: "a", ErrorShare: share()}, &Result{Target: "b", ErrorShare: share()}
		a.Failing, b.Failing = a.ErrorShare > mostlyErrors, b.ErrorShare > mostlyErrors
		d := Difference{Ratio: Interval{Estimate: 0.5 + rnd.Float64()}, P: 0.03, Real: rnd.IntN(2) == 0}
		c := newComparison(b, a, d)
		if c.Target != "b" || c.To != "a" {
			t.Fatalf("%+v", c)
		}
		faster, slower := b, a
		if d.Ratio.Estimate < 1 {
			faster, slower = a, b
		}
		switch {
		case a.Failing || b.Failing:
			if c.Throughput != (Difference{P: 1}) || c.Why == "" {
				t.Fatalf("a failing target is compared: %+v", c)
			}
		case c.Throughput.Real && (faster.ErrorShare > slower.ErrorShare+moreErrors || !d.Real || c.Why != ""):
			t.Fatalf("%g of the reads of the faster and %g of those of the slower one failed: %+v", faster.ErrorShare, slower.ErrorShare, c)
		case d.Real && !c.Throughput.Real && c.Why == "":
			t.Fatalf("no reason for no verdict: %+v", c)
		}
	}
}

// A result of which more than half of the reads failed has no figures.
func TestFailingResultsHaveNoFigures(t *testing.T) {
	for _, c := range []struct {
		failed  int // of 10
		failing bool
	}{{0, false}, {5, false}, {6, true}, {10, true}} {
		synctest.Test(t, func(t *testing.T) {
			r := newRecorder()
			for i := range 10 {
				kind := ""
				if i < c.failed {
					kind = "status 503"
				}
				r.read(time.Second, 1000, kind)
			}
			got := newResult("a", 4, []measured{{0, r}})
			if got.Failing != c.failing || got.ErrorShare != float64(c.failed)/10 || got.Requests != 10 {
				t.Errorf("%d failed: %+v", c.failed, got)
			}
			if has := got.Throughput.Estimate > 0; has == c.failing {
				t.Errorf("%d failed: throughput %+v", c.failed, got.Throughput)
			}
			if has := got.ByRound != nil || got.Latency.Count > 0 || got.LatencyCurve != nil || got.PerConnection.Count > 0 || got.Summary.Throughput > 0; has == c.failing {
				t.Errorf("%d failed: figures %v", c.failed, has)
			}
		})
	}
}

// Only rounds that both targets have are compared.
func TestRoundsAreComparedInPairs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		targets := []*Target{ofParts(1, 1), ofParts(1, 1)}
		targets[0].Name, targets[1].Name = "a", "b"
		rs := newResults(Options{Connections: []int{1, 2}, Rounds: 8}, targets)
		for round := range 8 {
			for i := range targets {
				if round == 0 && i == 0 {
					continue // as if it had been skipped
				}
				r := newRecorder()
				r.read(time.Second, int64(1000*(i+1)*(round+1)), "")
				rs.add(setting{i, 1}, round, r)
			}
		}
		r := rs.report()
		if len(r.Results) != 2 || len(r.Comparisons) != 1 {
			t.Fatalf("%d results, %d comparisons", len(r.Results), len(r.Comparisons))
		}
		c := r.Comparisons[0]
		if c.Target != "b" || c.To != "a" || !c.Throughput.Real || c.Throughput.P != 2.0/128 || c.Throughput.Ratio.Estimate < 1.99 || c.Throughput.Ratio.Estimate > 2.01 {
			t.Errorf("%+v", c)
		}
		if r.Targets[0].Knee != 0 {
			t.Errorf("one number of connections has a knee: %d", r.Targets[0].Knee)
		}
	})
}
