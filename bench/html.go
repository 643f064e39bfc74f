package bench

import (
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-analyze/charts"
)

// WriteHTML writes the report as one page: without scripts, and without anything
// from elsewhere. Its plots come in a light and a dark form, of which the browser
// shows the one that its user wants.
func (r *Report) WriteHTML(w io.Writer) error {
	page := htmlPage{Report: r, When: r.Started.Format(time.RFC1123), Loop: "closed loop"}
	if r.Rate > 0 {
		page.Loop = fmt.Sprintf("open loop of %g requests a second", r.Rate)
	}
	for _, make := range []func() (plot, bool){r.sweepPlot, r.timePlot, r.latencyPlot, r.againstPlot} {
		p, ok := make()
		if !ok {
			continue
		}
		if err := p.draw(); err != nil {
			return fmt.Errorf("drawing %s: %w", p.Title, err)
		}
		page.Plots = append(page.Plots, p)
	}
	return pageTemplate.Execute(w, page)
}

type htmlPage struct {
	*Report
	When, Loop string
	Plots      []plot
}

// plot is a line chart: one line a target, and perhaps others beside it.
type plot struct {
	Title, XTitle, YTitle string
	Says                  []string
	labels                []string
	lines                 []line
	format                func(float64) string
	log                   bool // values are logarithms to base 10
	ratio                 bool // around 1, and not from 0
	Light, Dark           template.HTML
}

// line is one of a plot's. Those of a target have its color and sign.
type line struct {
	name   string // "" is not in the key
	target int    // -1 is of none
	bound  bool   // of what an estimate lies between
	values []float64
}

// palette has at least three times the contrast to either paper, so that one key serves
// both; signs tell lines apart without colors.
var palette = []struct {
	color, sign string
	symbol      charts.SymbolShape
}{
	{"#4a7fd4", "○", charts.SymbolCircle}, {"#c4641c", "■", charts.SymbolSquare}, {"#2f8f5b", "◆", charts.SymbolDiamond}, {"#b8529e", "●", charts.SymbolDot},
	{"#8a7a1f", "○", charts.SymbolCircle}, {"#0f8a9c", "■", charts.SymbolSquare}, {"#d04a4a", "◆", charts.SymbolDiamond}, {"#7b6fd0", "●", charts.SymbolDot},
}

// ofNone is the color of lines that are no target's.
const ofNone = "#7d8794"

type keyEntry struct{ Name, Color, Sign string }

// Key says which line is which.
func (p plot) Key() []keyEntry {
	var out []keyEntry
	for _, l := range p.lines {
		if l.name != "" {
			style := palette[l.target%len(palette)]
			out = append(out, keyEntry{l.name, style.color, style.sign})
		}
	}
	return out
}

// sweepPlot is throughput by connections.
func (r *Report) sweepPlot() (plot, bool) {
	p := plot{Title: "Throughput by connections", XTitle: "connections", YTitle: "MiB/s", format: plain}
	ns := r.connections()
	for _, n := range ns {
		label := strconv.Itoa(n)
		if slices.ContainsFunc(r.Targets, func(t ReportTarget) bool { return t.Knee == n && n < slices.Max(ns) }) {
			label += " (knee)"
		}
		p.labels = append(p.labels, label)
	}
	for i, t := range r.Targets {
		values := make([]float64, 0, len(ns))
		for _, n := range ns {
			v := charts.GetNullValue()
			if x := r.find(t.Name, n); x != nil && !x.Failing {
				v = mebibytes(x.Throughput.Estimate)
			}
			values = append(values, v)
		}
		p.lines = append(p.lines, line{name: t.Name, target: i, values: values})
		if t.Knee > 0 {
			p.Says = append(p.Says, fmt.Sprintf("%s: %s.", t.Name, r.KneeText(t)))
		}
	}
	return p, len(ns) > 1
}

