package bench

import (
	"fmt"
	"slices"

	"drayage/bench/internal/drawing"
)

// throughputPlot shows throughput by connections.
func (r *Report) throughputPlot() (figure, bool) {
	f := figure{Title: "Throughput by connections"}
	ns := r.connections()
	if len(ns) == 0 {
		return f, false
	}
	all := make([]targetMarks, len(r.Targets))
	var knees []int
	highest, high, points, bars := 0.0, 0.0, 0, 0 // highest is the highest estimate, high the highest bound
	for i, t := range r.Targets {
		all[i].target = i
		f.key(i, t.Name)
		for k, n := range ns {
			x := r.find(t.Name, n)
			if x == nil || x.Failing {
				all[i].gap()
				if x != nil {
					f.Caption = append(f.Caption, fmt.Sprintf("%s: most reads failed with %d connections, which therefore has no figures.", t.Name, n))
				}
				continue
			}
			v := Interval{mebibytes(x.Throughput.Estimate), mebibytes(x.Throughput.Low), mebibytes(x.Throughput.High)}
			all[i].estimate(float64(k)+dodge(i, len(r.Targets), len(ns)), v)
			highest, high, points = max(highest, v.Estimate), max(high, v.Estimate, v.High), points+1
		}
		bars += len(all[i].bars)
		if t.Knee > 0 {
			f.Caption = append(f.Caption, fmt.Sprintf("%s: %s.", t.Name, r.KneeText(t)))
			if t.Knee < slices.Max(ns) {
				knees = append(knees, t.Knee)
			}
		}
	}
	if bars > 0 {
		f.Caption = append(f.Caption, "Bars are 95 % confidence intervals of the mean, or the range of the rounds if there are fewer than 6.")
	}
	f.plot = func(look drawing.Look) *drawing.Plot {
		p := drawing.New(look, "connections", "MiB/s")
		p.Grid()
		addMarks(p, all)
		byConnections(p, ns, knees)
		const beyond = 2 // long bars, which few rounds have, are cut off rather than flattening the curves
		drawing.FromZero(&p.Y, min(high, beyond*highest))
		return p
	}
	return f, len(ns) > 1 && points > 0
}
