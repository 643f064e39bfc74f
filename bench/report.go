package bench

import (
	"cmp"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"drayage/engine/jsonstream"
	"drayage/engine/limits"

	"github.com/opencontainers/go-digest"
)

// ReportVersion is the version of Report's JSON form: docs/bench.md.
const ReportVersion = 1

// Report is what was measured.
type Report struct {
	Version     int             `json:"version"`
	Started     time.Time       `json:"started"`
	Rounds      int             `json:"rounds"`
	Rate        float64         `json:"rate,omitempty"`   // requests a second of an open loop
	WarmUp      float64         `json:"warmUp,omitempty"` // seconds, in all
	Targets     []ReportTarget  `json:"targets"`
	Results     []Result        `json:"results"` // by target, then by connections
	Comparisons []Comparison    `json:"comparisons,omitempty"`
	Exchanges   []ExchangeTimes `json:"exchanges,omitempty"` // before and between the reads, by kind
	Series      []Point         `json:"series,omitempty"`    // in order of time
}

// Point is one second of one setting, or what the setting had of it.
type Point struct {
	At          float64 `json:"at"` // when it began, in seconds from the report's start
	Target      string  `json:"target"`
	Connections int     `json:"connections"`
	Round       int     `json:"round"` // counted from 1; 0 is the warm-up
	Throughput  float64 `json:"throughput"`
	Requests    int     `json:"requests"` // that ended within it
	Errors      int     `json:"errors"`
}

// ReportTarget is one of the images.
type ReportTarget struct {
	Name   string        `json:"name"`
	Digest digest.Digest `json:"digest"`
	Blobs  int           `json:"blobs"`
	Size   int64         `json:"size"`
	Part   int64         `json:"part"`             // the largest read, in bytes
	Knee   int           `json:"knee,omitempty"`   // connections, beyond which more bring little
	All    Summary       `json:"all"`              // over all settings together; what new connections took is with the warm-up
	WarmUp *Summary      `json:"warmUp,omitempty"` // what was read before anything counted
	HTTP   string        `json:"http,omitempty"`   // 2 where that was asked for
	// Recorded is how long the reads took when they were recorded, for a replay.
	Recorded *Quantiles `json:"recorded,omitempty"`
}

// Result is what one setting gave, over all its rounds.
type Result struct {
	Target      string    `json:"target"`
	Connections int       `json:"connections"`
	Throughput  Interval  `json:"throughput"` // bytes a second, of a round, of reads that succeeded
	ByRound     []float64 `json:"byRound"`
	ErrorShare  float64   `json:"errorShare"` // of the reads
	// Failing says that most reads failed: then there are no figures.
	Failing bool `json:"failing,omitempty"`
	Summary
}

// Comparison holds a target against the first, at one number of connections.
type Comparison struct {
	Target      string     `json:"target"`
	To          string     `json:"to"`
	Connections int        `json:"connections"`
	Throughput  Difference `json:"throughput"`
	// Why says why they are not compared: reads of one of them failed.
	Why string `json:"why,omitempty"`
}

const (
	// mostlyErrors is the share of reads that fail from which on a setting has no figure.
	mostlyErrors = 0.5
	// someErrors is by how much the share of one target may exceed that of another that it is
	// called faster than.
	someErrors = 0.01
)

// judge works out the share of errors, and takes the figures from a setting that mostly fails.
func (r *Result) judge() {
	if r.Requests > 0 {
		r.ErrorShare = float64(r.ErrorCount()) / float64(r.Requests)
	}
	r.Throughput.Low = max(0, r.Throughput.Low)
	if r.ErrorShare <= mostlyErrors {
		return
	}
	r.Failing = true
	r.Throughput, r.ByRound, r.Summary.Throughput = Interval{}, nil, 0
	r.LatencyCurve = nil
	r.Latency, r.FirstByte, r.Body, r.PerConnection = Quantiles{}, Quantiles{}, Quantiles{}, RateQuantiles{}
}

