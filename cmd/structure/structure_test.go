package main

import (
	"slices"
	"strings"
	"testing"
)

// ceilings are the numbers that may not get worse. Lower them when they have
// become better: those of measure.go are where they are going.
var ceilings = struct {
	large, circles, public, unused, twice, median, p90, longest int
	tests                                                       float64
}{large: 1, circles: 0, public: 535, unused: 0, twice: 47, median: 11, p90: 35, longest: 88, tests: 0.6}

// The code is built no worse than it was.
func TestStructureGetsNoWorse(t *testing.T) {
	m, err := load("../..")
	if err != nil {
		t.Fatal(err)
	}
	r := m.measure()
	large := 0
	for _, p := range r.pkgs {
		if p.lines > maxPackage {
			large++
		}
	}
	for _, c := range []struct {
		what    string
		is, may int
	}{
		{"packages that are too large", large, ceilings.large},
		{"circles of files", len(r.loops), ceilings.circles},
		{"names exported to other modules", r.public, ceilings.public},
		{"exported names without a user", len(r.unused), ceilings.unused},
		{"exported names without a comment", len(r.mute), 0},
		{"pairs of exported types of one name", len(r.twice), ceilings.twice},
		{"lines of the median function", r.at(50), ceilings.median},
		{"lines of the longest of nine functions in ten", r.at(90), ceilings.p90},
		{"lines of the longest function", r.at(100), ceilings.longest},
	} {
		if c.is > c.may {
			t.Errorf("%s: %d, and there were %d; go run ./cmd/structure -v lists them", c.what, c.is, c.may)
		}
	}
	if r.ratio() < ceilings.tests {
		t.Errorf("%.2f lines of tests for a line of code, want %.2f", r.ratio(), ceilings.tests)
	}
	if len(r.pkgs) < 30 || len(r.functions) < 2000 {
		t.Errorf("only %d packages and %d functions were found", len(r.pkgs), len(r.functions))
	}
}

func TestCircles(t *testing.T) {
	graph := map[string]map[string][]string{
		"a": {"b": {"x"}}, "b": {"c": {"x"}}, "c": {"a": {"x"}},
		"d": {"a": {"x"}, "e": {"x"}}, "e": {}, "f": {"g": {"x"}}, "g": {"f": {"x"}},
	}
	var got []string
	for _, c := range circles(graph) {
		got = append(got, strings.Join(c, ""))
	}
	slices.Sort(got)
	if !slices.Equal(got, []string{"abc", "fg"}) {
		t.Errorf("circles %v, want abc and fg", got)
	}
}
