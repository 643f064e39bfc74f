package bench

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"drayage/bench/internal/stats"
)

// setting is what is measured in each round: a target, by its index, with a number
// of connections.
type setting struct {
	target      int
	connections int
}

// measured is what one step of a setting recorded.
type measured struct {
	round int
	*recorder
}

// results are what Measure has recorded.
type results struct {
	options Options
	targets []*Target
	started time.Time
	steps   map[setting][]measured
	warm    []*recorder // by target; nil where there was no warm-up
}

func newResults(o Options, targets []*Target) *results {
	return &results{options: o, targets: targets, started: time.Now(), steps: make(map[setting][]measured), warm: make([]*recorder, len(targets))}
}

func (rs *results) add(s setting, round int, r *recorder) {
	rs.steps[s] = append(rs.steps[s], measured{round, r})
}

// report makes the report.
func (rs *results) report() *Report {
	o := rs.options
	r := &Report{Version: reportVersion, Started: rs.started.UTC(), Rounds: o.Rounds, Rate: o.Rate, WarmUp: o.WarmUp.Seconds()}
	if o.Exchanges != nil {
		r.Exchanges = o.Exchanges.times()
	}
	connections := slices.Sorted(slices.Values(o.Connections))
	for i := range rs.targets {
		rs.reportTarget(r, i, connections)
	}
	slices.SortStableFunc(r.Series, func(a, b SeriesPoint) int { return cmp.Compare(a.At, b.At) })
	for i := range rs.targets {
		if i == 0 {
			continue
		}
		for _, n := range connections {
			rs.reportComparison(r, i, n)
		}
	}
	return r
}

// reportTarget adds a target to the report, with its results and its part of the
// series.
func (rs *results) reportTarget(r *Report, target int, connections []int) {
	t := rs.targets[target]
	rt := ReportTarget{Name: t.Name, Digest: t.Digest, Blobs: len(t.Blobs), Size: t.size(), Part: t.largestRead(), HTTP: t.HTTP, Recorded: t.recorded}
	var ns []int
	var throughput []float64
	var all []*recorder
	for _, n := range connections {
		steps := rs.steps[setting{target, n}]
		if len(steps) == 0 {
			continue
		}
		for _, st := range steps {
			all = append(all, st.recorder)
			r.Series = append(r.Series, st.series(rs.started, SeriesPoint{Target: t.Name, Connections: n, Round: st.round + 1})...)
		}
		res := newResult(t.Name, n, steps)
		r.Results = append(r.Results, res)
		if !res.Failing {
			ns, throughput = append(ns, n), append(throughput, res.Throughput.Estimate)
		}
	}
	warm := rs.warm[target]
	rt.All = merge(all, warm)
	if warm != nil {
		s := warm.summary()
		rt.WarmUp = &s
		r.Series = append(r.Series, warm.series(rs.started, SeriesPoint{Target: t.Name, Connections: slices.Max(connections)})...)
	}
	if len(ns) > 1 {
		rt.Knee = stats.Knee(ns, throughput)
	}
	r.Targets = append(r.Targets, rt)
}

// mostlyErrors is the share of failed reads beyond which a result has no figures.
const mostlyErrors = 0.5

// newResult makes the result of a setting's steps.
func newResult(target string, connections int, steps []measured) Result {
	r := Result{Target: target, Connections: connections}
	var all []*recorder
	for _, st := range steps {
		all = append(all, st.recorder)
		r.ByRound = append(r.ByRound, st.throughput())
	}
	r.Summary = merge(all, nil)
	r.Throughput = Interval(stats.Mean(r.ByRound))
	r.Throughput.Low = max(0, r.Throughput.Low)
	if r.Requests > 0 {
		r.ErrorShare = float64(r.ErrorCount()) / float64(r.Requests)
	}
	if r.ErrorShare > mostlyErrors {
		r.Failing = true
		r.Throughput, r.ByRound, r.Summary.Throughput = Interval{}, nil, 0
		r.LatencyCurve = nil
		r.Latency, r.FirstByte, r.Body, r.PerConnection = Quantiles{}, Quantiles{}, Quantiles{}, RateQuantiles{}
	}
	return r
}

// reportComparison adds the comparison of a target with the first one, in the
// rounds that both have, if there are any.
func (rs *results) reportComparison(r *Report, target, connections int) {
	var first, other []float64
	for _, x := range rs.steps[setting{0, connections}] {
		for _, y := range rs.steps[setting{target, connections}] {
			if x.round == y.round {
				first, other = append(first, x.throughput()), append(other, y.throughput())
			}
		}
	}
	to, of := r.find(rs.targets[0].Name, connections), r.find(rs.targets[target].Name, connections)
	if len(first) > 0 && to != nil && of != nil {
		r.Comparisons = append(r.Comparisons, newComparison(of, to, difference(first, other)))
	}
}

// difference compares the throughputs of two targets, round by round.
func difference(first, other []float64) Difference {
	d := stats.Compare(first, other)
	return Difference{Ratio: Interval(d.Confidence), P: d.P, Real: d.Significant}
}

// moreErrors is by how much the error share of one target may exceed that of another
// that it is called faster than.
const moreErrors = 0.01

// newComparison compares result b with result a. The one with more errors is never
// called faster.
func newComparison(b, a *Result, d Difference) Comparison {
	c := Comparison{Target: b.Target, To: a.Target, Connections: b.Connections, Throughput: d}
	why := func(x *Result) string {
		return fmt.Sprintf("%.0f %% of the reads from %s failed", 100*x.ErrorShare, x.Target)
	}
	for _, x := range []*Result{b, a} {
		if x.Failing {
			c.Throughput, c.Why = Difference{P: 1}, why(x)
			return c
		}
	}
	faster, slower := b, a
	if d.Ratio.Estimate < 1 {
		faster, slower = a, b
	}
	if d.Real && faster.ErrorShare > slower.ErrorShare+moreErrors {
		c.Throughput.Real = false
		c.Why = why(faster)
	}
	return c
}

// series returns the seconds of a step as points like a given one.
func (r *recorder) series(started time.Time, like SeriesPoint) []SeriesPoint {
	elapsed := r.elapsed()
	var out []SeriesPoint
	for i, s := range r.seconds {
		length := min(1, elapsed-float64(i))
		const least = 0.05 // seconds: less of one has no meaningful throughput
		if length < least {
			continue
		}
		p := like
		p.At = math.Round(1e3*(r.start.Sub(started).Seconds()+float64(i))) / 1e3
		p.Throughput, p.Requests, p.Errors = math.Round(float64(s.Bytes)/length), s.Requests, s.Errors
		out = append(out, p)
	}
	return out
}
