package bench

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"time"
)

// WriteHTML writes the report as one page, without scripts and external resources.
// Each plot has a light and a dark form, of which the browser shows the one that its
// user prefers.
func (r *Report) WriteHTML(w io.Writer) error {
	page := htmlPage{Report: r, When: r.Started.Format(time.RFC1123), Loop: "closed loop"}
	if r.Rate > 0 {
		page.Loop = fmt.Sprintf("open loop of %g requests per second", r.Rate)
	}
	for _, plot := range []func() (figure, bool){r.throughputPlot, r.timePlot, r.latencyPlot, r.ratioPlot} {
		if f, ok := plot(); ok {
			f.render()
			page.Plots = append(page.Plots, f)
		}
	}
	return pageTemplate.Execute(w, page)
}

// htmlPage is what the template has.
type htmlPage struct {
	*Report
	When, Loop string
	Plots      []figure
}

// timesRow is a row of the page's table of times.
type timesRow struct {
	What  string
	Times Quantiles
}

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"row":  func(what string, times Quantiles) timesRow { return timesRow{what, times} },
	"time": shortTime,
	"mb":   mebi,
	"size": func(n int64) string { return mebi(float64(n)) },
}).Parse(pageText))
