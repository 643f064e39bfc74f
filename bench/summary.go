package bench

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
)

// Quantiles are a distribution of times as a report has it, in seconds.
type Quantiles struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	P999  float64 `json:"p99.9"`
	Max   float64 `json:"max"`
}

func (t Times) quantiles() Quantiles {
	at := func(share float64) float64 { return t.At(share).Seconds() }
	return Quantiles{Count: t.Count(), Mean: t.Mean().Seconds(), P50: at(0.5), P90: at(0.9), P99: at(0.99), P999: at(0.999), Max: at(1)}
}

// curvePerNine is how many points of a curve there are from one nine to the next.
const curvePerNine = 10

// curveShare is the share of all that point k of a curve is about.
func curveShare(k int) float64 { return 1 - math.Pow(10, -float64(k)/curvePerNine) }

// curve are the times at shares that come ever closer to all.
func (t Times) curve() []float64 {
	var out []float64
	for k := 0; math.Pow(10, float64(k)/curvePerNine) <= float64(t.Count()); k++ {
		out = append(out, t.At(curveShare(k)).Seconds())
	}
	return out
}

// RateQuantiles are a distribution of bytes a second. The slow end is what matters.
type RateQuantiles struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean"`
	P1    float64 `json:"p1"`
	P10   float64 `json:"p10"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	Max   float64 `json:"max"`
}

func (r Rates) quantiles() RateQuantiles {
	if r.h.TotalCount() == 0 {
		return RateQuantiles{}
	}
	at := func(percent float64) float64 { return rateUnit * float64(r.h.ValueAtQuantile(percent)) }
	return RateQuantiles{Count: r.h.TotalCount(), Mean: rateUnit * r.h.Mean(), P1: at(1), P10: at(10), P50: at(50), P90: at(90), Max: at(100)}
}

// HostSummary is what came from one host.
type HostSummary struct {
	Host      string    `json:"host"`
	Requests  int       `json:"requests"`
	Errors    int       `json:"errors"`
	Bytes     int64     `json:"bytes"`
	FirstByte Quantiles `json:"firstByte"`
}

// Summary is what a run's samples say.
type Summary struct {
	Requests   int            `json:"requests"`
	Errors     map[string]int `json:"errors,omitempty"` // by kind
	Bytes      int64          `json:"bytes"`
	Elapsed    float64        `json:"elapsed"`    // seconds
	Throughput float64        `json:"throughput"` // bytes a second
	Latency    Quantiles      `json:"latency"`    // from when a request was due to its last byte
	// LatencyCurve are the latencies that a share of 1 - 10^(-k/10) of all did not exceed, for k
	// from 0 on, as far as there are reads enough to tell.
	LatencyCurve []float64 `json:"latencyCurve,omitempty"`
	FirstByte    Quantiles `json:"firstByte"` // from its beginning to its first byte
	Body         Quantiles `json:"body"`      // from there to its last
	// PerConnection is what one request brings, in bytes a second from its beginning.
	PerConnection RateQuantiles `json:"perConnection"`
	HTTP2         int           `json:"http2Connections,omitempty"` // new connections that speak it
	// FirstByte again, by what may make the difference:
	Cold  Quantiles `json:"newConnection"`
	Warm  Quantiles `json:"keptConnection"`
	Fresh Quantiles `json:"firstRead"` // parts that were not read before
	Again Quantiles `json:"readAgain"`
	// What new connections took:
	DNS      Quantiles     `json:"dns"`
	Connect  Quantiles     `json:"connect"`
	TLS      Quantiles     `json:"tls"`
	Lateness Quantiles     `json:"lateness"` // of the load itself behind its schedule
	Hosts    []HostSummary `json:"hosts"`
	Seconds  []Second      `json:"seconds"`
}

// Summary works out what was gathered so far.
func (r *Recorder) Summary() Summary {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := Summary{
		Requests: r.requests, Bytes: r.bytes, Latency: r.latency.quantiles(), FirstByte: r.first.quantiles(), Cold: r.cold.quantiles(),
		Warm: r.warm.quantiles(), Fresh: r.fresh.quantiles(), Again: r.again.quantiles(), DNS: r.dns.quantiles(), Connect: r.connect.quantiles(),
		TLS: r.tls.quantiles(), Body: r.body.quantiles(), PerConnection: r.rates.quantiles(), HTTP2: r.http2, Lateness: r.lateness.quantiles(), Seconds: slices.Clone(r.seconds),
	}
	s.LatencyCurve = r.latency.curve()
	if len(r.errors) > 0 {
		s.Errors = make(map[string]int, len(r.errors))
		for k, n := range r.errors {
			s.Errors[k] = n
		}
	}
	last := r.last
	if !r.cut.IsZero() && r.cut.Before(last) {
		last = r.cut
	}
	if s.Elapsed = max(0, last.Sub(r.start).Seconds()); s.Elapsed > 0 {
		s.Throughput = float64(r.within) / s.Elapsed
	}
	for name, h := range r.hosts {
		s.Hosts = append(s.Hosts, HostSummary{Host: name, Requests: h.requests, Errors: h.errors, Bytes: h.bytes, FirstByte: h.first.quantiles()})
	}
	slices.SortFunc(s.Hosts, func(a, b HostSummary) int { return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Host, b.Host)) })
	return s
}

// Knee is the smallest of some numbers of connections that brings nearly all of
// what the best brings: beyond it, more of them take without giving. It is 0 when
// there is nothing to tell.
func Knee(connections []int, throughput []float64) int {
	const nearly = 0.95
	if len(connections) == 0 {
		return 0
	}
	best := slices.Max(throughput)
	knee := 0
	for i, n := range connections {
		if throughput[i] >= nearly*best && best > 0 && (knee == 0 || n < knee) {
			knee = n
		}
	}
	return knee
}

// Interval is an estimate with bounds that hold the true value 95 times in 100.
type Interval struct {
	Estimate float64 `json:"estimate"`
	Low      float64 `json:"low"`
	High     float64 `json:"high"`
}

// enough is how many values an interval takes.
const enough = 6

// bootstraps is how often values are drawn again.
const bootstraps = 4000

// Mean estimates a mean by the studentized bootstrap, which keeps its promise
// for few values, too (Efron and Tibshirani, An Introduction to the Bootstrap,
// section 12.5). The same values give the same interval. Fewer values than enough
// tell too little for that: then the bounds are the least and the largest of them.
func Mean(values []float64) Interval {
	m, se := meanError(values)
	out := Interval{Estimate: m, Low: m, High: m}
	if len(values) < 2 || se == 0 {
		return out
	}
	if len(values) < enough {
		return Interval{Estimate: m, Low: slices.Min(values), High: slices.Max(values)}
	}
	rnd := rand.New(rand.NewPCG(1, uint64(len(values))))
	ts := make([]float64, 0, bootstraps)
	again := make([]float64, len(values))
	for range bootstraps {
		for i := range again {
			again[i] = values[rnd.IntN(len(values))]
		}
		if bm, bse := meanError(again); bse > 0 {
			ts = append(ts, (bm-m)/bse)
		}
	}
	if len(ts) == 0 {
		return out
	}
	slices.Sort(ts)
	const tail = 0.025
	out.Low = m - ts[int((1-tail)*float64(len(ts)-1))]*se
	out.High = m - ts[int(tail*float64(len(ts)-1))]*se
	return out
}

// meanError is the mean of values and its standard error.
func meanError(values []float64) (mean, se float64) {
	n := float64(len(values))
	for _, v := range values {
		mean += v / n
	}
	var sum float64
	for _, v := range values {
		sum += (v - mean) * (v - mean)
	}
	if n < 2 {
		return mean, 0
	}
	return mean, math.Sqrt(sum / (n - 1) / n)
}

// Difference is how two things that were measured in the same rounds differ.
type Difference struct {
	Ratio Interval `json:"ratio"` // of the second to the first
	// P is how often a difference as large would come about by chance.
	P float64 `json:"p"`
	// Real says that the difference is called one: P is at most 0.05.
	Real bool `json:"real"`
}

// Compare holds b against a, pair by pair: what disturbs a round disturbs both. A
// difference is called real by a test that assumes nothing of the distributions:
// in how many of all ways to swap the pairs the difference would be as large
// (a permutation test by flips of signs).
func Compare(a, b []float64) Difference {
	n := min(len(a), len(b))
	logs := make([]float64, 0, n)
	for i := range n {
		if a[i] > 0 && b[i] > 0 {
			logs = append(logs, math.Log(b[i]/a[i]))
		}
	}
	if len(logs) == 0 {
		return Difference{P: 1}
	}
	m := Mean(logs)
	d := Difference{Ratio: Interval{math.Exp(m.Estimate), math.Exp(m.Low), math.Exp(m.High)}, P: flips(logs)}
	const level = 0.05
	d.Real = d.P <= level
	// The bounds and the verdict say the same: they have 1 among them unless the test tells the
	// two apart.
	switch {
	case !d.Real:
		d.Ratio.Low, d.Ratio.High = min(1, d.Ratio.Low), max(1, d.Ratio.High)
	case d.Ratio.Estimate > 1:
		d.Ratio.Low = max(1, d.Ratio.Low)
	default:
		d.Ratio.High = min(1, d.Ratio.High)
	}
	return d
}

// flips is the share of all ways to flip signs whose sum is as far from zero as
// that of the values: all of them while they are few, else some.
func flips(values []float64) float64 {
	var sum float64
	for _, v := range values {
		sum += v
	}
	const exact, some = 16, 20000
	ways := some
	if len(values) <= exact {
		ways = 1 << len(values)
	}
	rnd := rand.New(rand.NewPCG(2, uint64(len(values))))
	reached := 0
	for w := range ways {
		signs := uint64(w)
		if len(values) > exact {
			signs = rnd.Uint64()
		}
		var s float64
		for i, v := range values {
			if i%64 == 0 && i > 0 {
				signs = rnd.Uint64()
			}
			if signs>>(i%64)&1 == 1 {
				s -= v
			} else {
				s += v
			}
		}
		if math.Abs(s) >= math.Abs(sum)*(1-1e-12) {
			reached++
		}
	}
	return float64(reached) / float64(ways)
}
