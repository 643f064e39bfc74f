package bench

import (
	"sync"
	"time"

	"drayage/bench/internal/stats"
)

// recorder collects the samples of one step. Its methods may be called from
// several goroutines.
type recorder struct {
	start time.Time

	mu       sync.Mutex
	last     time.Time // when the latest request ended
	ended    time.Time // when the load ended; zero before that
	within   int64     // bytes received before that, without those of failed reads
	times    timings
	rates    stats.Histogram // of single reads, from their start
	http2    int             // new connections that speak HTTP/2
	bytes    int64
	requests int
	errors   map[string]int
	hosts    map[string]*hostRecord
	seconds  []Second
}

// timings are the distributions of times that a recorder keeps.
type timings struct {
	latency, first, lateness, body stats.Histogram
	// Times to first byte, by what may make a difference:
	cold, warm   stats.Histogram // over new connections, over reused ones
	fresh, again stats.Histogram // of ranges that were not read before, that were
	// What new connections took:
	dns, connect, tls stats.Histogram
}

// hostRecord is what a recorder has of one host.
type hostRecord struct {
	requests, errors int
	bytes            int64
	first            stats.Histogram
}

// Second is what a step had of one second: the requests that ended within it, and
// the bytes received.
type Second struct {
	Requests int   `json:"requests"`
	Errors   int   `json:"errors"`
	Bytes    int64 `json:"bytes"`
}

func newRecorder() *recorder {
	r := &recorder{start: time.Now(), rates: stats.NewRates(), errors: make(map[string]int), hosts: make(map[string]*hostRecord)}
	for _, h := range r.times.all() {
		*h = stats.NewTimes()
	}
	return r
}

func (t *timings) all() []*stats.Histogram {
	return []*stats.Histogram{&t.latency, &t.first, &t.lateness, &t.body, &t.cold, &t.warm, &t.fresh, &t.again, &t.dns, &t.connect, &t.tls}
}

// endLoad declares that the load has ended. Later bytes belong to requests that run
// with less and less concurrency, and do not count as throughput.
func (r *recorder) endLoad() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended.IsZero() {
		r.ended = time.Now()
	}
}

// addBytes counts bytes as they arrive.
func (r *recorder) addBytes(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bytes += n
	if r.ended.IsZero() {
		r.within += n
		r.second(time.Now()).Bytes += n
	}
}

// add counts a request that has ended, and whose bytes were counted already.
func (r *recorder) add(s Sample) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := s.Due.Add(s.Total)
	if now.After(r.last) {
		r.last = now
	}
	r.requests++
	r.times.lateness.AddTime(s.Start.Sub(s.Due))
	h := r.host(s.Host)
	h.requests++
	h.bytes += s.Bytes
	second := r.second(now)
	second.Requests++
	if s.Err != "" {
		r.fail(s, h, second)
		return
	}
	h.first.AddTime(s.FirstByte)
	r.rates.AddRate(s.Bytes, s.Total-s.Start.Sub(s.Due))
	if s.Fresh && s.HTTP2 {
		r.http2++
	}
	r.times.add(s)
}

// fail counts a request that has failed. Its bytes are taken back from throughput:
// else a server that fails fast would look like a fast one. The caller holds r.mu.
func (r *recorder) fail(s Sample, h *hostRecord, second *Second) {
	r.within = max(0, r.within-s.Bytes)
	second.Bytes = max(0, second.Bytes-s.Bytes)
	second.Errors++
	h.errors++
	r.errors[s.Err]++
}

// add counts the times of a request that succeeded.
func (t *timings) add(s Sample) {
	t.latency.AddTime(s.Total)
	t.first.AddTime(s.FirstByte)
	t.body.AddTime(s.Total - s.Start.Sub(s.Due) - s.FirstByte)
	if s.First {
		t.fresh.AddTime(s.FirstByte)
	} else {
		t.again.AddTime(s.FirstByte)
	}
	if !s.Fresh {
		t.warm.AddTime(s.FirstByte)
		return
	}
	t.cold.AddTime(s.FirstByte)
	for _, part := range []struct {
		times stats.Histogram
		took  time.Duration
	}{{t.dns, s.DNS}, {t.connect, s.Connect}, {t.tls, s.TLS}} {
		if part.took > 0 {
			part.times.AddTime(part.took)
		}
	}
}

// second returns the entry of a moment's second. The caller holds r.mu.
func (r *recorder) second(at time.Time) *Second {
	const most = 24 * 3600
	n := min(most, max(0, int(at.Sub(r.start)/time.Second)))
	for len(r.seconds) <= n {
		r.seconds = append(r.seconds, Second{})
	}
	return &r.seconds[n]
}

// host returns the record of a host. The caller holds r.mu.
func (r *recorder) host(name string) *hostRecord {
	h := r.hosts[name]
	if h == nil {
		h = &hostRecord{first: stats.NewTimes()}
		r.hosts[name] = h
	}
	return h
}

// isEmpty reports whether no request has ended.
func (r *recorder) isEmpty() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests == 0
}

// elapsed is the time until the load ended, or until the last request did, in
// seconds. While the step runs the caller holds r.mu.
func (r *recorder) elapsed() float64 {
	last := r.last
	if !r.ended.IsZero() && r.ended.Before(last) {
		last = r.ended
	}
	return max(0, last.Sub(r.start).Seconds())
}

// throughput is bytes per second of the reads that succeeded. While the step runs the
// caller holds r.mu.
func (r *recorder) throughput() float64 {
	if elapsed := r.elapsed(); elapsed > 0 {
		return float64(r.within) / elapsed
	}
	return 0
}