// latencyPlot is the distribution of latencies, on a logarithmic axis, at the
// number of connections where the knee is.
func (r *Report) latencyPlot() (plot, bool) {
	p := plot{Title: "Latency of whole reads", XTitle: "share of reads that took no longer", YTitle: "time, logarithmic", log: true,
		format: func(v float64) string { return shortTime(math.Pow(10, v)) }}
	longest := 0
	for _, t := range r.Targets {
		if x := r.at(t); x != nil {
			longest = max(longest, len(x.LatencyCurve))
		}
	}
	for k := range longest { // as HdrHistogram's plots have it: each nine takes as much room
		label := ""
		if k%curvePerNine == 0 {
			label = strconv.FormatFloat(100*curveShare(k), 'f', max(0, k/curvePerNine-2), 64) + " %"
		}
		p.labels = append(p.labels, label)
	}
	for i, t := range r.Targets {
		x := r.at(t)
		if x == nil || x.Latency.Count == 0 {
			continue
		}
		var values []float64
		for k := range longest {
			v := charts.GetNullValue()
			if k < len(x.LatencyCurve) {
				v = math.Log10(max(1e-6, x.LatencyCurve[k]))
			}
			values = append(values, v)
		}
		p.lines = append(p.lines, line{name: fmt.Sprintf("%s, %d at once", t.Name, x.Connections), target: i, values: values})
	}
	p.Says = []string{"From when a read was due to its last byte; each with the number of connections where its knee is."}
	return p, len(p.lines) > 0
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
func (r *Report) timePlot() (plot, bool) {
	p := plot{Title: "Throughput over time", XTitle: "seconds", YTitle: "MiB/s", format: plain}
	if len(r.Series) == 0 {
		return p, false
	}
	// As many bins as can be told apart, of whole seconds or of what the steps had of one.
	const most = 240
	last := r.Series[len(r.Series)-1].At
	width := max(0.25, math.Ceil(4*last/most)/4)
	bins := int(last/width) + 1
	digits := 0
	if width < 1 {
		digits = 1
	}
	for i := range bins {
		p.labels = append(p.labels, strconv.FormatFloat(float64(i)*width, 'f', digits, 64))
	}
	for n, t := range r.Targets {
		sums, counts := make([]float64, bins), make([]float64, bins)
		for _, x := range r.Series {
			if x.Target == t.Name {
				i := int(x.At / width)
				sums[i], counts[i] = sums[i]+x.Throughput, counts[i]+1
			}
		}
		values := make([]float64, bins)
		for i := range values {
			values[i] = charts.GetNullValue()
			if counts[i] > 0 {
				values[i] = mebibytes(sums[i] / counts[i])
			}
		}
		p.lines = append(p.lines, line{name: t.Name, target: n, values: values})
	}
	p.Says = []string{"It goes up and down with the connections, round after round. What one round has and the others haven't is a disturbance, or a cache that was cold."}
	const least = 10 // fewer bins show nothing
	return p, bins >= least
}

// againstPlot is how targets compare with the first, by connections.
func (r *Report) againstPlot() (plot, bool) {
	p := plot{Title: "One against another", XTitle: "connections", YTitle: "times the throughput", ratio: true,
		format: func(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) }}
	ns := r.connections()
	ones := make([]float64, len(ns))
	for i, n := range ns {
		p.labels, ones[i] = append(p.labels, strconv.Itoa(n)), 1
	}
	for i, t := range r.Targets {
		lines := [3]line{{name: t.Name, target: i}, {target: i, bound: true}, {target: i, bound: true}}
		found := false
		for _, n := range ns {
			at := [3]float64{charts.GetNullValue(), charts.GetNullValue(), charts.GetNullValue()}
			for _, c := range r.Comparisons {
				if c.Target == t.Name && c.Connections == n {
					at, found = [3]float64{c.Throughput.Ratio.Estimate, c.Throughput.Ratio.Low, c.Throughput.Ratio.High}, true
				}
			}
			for k := range lines {
				lines[k].values = append(lines[k].values, at[k])
			}
		}
		if found {
			p.lines = append(p.lines, lines[:]...)
		}
	}
	found := len(p.lines) > 0 && len(ns) > 1
	p.lines = append(p.lines, line{target: -1, bound: true, values: ones})
	p.Says = []string{"Throughput as a multiple of that of " + r.Targets[0].Name + " in the same rounds, and above and below it the bounds that hold it 95 times in 100. Where they have the line at 1 between them, it may be chance."}
	return p, found
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

// draw draws the plot in both forms.
func (p *plot) draw() error {
	var err error
	if p.Light, err = p.svg(charts.ThemeLight); err == nil {
		p.Dark, err = p.svg(charts.ThemeDark)
	}
	return err
}

func (p *plot) svg(theme string) (template.HTML, error) {
	const width, height = 860, 340
	var values [][]float64
	var colors []charts.Color
	for _, l := range p.lines {
		color := ofNone
		if l.target >= 0 {
			color = palette[l.target%len(palette)].color
		}
		values, colors = append(values, l.values), append(colors, charts.ParseColor(color))
	}
	opt := charts.NewLineChartOptionWithData(values)
	opt.Theme = charts.GetTheme(theme).WithBackgroundColor(charts.ColorTransparent).WithSeriesColors(colors)
	for i, l := range p.lines {
		const many = 100 // signs would be all there is to see
		symbol := charts.Symbol{Shape: charts.SymbolNone}
		if l.target >= 0 && !l.bound {
			symbol = charts.Symbol{Shape: palette[l.target%len(palette)].symbol, Size: 4}
			if len(p.labels) > many {
				symbol = charts.Symbol{Shape: charts.SymbolDot, Size: 2}
			}
		}
		opt.SeriesList[i].Symbol = symbol
	}
	opt.XAxis.Labels, opt.XAxis.Title = p.labels, p.XTitle
	opt.Legend.Show = charts.Ptr(false)
	opt.YAxis[0].Title = p.YTitle
	opt.YAxis[0].ValueFormatter = p.format
	p.bounds(&opt.YAxis[0])
	painter := charts.NewPainter(charts.PainterOptions{OutputFormat: charts.ChartOutputSVG, Width: width, Height: height})
	if err := painter.LineChart(opt); err != nil {
		return "", err
	}
	raw, err := painter.Bytes()
	if err != nil {
		return "", err
	}
	text := string(raw)
	// What reads the page aloud has the table; the plot has a name.
	text = strings.Replace(text, "<svg ", fmt.Sprintf(`<svg role="img" aria-label="%s" `, template.HTMLEscapeString(p.Title)), 1)
	return template.HTML(text), nil // the library escapes what it draws, which a test holds it to
}

// mebibytes is a rate for a plot, in MiB a second, to two digits after the point.
func mebibytes(rate float64) float64 { return math.Round(100*rate/(1<<20)) / 100 }

// niceStep is a step between the ticks of an axis that people can count in: 1, 2 or 5 times a
// power of ten.
func niceStep(span float64) float64 {
	const ticks = 6
	rough := span / ticks
	if rough <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(rough)))
	for _, m := range []float64{1, 2, 5} {
		if rough <= m*power {
			return m * power
		}
	}
	return 10 * power
}

