package bench

import (
	"math"
	"slices"
	"strconv"

	"drayage/bench/internal/drawing"
)

// ratioPlot shows the ratios of targets' throughputs to the first target's, by
// connections.
func (r *Report) ratioPlot() (figure, bool) {
	f := figure{Title: "Throughput ratio"}
	ns := r.connections()
	var all []targetMarks
	low, high, points := 1.0, 1.0, 0
	for i, t := range r.Targets {
		m := targetMarks{target: i}
		for _, c := range r.Comparisons {
			k := slices.Index(ns, c.Connections)
			if c.Target != t.Name || k < 0 || c.Throughput.Ratio.Estimate <= 0 {
				continue
			}
			v := clip(c.Throughput.Ratio)
			logs := Interval{math.Log10(v.Estimate), math.Log10(v.Low), math.Log10(v.High)}
			m.estimate(float64(k)+dodge(i-1, len(r.Targets)-1, len(ns)), logs)
			low, high, points = min(low, v.Low), max(high, v.High), points+1
		}
		if m.lines = nil; len(m.signs) > 0 { // settings of one target have no line from one to another
			f.key(i, t.Name)
			all = append(all, m)
		}
	}
	f.plot = func(look drawing.Look) *drawing.Plot {
		p := drawing.New(look, "connections", "throughput ratio, logarithmic")
		p.Grid()
		p.Line(neutral, []drawing.XY{{X: -0.5}, {X: float64(len(ns)) - 0.5}})
		addMarks(p, all)
		aroundOne(&p.Y, low, high)
		byConnections(p, ns, nil)
		return p
	}
	if len(r.Targets) > 0 {
		f.Caption = []string{"Throughput relative to that of " + r.Targets[0].Name + " in the same rounds. Bars are 95 % confidence intervals; where they include 1, the difference is not significant."}
	}
	const least = 2 // a single point is in the table
	return f, points >= least
}

// clip limits the bounds of a ratio, so that long bars do not flatten the plot.
func clip(ratio Interval) Interval {
	const far = 20
	e := ratio.Estimate
	return Interval{e, min(e, max(ratio.Low, e/far)), max(e, min(ratio.High, e*far))}
}

// aroundOne makes a logarithmic axis that includes 1 and some space around it. Its values
// are logarithms.
func aroundOne(a *drawing.Axis, low, high float64) {
	const least, margin = 1.05, 0.06 // the margin is a share of the range
	low, high = min(low, 1/least), max(high, least)
	more := math.Pow(high/low, margin)
	low, high = low/more, high*more
	a.Min, a.Max = math.Log10(low), math.Log10(high)
	const narrow = 2 // ranges in which equal steps look nearly equal
	if high/low < narrow {
		ticks := drawing.Linear(low, high, func(s string) string { return "×" + s })
		for i := range ticks {
			ticks[i].Value = math.Log10(ticks[i].Value)
		}
		a.Ticks = ticks
		return
	}
	const digits = 3
	a.Ticks = logTicks(drawing.Log(low, high), func(v float64) string { return "×" + strconv.FormatFloat(v, 'g', digits, 64) })
}
