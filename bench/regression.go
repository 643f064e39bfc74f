package bench

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// Regression is a throughput that has fallen.
type Regression struct {
	What     string  // such as "throughput of registry.example/app:1 with 4 connections"
	Was, Is  float64 // bytes per second
	Fraction float64 // by how much of Was
}

// Regressions compares the report with an earlier one, and returns the results whose
// throughput has fallen by more than a fraction and whose interval lies below the
// earlier one, the worst first. Results that the earlier report does not have are left
// out; it is an error if it has none of them. Reports with equally many targets are
// compared in the order of their targets if the names differ.
func (r *Report) Regressions(old *Report, allowed float64) ([]Regression, error) {
	var out []Regression
	common := false
	for _, x := range r.Results {
		was := r.counterpart(x, old)
		if was == nil {
			continue
		}
		common = true
		if was.Throughput.Estimate <= 0 {
			continue
		}
		loss := 1 - x.Throughput.Estimate/was.Throughput.Estimate
		if loss > allowed && x.Throughput.High < was.Throughput.Low {
			what := fmt.Sprintf("throughput of %s with %d connection", x.Target, x.Connections)
			if x.Connections != 1 {
				what += "s"
			}
			out = append(out, Regression{what, was.Throughput.Estimate, x.Throughput.Estimate, loss})
		}
	}
	if !common {
		return nil, errors.New("the reports have no target and number of connections in common")
	}
	slices.SortFunc(out, func(a, b Regression) int { return cmp.Compare(b.Fraction, a.Fraction) })
	return out, nil
}

// counterpart returns an earlier report's result for the same setting, or nil.
func (r *Report) counterpart(x Result, old *Report) *Result {
	was := old.find(x.Target, x.Connections)
	if was == nil && len(old.Targets) == len(r.Targets) && len(r.Targets) > 0 { // under another name
		i := max(0, slices.IndexFunc(r.Targets, func(t ReportTarget) bool { return t.Name == x.Target }))
		was = old.find(old.Targets[i].Name, x.Connections)
	}
	return was
}
