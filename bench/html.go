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

// plot is a line chart: one line a target.
type plot struct {
	Title, Says string
	XTitle      string
	YTitle      string
	labels      []string
	names       []string
	values      [][]float64
	format      func(float64) string
	log         bool // values are logarithms to base 10
	dots        bool // lines have gaps: a dot for each value
	ratio       bool // around 1, and not from 0
	Light, Dark template.HTML
}

// sweepPlot is throughput by connections.
func (r *Report) sweepPlot() (plot, bool) {
	p := plot{Title: "Throughput by connections", XTitle: "connections", YTitle: "MB/s", format: plain}
	ns := r.connections()
	for _, n := range ns {
		label := strconv.Itoa(n)
		if slices.ContainsFunc(r.Targets, func(t ReportTarget) bool { return t.Knee == n }) {
			label += " (knee)"
		}
		p.labels = append(p.labels, label)
	}
	var says []string
	for _, t := range r.Targets {
		line := make([]float64, 0, len(ns))
		for _, n := range ns {
			v := charts.GetNullValue()
			if x := r.find(t.Name, n); x != nil {
				v = math.Round(x.Throughput.Estimate/1e4) / 100
			}
			line = append(line, v)
		}
		p.names, p.values = append(p.names, t.Name), append(p.values, line)
		if t.Knee > 0 {
			says = append(says, fmt.Sprintf("%s: %s.", t.Name, r.KneeText(t)))
		}
	}
	p.Says = strings.Join(says, " ")
	return p, len(ns) > 1
}

// latencyPlot is the distribution of latencies, on a logarithmic axis, at the
// number of connections where the knee is.
func (r *Report) latencyPlot() (plot, bool) {
	p := plot{Title: "Latency of whole reads", XTitle: "share of reads that took no longer", YTitle: "time, logarithmic", log: true,
		labels: []string{"50 %", "90 %", "99 %", "99.9 %", "all"}, format: func(v float64) string { return shortTime(math.Pow(10, v)) }}
	for _, t := range r.Targets {
		x := r.at(t)
		if x == nil || x.Latency.Count == 0 {
			continue
		}
		var line []float64
		for _, s := range []float64{x.Latency.P50, x.Latency.P90, x.Latency.P99, x.Latency.P999, x.Latency.Max} {
			line = append(line, math.Log10(max(1e-6, s)))
		}
		p.names, p.values = append(p.names, fmt.Sprintf("%s, %d at once", t.Name, x.Connections)), append(p.values, line)
	}
	p.Says = "From when a read was due to its last byte; each with the number of connections where its knee is."
	return p, len(p.values) > 0
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
	p := plot{Title: "Throughput over time", XTitle: "seconds", YTitle: "MB/s", format: plain}
	if len(r.Series) == 0 {
		return p, false
	}
	// As many bins as can be told apart, of whole seconds or of what the steps had of one.
	const most = 240
	last := r.Series[len(r.Series)-1].At
	width := max(0.25, math.Ceil(4*last/most)/4)
	bins := int(last/width) + 1
	for i := range bins {
		p.labels = append(p.labels, strconv.FormatFloat(math.Floor(float64(i)*width), 'f', -1, 64))
	}
	for _, t := range r.Targets {
		sums, counts := make([]float64, bins), make([]float64, bins)
		for _, x := range r.Series {
			if x.Target == t.Name {
				i := int(x.At / width)
				sums[i], counts[i] = sums[i]+x.Throughput, counts[i]+1
			}
		}
		line := make([]float64, bins)
		for i := range line {
			line[i] = charts.GetNullValue()
			if counts[i] > 0 {
				line[i] = math.Round(sums[i]/counts[i]/1e4) / 100
			}
		}
		p.names, p.values = append(p.names, t.Name), append(p.values, line)
	}
	p.Says = "It goes up and down with the connections, round after round. What one round has and the others haven't is a disturbance, or a cache that was cold."
	p.dots = true
	return p, bins > 1
}

// againstPlot is how targets compare with the first, by connections.
func (r *Report) againstPlot() (plot, bool) {
	p := plot{Title: "One against another", XTitle: "connections", YTitle: "times the throughput", dots: true, ratio: true,
		format: func(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) }}
	ns := r.connections()
	for _, n := range ns {
		p.labels = append(p.labels, strconv.Itoa(n))
	}
	for _, t := range r.Targets {
		lines := [3][]float64{}
		found := false
		for _, n := range ns {
			at := [3]float64{charts.GetNullValue(), charts.GetNullValue(), charts.GetNullValue()}
			for _, c := range r.Comparisons {
				if c.Target == t.Name && c.Connections == n {
					at, found = [3]float64{c.Throughput.Ratio.Low, c.Throughput.Ratio.Estimate, c.Throughput.Ratio.High}, true
				}
			}
			for i := range lines {
				lines[i] = append(lines[i], at[i])
			}
		}
		if found {
			p.names = append(p.names, "low", t.Name, "high")
			p.values = append(p.values, lines[:]...)
		}
	}
	p.Says = "Throughput as a multiple of the first one's in the same rounds, with the bounds that hold it 95 times in 100. Where they have 1 between them, it may be chance."
	return p, len(p.values) > 0
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
	opt := charts.NewLineChartOptionWithData(p.values)
	opt.Theme = charts.GetTheme(theme).WithBackgroundColor(charts.ColorTransparent)
	opt.XAxis.Labels, opt.XAxis.Title = p.labels, p.XTitle
	opt.Legend.SeriesNames = p.names
	opt.Legend.Padding = charts.NewBoxEqual(4)
	opt.YAxis[0].Title = p.YTitle
	opt.YAxis[0].ValueFormatter = p.format
	if p.dots {
		opt.Symbol = charts.Symbol{Shape: charts.SymbolCircle, Size: 2}
	}
	if p.log {
		low, high := math.Inf(1), math.Inf(-1)
		for _, line := range p.values {
			low, high = min(low, slices.Min(line)), max(high, slices.Max(line))
		}
		low, high = math.Floor(low), math.Ceil(high)
		opt.YAxis[0].Min, opt.YAxis[0].Max, opt.YAxis[0].LabelCount = &low, &high, int(high-low)+1
	} else if !p.ratio {
		zero := 0.0
		opt.YAxis[0].Min = &zero
	}
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

