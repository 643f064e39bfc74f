package bench_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"drayage/bench"

	"github.com/google/go-cmp/cmp"
)

// sample is a report with a name that must not become markup.
func sample() *bench.Report {
	times := bench.Quantiles{Count: 10, Mean: 0.02, P50: 0.01, P90: 0.03, P99: 0.2, P999: 0.5, Max: 1}
	r := &bench.Report{Version: 1, Started: time.Unix(1e9, 0).UTC(), Rounds: 2}
	for _, name := range []string{"registry.example/app:1", `evil<script src="https://x.example/x.js">&'</svg><b onload="x">`} {
		r.Targets = append(r.Targets, bench.ReportTarget{Name: name, Blobs: 3, Size: 3e8, Knee: 4, All: bench.Summary{Cold: times, Warm: times}})
		for i := range 8 {
			r.Series = append(r.Series, bench.SeriesPoint{At: float64(len(r.Series)), Target: name, Connections: 4, Round: 1, Throughput: float64(1e7 * (i + 1))})
		}
		for i, n := range []int{1, 2, 4, 8} {
			tp := float64(10e6 * min(4, i+1))
			r.Results = append(r.Results, bench.Result{Target: name, Connections: n, Throughput: bench.Interval{Estimate: tp, Low: tp * 0.9, High: tp * 1.1},
				ByRound: []float64{tp, tp * 1.01}, Summary: bench.Summary{Requests: 10, Bytes: 1e8, Latency: times, FirstByte: times, LatencyCurve: []float64{0.01, 0.02, 0.05}}})
		}
	}
	r.Comparisons = []bench.Comparison{{Target: r.Targets[1].Name, To: r.Targets[0].Name, Connections: 4, Throughput: bench.Difference{Ratio: bench.Interval{Estimate: 2, Low: 2, High: 2}, P: 0.03125, Real: true}}}
	r.Comparisons = append(r.Comparisons, r.Comparisons[0])
	r.Comparisons[1].Connections = 8
	return r
}

// The page has no external resources, and no name becomes markup.
func TestHTMLStandsAlone(t *testing.T) {
	var b strings.Builder
	if err := sample().WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	if len(page) > 1<<20 {
		t.Errorf("%d bytes", len(page))
	}
	for _, bad := range []string{"<script", "<link", "<iframe", "@import", "url(", "<img", "href=", "<b onload", "'</svg>"} {
		if strings.Contains(page, bad) {
			t.Errorf("it has %q", bad)
		}
	}
	for _, want := range []string{"<svg", "role=\"img\"", "aria-label=\"Throughput by connections\"", "Latency", "Comparison", "Throughput ratio", "<td>2.00</td>", "<strong>faster</strong>", "evil&lt;script", "default-src 'none'"} {
		if !strings.Contains(page, want) {
			t.Errorf("it has no %q", want)
		}
	}
	if n := strings.Count(page, "<svg"); n != 8 || strings.Count(page, "</svg>") != n {
		t.Errorf("%d plots, want 4 in two forms", n)
	}
}

