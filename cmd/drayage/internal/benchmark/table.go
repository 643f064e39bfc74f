package benchmark

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"drayage/bench"
	"drayage/cmd/drayage/internal/phrase"
	"drayage/cmd/drayage/internal/progress"
	"drayage/engine/printable"
)

// writeTable writes the report as text or Markdown: targets, results, times, and comparisons.
func writeTable(w io.Writer, r *bench.Report, markdown bool) error {
	for _, t := range r.Targets {
		printable.Fprintf(w, "%s\n", describeTarget(r, t))
	}
	printable.Fprintf(w, "\n")
	if err := writeResults(w, r, markdown); err != nil {
		return err
	}
	printable.Fprintf(w, "\n")
	if err := writeTimes(w, r, markdown); err != nil {
		return err
	}
	printable.Fprintf(w, "\n")
	for _, c := range r.Comparisons {
		printable.Fprintf(w, "%s compared with %s, %s: %s\n", c.Target, c.To, phrase.Count(c.Connections, "connection"), verdict(c))
	}
	return nil
}

// describeTarget is one line about a target.
func describeTarget(r *bench.Report, t bench.ReportTarget) string {
	line := fmt.Sprintf("%s: %s in %s", t.Name, progress.Size(t.Size), phrase.Count(t.Blobs, "layer"))
	if t.Knee > 0 {
		line += "; " + r.KneeText(t)
	}
	if t.WarmUp != nil && len(t.WarmUp.Errors) > 0 {
		line += "; errors during the warm-up: " + errorsOf(*t.WarmUp)
	}
	if t.HTTP == "2" && t.All.HTTP2 == 0 {
		line += "; no host accepted HTTP/2, measured over HTTP/1.1"
	}
	return line
}

// writeResults writes the table of results.
func writeResults(w io.Writer, r *bench.Report, markdown bool) error {
	out := newTable(w, markdown)
	out.row("IMAGE", "CONNECTIONS", "THROUGHPUT", "95% INTERVAL", "PER READ p50", "FIRST BYTE p50", "p99", "LATENCY p50", "p99", "p99.9", "READS", "ERRORS")
	rate := func(f float64) string { return progress.Size(int64(max(0, f))) + "/s" }
	for _, x := range r.Results {
		row := []string{x.Target, strconv.Itoa(x.Connections), "–", "–", "–", "–", "–", "–", "–", "–", strconv.Itoa(x.Requests), errorsOf(x.Summary)}
		if !x.Failing {
			copy(row[2:], []string{rate(x.Throughput.Estimate), rate(x.Throughput.Low) + " to " + rate(x.Throughput.High), rate(x.PerConnection.P50),
				moment(x.FirstByte.P50), moment(x.FirstByte.P99), moment(x.Latency.P50), moment(x.Latency.P99), moment(x.Latency.P999)})
		}
		out.row(row...)
	}
	return out.flush()
}

// verdict says in a clause which target is faster.
func verdict(c bench.Comparison) string {
	d := c.Throughput
	switch {
	case c.Why != "":
		return "not compared: " + c.Why
	case d.Real:
		return fmt.Sprintf("%.2f times the throughput (95%% interval %.2f to %.2f)", d.Ratio.Estimate, d.Ratio.Low, d.Ratio.High)
	}
	return "no significant difference"
}

// writeTimes writes the table of times: of other exchanges, of connections, of parts of reads, and
// of the load generator.
func writeTimes(w io.Writer, r *bench.Report, markdown bool) error {
	out := newTable(w, markdown)
	out.row("TIME", "COUNT", "p50", "p90", "p99", "MAX")
	line := func(what string, q bench.Quantiles) {
		if q.Count > 0 {
			out.row(what, strconv.FormatInt(q.Count, 10), moment(q.P50), moment(q.P90), moment(q.P99), moment(q.Max))
		}
	}
	for _, e := range r.Exchanges {
		line(e.Kind+" from "+e.Host, e.Quantiles)
	}
	for _, t := range r.Targets {
		x, at := t.All, t.Name+": "
		if t.Recorded != nil {
			line(at+"latency, recorded", *t.Recorded)
			line(at+"latency, replayed", x.Latency)
		}
		line(at+"DNS", x.DNS)
		line(at+"connect", x.Connect)
		line(at+"TLS", x.TLS)
		line(at+"first byte, new connection", x.Cold)
		line(at+"first byte, reused connection", x.Warm)
		if x.Fresh.Count > 0 && x.Again.Count > 0 {
			line(at+"first byte, repeated read", x.Again)
			line(at+"first byte, first read", x.Fresh)
		}
		line(at+"body", x.Body)
		for _, h := range x.Hosts {
			line(fmt.Sprintf("%sfirst byte from %s, which sent %s", at, h.Host, progress.Size(h.Bytes)), h.FirstByte)
		}
		if r.Rate > 0 {
			line(at+"load generator delay", x.Lateness)
		}
	}
	return out.flush()
}

// moment formats a time in seconds.
func moment(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}

// errorsOf lists errors by kind, with their share of the requests.
func errorsOf(s bench.Summary) string {
	if len(s.Errors) == 0 {
		return "0"
	}
	var kinds []string
	for k, n := range s.Errors {
		kinds = append(kinds, fmt.Sprintf("%d %s", n, k))
	}
	slices.Sort(kinds)
	return fmt.Sprintf("%s (%.1f%%)", strings.Join(kinds, ", "), 100*float64(s.ErrorCount())/float64(max(1, s.Requests)))
}

// table is a table as aligned text or Markdown. Cells may have foreign text.
type table struct {
	w        io.Writer
	aligned  *tabwriter.Writer
	markdown bool
	rows     int
}

func newTable(w io.Writer, markdown bool) *table {
	return &table{w: w, aligned: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0), markdown: markdown}
}

func (t *table) row(cells ...string) {
	for i, cell := range cells {
		cells[i] = printable.Text(cell)
	}
	if !t.markdown {
		_, _ = io.WriteString(t.aligned, strings.Join(cells, "\t")+"\n") // flush returns its error
		return
	}
	printable.Fprintf(t.w, "%s\n", "| "+strings.Join(cells, " | ")+" |")
	if t.rows++; t.rows == 1 {
		printable.Fprintf(t.w, "%s\n", "|"+strings.Repeat(" --- |", len(cells)))
	}
}

func (t *table) flush() error { return t.aligned.Flush() }
