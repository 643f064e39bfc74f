package bench

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// read is a read that took some time and has just ended.
func (r *recorder) read(took time.Duration, bytes int64, kind string) {
	start := time.Now()
	time.Sleep(took / 2)
	first := time.Since(start)
	r.addBytes(bytes)
	time.Sleep(took / 2)
	r.add(Sample{Due: start, Start: start, Total: time.Since(start), FirstByte: first, Bytes: bytes, Host: "a.example", Err: kind})
}

// What a failed read has brought is no throughput: a server that fails fast would look
// like a fast one.
func TestFailedReadsAreNoThroughput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder()
		r.read(2*time.Second, 1000, "")
		r.read(500*time.Millisecond, 1_000_000, "cut short")
		s := r.summary()
		if s.Throughput != 400 || s.Elapsed != 2.5 || s.Requests != 2 || s.Bytes != 1_001_000 || s.ErrorCount() != 1 {
			t.Errorf("%+v", s)
		}
		if s.Latency.Count != 1 || s.FirstByte.P50 < 0.999 || s.FirstByte.P50 > 1.001 || s.Body.Count != 1 || s.PerConnection.Count != 1 {
			t.Errorf("figures include a failed read: %+v", s)
		}
		if h := s.Hosts[0]; h.Requests != 2 || h.Errors != 1 || h.FirstByte.Count != 1 {
			t.Errorf("%+v", h)
		}
		var bytes int64
		for _, second := range s.Seconds {
			bytes += second.Bytes
		}
		if bytes != 1000 {
			t.Errorf("%d bytes in %+v", bytes, s.Seconds)
		}
	})
}

// Reads in flight at the end of the load run with less concurrency, and count neither
// their time nor their later bytes.
func TestThroughputEndsWithTheLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder()
		r.read(time.Second, 1000, "")
		r.endLoad()
		r.read(9*time.Second, 1_000_000, "")
		r.endLoad() // changes nothing
		if s := r.summary(); s.Throughput != 1000 || s.Elapsed != 1 || s.Requests != 2 || s.Latency.Count != 2 {
			t.Errorf("%+v", s)
		}
	})
}

func TestEmptySummary(t *testing.T) {
	r := newRecorder()
	s := r.summary()
	if !r.isEmpty() || s.Throughput != 0 || s.Elapsed != 0 || s.Requests != 0 || s.Errors != nil || s.LatencyCurve != nil || s.Hosts != nil {
		t.Errorf("%+v", s)
	}
	if s := merge(nil, nil); s.Throughput != 0 || s.Elapsed != 0 {
		t.Errorf("%+v", s)
	}
}

// anySample is a read that ended now.
func anySample(rnd *rand.Rand) Sample {
	total := time.Duration(1 + rnd.Int64N(int64(3*time.Second)))
	wait := time.Duration(rnd.Int64N(int64(total)))
	s := Sample{
		Due: time.Now().Add(-total), Start: time.Now().Add(-total + wait), Total: total, FirstByte: (total - wait) / 2,
		Fresh: rnd.IntN(2) == 0, HTTP2: rnd.IntN(2) == 0, First: rnd.IntN(2) == 0, Bytes: rnd.Int64N(1 << 20), Host: string('a' + rune(rnd.IntN(3))),
	}
	if s.Fresh {
		s.DNS, s.Connect, s.TLS = time.Duration(rnd.Int64N(1e8)), time.Duration(rnd.Int64N(1e8)), time.Duration(rnd.Int64N(2)*1e7)
	}
	if rnd.IntN(5) == 0 {
		s.Err = []string{"status 503", "cut short"}[rnd.IntN(2)]
	}
	return s
}

// Merging steps gives what one step with all of their reads would have, except that
// their times add up. The warm-up only adds connections and first reads.
func TestMergeIsOneOfAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(1, 1))
		all, warm := newRecorder(), newRecorder()
		steps := []*recorder{newRecorder(), newRecorder(), newRecorder()}
		for range 300 {
			time.Sleep(10 * time.Millisecond)
			s := anySample(rnd)
			to := steps[rnd.IntN(len(steps))]
			for _, r := range []*recorder{all, to} {
				r.addBytes(s.Bytes)
				r.add(s)
			}
		}
		want, got := all.summary(), merge(steps, nil)
		elapsed := 0.0
		for _, r := range steps {
			elapsed += r.summary().Elapsed
		}
		if got.Elapsed != elapsed || got.Throughput != float64(steps[0].within+steps[1].within+steps[2].within)/elapsed {
			t.Errorf("%g s, %g bytes per second", got.Elapsed, got.Throughput)
		}
		if len(got.Seconds) != len(steps[0].seconds)+len(steps[1].seconds)+len(steps[2].seconds) {
			t.Errorf("%d seconds", len(got.Seconds))
		}
		want.Elapsed, want.Throughput, want.Seconds = 0, 0, nil
		same := got
		same.Elapsed, same.Throughput, same.Seconds = 0, 0, nil
		if diff := cmp.Diff(want, same); diff != "" {
			t.Error(diff)
		}

		s := anySample(rnd)
		s.Err, s.Fresh, s.First, s.Connect = "", true, true, time.Millisecond
		warm.addBytes(s.Bytes)
		warm.add(s)
		with := merge(steps, warm)
		if with.Cold.Count != got.Cold.Count+1 || with.Fresh.Count != got.Fresh.Count+1 || with.Connect.Count != got.Connect.Count+1 {
			t.Errorf("the warm-up's connection is missing: %+v", with.Cold)
		}
		if with.Requests != got.Requests || with.Bytes != got.Bytes || with.Latency != got.Latency || with.Throughput != got.Throughput {
			t.Errorf("the warm-up counts as a read: %+v", with)
		}
	})
}

// Seconds become a series without the fraction of a second at its end, which is too
// short for a rate.
func TestSeries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		started := time.Now()
		time.Sleep(1500 * time.Millisecond)
		r := newRecorder()
		r.read(time.Second, 1000, "") // its bytes come after half a second
		r.read(time.Second, 3000, "")
		r.read(20*time.Millisecond, 5000, "")
		got := r.series(started, SeriesPoint{Target: "a", Connections: 4, Round: 2})
		want := []SeriesPoint{
			{At: 1.5, Target: "a", Connections: 4, Round: 2, Throughput: 1000},
			{At: 2.5, Target: "a", Connections: 4, Round: 2, Throughput: 3000, Requests: 1},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}
