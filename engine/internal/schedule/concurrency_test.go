package schedule_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"drayage/engine/internal/schedule"
)

// work is a job that others can help: a number of bytes at a host whose
// connections have a speed each, and together.
type work struct {
	q       *schedule.Queue
	host    string
	perConn float64 // bytes a second
	cap     float64 // of all connections
	ranges  bool

	mu   sync.Mutex
	left int64
	most int
	now  int
}

const step = 10 * time.Millisecond

// fetch takes bytes until none are left, or stop says so.
func (w *work) fetch(ctx context.Context, stop func() bool) {
	w.enter(1)
	defer w.enter(-1)
	for ctx.Err() == nil && !stop() {
		time.Sleep(step) // the clock is synctest's
		w.mu.Lock()
		rate := min(w.perConn, w.cap/float64(w.now))
		n := min(w.left, int64(rate*step.Seconds()))
		w.left -= n
		w.mu.Unlock()
		if n == 0 {
			return
		}
		w.q.Arrived(w.host, n)
	}
}

func (w *work) enter(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now += n
	w.most = max(w.most, w.now)
}

func (w *work) Rest() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.left
}

func (w *work) Help(ctx context.Context, surplus func() bool) error {
	time.Sleep(step)
	if !w.ranges {
		return nil
	}
	w.q.Ranged(w.host)
	w.fetch(ctx, surplus)
	return nil
}

// runWork runs one job of so many bytes, and returns how long it took.
func runWork(t *testing.T, l schedule.Limits, w *work) time.Duration {
	t.Helper()
	start := time.Now()
	err := schedule.Run(t.Context(), l, func(q *schedule.Queue) error {
		w.q = q
		q.Add(schedule.Job{Host: w.host, Run: func(ctx context.Context, p *schedule.Slot) error {
			p.Share(w)
			w.fetch(ctx, func() bool { return false })
			p.Share(nil)
			return nil
		}})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return time.Since(start)
}

const mib = 1 << 20

func TestConcurrencyGrowsWhereConnectionsPay(t *testing.T) {
	for _, c := range []struct {
		name        string
		perConn     float64
		all         float64
		ranges      bool
		least, most int
	}{
		{"each connection brings as much as the last", 12 * mib, 1000 * mib, true, 8, 8},
		{"one has all that there is", 100 * mib, 100 * mib, true, 1, 8}, // tried, and taken back
		{"no ranges", 12 * mib, 1000 * mib, false, 1, 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := &work{host: "h", perConn: c.perConn, cap: c.all, ranges: c.ranges, left: 1000 * mib}
			runWork(t, schedule.Limits{Jobs: 16, PerHost: 8}, w)
			if w.most < c.least || w.most > c.most {
				t.Errorf("%s: %d connections, want %d to %d", c.name, w.most, c.least, c.most)
			}
		})
	}
}

// Where more connections bring nothing, most of the time there are few.
func TestConcurrencyIsReducedWhereItDoesNotPay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &work{host: "h", perConn: 100 * mib, cap: 100 * mib, ranges: true, left: 2000 * mib}
		var sum, samples int
		done := make(chan struct{})
		var sampling sync.WaitGroup
		sampling.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(100 * time.Millisecond):
					w.mu.Lock()
					sum += w.now
					samples++
					w.mu.Unlock()
				}
			}
		})
		runWork(t, schedule.Limits{Jobs: 16, PerHost: 8}, w)
		close(done)
		sampling.Wait()
		if average := float64(sum) / float64(samples); average > 3.5 {
			t.Errorf("%.1f connections on average, where one is enough", average)
		}
	})
}

func TestLearnedConcurrencyIsUsedFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &work{host: "h", perConn: 10 * mib, cap: 1000 * mib, ranges: true, left: 80 * mib}
		start := time.Now()
		var learned int
		err := schedule.Run(t.Context(), schedule.Limits{Jobs: 16, PerHost: 8}, func(q *schedule.Queue) error {
			q.Learn("h", schedule.Findings{Ranges: true, Connections: 8})
			w.q = q
			q.Add(schedule.Job{Host: "h", Run: func(ctx context.Context, p *schedule.Slot) error {
				p.Share(w)
				w.fetch(ctx, func() bool { return false })
				learned = q.Learned()["h"].Connections
				return nil
			}})
			return nil
		})
		if took := time.Since(start); err != nil || took > 1200*time.Millisecond {
			t.Errorf("80 MiB on 8 connections of 10 MiB/s took %v, %v", took, err)
		}
		if learned < 4 {
			t.Errorf("%d connections were learned", learned)
		}
	})
}

