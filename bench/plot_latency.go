package bench

import (
	"fmt"
	"math"
	"strconv"

	"drayage/bench/internal/drawing"
	"drayage/bench/internal/stats"
)

// latencyPlot shows the distributions of latencies, each at its target's knee.
func (r *Report) latencyPlot() (figure, bool) {
	f := figure{Title: "Latency", Caption: []string{"From when a read was due to its last byte, with the number of connections at the knee."}}
	var all []targetMarks
	low, high, longest := math.Inf(1), 0.0, 0
	for i, t := range r.Targets {
		x := r.atKnee(t)
		if x == nil || len(x.LatencyCurve) == 0 {
			continue
		}
		const shortest = 1e-6 // the resolution of histograms
		m := targetMarks{target: i, lines: [][]drawing.XY{nil}}
		for k, v := range x.LatencyCurve {
			v = max(shortest, v)
			at := drawing.XY{X: float64(k), Y: math.Log10(v)}
			low, high, longest = min(low, v), max(high, v), max(longest, k)
			m.lines[0] = append(m.lines[0], at)
			if k%stats.CurveStep == 0 || k == len(x.LatencyCurve)-1 {
				m.signs = append(m.signs, at)
			}
		}
		f.key(i, fmt.Sprintf("%s, %d connections", t.Name, x.Connections))
		all = append(all, m)
	}
	f.plot = func(look drawing.Look) *drawing.Plot {
		p := drawing.New(look, "share of reads with at most this latency", "latency, logarithmic")
		p.Grid()
		addMarks(p, all)
		ticks := drawing.LogAround(low, high)
		p.Y.Min, p.Y.Max = math.Log10(ticks[0]), math.Log10(ticks[len(ticks)-1])
		p.Y.Ticks = logTicks(ticks, shortTime)
		p.X.Min, p.X.Max = 0, float64(max(longest, stats.CurveStep))
		p.X.Ticks = nines(p.X.Max)
		return p
	}
	return f, len(all) > 0
}

// nines are the ticks of an axis on which each nine takes equal space, as in the plots
// of HdrHistogram.
func nines(last float64) []drawing.Tick {
	const half = 0.5
	out := []drawing.Tick{{Value: -stats.CurveStep * math.Log10(half), Label: "50 %"}}
	for k := 0; float64(k) <= last; k += stats.CurveStep {
		share := strconv.FormatFloat(100*stats.CurveShare(k), 'f', max(0, k/stats.CurveStep-2), 64)
		out = append(out, drawing.Tick{Value: float64(k), Label: share + " %"})
	}
	return out
}

// atKnee returns a target's result at its knee, or its first one; nil if it has none.
func (r *Report) atKnee(t ReportTarget) *Result {
	if x := r.find(t.Name, t.Knee); x != nil {
		return x
	}
	for i := range r.Results {
		if r.Results[i].Target == t.Name {
			return &r.Results[i]
		}
	}
	return nil
}
