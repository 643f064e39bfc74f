package bench

import (
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// reportVersion is the version of a Report's JSON form: docs/bench.md.
const reportVersion = 1

// Report is the result of a benchmark. Sizes are in bytes, times in seconds, and
// throughput in bytes per second.
type Report struct {
	Version     int             `json:"version"`
	Started     time.Time       `json:"started"`
	Rounds      int             `json:"rounds"`
	Rate        float64         `json:"rate,omitempty"` // requests per second of an open loop
	WarmUp      float64         `json:"warmUp,omitempty"`
	Targets     []ReportTarget  `json:"targets"`
	Results     []Result        `json:"results"` // by target, then by connections
	Comparisons []Comparison    `json:"comparisons,omitempty"`
	Exchanges   []ExchangeTimes `json:"exchanges,omitempty"` // by kind, then by host
	Series      []SeriesPoint   `json:"series,omitempty"`    // in order of time
}

// ReportTarget is what was measured of one target with all numbers of connections.
type ReportTarget struct {
	Name   string        `json:"name"`
	Digest digest.Digest `json:"digest"` // of the image's manifest; "" for a replay
	Blobs  int           `json:"blobs"`
	Size   int64         `json:"size"`             // of all blobs
	Part   int64         `json:"part"`             // the largest read
	Knee   int           `json:"knee,omitempty"`   // connections that reach 95 % of the best throughput
	All    Summary       `json:"all"`              // of all results; new connections include those of the warm-up
	WarmUp *Summary      `json:"warmUp,omitempty"` // nil if there was no warm-up
	HTTP   string        `json:"http,omitempty"`   // 2 where it was offered
	// Recorded has the original latencies of a replay's reads.
	Recorded *Quantiles `json:"recorded,omitempty"`
}

// Result is what was measured of one target with one number of connections.
type Result struct {
	Target      string    `json:"target"`
	Connections int       `json:"connections"`
	Throughput  Interval  `json:"throughput"` // mean of the rounds
	ByRound     []float64 `json:"byRound"`    // throughput
	ErrorShare  float64   `json:"errorShare"` // of the reads
	// Failing means that more than half of the reads failed. Then there are no
	// figures of throughput or latency.
	Failing bool `json:"failing,omitempty"`
	Summary
}

// Interval is an estimate with its 95 % confidence interval, or with the range of
// the rounds if there are fewer than 6.
type Interval struct {
	Estimate float64 `json:"estimate"`
	Low      float64 `json:"low"`
	High     float64 `json:"high"`
}

// Comparison compares a target with the first one at the same number of
// connections.
type Comparison struct {
	Target      string     `json:"target"`
	To          string     `json:"to"`
	Connections int        `json:"connections"`
	Throughput  Difference `json:"throughput"`
	// Why is the reason that there is no verdict: too many reads failed.
	Why string `json:"why,omitempty"`
}

// Difference is the ratio of two throughputs that were measured in the same rounds.
type Difference struct {
	Ratio Interval `json:"ratio"`
	P     float64  `json:"p"`    // p-value
	Real  bool     `json:"real"` // significant: P is at most 0.05
}

// ExchangeTimes are the response times of one kind of request to one host, until
// the header of the response.
type ExchangeTimes struct {
	Kind string `json:"kind"` // token, manifest, redirect
	Host string `json:"host"`
	Quantiles
}

// SeriesPoint is one second of one step.
type SeriesPoint struct {
	At          float64 `json:"at"` // its start, in seconds after that of the report
	Target      string  `json:"target"`
	Connections int     `json:"connections"`
	Round       int     `json:"round"` // counted from 1; 0 is the warm-up
	Throughput  float64 `json:"throughput"`
	Requests    int     `json:"requests"` // that ended within it
	Errors      int     `json:"errors"`
}

// KneeText describes a target's knee in one clause; "" if it has none, or if the report
// has no results.
func (r *Report) KneeText(t ReportTarget) string {
	connections := "1 connection"
	if t.Knee > 1 {
		connections = fmt.Sprintf("%d connections", t.Knee)
	}
	ns := r.connections()
	switch {
	case t.Knee == 0 || len(ns) == 0:
		return ""
	case t.Knee >= slices.Max(ns):
		return "throughput still rises at " + connections + ", the most tried"
	case t.Knee == 1:
		return connections + " suffices: more gain under 5 %"
	}
	return connections + " suffice: more gain under 5 %"
}

// Failed reports whether all results are failing, and summarizes their requests and
// errors.
func (r *Report) Failed() (Summary, bool) {
	all := Summary{Errors: make(map[string]int)}
	for _, x := range r.Results {
		if !x.Failing {
			return Summary{}, false
		}
		all.Requests += x.Requests
		for kind, n := range x.Errors {
			all.Errors[kind] += n
		}
	}
	return all, len(all.Errors) > 0
}

// find returns a target's result with a number of connections, or nil.
func (r *Report) find(target string, connections int) *Result {
	for i := range r.Results {
		if r.Results[i].Target == target && r.Results[i].Connections == connections {
			return &r.Results[i]
		}
	}
	return nil
}

// connections are the numbers of connections that have results, in order.
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