// compare holds the results of two targets against each other. The one whose reads fail more
// often is never called faster.
func compare(b, a *Result, d Difference) Comparison {
	c := Comparison{Target: b.Target, To: a.Target, Connections: b.Connections, Throughput: d}
	for _, x := range []*Result{b, a} {
		if x.Failing {
			c.Throughput, c.Why = Difference{P: 1}, fmt.Sprintf("%.0f%% of the reads of %s failed", 100*x.ErrorShare, x.Target)
			return c
		}
	}
	faster, slower := b, a
	if d.Ratio.Estimate < 1 {
		faster, slower = a, b
	}
	if d.Real && faster.ErrorShare > slower.ErrorShare+someErrors {
		c.Throughput.Real = false
		c.Why = fmt.Sprintf("%.0f%% of the reads of %s failed", 100*faster.ErrorShare, faster.Target)
	}
	return c
}

// ExchangeTimes are the times of one kind of HTTP exchange with a host, until the answer's header.
type ExchangeTimes struct {
	Kind string `json:"kind"` // token, manifest, redirect
	Host string `json:"host"`
	Quantiles
}

// report works out what was measured.
func (m *measuring) report(targets []*Target) *Report {
	o := m.options
	r := &Report{Version: ReportVersion, Started: m.started.UTC(), Rounds: o.Rounds, Rate: o.Rate, WarmUp: o.WarmUp.Seconds()}
	connections := slices.Sorted(slices.Values(o.Connections))
	for i, t := range targets {
		rt := ReportTarget{Name: t.Name, Digest: t.Digest, Blobs: len(t.Blobs), Size: t.Size(), Part: t.largest(), HTTP: t.HTTP, Recorded: t.recorded}
		var ns []int
		var best []float64
		var all []*Recorder
		for _, n := range connections {
			runs := m.runs[setting{i, n}]
			if len(runs) == 0 {
				continue
			}
			var rs []*Recorder
			res := Result{Target: t.Name, Connections: n}
			for _, run := range runs {
				rs = append(rs, run.Recorder)
				res.ByRound = append(res.ByRound, run.Summary().Throughput)
				r.Series = append(r.Series, run.points(m.started, Point{Target: t.Name, Connections: n, Round: run.round + 1})...)
			}
			res.Summary = merge(rs, nil)
			res.Throughput = Mean(res.ByRound)
			res.judge()
			r.Results = append(r.Results, res)
			if !res.Failing {
				ns, best = append(ns, n), append(best, res.Throughput.Estimate)
			}
			all = append(all, rs...)
		}
		warm := m.warm[i]
		rt.All = merge(all, warm)
		if warm != nil {
			s := warm.Summary()
			rt.WarmUp = &s
			r.Series = append(r.Series, warm.points(m.started, Point{Target: t.Name, Connections: slices.Max(connections)})...)
		}
		if len(ns) > 1 {
			rt.Knee = Knee(ns, best)
		}
		r.Targets = append(r.Targets, rt)
	}
	slices.SortStableFunc(r.Series, func(a, b Point) int { return cmp.Compare(a.At, b.At) })
	for i := 1; i < len(targets); i++ {
		for _, n := range connections {
			if a, b := m.pairs(setting{0, n}, setting{i, n}); len(a) > 0 {
				to, of := r.find(targets[0].Name, n), r.find(targets[i].Name, n)
				if to != nil && of != nil {
					r.Comparisons = append(r.Comparisons, compare(of, to, Compare(a, b)))
				}
			}
		}
	}
	return r
}

// pairs are the throughputs of two settings in the rounds that have both.
func (m *measuring) pairs(a, b setting) (as, bs []float64) {
	for _, x := range m.runs[a] {
		for _, y := range m.runs[b] {
			if x.round == y.round {
				as, bs = append(as, x.Summary().Throughput), append(bs, y.Summary().Throughput)
			}
		}
	}
	return as, bs
}

// points are the seconds of a run, like a given one.
func (r *Recorder) points(started time.Time, like Point) []Point {
	elapsed := r.Summary().Elapsed
	var out []Point
	for i, s := range r.seconds {
		width := min(1, elapsed-float64(i))
		const least = 0.05 // of a second: less tells nothing
		if width < least {
			continue
		}
		p := like
		p.At = math.Round(1e3*(r.start.Sub(started).Seconds()+float64(i))) / 1e3
		p.Throughput, p.Requests, p.Errors = math.Round(float64(s.Bytes)/width), s.Requests, s.Errors
		out = append(out, p)
	}
	return out
}

