package bench

import (
	"fmt"
	"strconv"

	"drayage/bench/internal/drawing"
)

// timePlot shows throughput second by second.
func (r *Report) timePlot() (figure, bool) {
	f := figure{Title: "Throughput over time"}
	const least = 6 // points, of which fewer show nothing
	if len(r.Series) < least {
		return f, false
	}
	spans := r.spans()
	end := spans[len(spans)-1].to
	var all []targetMarks
	high := 0.0
	for i, t := range r.Targets {
		m := targetMarks{target: i}
		for _, run := range unbroken(r.strokes(t.Name)) {
			const signWidth = 20 // pixels
			if (run[len(run)-1].to-run[0].from)/end*dataWidth > signWidth {
				mid := run[len(run)/2]
				m.signs = append(m.signs, drawing.XY{X: (mid.from + mid.to) / 2, Y: mid.value})
			}
			m.gap()
			last := len(m.lines) - 1
			for _, s := range run { // as steps, so that single seconds are visible, too
				m.lines[last] = append(m.lines[last], drawing.XY{X: s.from, Y: s.value}, drawing.XY{X: s.to, Y: s.value})
				high = max(high, s.value)
			}
		}
		if len(m.lines) > 0 {
			f.key(i, t.Name)
			all = append(all, m)
		}
	}
	f.plot = func(look drawing.Look) *drawing.Plot {
		p := drawing.New(look, "seconds", "MiB/s")
		addBands(p, look, spans)
		p.Grid()
		addMarks(p, all)
		drawing.FromZero(&p.Y, high)
		p.X.Min, p.X.Max = 0, end
		p.X.Ticks = drawing.Linear(0, end, func(s string) string { return s })
		return p
	}
	f.Caption = []string{"Each band is a number of connections. What appears in one round only is a disturbance or a cold cache."}
	return f, true
}

// span is the time of one number of connections in a round, in seconds.
type span struct {
	from, to           float64
	round, connections int
}

// spans are those of the series, in order.
func (r *Report) spans() []span {
	var out []span
	for i, x := range r.Series {
		last := len(out) - 1
		if last < 0 || out[last].round != x.Round || out[last].connections != x.Connections {
			if last >= 0 {
				out[last].to = x.At
			}
			out = append(out, span{x.At, 0, x.Round, x.Connections})
			last++
		}
		out[last].to = r.until(i)
	}
	return out
}

// until is the end of a point of the series: after a second, or when the next one starts.
func (r *Report) until(i int) float64 {
	end := r.Series[i].At + 1
	if i+1 < len(r.Series) && r.Series[i+1].At > r.Series[i].At {
		end = min(end, r.Series[i+1].At)
	}
	return end
}

// stroke is a mean value over some time.
type stroke struct{ from, to, value float64 }

// strokes are a target's part of the series, merged to at most as many as are
// distinguishable.
func (r *Report) strokes(target string) []stroke {
	const most = 800
	together := (len(r.Series) + most - 1) / most
	var out []stroke
	var of SeriesPoint // the first of the last stroke
	n := 0             // its number of points
	for i, x := range r.Series {
		if x.Target != target {
			n = 0
			continue
		}
		if n == 0 || n == together || x.Round != of.Round || x.Connections != of.Connections {
			out, of, n = append(out, stroke{from: x.At}), x, 0
		}
		s := &out[len(out)-1]
		s.value = (s.value*float64(n) + mebibytes(x.Throughput)) / float64(n+1)
		s.to, n = r.until(i), n+1
	}
	return out
}

// unbroken splits strokes where there is a pause.
func unbroken(strokes []stroke) [][]stroke {
	const pause = 0.5
	var out [][]stroke
	for i, s := range strokes {
		if i == 0 || s.from-strokes[i-1].to > pause {
			out = append(out, nil)
		}
		out[len(out)-1] = append(out[len(out)-1], s)
	}
	return out
}

// Size of the letters of bands' names, and height of a row of them, in pixels.
const bandLetters, bandRow = 12, 16

// addBands draws spans as bands behind a plot: alternately shaded, and named above it
// where the name fits.
func addBands(p *drawing.Plot, look drawing.Look, spans []span) {
	p.Above = 2 * bandRow
	p.Add(func(c *drawing.Canvas) {
		name := func(from, to, row float64, names ...string) {
			for _, text := range names {
				if drawing.Width(text, bandLetters) < to-from {
					c.Text(drawing.Mid, (from+to)/2, c.Top-bandRow*row-bandLetters/3, bandLetters, text)
					return
				}
			}
		}
		first := 0 // of the round
		for i, s := range spans {
			from, to := c.X(s.from), c.X(s.to)
			if i%2 == 0 {
				c.Fill(look.Shade, from, c.Top, to, c.Bottom)
			}
			name(from, to, 0, strconv.Itoa(s.connections))
			if i > 0 && s.round != spans[i-1].round {
				c.Stroke(neutral, 1, fmt.Sprintf("M%.1f %.1fV%.1f", from, c.Bottom, c.Top-2*bandRow))
				first = i
			}
			if i+1 < len(spans) && spans[i+1].round == s.round {
				continue
			}
			if s.round == 0 {
				name(c.X(spans[first].from), to, 1, "warm-up")
			} else {
				name(c.X(spans[first].from), to, 1, fmt.Sprintf("round %d", s.round), strconv.Itoa(s.round))
			}
		}
	})
}