func plain(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// bounds are what the axis of values spans: whole powers of ten, some way around 1, or
// all from 0.
func (p *plot) bounds(axis *charts.YAxisOption) {
	low, high := math.Inf(1), math.Inf(-1)
	for _, l := range p.lines {
		for _, v := range l.values {
			if v != charts.GetNullValue() {
				low, high = min(low, v), max(high, v)
			}
		}
	}
	switch {
	case p.log:
		low, high = math.Floor(low), math.Ceil(high)
		axis.LabelCount = int(high-low) + 1
	case p.ratio:
		const least = 0.1 // around what there is
		step := niceStep(high - low + 2*least)
		low, high = math.Floor((low-least)/step)*step, math.Ceil((high+least)/step)*step
		axis.LabelCount = int(math.Round((high-low)/step)) + 1
	case high <= 0 || math.IsInf(high, 0):
		zero := 0.0
		axis.Min = &zero
		return
	default:
		step := niceStep(high)
		low, high = 0, math.Ceil(high/step)*step
		axis.LabelCount = int(math.Round(high/step)) + 1
	}
	axis.Min, axis.Max = &low, &high
}

// shortTime is a time in seconds for an axis.
func shortTime(s float64) string {
	switch {
	case s >= 1:
		return strconv.FormatFloat(s, 'g', 3, 64) + " s"
	case s >= 1e-3:
		return strconv.FormatFloat(1e3*s, 'g', 3, 64) + " ms"
	}
	return strconv.FormatFloat(1e6*s, 'g', 3, 64) + " µs"
}

func megabytes(v float64) string {
	const small = 10e6 // below which a digit after the point is too few
	if v < small {
		return strconv.FormatFloat(v/(1<<20), 'g', 2, 64)
	}
	return strconv.FormatFloat(v/(1<<20), 'f', 1, 64)
}

var pageTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"pair": func(what string, times Quantiles) any {
		return struct {
			What  string
			Times Quantiles
		}{what, times}
	},
	"time": shortTime, "mb": megabytes, "size": func(n int64) string { return megabytes(float64(n)) },
}).Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>drayage bench: {{range $i, $t := .Targets}}{{if $i}}, {{end}}{{$t.Name}}{{end}}</title>
<style>
:root { color-scheme: light dark; --ink: #1d2430; --paper: #fdfdfc; --line: #c9ced6; --soft: #5a6472; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e7eaef; --paper: #16191f; --line: #3a414d; --soft: #a6b0be; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto; padding: 1.5rem; max-width: 68rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p, .says { max-width: 46rem; } .soft, .says { color: var(--soft); } .says { list-style: none; margin: 0; padding: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
thead th { white-space: normal; overflow-wrap: normal; vertical-align: bottom; }
th, td { padding: .3rem .55rem; border-bottom: 1px solid var(--line); text-align: right; }
tbody th, td { white-space: nowrap; }
th:first-child { text-align: left; } tbody th { font-weight: normal; }
.key { list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: 0 1.5rem; }
.key li { display: flex; gap: .4rem; }
figure { margin: 1rem 0; }
figure svg { display: block; min-width: 34rem; max-width: 100%; height: auto; } figure svg text { font-family: Roboto, Arial, sans-serif; letter-spacing: -.02em; }
.dark { display: none; }
@media screen and (prefers-color-scheme: dark) { .dark { display: block; } .light { display: none; } }
@media print { :root { color-scheme: light; } body { max-width: none; padding: 0; } .wide { overflow: visible; } figure svg { min-width: 0; } table { font-size: 7.5pt; } th, td { padding: .15rem .25rem; } tbody th { white-space: normal; } h2 { break-after: avoid; } figure, tr { break-inside: avoid; } }
</style>
</head>
<body>
<main>
<h1>What {{range $i, $t := .Targets}}{{if $i}} and {{end}}{{$t.Name}}{{end}} delivered</h1>
<p class="soft">{{.When}}, {{.Loop}}, {{.Rounds}} round{{if ne .Rounds 1}}s{{end}}{{range .Targets}}; {{.Name}}: {{size .Size}} MB in {{.Blobs}} layers, {{.Digest}}{{end}}</p>
{{range .Plots}}<h2>{{.Title}}</h2>
<figure><ul class="key">{{range .Key}}<li><b style="color: {{.Color}}" aria-hidden="true">{{.Sign}}</b> {{.Name}}</li>{{end}}</ul>
<div class="wide" tabindex="0" role="group" aria-label="{{.Title}}"><div class="light">{{.Light}}</div><div class="dark">{{.Dark}}</div></div>
<figcaption><ul class="says">{{range .Says}}<li>{{.}}</li>{{end}}</ul></figcaption></figure>
{{end}}
{{if .Comparisons}}<h2>Which is faster</h2>
<div class="wide" tabindex="0" role="region" aria-label="Which is faster">
<table>
<thead><tr><th scope="col">image</th><th scope="col">against</th><th scope="col">connections</th><th scope="col">times the throughput</th><th scope="col">from</th><th scope="col">to</th><th scope="col">verdict</th></tr></thead>
<tbody>
{{range $c := .Comparisons}}<tr><th scope="row">{{.Target}}</th><td>{{.To}}</td><td>{{.Connections}}</td>{{with .Throughput}}<td>{{printf "%.2f" .Ratio.Estimate}}</td><td>{{printf "%.2f" .Ratio.Low}}</td><td>{{printf "%.2f" .Ratio.High}}</td><td>{{if not .Real}}{{with $c.Why}}not compared: {{.}}{{else}}may be chance{{end}}{{else if gt .Ratio.Estimate 1.0}}<strong>faster</strong>{{else}}<strong>slower</strong>{{end}}</td>{{end}}</tr>
{{end}}</tbody>
</table>
</div>
{{end}}
<h2>All settings</h2>
<p class="soft" id="how">Throughput in MiB/s with the interval that holds its mean 95 times in 100 (of fewer than 6 rounds, their range), and of one read, half of the time; times to the first byte and to the last.</p>
<div class="wide" tabindex="0" role="region" aria-label="All settings">
<table aria-describedby="how">
<thead><tr><th scope="col">image</th><th scope="col">connections</th><th scope="col">MiB/s</th><th scope="col">from</th><th scope="col">to</th><th scope="col">of one read</th><th scope="col">first byte, half</th><th scope="col">first byte, 99 %</th><th scope="col">whole read, half</th><th scope="col">whole read, 99 %</th><th scope="col">whole read, 99.9 %</th><th scope="col">reads</th><th scope="col">errors</th></tr></thead>
<tbody>
{{range .Results}}<tr><th scope="row">{{.Target}}</th><td>{{.Connections}}</td><td>{{mb .Throughput.Estimate}}</td><td>{{mb .Throughput.Low}}</td><td>{{mb .Throughput.High}}</td><td>{{mb .PerConnection.P50}}</td><td>{{time .FirstByte.P50}}</td><td>{{time .FirstByte.P99}}</td><td>{{time .Latency.P50}}</td><td>{{time .Latency.P99}}</td><td>{{time .Latency.P999}}</td><td>{{.Requests}}</td><td>{{.ErrorCount}}</td></tr>
{{end}}</tbody>
</table>
</div>
<h2>Where the time went</h2>
<div class="wide" tabindex="0" role="region" aria-label="Where the time went">
<table>
<thead><tr><th scope="col">what</th><th scope="col">how often</th><th scope="col">half</th><th scope="col">90 %</th><th scope="col">99 %</th><th scope="col">most</th></tr></thead>
<tbody>
{{range .Exchanges}}<tr><th scope="row">{{.Kind}} from {{.Host}}</th><td>{{.Count}}</td><td>{{time .P50}}</td><td>{{time .P90}}</td><td>{{time .P99}}</td><td>{{time .Max}}</td></tr>
{{end}}{{range .Targets}}{{$name := .Name}}{{with .Recorded}}{{template "times" (pair (print $name ": whole read, as recorded") .)}}{{end}}{{with .All}}{{template "times" (pair (print $name ": DNS") .DNS)}}{{template "times" (pair (print $name ": connect") .Connect)}}{{template "times" (pair (print $name ": TLS") .TLS)}}{{template "times" (pair (print $name ": first byte, new connection") .Cold)}}{{template "times" (pair (print $name ": first byte, kept connection") .Warm)}}{{template "times" (pair (print $name ": first byte, not read before") .Fresh)}}{{template "times" (pair (print $name ": first byte, read before") .Again)}}{{template "times" (pair (print $name ": first byte to last") .Body)}}{{range .Hosts}}{{template "times" (pair (print $name ": first byte from " .Host) .FirstByte)}}{{end}}{{if $.Rate}}{{template "times" (pair (print $name ": the load behind its schedule") .Lateness)}}{{end}}{{end}}{{end}}</tbody>
</table>
</div>
</main>
</body>
</html>
{{define "times"}}{{if .Times.Count}}<tr><th scope="row">{{.What}}</th><td>{{.Times.Count}}</td><td>{{time .Times.P50}}</td><td>{{time .Times.P90}}</td><td>{{time .Times.P99}}</td><td>{{time .Times.Max}}</td></tr>
{{end}}{{end}}`))