// merge is the summary of several runs. Of warm, which may be nil, it has what new
// connections and first reads took, and nothing else.
func merge(rs []*Recorder, warm *Recorder) Summary {
	all := NewRecorder()
	var elapsed float64
	for _, r := range rs {
		elapsed += r.Summary().Elapsed
		for _, t := range [][2]Times{{all.latency, r.latency}, {all.first, r.first}, {all.body, r.body}, {all.lateness, r.lateness}, {all.warm, r.warm}, {all.again, r.again}} {
			t[0].h.Merge(t[1].h)
		}
		all.rates.h.Merge(r.rates.h)
		all.requests += r.requests
		all.bytes += r.bytes
		all.within += r.within
		for k, n := range r.errors {
			all.errors[k] += n
		}
		for name, h := range r.hosts {
			to := all.host(name)
			to.requests += h.requests
			to.errors += h.errors
			to.bytes += h.bytes
			to.first.h.Merge(h.first.h)
		}
		all.seconds = append(all.seconds, r.seconds...)
	}
	if warm != nil {
		rs = append(slices.Clone(rs), warm)
	}
	for _, r := range rs {
		for _, t := range [][2]Times{{all.cold, r.cold}, {all.fresh, r.fresh}, {all.dns, r.dns}, {all.connect, r.connect}, {all.tls, r.tls}} {
			t[0].h.Merge(t[1].h)
		}
		all.http2 += r.http2
	}
	out := all.Summary()
	if out.Elapsed = elapsed; elapsed > 0 {
		out.Throughput = float64(all.within) / elapsed
	}
	return out
}

// KneeText says what a target's knee tells, "" when there is none or nothing was measured.
func (r *Report) KneeText(t ReportTarget) string {
	ns := r.connections()
	switch {
	case t.Knee == 0 || len(ns) == 0:
		return ""
	case t.Knee < slices.Max(ns):
		return fmt.Sprintf("the knee is at %d connections: more bring less than 5%% beyond that", t.Knee)
	}
	return fmt.Sprintf("%d connections, the most that were tried, brought the most: there is no knee yet", t.Knee)
}

func (r *Report) find(target string, connections int) *Result {
	for i := range r.Results {
		if r.Results[i].Target == target && r.Results[i].Connections == connections {
			return &r.Results[i]
		}
	}
	return nil
}

// ReadReport reads a report's JSON form.
func ReadReport(in io.Reader) (*Report, error) {
	var r Report
	s := jsonstream.New(io.LimitReader(in, limits.ReportBytes), nil)
	memory := 0 // of the entries, in bytes
	count := func(n int, err error) error {
		const most = 12 << 20
		if memory += n; err == nil && memory > most {
			return fmt.Errorf("its lists take more than %d MiB of memory", most>>20)
		}
		return err
	}
	err := s.Document(&r, map[string]func() error{
		"targets": func() error { return count(entry(s, &r.Targets)) }, "results": func() error { return count(entry(s, &r.Results)) },
		"comparisons": func() error { return count(entry(s, &r.Comparisons)) }, "exchanges": func() error { return count(entry(s, &r.Exchanges)) },
		"series": func() error { return count(entry(s, &r.Series)) },
	})
	if err != nil {
		return nil, fmt.Errorf("reading the report: %w", err)
	}
	if r.Version != ReportVersion {
		return nil, fmt.Errorf("reading the report: it is of version %d, and this program reads %d", r.Version, ReportVersion)
	}
	return &r, nil
}

// entry reads an entry of one of the lists, and returns about how many bytes of memory it takes.
func entry[T any](s *jsonstream.Reader, to *[]T) (int, error) {
	const perByte = 4 // numbers and names of errors take more than their text
	var v T
	n, err := s.Entry(&v)
	*to = append(*to, v)
	return perByte*n + int(reflect.TypeFor[T]().Size()), err
}

