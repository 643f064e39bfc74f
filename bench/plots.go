package bench

import (
	"fmt"
	"html/template"
	"math"
	"slices"
	"strconv"

	"drayage/bench/internal/drawing"
)

// A plot's size, and about how much of its width is for data.
const (
	plotWidth, plotHeight = 860, 360
	dataWidth             = 780
)

// figure is a plot of the page.
type figure struct {
	Title       string
	Says        []string
	Key         []keyEntry // which sign is whose
	plot        func(drawing.Look) *drawing.Plot
	Light, Dark template.HTML
}

type keyEntry struct{ Name, Color, Sign string }

// palette has at least three times the contrast to either paper, so that one key serves
// both; signs tell lines apart without colors.
var palette = []struct {
	color, key string
	sign       drawing.Sign
}{
	{"#4a7fd4", "○", drawing.Ring}, {"#c4641c", "■", drawing.Square}, {"#2f8f5b", "◆", drawing.Diamond}, {"#b8529e", "●", drawing.Dot},
	{"#8a7a1f", "○", drawing.Ring}, {"#0f8a9c", "■", drawing.Square}, {"#d04a4a", "◆", drawing.Diamond}, {"#7b6fd0", "●", drawing.Dot},
}

// ofNone is the color of lines that are no target's.
const ofNone = "#7d8794"

// The colors are those of the page.
var (
	light = drawing.Look{Ink: "#5a6472", Line: "#c9ced6", Shade: "#f1f1f1"}
	dark  = drawing.Look{Ink: "#a6b0be", Line: "#3a414d", Shade: "#25282e"}
)

// render draws the plot in both forms.
func (f *figure) render() {
	draw := func(l drawing.Look) template.HTML { // all text in it is escaped, which a test holds it to
		return template.HTML(drawing.SVG(f.plot(l), plotWidth, plotHeight, f.Title))
	}
	f.Light, f.Dark = draw(light), draw(dark)
}

// key adds a target's sign to the key.
func (f *figure) key(target int, name string) {
	style := palette[target%len(palette)]
	f.Key = append(f.Key, keyEntry{name, style.color, style.key})
}

// targetMarks are a target's lines and signs in a plot.
type targetMarks struct {
	target int
	lines  [][]drawing.XY // each without a gap
	signs  []drawing.XY
	bars   []drawing.Bar
}

// estimate adds a point, which belongs to the line that there is, and its interval.
func (m *targetMarks) estimate(x float64, v Interval) {
	at := drawing.XY{X: x, Y: v.Estimate}
	if len(m.lines) == 0 {
		m.gap()
	}
	last := len(m.lines) - 1
	m.lines[last], m.signs = append(m.lines[last], at), append(m.signs, at)
	if v.Low < v.High { // a single round has none
		m.bars = append(m.bars, drawing.Bar{X: x, Low: v.Low, High: v.High})
	}
}

// gap ends the line.
func (m *targetMarks) gap() { m.lines = append(m.lines, nil) }

// addMarks draws targets' lines below their bars below their signs.
func addMarks(p *drawing.Plot, all []targetMarks) {
	for _, m := range all {
		style := palette[m.target%len(palette)]
		for _, points := range m.lines {
			if len(points) > 1 {
				p.Line(style.color, points)
			}
		}
		p.Bars(style.color, m.bars)
		p.Signs(style.color, style.sign, m.signs)
	}
}

// dodge is how far beside its place a target's point stands, so that bars of several targets
// don't hide each other.
func dodge(target, targets, places int) float64 {
	const apart, most = 9, 0.6 // in pixels, and of what a place has
	step := min(float64(apart*places)/dataWidth, most/float64(targets))
	return step * (float64(target) - float64(targets-1)/2)
}

// byConnections makes the horizontal axis one of numbers of connections, each of which has as
// much room as any other.
func byConnections(p *drawing.Plot, ns, knees []int) {
	p.X.Min, p.X.Max = -0.5, float64(len(ns))-0.5
	const letter, knee = 8, 40 // about how wide a digit is, and the word below it
	widest := letter * (len(strconv.Itoa(slices.Max(ns))) + 1)
	if len(knees) > 0 {
		widest = max(widest, knee)
	}
	every := int(math.Ceil(float64(widest*len(ns)) / dataWidth))
	labels := make([]string, len(ns))
	name := func(i int, label string) { // where there is room
		if !slices.ContainsFunc(labels[max(0, i-every+1):min(len(ns), i+every)], func(s string) bool { return s != "" }) {
			labels[i] = label
		}
	}
	for i, n := range ns {
		if slices.Contains(knees, n) {
			name(i, strconv.Itoa(n)+"\nknee")
		}
	}
	for i, n := range ns {
		name(i, strconv.Itoa(n))
		p.X.Ticks = append(p.X.Ticks, drawing.Tick{Value: float64(i), Label: labels[i]})
	}
}

