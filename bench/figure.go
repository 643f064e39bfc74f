package bench

import (
	"html/template"
	"math"
	"slices"
	"strconv"

	"drayage/bench/internal/drawing"
)

// Size of a plot in pixels, and about how much of its width is for data.
const (
	plotWidth, plotHeight = 860, 360
	dataWidth             = 780
)

// figure is a plot with its key and caption.
type figure struct {
	Title       string
	Caption     []string
	Key         []keyEntry
	plot        func(drawing.Look) *drawing.Plot
	Light, Dark template.HTML
}

// keyEntry names the target that a sign stands for.
type keyEntry struct{ Name, Color, Sign string }

// palette has colors with a contrast of at least 3 to either background, so that one
// key serves both. Signs distinguish targets without colors.
var palette = []struct {
	color, key string
	sign       drawing.Sign
}{
	{"#4a7fd4", "○", drawing.Ring}, {"#c4641c", "■", drawing.Square}, {"#2f8f5b", "◆", drawing.Diamond}, {"#b8529e", "●", drawing.Dot},
	{"#8a7a1f", "○", drawing.Ring}, {"#0f8a9c", "■", drawing.Square}, {"#d04a4a", "◆", drawing.Diamond}, {"#7b6fd0", "●", drawing.Dot},
}

// neutral is the color of lines that belong to no target.
const neutral = "#7d8794"

// The colors are those of page.html.
var (
	light = drawing.Look{Ink: "#5a6472", Line: "#c9ced6", Shade: "#f1f1f1"}
	dark  = drawing.Look{Ink: "#a6b0be", Line: "#3a414d", Shade: "#25282e"}
)

// render draws the plot in both forms.
func (f *figure) render() {
	draw := func(l drawing.Look) template.HTML { // drawing escapes all text, which a test verifies
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

// estimate adds a point to the current line, with its interval.
func (m *targetMarks) estimate(x float64, v Interval) {
	at := drawing.XY{X: x, Y: v.Estimate}
	if len(m.lines) == 0 {
		m.gap()
	}
	last := len(m.lines) - 1
	m.lines[last], m.signs = append(m.lines[last], at), append(m.signs, at)
	if v.Low < v.High { // a single round has no interval
		m.bars = append(m.bars, drawing.Bar{X: x, Low: v.Low, High: v.High})
	}
}

// gap ends the current line.
func (m *targetMarks) gap() { m.lines = append(m.lines, nil) }

// addMarks draws targets one above the other, each with its lines below its bars below
// its signs.
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

// dodge is the offset of a target's points from their tick, so that the bars of
// several targets do not hide each other. It is in units of the distance of ticks.
func dodge(target, targets, ticks int) float64 {
	const apart, most = 9, 0.6 // pixels between targets; share of the distance for all of them
	step := min(float64(apart*ticks)/dataWidth, most/float64(targets))
	return step * (float64(target) - float64(targets-1)/2)
}

// byConnections makes the horizontal axis one of numbers of connections, at equal
// distances. Numbers are left out where labels would overlap, knees last.
func byConnections(p *drawing.Plot, ns, knees []int) {
	p.X.Min, p.X.Max = -0.5, float64(len(ns))-0.5
	const letter, knee = 8, 40 // approximate widths of a digit and of the word
	widest := letter * (len(strconv.Itoa(slices.Max(ns))) + 1)
	if len(knees) > 0 {
		widest = max(widest, knee)
	}
	every := int(math.Ceil(float64(widest*len(ns)) / dataWidth))
	labels := make([]string, len(ns))
	name := func(i int, label string) { // unless it would overlap another label
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

// logTicks are the ticks of an axis of logarithms.
func logTicks(values []float64, label func(float64) string) []drawing.Tick {
	var out []drawing.Tick
	for _, v := range values {
		out = append(out, drawing.Tick{Value: math.Log10(v), Label: label(v)})
	}
	return out
}

// shortTime formats a time in seconds.
func shortTime(s float64) string {
	switch {
	case s >= 1:
		return strconv.FormatFloat(s, 'g', 3, 64) + " s"
	case s >= 1e-3:
		return strconv.FormatFloat(1e3*s, 'g', 3, 64) + " ms"
	}
	return strconv.FormatFloat(1e6*s, 'g', 3, 64) + " µs"
}

// mebi formats bytes, or bytes per second, in MiB.
func mebi(v float64) string {
	const small = 10e6 // for which one decimal would be too few digits
	if v < small {
		return strconv.FormatFloat(v/(1<<20), 'g', 2, 64)
	}
	return strconv.FormatFloat(v/(1<<20), 'f', 1, 64)
}

// mebibytes converts bytes per second to MiB per second.
func mebibytes(rate float64) float64 { return rate / (1 << 20) }