// WriteJSON writes the report's JSON form.
func (r *Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// WriteCSV writes a line a result, with its numbers in bytes and seconds.
func (r *Report) WriteCSV(w io.Writer) error {
	out := csv.NewWriter(w)
	rows := [][]string{{"target", "connections", "throughput", "throughput_low", "throughput_high", "requests", "errors", "bytes", "elapsed",
		"latency_p50", "latency_p90", "latency_p99", "latency_p99.9", "first_byte_p50", "first_byte_p90", "first_byte_p99", "first_byte_p99.9"}}
	num := func(f float64) string { return strconv.FormatFloat(f, 'g', 8, 64) }
	for _, x := range r.Results {
		row := []string{x.Target, strconv.Itoa(x.Connections), num(x.Throughput.Estimate), num(x.Throughput.Low), num(x.Throughput.High),
			strconv.Itoa(x.Requests), strconv.Itoa(x.ErrorCount()), strconv.FormatInt(x.Bytes, 10), num(x.Elapsed)}
		for _, q := range []Quantiles{x.Latency, x.FirstByte} {
			row = append(row, num(q.P50), num(q.P90), num(q.P99), num(q.P999))
		}
		rows = append(rows, row)
	}
	return out.WriteAll(rows)
}

// WriteBenchstat writes a line a round in the format of Go's benchmarks, which
// benchstat reads.
func (r *Report) WriteBenchstat(w io.Writer) error {
	var b strings.Builder
	for _, x := range r.Results {
		name := "BenchmarkPull/target=" + strings.Map(func(c rune) rune {
			if c == ' ' || c == '/' {
				return '_'
			}
			return c
		}, x.Target)
		for _, tp := range x.ByRound {
			if tp > 0 {
				fmt.Fprintf(&b, "%s/connections=%d 1 %.0f ns/op %.2f MB/s %.6f p50-first-byte-sec %.6f p99-latency-sec\n",
					name, x.Connections, 1e9*float64(x.Bytes)/float64(len(x.ByRound))/tp, tp/1e6, x.FirstByte.P50, x.Latency.P99)
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// ErrorCount is how many requests failed.
func (s *Summary) ErrorCount() int {
	n := 0
	for _, c := range s.Errors {
		n += c
	}
	return n
}

// Worse is a result that is worse than it was.
type Worse struct {
	What     string // throughput of x with 4 connections
	Was, Is  float64
	Fraction float64 // by how much of what it was
}

// Baseline holds the report against an earlier one: where the same setting was
// measured, and throughput is smaller by more than a fraction of what it was and
// beyond both reports' intervals. What was not measured again isn't told.
func (r *Report) Baseline(old *Report, tolerance float64) []Worse {
	var out []Worse
	for i, x := range r.Results {
		was := old.find(x.Target, x.Connections)
		if was == nil && len(old.Targets) == len(r.Targets) { // under another name
			was = old.find(old.Targets[r.index(x.Target)].Name, x.Connections)
		}
		if was == nil || was.Throughput.Estimate <= 0 {
			continue
		}
		x := &r.Results[i]
		loss := 1 - x.Throughput.Estimate/was.Throughput.Estimate
		if loss > tolerance && x.Throughput.High < was.Throughput.Low {
			out = append(out, Worse{fmt.Sprintf("throughput of %s with %d connections", x.Target, x.Connections), was.Throughput.Estimate, x.Throughput.Estimate, loss})
		}
	}
	slices.SortFunc(out, func(a, b Worse) int { return cmp.Compare(b.Fraction, a.Fraction) })
	return out
}

// Shares reports whether the report and an earlier one have a setting in common.
func (r *Report) Shares(old *Report) bool {
	return slices.ContainsFunc(r.Results, func(x Result) bool {
		was := old.find(x.Target, x.Connections)
		if was == nil && len(old.Targets) == len(r.Targets) {
			was = old.find(old.Targets[r.index(x.Target)].Name, x.Connections)
		}
		return was != nil
	})
}

// Failed reports whether no setting has a figure, since reads failed, and how they did.
func (r *Report) Failed() (map[string]int, bool) {
	all := make(map[string]int)
	for _, x := range r.Results {
		if !x.Failing {
			return nil, false
		}
		for k, n := range x.Errors {
			all[k] += n
		}
	}
	return all, len(all) > 0
}

func (r *Report) index(target string) int {
	return max(0, slices.IndexFunc(r.Targets, func(t ReportTarget) bool { return t.Name == target }))
}

// Count is how many reads a report's results have.
func Count(r *Report) int {
	n := 0
	for _, x := range r.Results {
		n += x.Requests
	}
	return n
}