func plain(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

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

func megabytes(v float64) string { return strconv.FormatFloat(v/1e6, 'f', 1, 64) }

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
@media (prefers-color-scheme: dark) { :root { --ink: #e7eaef; --paper: #16191f; --line: #3a414d; --soft: #a6b0be; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto; padding: 1.5rem; max-width: 60rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p { max-width: 46rem; overflow-wrap: anywhere; } .soft { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
caption { text-align: left; padding-bottom: .5rem; color: var(--soft); }
figure { margin: 1rem 0; } figcaption { color: var(--soft); }
figure svg { max-width: 100%; height: auto; } figure svg text { font-family: Roboto, Arial, sans-serif; letter-spacing: -.02em; }
.dark { display: none; }
@media (prefers-color-scheme: dark) { .dark { display: block; } .light { display: none; } }
@media print { body { max-width: none; } .dark { display: none; } .light { display: block; } h2 { break-after: avoid; } figure, tr { break-inside: avoid; } }
</style>
</head>
<body>
<main>
<h1>What {{range $i, $t := .Targets}}{{if $i}} and {{end}}{{$t.Name}}{{end}} delivered</h1>
<p class="soft">{{.When}}, {{.Loop}}, {{.Rounds}} rounds{{range .Targets}}; {{.Name}}: {{size .Size}} MB in {{.Blobs}} layers, {{.Digest}}{{end}}</p>
{{range .Comparisons}}<p>{{.Target}} against {{.To}}, {{.Connections}} at once: {{if .Throughput.Real}}<strong>{{printf "%.2f" .Throughput.Ratio.Estimate}} times the throughput</strong> ({{printf "%.2f" .Throughput.Ratio.Low}} to {{printf "%.2f" .Throughput.Ratio.High}}){{else}}no difference that could not be chance{{end}}.</p>
{{end}}
{{range .Plots}}<h2>{{.Title}}</h2>
<figure><div class="light">{{.Light}}</div><div class="dark">{{.Dark}}</div><figcaption>{{.Says}}</figcaption></figure>
{{end}}
<h2>All settings</h2>
<div class="wide" tabindex="0" role="region" aria-label="All settings">
<table>
<caption>Throughput in MB/s with the interval that holds its mean 95 times in 100 (of fewer than 6 rounds, their range); times to the first byte and to the last.</caption>
<thead><tr><th scope="col">image</th><th scope="col">connections</th><th scope="col">MB/s</th><th scope="col">from</th><th scope="col">to</th><th scope="col">first byte, half</th><th scope="col">99 %</th><th scope="col">whole read, half</th><th scope="col">99 %</th><th scope="col">99.9 %</th><th scope="col">reads</th><th scope="col">errors</th></tr></thead>
<tbody>
{{range .Results}}<tr><td>{{.Target}}</td><td>{{.Connections}}</td><td>{{mb .Throughput.Estimate}}</td><td>{{mb .Throughput.Low}}</td><td>{{mb .Throughput.High}}</td><td>{{time .FirstByte.P50}}</td><td>{{time .FirstByte.P99}}</td><td>{{time .Latency.P50}}</td><td>{{time .Latency.P99}}</td><td>{{time .Latency.P999}}</td><td>{{.Requests}}</td><td>{{.ErrorCount}}</td></tr>
{{end}}</tbody>
</table>
</div>
<h2>Where the time went</h2>
<div class="wide" tabindex="0" role="region" aria-label="Where the time went">
<table>
<thead><tr><th scope="col">what</th><th scope="col">how often</th><th scope="col">half</th><th scope="col">90 %</th><th scope="col">99 %</th><th scope="col">most</th></tr></thead>
<tbody>
{{range .Exchanges}}<tr><td>{{.Kind}} from {{.Host}}</td><td>{{.Count}}</td><td>{{time .P50}}</td><td>{{time .P90}}</td><td>{{time .P99}}</td><td>{{time .Max}}</td></tr>
{{end}}{{range .Targets}}{{$name := .Name}}{{with .All}}{{template "times" (pair (print $name ": DNS") .DNS)}}{{template "times" (pair (print $name ": connect") .Connect)}}{{template "times" (pair (print $name ": TLS") .TLS)}}{{template "times" (pair (print $name ": first byte, new connection") .Cold)}}{{template "times" (pair (print $name ": first byte, kept connection") .Warm)}}{{template "times" (pair (print $name ": first byte, not read before") .Fresh)}}{{template "times" (pair (print $name ": first byte, read before") .Again)}}{{template "times" (pair (print $name ": the load behind its schedule") .Lateness)}}{{end}}{{end}}</tbody>
</table>
</div>
</main>
</body>
</html>
{{define "times"}}{{if .Times.Count}}<tr><td>{{.What}}</td><td>{{.Times.Count}}</td><td>{{time .Times.P50}}</td><td>{{time .Times.P90}}</td><td>{{time .Times.P99}}</td><td>{{time .Times.Max}}</td></tr>
{{end}}{{end}}`))
