package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"drayage/bench"
	"drayage/cmd/drayage/progress"
	"drayage/engine/printable"
)

// benchTable writes the report for people.
func benchTable(w io.Writer, r *bench.Report, markdown bool) error {
	for _, t := range r.Targets {
		line := fmt.Sprintf("%s: %s in %s", t.Name, progress.Size(t.Size), count(t.Blobs, "layer"))
		if t.Knee > 0 {
			line += "; " + r.KneeText(t)
		}
		if t.WarmUp != nil && len(t.WarmUp.Errors) > 0 {
			line += "; while warming up: " + errorsOf(*t.WarmUp)
		}
		if t.HTTP == "2" && t.All.HTTP2 == 0 {
			line += "; HTTP/2 was offered, and no host took it: this is HTTP/1.1"
		}
		printable.Fprintf(w, "%s\n", line)
	}
	printable.Fprintf(w, "\n")
	out := newTable(w, markdown)
	out.row("IMAGE", "CONNECTIONS", "THROUGHPUT", "95% INTERVAL", "EACH p50", "FIRST BYTE p50", "p99", "WHOLE READ p50", "p99", "p99.9", "READS", "ERRORS")
	rate := func(f float64) string { return progress.Size(int64(max(0, f))) + "/s" }
	for _, x := range r.Results {
		if x.Failing {
			out.row(x.Target, strconv.Itoa(x.Connections), "–", "–", "–", "–", "–", "–", "–", "–", strconv.Itoa(x.Requests), errorsOf(x.Summary))
			continue
		}
		out.row(x.Target, strconv.Itoa(x.Connections), rate(x.Throughput.Estimate), rate(x.Throughput.Low)+" to "+rate(x.Throughput.High), rate(x.PerConnection.P50),
			moment(x.FirstByte.P50), moment(x.FirstByte.P99), moment(x.Latency.P50), moment(x.Latency.P99), moment(x.Latency.P999), strconv.Itoa(x.Requests), errorsOf(x.Summary))
	}
	if err := out.flush(); err != nil {
		return err
	}
	if err := benchDetails(w, r, markdown); err != nil {
		return err
	}
	for _, c := range r.Comparisons {
		verdict := "no difference that could not be chance"
		if c.Why != "" {
			verdict = "not compared: " + c.Why
		} else if d := c.Throughput; d.Real {
			verdict = fmt.Sprintf("%.2f times the throughput (%.2f to %.2f)", d.Ratio.Estimate, d.Ratio.Low, d.Ratio.High)
		}
		printable.Fprintf(w, "%s against %s, %s: %s\n", c.Target, c.To, count(c.Connections, "connection"), verdict)
	}
	return nil
}

// benchDetails tells where the time to the first byte went, and of the load itself.
func benchDetails(w io.Writer, r *bench.Report, markdown bool) error {
	out := newTable(w, markdown)
	printable.Fprintf(w, "\n")
	out.row("WHAT", "HOW OFTEN", "p50", "p90", "p99", "MAX")
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
			line(at+"whole read, as recorded", *t.Recorded)
			line(at+"whole read, in the replay", x.Latency)
		}
		line(at+"DNS", x.DNS)
		line(at+"connect", x.Connect)
		line(at+"TLS", x.TLS)
		line(at+"first byte, new connection", x.Cold)
		line(at+"first byte, kept connection", x.Warm)
		if x.Fresh.Count > 0 && x.Again.Count > 0 {
			line(at+"first byte, read before", x.Again)
			line(at+"first byte, not read before", x.Fresh)
		}
		line(at+"first byte to last", x.Body)
		for _, h := range x.Hosts {
			line(fmt.Sprintf("%sfirst byte from %s, which sent %s", at, h.Host, progress.Size(h.Bytes)), h.FirstByte)
		}
		if r.Rate > 0 {
			line(at+"the load behind its schedule", x.Lateness)
		}
	}
	if err := out.flush(); err != nil {
		return err
	}
	printable.Fprintf(w, "\n")
	return nil
}

// moment is a time in seconds for people.
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

// table is one for people, or in Markdown.
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
		_, _ = io.WriteString(t.aligned, strings.Join(cells, "\t")+"\n") // Flush tells
		return
	}
	printable.Fprintf(t.w, "%s\n", "| "+strings.Join(cells, " | ")+" |")
	if t.rows++; t.rows == 1 {
		printable.Fprintf(t.w, "%s\n", "|"+strings.Repeat(" --- |", len(cells)))
	}
}

func (t *table) flush() error { return t.aligned.Flush() }