// sweepPlot is throughput by connections.
func (r *Report) sweepPlot() (figure, bool) {
	f := figure{Title: "Throughput by connections"}
	ns := r.connections()
	if len(ns) == 0 {
		return f, false
	}
	all := make([]targetMarks, len(r.Targets))
	var knees []int
	highest, high, points, bars := 0.0, 0.0, 0, 0
	for i, t := range r.Targets {
		all[i].target = i
		f.key(i, t.Name)
		for k, n := range ns {
			x := r.find(t.Name, n)
			if x == nil || x.Failing {
				all[i].gap()
				if x != nil {
					f.Says = append(f.Says, fmt.Sprintf("%s: with %d connections most reads failed, and there are no figures.", t.Name, n))
				}
				continue
			}
			v := Interval{mebibytes(x.Throughput.Estimate), mebibytes(x.Throughput.Low), mebibytes(x.Throughput.High)}
			all[i].estimate(float64(k)+dodge(i, len(r.Targets), len(ns)), v)
			highest, high, points = max(highest, v.Estimate), max(high, v.Estimate, v.High), points+1
		}
		bars += len(all[i].bars)
		if t.Knee > 0 {
			f.Says = append(f.Says, fmt.Sprintf("%s: %s.", t.Name, r.KneeText(t)))
			if t.Knee < slices.Max(ns) {
				knees = append(knees, t.Knee)
			}
		}
	}
	if bars > 0 {
		f.Says = append(f.Says, "Bars are the intervals that hold the mean 95 times in 100, or of fewer than 6 rounds, their range.")
	}
	f.plot = func(look drawing.Look) *drawing.Plot {
		p := drawing.New(look, "connections", "MiB/s")
		p.Grid()
		addMarks(p, all)
		byConnections(p, ns, knees)
		const beyond = 2 // a bar from few rounds may be so long that nothing else could be seen: it is cut off
		drawing.FromZero(&p.Y, min(high, beyond*highest))
		return p
	}
	return f, len(ns) > 1 && points > 0
}

// againstPlot is how targets compare with the first, by connections.
func (r *Report) againstPlot() (figure, bool) {
	f := figure{Title: "One against another"}
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
			v := within(c.Throughput.Ratio)
			logs := Interval{math.Log10(v.Estimate), math.Log10(v.Low), math.Log10(v.High)}
			m.estimate(float64(k)+dodge(i-1, len(r.Targets)-1, len(ns)), logs)
			low, high, points = min(low, v.Low), max(high, v.High), points+1
		}
		if m.lines = nil; len(m.signs) > 0 { // one number of connections says nothing of another
			f.key(i, t.Name)
			all = append(all, m)
		}
	}
	f.plot = func(look drawing.Look) *drawing.Plot {
		p := drawing.New(look, "connections", "times the throughput, logarithmic")
		p.Grid()
		p.Line(ofNone, []drawing.XY{{X: -0.5}, {X: float64(len(ns)) - 0.5}})
		addMarks(p, all)
		aroundOne(&p.Y, low, high)
		byConnections(p, ns, nil)
		return p
	}
	if len(r.Targets) > 0 {
		f.Says = []string{"Throughput as a multiple of that of " + r.Targets[0].Name + " in the same rounds; bars are the bounds that hold it 95 times in 100. Where they have the line at 1 between them, it may be chance."}
	}
	const least = 2 // of one point the table says as much
	return f, points >= least
}

// within is a ratio whose bounds are not so far off that nothing else could be seen.
func within(ratio Interval) Interval {
	const far = 20
	e := ratio.Estimate
	return Interval{e, min(e, max(ratio.Low, e/far)), max(e, min(ratio.High, e*far))}
}

