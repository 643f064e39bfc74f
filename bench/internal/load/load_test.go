package load_test

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"drayage/bench/internal/load"
	"drayage/bench/internal/stats"
)

// latencies runs a load, and returns the latencies and the lateness of its requests.
func latencies(ctx context.Context, o load.Options, serve func(context.Context)) (latency, lateness stats.Histogram) {
	latency, lateness = stats.NewTimes(), stats.NewTimes()
	var mu sync.Mutex
	load.Run(ctx, o, func(ctx context.Context, _ int, due time.Time) {
		late := time.Since(due)
		serve(ctx)
		took := time.Since(due)
		mu.Lock()
		defer mu.Unlock()
		latency.AddTime(took)
		lateness.AddTime(late)
	})
	return latency, lateness
}

// An open loop shows how long a server that stalls delays requests; a closed loop,
// which waits with it, hides nearly all of that.
func TestOpenLoopSeesStallsThatAClosedLoopHides(t *testing.T) {
	const stall, every = time.Second, 5 * time.Second
	// A server that answers within a millisecond, except during one second in five.
	server := func(context.Context) {
		time.Sleep(time.Millisecond)
		if into := time.Duration(time.Now().UnixNano()) % every; into < stall {
			time.Sleep(stall - into)
		}
	}
	measure := func(o load.Options) (latency, lateness stats.Histogram) {
		o.Duration = 100 * time.Second
		synctest.Test(t, func(t *testing.T) { latency, lateness = latencies(t.Context(), o, server) })
		return latency, lateness
	}
	open, lateness := measure(load.Options{Rate: 100, Workers: 1000})
	// A fifth of all requests are due during stalls, spread evenly over the second: a
	// tenth waits for more than half of it, a hundredth for 95 %.
	for _, c := range []struct{ share, want float64 }{{0.9, 0.5}, {0.99, 0.95}, {0.999, 0.995}} {
		if got := open.At(c.share); math.Abs(got-c.want) > 0.1*c.want {
			t.Errorf("open loop: p%g is %.3f s, want %.3f s within 10 %%", 100*c.share, got, c.want)
		}
	}
	if lateness.At(1) > 0.001 {
		t.Errorf("the load is up to %.4f s late", lateness.At(1))
	}
	if closed, _ := measure(load.Options{Workers: 1}); closed.At(0.99) > 0.1*open.At(0.99) {
		t.Errorf("closed loop: p99 is %.3f s, and the open loop's %.3f s: the test shows nothing", closed.At(0.99), open.At(0.99))
	}
}

func TestOpenLoopKeepsItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		load.Run(t.Context(), load.Options{Rate: 1000, Workers: 10, Duration: 10 * time.Second}, func(context.Context, int, time.Time) { n.Add(1) })
		if got := n.Load(); got < 9990 || got > 10010 {
			t.Errorf("%d requests in 10 s at 1000 per second", got)
		}
	})
}

func TestWaitingForAWorkerCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		latency, _ := latencies(t.Context(), load.Options{Rate: 10, Workers: 1, Requests: 20}, func(context.Context) { time.Sleep(time.Second) })
		if most := latency.At(1); math.Abs(most-18.1) > 0.1 {
			t.Errorf("the last of 20 requests took %.2f s, want 18.1 s", most)
		}
	})
}

func TestScheduleIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		schedule := []time.Duration{0, 30 * time.Millisecond, 30 * time.Millisecond, 2 * time.Second}
		start := time.Now()
		var mu sync.Mutex
		got := make(map[int]time.Duration)
		load.Run(t.Context(), load.Options{Workers: 2, Schedule: schedule}, func(_ context.Context, n int, due time.Time) {
			mu.Lock()
			defer mu.Unlock()
			got[n] = due.Sub(start)
		})
		if len(got) != len(schedule) {
			t.Errorf("%d requests, want %d", len(got), len(schedule))
		}
		for n, want := range schedule {
			if got[n] != want {
				t.Errorf("request %d was due after %s, want %s", n, got[n], want)
			}
		}
	})
}

// The precise clock keeps due times, too, and ends with its context.
func TestPreciseLoad(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	early, n := 0, 0
	load.Run(ctx, load.Options{Workers: 1, Rate: 100, Precise: true}, func(_ context.Context, i int, due time.Time) {
		if time.Now().Before(due) {
			early++
		}
		if n++; i == 3 {
			cancel()
		}
	})
	if early > 0 || n < 4 {
		t.Errorf("%d of %d requests were early", early, n)
	}
}

func TestRunEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		never := func() bool { return false }
		for name, c := range map[string]struct {
			load  load.Options
			want  int
			ended int // calls of Ended
		}{
			"requests":            {load.Options{Workers: 3, Requests: 10}, 10, 0},
			"duration":            {load.Options{Workers: 2, Duration: 5500 * time.Millisecond}, 12, 1},
			"more":                {load.Options{Workers: 2, More: never}, 0, 1},
			"no workers":          {load.Options{Requests: 2}, 2, 0},
			"requests, open":      {load.Options{Workers: 3, Rate: 5, Requests: 10}, 10, 0},
			"duration, open":      {load.Options{Workers: 3, Rate: 2, Duration: 2 * time.Second}, 4, 1},
			"more, open":          {load.Options{Workers: 3, Rate: 5, More: never}, 0, 1},
			"requests, schedule":  {load.Options{Workers: 3, Schedule: make([]time.Duration, 5), Requests: 3}, 3, 0},
			"schedule is shorter": {load.Options{Workers: 3, Schedule: make([]time.Duration, 5), Requests: 9}, 5, 0},
		} {
			var got, ended atomic.Int64
			c.load.Ended = func() { ended.Add(1) }
			load.Run(t.Context(), c.load, func(context.Context, int, time.Time) {
				time.Sleep(time.Second)
				got.Add(1)
			})
			if int(got.Load()) != c.want || int(ended.Load()) != c.ended {
				t.Errorf("%s: %d requests, want %d; ended %d times, want %d", name, got.Load(), c.want, ended.Load(), c.ended)
			}
		}
	})
}

func TestRunEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, rate := range []float64{0, 100} {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			start := time.Now()
			load.Run(ctx, load.Options{Workers: 2, Rate: rate}, func(ctx context.Context, _ int, _ time.Time) {
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
				}
			})
			cancel()
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("rate %g: it ended after %s", rate, took)
			}
		}
	})
}