func TestReportsAreReadAsTheyWereWritten(t *testing.T) {
	was := sample()
	var b strings.Builder
	if err := was.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	is, err := bench.ReadReport(strings.NewReader(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(was, is); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"", "{}", `{"version":99}`, "[]"} {
		if _, err := bench.ReadReport(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is a report", bad)
		}
	}
}

// testdata/report-1.json is a report as the first program with version 1 wrote it. What
// it has must be read, and written again under the same names.
func TestEarlierReportsAreRead(t *testing.T) {
	raw, err := os.ReadFile("testdata/report-1.json")
	if err != nil {
		t.Fatal(err)
	}
	r, err := bench.ReadReport(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(raw), b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestRegressions(t *testing.T) {
	was, is := sample(), sample()
	regressions := func(allowed float64) []bench.Regression {
		t.Helper()
		out, err := is.Regressions(was, allowed)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if got := regressions(0.1); len(got) != 0 {
		t.Errorf("the same report is worse: %v", got)
	}
	for i := range is.Results {
		is.Results[i].Throughput = bench.Interval{Estimate: 5e6, Low: 4e6, High: 6e6}
	}
	got := regressions(0.1)
	if len(got) != 8 || got[0].Fraction < got[7].Fraction || got[0].Is != 5e6 || got[0].Was != 40e6 {
		t.Errorf("%v", got)
	}
	if got[7].What != "throughput of "+is.Targets[1].Name+" with 1 connection" && got[7].What != "throughput of "+is.Targets[0].Name+" with 1 connection" {
		t.Errorf("%v", got[7])
	}
	if got := regressions(0.9); len(got) != 0 {
		t.Errorf("within what is allowed: %v", got)
	}
	for i := range is.Results {
		is.Results[i].Throughput.High = 50e6
	}
	if got := regressions(0.1); len(got) != 0 {
		t.Errorf("the intervals overlap: %v", got)
	}
}

// Targets with other names are compared in their order, and reports without a number of
// connections in common are not.
func TestRegressionsOfOtherTargets(t *testing.T) {
	was, is := sample(), sample()
	for i := range is.Targets {
		is.Targets[i].Name = fmt.Sprint("other ", i)
	}
	for i := range is.Results {
		is.Results[i].Target = is.Targets[i/4].Name
		is.Results[i].Throughput = bench.Interval{Estimate: 1, Low: 1, High: 1}
	}
	if got, err := is.Regressions(was, 0.1); err != nil || len(got) != 8 {
		t.Errorf("%v, %v", got, err)
	}
	for i := range is.Results {
		is.Results[i].Connections += 100
	}
	if got, err := is.Regressions(was, 0.1); err == nil {
		t.Errorf("nothing in common: %v", got)
	}
	if _, err := new(bench.Report).Regressions(was, 0.1); err == nil {
		t.Error("an empty report has something in common")
	}
}

func TestLines(t *testing.T) {
	r := sample()
	for name, c := range map[string]struct {
		write func(io.Writer) error
		lines int
		want  []string
	}{
		"csv":       {r.WriteCSV, 9, []string{"target,connections,throughput,", "registry.example/app:1,4,30000000,27000000,33000000,10,0,100000000,"}},
		"benchstat": {r.WriteBenchstat, 16, []string{"BenchmarkPull/target=registry.example_app:1/connections=4 1 1666666667 ns/op 30.00 MB/s 0.010000 p50-first-byte-sec 0.200000 p99-latency-sec\n"}},
	} {
		var b strings.Builder
		if err := c.write(&b); err != nil || strings.Count(b.String(), "\n") != c.lines {
			t.Errorf("%s: %v\n%s", name, err, b.String())
		}
		for _, w := range c.want {
			if !strings.Contains(b.String(), w) {
				t.Errorf("%s: no %q in\n%s", name, w, b.String())
			}
		}
	}
}

func TestKneeText(t *testing.T) {
	r := &bench.Report{Results: []bench.Result{{Connections: 1}, {Connections: 2}, {Connections: 8}}}
	for knee, want := range map[int]string{
		0: "",
		1: "1 connection suffices: more gain under 5 %",
		2: "2 connections suffice: more gain under 5 %",
		8: "throughput still rises at 8 connections, the most tried",
	} {
		if got := r.KneeText(bench.ReportTarget{Knee: knee}); got != want {
			t.Errorf("%d: %q, want %q", knee, got, want)
		}
	}
}

// A report with a knee and without results, such as a damaged file, has no description.
func TestKneeWithoutResults(t *testing.T) {
	target := bench.ReportTarget{Name: "a", Knee: 4}
	r := bench.Report{Targets: []bench.ReportTarget{target}}
	if got := r.KneeText(target); got != "" {
		t.Errorf("%q", got)
	}
}

func TestFailed(t *testing.T) {
	failing := bench.Result{Failing: true, Summary: bench.Summary{Requests: 10, Errors: map[string]int{"status 503": 9}}}
	r := &bench.Report{Results: []bench.Result{failing, failing}}
	if s, all := r.Failed(); !all || s.Requests != 20 || s.ErrorCount() != 18 {
		t.Errorf("%+v, %v", s, all)
	}
	r.Results = append(r.Results, bench.Result{})
	if _, all := r.Failed(); all {
		t.Error("one result is not failing")
	}
	if _, all := new(bench.Report).Failed(); all {
		t.Error("an empty report has not failed")
	}
}
