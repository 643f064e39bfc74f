// Package bench measures how fast a registry delivers: it makes load, keeps
// samples, and works out what they say. It only reads, and throws away what it
// reads.
package bench

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Sample is one request, measured.
type Sample struct {
	Due   time.Time // when it should have begun; in a closed loop when it did
	Start time.Time // when it began
	// Total is from Due to the last byte, and FirstByte from Start to the first.
	Total, FirstByte time.Duration
	// DNS, Connect and TLS are what a new connection took, 0 for one that was there.
	DNS, Connect, TLS time.Duration
	Fresh             bool   // over a new connection
	HTTP2             bool   // and that speaks HTTP/2
	First             bool   // this part was not read before: it may be in no cache yet
	Bytes             int64  // of the body
	Host              string // that was asked
	Err               string // what went wrong, in a word or two; "" when nothing did
}

const (
	// slowest is the longest time that is told apart, and precision how many digits
	// of a time are kept.
	slowest   = 10 * time.Minute
	precision = 3
)

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, int64(slowest/time.Microsecond), precision)
}

// Times is a distribution of times.
type Times struct{ h *hdrhistogram.Histogram }

func newTimes() Times { return Times{newHistogram()} }

// add counts a time. One beyond what is told apart counts as the slowest.
func (t Times) add(d time.Duration) {
	_ = t.h.RecordValue(min(max(1, int64(d/time.Microsecond)), int64(slowest/time.Microsecond))) // is within bounds
}

// Count is how many times were counted.
func (t Times) Count() int64 { return t.h.TotalCount() }

// At is the time that a share of all, between 0 and 1, did not exceed.
func (t Times) At(share float64) time.Duration {
	if t.h.TotalCount() == 0 {
		return 0
	}
	return time.Duration(t.h.ValueAtQuantile(100*share)) * time.Microsecond
}

// Mean is the mean time.
func (t Times) Mean() time.Duration {
	return time.Duration(t.h.Mean() * float64(time.Microsecond))
}

// Rates is a distribution of bytes a second.
type Rates struct{ h *hdrhistogram.Histogram }

// rateUnit is the smallest difference of rates that is kept, in bytes a second.
const rateUnit = 1000

func newRates() Rates {
	const fastest = 1e12
	return Rates{hdrhistogram.New(1, fastest/rateUnit, precision)}
}

// add counts that so many bytes took so long.
func (r Rates) add(n int64, took time.Duration) {
	v := int64(float64(n) / max(took, time.Microsecond).Seconds() / rateUnit)
	_ = r.h.RecordValue(min(max(1, v), r.h.HighestTrackableValue())) // is within bounds
}

// Recorder gathers samples. Its methods may be called from several goroutines.
type Recorder struct {
	start time.Time

	mu       sync.Mutex
	last     time.Time // when the latest request ended
	cut      time.Time // when the load was cut off, zero while it wasn't
	within   int64     // bytes that came before that, less those of reads that failed
	latency  Times
	first    Times // to the first byte
	lateness Times // behind the schedule
	cold     Times // first bytes over new connections
	warm     Times // and over those that were there
	fresh    Times // to the first byte of parts not read before
	again    Times
	dns      Times
	connect  Times
	tls      Times
	body     Times // from the first byte to the last
	rates    Rates // of reads, from their beginnings
	http2    int   // new connections that speak HTTP/2
	bytes    int64
	requests int
	errors   map[string]int
	hosts    map[string]*hostRecord
	seconds  []Second
}

// hostRecord is what a Recorder has of one host.
type hostRecord struct {
	requests, errors int
	bytes            int64
	first            Times
}

func (r *Recorder) host(name string) *hostRecord {
	h := r.hosts[name]
	if h == nil {
		h = &hostRecord{first: newTimes()}
		r.hosts[name] = h
	}
	return h
}

// NewRecorder begins to gather.
func NewRecorder() *Recorder {
	return &Recorder{
		start: time.Now(), latency: newTimes(), first: newTimes(), lateness: newTimes(), cold: newTimes(), warm: newTimes(), fresh: newTimes(), again: newTimes(),
		dns: newTimes(), connect: newTimes(), tls: newTimes(), body: newTimes(), rates: newRates(), errors: make(map[string]int), hosts: make(map[string]*hostRecord),
	}
}

// Cut says that the load was cut off: bytes that come later are of requests that run
// beside ever fewer others, and don't count for the throughput.
func (r *Recorder) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cut.IsZero() {
		r.cut = time.Now()
	}
}

// Second is what ended within one second of a run.
type Second struct {
	Requests int   `json:"requests"`
	Errors   int   `json:"errors"`
	Bytes    int64 `json:"bytes"`
}

// Bytes counts bytes as they come, for the second in which they do.
func (r *Recorder) Bytes(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bytes += n
	if r.cut.IsZero() {
		r.within += n
		r.second(time.Now()).Bytes += n
	}
}

// second is that of a moment. The caller holds r.mu.
func (r *Recorder) second(at time.Time) *Second {
	const most = 24 * 3600
	n := min(most, max(0, int(at.Sub(r.start)/time.Second)))
	for len(r.seconds) <= n {
		r.seconds = append(r.seconds, Second{})
	}
	return &r.seconds[n]
}

// Add counts a request that has ended. Its bytes were counted as they came.
func (r *Recorder) Add(s Sample) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := s.Due.Add(s.Total)
	if now.After(r.last) {
		r.last = now
	}
	r.requests++
	sec := r.second(now)
	sec.Requests++
	r.lateness.add(s.Start.Sub(s.Due))
	h := r.host(s.Host)
	h.requests++
	h.bytes += s.Bytes
	if s.Err != "" {
		// What a read that fails has brought is no throughput: a server that fails fast would
		// look like a fast one.
		r.within = max(0, r.within-s.Bytes)
		sec.Bytes = max(0, sec.Bytes-s.Bytes)
		sec.Errors++
		h.errors++
		r.errors[s.Err]++
		return
	}
	took := s.Total - s.Start.Sub(s.Due)
	r.latency.add(s.Total)
	r.first.add(s.FirstByte)
	r.body.add(took - s.FirstByte)
	r.rates.add(s.Bytes, took)
	h.first.add(s.FirstByte)
	if s.First {
		r.fresh.add(s.FirstByte)
	} else {
		r.again.add(s.FirstByte)
	}
	if !s.Fresh {
		r.warm.add(s.FirstByte)
		return
	}
	r.cold.add(s.FirstByte)
	if s.HTTP2 {
		r.http2++
	}
	for _, part := range []struct {
		times Times
		took  time.Duration
	}{{r.dns, s.DNS}, {r.connect, s.Connect}, {r.tls, s.TLS}} {
		if part.took > 0 {
			part.times.add(part.took)
		}
	}
}
