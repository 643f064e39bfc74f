package bench

import (
	"fmt"
	"html/template"
	"io"
	"strconv"
	"time"
)

// WriteHTML writes the report as one page: without scripts, and without anything
// from elsewhere. Its plots come in a light and a dark form, of which the browser
// shows the one that its user wants.
func (r *Report) WriteHTML(w io.Writer) error {
	page := htmlPage{Report: r, When: r.Started.Format(time.RFC1123), Loop: "closed loop"}
	if r.Rate > 0 {
		page.Loop = fmt.Sprintf("open loop of %g requests a second", r.Rate)
	}
	for _, make := range []func() (figure, bool){r.sweepPlot, r.timePlot, r.latencyPlot, r.againstPlot} {
		p, ok := make()
		if !ok {
			continue
		}
		p.render()
		page.Plots = append(page.Plots, p)
	}
	return pageTemplate.Execute(w, page)
}

type htmlPage struct {
	*Report
	When, Loop string
	Plots      []figure
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

func mebi(v float64) string {
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
	"time": shortTime, "mb": mebi, "size": func(n int64) string { return mebi(float64(n)) },
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
figure svg { display: block; margin-top: .5rem; min-width: 40rem; max-width: 100%; height: auto; }
.dark { display: none; }
@media screen and (prefers-color-scheme: dark) { .dark { display: block; } .light { display: none; } }
@media print { :root { color-scheme: light; } body { max-width: none; padding: 0; } .wide { overflow: visible; } figure svg { min-width: 0; } table { font-size: 7.5pt; } th, td { padding: .15rem .25rem; } tbody th { white-space: normal; } h2 { break-after: avoid; } figure, tr { break-inside: avoid; } }
</style>
</head>
<body>
<main>
<h1>What {{range $i, $t := .Targets}}{{if $i}} and {{end}}{{$t.Name}}{{end}} delivered</h1>
<p class="soft">{{.When}}, {{.Loop}}, {{.Rounds}} round{{if ne .Rounds 1}}s{{end}}{{range .Targets}}; {{.Name}}: {{size .Size}} MiB in {{.Blobs}} layers, {{.Digest}}{{end}}</p>
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