func TestErrorsReduceConcurrency(t *testing.T) {
	for _, c := range []struct {
		name      string
		congested bool
		storms    int
		want      int // connections afterwards, of 8
	}{
		{"one reset", false, 1, 7}, {"resets, down to one", false, 20, 1},
		{"one 429", true, 1, 4}, {"429s, down to one", true, 5, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			var g gauge
			var started atomic.Int64
			err := schedule.Run(t.Context(), schedule.Limits{Jobs: 16, PerHost: 8}, func(q *schedule.Queue) error {
				for range 8 {
					q.Add(schedule.Job{Host: "h", Run: func(context.Context, *schedule.Slot) error {
						if started.Add(1) == 8 {
							for range c.storms {
								q.Trouble("h", c.congested)
								q.Trouble("h", c.congested) // of the same storm
								time.Sleep(time.Second)
							}
						} else {
							time.Sleep(time.Duration(c.storms) * time.Second)
						}
						return nil
					}})
				}
				for range 40 {
					q.Add(schedule.Job{Host: "h", Run: func(context.Context, *schedule.Slot) error {
						g.hold("h", time.Second)
						return nil
					}})
				}
				return nil
			})
			if err != nil || g.most["h"] != c.want {
				t.Errorf("%s: %d connections, want %d; %v", c.name, g.most["h"], c.want, err)
			}
		})
	}
}

func TestTroubleIsForgiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gauge
		err := schedule.Run(t.Context(), schedule.Limits{Jobs: 16, PerHost: 4}, func(q *schedule.Queue) error {
			q.Trouble("h", true)
			for range 40 {
				q.Add(schedule.Job{Host: "h", Run: func(context.Context, *schedule.Slot) error {
					g.hold("h", time.Second)
					q.Arrived("h", 8*mib)
					return nil
				}})
			}
			return nil
		})
		if err != nil || g.most["h"] != 4 {
			t.Errorf("%d connections at most, want 4 again; %v", g.most["h"], err)
		}
	})
}

// Small requests never wait for bulk: a slot is kept free for them.
func TestSmallRequestsFindASlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var last atomic.Int64
		start := time.Now()
		err := schedule.Run(t.Context(), schedule.Limits{Jobs: 8, PerHost: 4}, func(q *schedule.Queue) error {
			for range 10 {
				q.Add(schedule.Job{Host: "h", Kind: schedule.Small, Run: func(context.Context, *schedule.Slot) error {
					time.Sleep(time.Second)
					last.Store(int64(time.Since(start)))
					q.Add(schedule.Job{Host: "h", Run: func(context.Context, *schedule.Slot) error {
						time.Sleep(time.Hour)
						return nil
					}})
					return nil
				}})
			}
			return nil
		})
		if took := time.Duration(last.Load()); err != nil || took > 10*time.Second {
			t.Errorf("the last small request ended after %v behind bulk; %v", took, err)
		}
	})
}

// A slot that is released serves others, and is regained ahead of waiting jobs.
func TestSlotsCanBeReleasedAndRegained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var regained, second time.Duration
		err := schedule.Run(t.Context(), schedule.Limits{Jobs: 1, PerHost: 1}, func(q *schedule.Queue) error {
			q.Add(schedule.Job{Host: "h", Cost: 3, Run: func(ctx context.Context, p *schedule.Slot) error {
				p.Release()
				time.Sleep(500 * time.Millisecond)
				if err := p.Regain(ctx); err != nil {
					return err
				}
				regained = time.Since(start)
				return nil
			}})
			for i := range 3 {
				q.Add(schedule.Job{Host: "h", Cost: int64(2 - i), Run: func(context.Context, *schedule.Slot) error {
					time.Sleep(time.Second)
					if i == 1 {
						second = time.Since(start)
					}
					return nil
				}})
			}
			return nil
		})
		if err != nil || regained != time.Second || second != 2*time.Second {
			t.Errorf("regained after %v, the second of the others ended after %v; %v", regained, second, err)
		}
	})
}

func TestRegainEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := schedule.Run(ctx, schedule.Limits{Jobs: 1, PerHost: 1}, func(q *schedule.Queue) error {
			q.Add(schedule.Job{Host: "h", Cost: 2, Run: func(ctx context.Context, p *schedule.Slot) error {
				p.Release()
				time.Sleep(time.Second)
				return p.Regain(ctx)
			}})
			q.Add(schedule.Job{Host: "h", Cost: 1, Run: func(ctx context.Context, _ *schedule.Slot) error {
				<-ctx.Done()
				return nil
			}})
			return nil
		})
		if err == nil {
			t.Error("no error")
		}
	})
}
