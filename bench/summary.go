package bench

import (
	"cmp"
	"maps"
	"slices"
)

// Summary is what samples show.
type Summary struct {
	Requests   int            `json:"requests"`
	Errors     map[string]int `json:"errors,omitempty"` // by kind
	Bytes      int64          `json:"bytes"`
	Elapsed    float64        `json:"elapsed"`    // seconds
	Throughput float64        `json:"throughput"` // bytes per second
	Latency    Quantiles      `json:"latency"`    // from when a read was due to its last byte
	// LatencyCurve has the latencies not exceeded by a share of 1 − 10^(−k/10) of the reads, for
	// k = 0, 1, …, as far as there are enough reads to tell them apart.
	LatencyCurve []float64 `json:"latencyCurve,omitempty"`
	FirstByte    Quantiles `json:"firstByte"` // from a read's start to its first byte
	Body         Quantiles `json:"body"`      // from there to its last byte
	// PerConnection is the throughput of single reads, from their start.
	PerConnection RateQuantiles `json:"perConnection"`
	HTTP2         int           `json:"http2Connections,omitempty"` // new connections that speak it
	// FirstByte again, split by what may make a difference:
	Cold  Quantiles `json:"newConnection"`
	Warm  Quantiles `json:"keptConnection"`
	Fresh Quantiles `json:"firstRead"` // ranges that were not read before
	Again Quantiles `json:"readAgain"`
	// What new connections took:
	DNS      Quantiles     `json:"dns"`
	Connect  Quantiles     `json:"connect"`
	TLS      Quantiles     `json:"tls"`
	Lateness Quantiles     `json:"lateness"` // of the load generator
	Hosts    []HostSummary `json:"hosts"`
	Seconds  []Second      `json:"seconds"`
}

// HostSummary is what one host sent.
type HostSummary struct {
	Host      string    `json:"host"`
	Requests  int       `json:"requests"`
	Errors    int       `json:"errors"`
	Bytes     int64     `json:"bytes"`
	FirstByte Quantiles `json:"firstByte"`
}

// ErrorCount is the number of requests that failed.
func (s *Summary) ErrorCount() int {
	n := 0
	for _, c := range s.Errors {
		n += c
	}
	return n
}

// summary summarizes the samples so far.
func (r *recorder) summary() Summary {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := &r.times
	s := Summary{
		Requests: r.requests, Bytes: r.bytes, Elapsed: r.elapsed(), Throughput: r.throughput(), Seconds: slices.Clone(r.seconds),
		Latency: quantiles(t.latency), LatencyCurve: t.latency.Curve(), FirstByte: quantiles(t.first), Body: quantiles(t.body),
		PerConnection: rateQuantiles(r.rates), HTTP2: r.http2, Lateness: quantiles(t.lateness),
		Cold: quantiles(t.cold), Warm: quantiles(t.warm), Fresh: quantiles(t.fresh), Again: quantiles(t.again),
		DNS: quantiles(t.dns), Connect: quantiles(t.connect), TLS: quantiles(t.tls),
	}
	if len(r.errors) > 0 {
		s.Errors = maps.Clone(r.errors)
	}
	for name, h := range r.hosts {
		s.Hosts = append(s.Hosts, HostSummary{Host: name, Requests: h.requests, Errors: h.errors, Bytes: h.bytes, FirstByte: quantiles(h.first)})
	}
	slices.SortFunc(s.Hosts, func(a, b HostSummary) int { return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Host, b.Host)) })
	return s
}

// merge summarizes several steps together. Of warm, which may be nil, it only
// includes what new connections and first reads took.
func merge(rs []*recorder, warm *recorder) Summary {
	all := newRecorder()
	var elapsed float64
	for _, r := range rs {
		elapsed += all.merge(r)
	}
	if warm != nil {
		all.mergeConnections(warm)
	}
	out := all.summary()
	if out.Elapsed = elapsed; elapsed > 0 {
		out.Throughput = float64(all.within) / elapsed
	}
	return out
}

// merge adds what another recorder has, and returns its elapsed time in seconds.
func (r *recorder) merge(other *recorder) float64 {
	other.mu.Lock()
	defer other.mu.Unlock()
	r.mergeConnections(other)
	to, from := &r.times, &other.times
	to.latency.Merge(from.latency)
	to.first.Merge(from.first)
	to.body.Merge(from.body)
	to.lateness.Merge(from.lateness)
	to.warm.Merge(from.warm)
	to.again.Merge(from.again)
	r.rates.Merge(other.rates)
	r.requests += other.requests
	r.bytes += other.bytes
	r.within += other.within
	for kind, n := range other.errors {
		r.errors[kind] += n
	}
	for name, h := range other.hosts {
		host := r.host(name)
		host.requests += h.requests
		host.errors += h.errors
		host.bytes += h.bytes
		host.first.Merge(h.first)
	}
	r.seconds = append(r.seconds, other.seconds...)
	return other.elapsed()
}

// mergeConnections adds what new connections and first reads of another recorder
// took.
func (r *recorder) mergeConnections(other *recorder) {
	to, from := &r.times, &other.times
	to.cold.Merge(from.cold)
	to.fresh.Merge(from.fresh)
	to.dns.Merge(from.dns)
	to.connect.Merge(from.connect)
	to.tls.Merge(from.tls)
	r.http2 += other.http2
}