// aroundOne makes an axis of logarithms one with that of 1 in it, and at least a little beside it.
func aroundOne(a *drawing.Axis, low, high float64) {
	const least, margin = 1.05, 0.06 // the margin is of what there is
	low, high = min(low, 1/least), max(high, least)
	more := math.Pow(high/low, margin)
	low, high = low/more, high*more
	a.Min, a.Max = math.Log10(low), math.Log10(high)
	const narrow = 2 // where even steps are still even
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

// logTicks are ticks of an axis of logarithms.
func logTicks(values []float64, label func(float64) string) []drawing.Tick {
	var out []drawing.Tick
	for _, v := range values {
		out = append(out, drawing.Tick{Value: math.Log10(v), Label: label(v)})
	}
	return out
}

// latencyPlot is the distribution of latencies, on a logarithmic axis, at the
// number of connections where the knee is.
func (r *Report) latencyPlot() (figure, bool) {
	f := figure{Title: "Latency of whole reads", Says: []string{"From when a read was due to its last byte; each with the number of connections where its knee is."}}
	var all []targetMarks
	low, high, longest := math.Inf(1), 0.0, 0
	for i, t := range r.Targets {
		x := r.at(t)
		if x == nil || len(x.LatencyCurve) == 0 {
			continue
		}
		const shortest = 1e-6 // what is measured
		m := targetMarks{target: i, lines: [][]drawing.XY{nil}}
		for k, v := range x.LatencyCurve {
			v = max(shortest, v)
			at := drawing.XY{X: float64(k), Y: math.Log10(v)}
			low, high, longest = min(low, v), max(high, v), max(longest, k)
			m.lines[0] = append(m.lines[0], at)
			if k%curvePerNine == 0 || k == len(x.LatencyCurve)-1 {
				m.signs = append(m.signs, at)
			}
		}
		f.key(i, fmt.Sprintf("%s, %d at once", t.Name, x.Connections))
		all = append(all, m)
	}
	f.plot = func(look drawing.Look) *drawing.Plot {
		p := drawing.New(look, "share of reads that took no longer", "time, logarithmic")
		p.Grid()
		addMarks(p, all)
		ticks := drawing.LogAround(low, high)
		p.Y.Min, p.Y.Max = math.Log10(ticks[0]), math.Log10(ticks[len(ticks)-1])
		p.Y.Ticks = logTicks(ticks, shortTime)
		p.X.Min, p.X.Max = 0, float64(max(longest, curvePerNine))
		p.X.Ticks = nines(p.X.Max)
		return p
	}
	return f, len(all) > 0
}

// nines are the ticks of an axis on which each nine takes as much room as the one before, as
// HdrHistogram's plots have it.
func nines(last float64) []drawing.Tick {
	const half = 0.5
	out := []drawing.Tick{{Value: -curvePerNine * math.Log10(half), Label: "50 %"}}
	for k := 0; float64(k) <= last; k += curvePerNine {
		share := strconv.FormatFloat(100*curveShare(k), 'f', max(0, k/curvePerNine-2), 64)
		out = append(out, drawing.Tick{Value: float64(k), Label: share + " %"})
	}
	return out
}

// at is a target's result at its knee, or its only one.
func (r *Report) at(t ReportTarget) *Result {
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

// timePlot is throughput second by second, each target's while it was its turn.
func (r *Report) timePlot() (figure, bool) {
	f := figure{Title: "Throughput over time"}
	const least = 6 // fewer points show nothing
	if len(r.Series) < least {
		return f, false
	}
	spans := r.spans()
	end := spans[len(spans)-1].to
	var all []targetMarks
	high := 0.0
	for i, t := range r.Targets {
		m := targetMarks{target: i}
		for _, run := range runs(r.strokes(t.Name)) {
			const room = 20 // that a sign takes
			if (run[len(run)-1].to-run[0].from)/end*dataWidth > room {
				mid := run[len(run)/2]
				m.signs = append(m.signs, drawing.XY{X: (mid.from + mid.to) / 2, Y: mid.value})
			}
			m.gap()
			last := len(m.lines) - 1
			for _, s := range run { // as steps, so that a second by itself is seen too
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
	f.Says = []string{"Each band is a number of connections, which stands above it where there is room. What one round has and the others haven't is a disturbance, or a cache that was cold."}
	return f, true
}

// span is when one number of connections had its turn in a round.
type span struct {
	from, to           float64
	round, connections int
}

// spans are all turns, in order.
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

// until is when a point of the series ended: after a second, or when the next began.
func (r *Report) until(i int) float64 {
	end := r.Series[i].At + 1
	if i+1 < len(r.Series) && r.Series[i+1].At > r.Series[i].At {
		end = min(end, r.Series[i+1].At)
	}
	return end
}

// stroke is a value that held for some time.
type stroke struct{ from, to, value float64 }

// strokes are a target's part of the series, with no more of them than can be told apart.
func (r *Report) strokes(target string) []stroke {
	const most = 800
	together := (len(r.Series) + most - 1) / most
	var out []stroke
	var of Point // the stroke's first
	n := 0       // of its points
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

// runs are strokes that follow one another without a pause.
func runs(strokes []stroke) [][]stroke {
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

// Letters of bands' names, and how high a row of them is.
const bandLetters, bandRow = 12, 16

// addBands adds spans behind a plot: shaded in turn, and named above it where there is room.
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
				c.Stroke(ofNone, 1, fmt.Sprintf("M%.1f %.1fV%.1f", from, c.Bottom, c.Top-2*bandRow))
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

// connections are the numbers of connections that were measured.
func (r *Report) connections() []int {
	var ns []int
	for _, x := range r.Results {
		if !slices.Contains(ns, x.Connections) {
			ns = append(ns, x.Connections)
		}
	}
	slices.Sort(ns)
	return ns
}

// mebibytes is a rate for a plot, in MiB a second.
func mebibytes(rate float64) float64 { return rate / (1 << 20) }
