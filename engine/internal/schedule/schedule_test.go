package schedule_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"drayage/engine/internal/schedule"
)

// gauge counts what runs at once, in all and on each host.
type gauge struct {
	mu        sync.Mutex
	now, most map[string]int
}

func (g *gauge) hold(host string, d time.Duration) {
	g.add(host, 1)
	time.Sleep(d) // the clock is synctest's
	g.add(host, -1)
}

func (g *gauge) add(host string, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.now == nil {
		g.now, g.most = map[string]int{}, map[string]int{}
	}
	for _, k := range []string{host, ""} {
		g.now[k] += n
		g.most[k] = max(g.most[k], g.now[k])
	}
}

func TestRunKeepsItsLimitsAndUsesThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gauge
		start := time.Now()
		err := schedule.Run(t.Context(), schedule.Limits{Jobs: 5, PerHost: 3}, func(q *schedule.Queue) error {
			for i := range 30 {
				host := fmt.Sprintf("h%d", i%2)
				q.Add(schedule.Job{Host: host, Run: func(context.Context, *schedule.Slot) error { g.hold(host, time.Second); return nil }})
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if g.most[""] != 5 || g.most["h0"] > 3 || g.most["h1"] > 3 {
			t.Errorf("at once: %v, want 5 in all and at most 3 a host", g.most)
		}
		if took := time.Since(start); took != 6*time.Second {
			t.Errorf("30 jobs of a second on 5 slots took %v, want 6s", took)
		}
	})
}

func TestRunTakesTheCostliestFirst(t *testing.T) {
	var order []int64
	err := schedule.Run(t.Context(), schedule.Limits{Jobs: 1, PerHost: 1}, func(q *schedule.Queue) error {
		// Held by a job of this host until all are queued.
		q.Add(schedule.Job{Host: "h", Cost: 100, Run: func(context.Context, *schedule.Slot) error {
			for _, c := range []int64{3, 9, 1, 9, 5} {
				q.Add(schedule.Job{Host: "h", Cost: c, Run: func(context.Context, *schedule.Slot) error {
					order = append(order, c)
					return nil
				}})
			}
			return nil
		}})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []int64{9, 9, 5, 3, 1}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
}

// Blobs of the first resolved image start while other images still resolve,
// and resolving goes on while blobs are many.
func TestRunSharesAHostBetweenSmallAndBulk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var firstBulk, lastSmall time.Duration
		start := time.Now()
		err := schedule.Run(t.Context(), schedule.Limits{Jobs: 4, PerHost: 4}, func(q *schedule.Queue) error {
			for range 100 {
				q.Add(schedule.Job{Host: "h", Kind: schedule.Small, Run: func(context.Context, *schedule.Slot) error {
					time.Sleep(time.Second)
					mu.Lock()
					lastSmall = time.Since(start)
					mu.Unlock()
					for range 10 {
						q.Add(schedule.Job{Host: "h", Cost: 1, Run: func(context.Context, *schedule.Slot) error {
							mu.Lock()
							if firstBulk == 0 {
								firstBulk = time.Since(start)
							}
							mu.Unlock()
							time.Sleep(time.Second)
							return nil
						}})
					}
					return nil
				}})
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if firstBulk > 2*time.Second {
			t.Errorf("bulk waited %v for small requests", firstBulk)
		}
		if lastSmall > 60*time.Second {
			t.Errorf("small requests took %v beside bulk", lastSmall)
		}
	})
}

func TestRunEndsAtTheFirstErrorAndWaitsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		ended := false
		err := schedule.Run(t.Context(), schedule.Limits{Jobs: 2, PerHost: 2}, func(q *schedule.Queue) error {
			q.Add(schedule.Job{Run: func(ctx context.Context, _ *schedule.Slot) error {
				<-ctx.Done()
				time.Sleep(time.Second)
				ended = true
				return ctx.Err()
			}})
			q.Add(schedule.Job{Run: func(context.Context, *schedule.Slot) error { return broken }})
			q.Add(schedule.Job{Cost: -1, Run: func(context.Context, *schedule.Slot) error { t.Error("ran after the error"); return nil }})
			return nil
		})
		if !errors.Is(err, broken) {
			t.Errorf("Run = %v, want %v", err, broken)
		}
		if !ended {
			t.Error("Run returned before its jobs")
		}
	})
}

func TestRunReturnsWhyItWasCancelled(t *testing.T) {
	cause := errors.New("the user had enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	err := schedule.Run(ctx, schedule.Limits{}, func(q *schedule.Queue) error {
		q.Add(schedule.Job{Run: func(ctx context.Context, _ *schedule.Slot) error { cancel(cause); <-ctx.Done(); return nil }})
		return nil
	})
	if !errors.Is(err, cause) {
		t.Errorf("Run = %v, want %v", err, cause)
	}
}

// Jobs that are preferred go first, in their order, wherever they are queued and
// whenever they come.
func TestPreferredJobsGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var ran []string
		err := schedule.Run(t.Context(), schedule.Limits{Jobs: 1, PerHost: 1}, func(q *schedule.Queue) error {
			add := func(id, host string, cost int64) {
				q.Add(schedule.Job{ID: id, Host: host, Cost: cost, Run: func(context.Context, *schedule.Slot) error {
					time.Sleep(time.Second)
					mu.Lock()
					defer mu.Unlock()
					ran = append(ran, id)
					if id == "first" {
						q.Prefer([]string{"late", "small", "large", "small"})
					}
					return nil
				}})
			}
			add("first", "a", 100)
			add("huge", "a", 99)
			add("large", "b", 98)
			add("small", "a", 1)
			time.Sleep(2500 * time.Millisecond)
			add("late", "b", 2)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if want := []string{"first", "small", "large", "late", "huge"}; !slices.Equal(ran, want) {
			t.Errorf("ran %v, want %v", ran, want)
		}
	})
}

// stuck is a job from whose connection nothing comes until another one helps.
type stuck struct {
	helped chan struct{}
	kept   bool // the first helper may stay
}

func (s *stuck) Rest() int64 { return 1 }

func (s *stuck) Help(_ context.Context, surplus func() bool) error {
	s.kept = !surplus()
	close(s.helped)
	return nil
}

// A job that nudges has one helper more, though nothing was measured yet; not beyond the limits, and not
// while other jobs wait.
func TestNudgedJobsGetAHelper(t *testing.T) {
	for name, c := range map[string]struct {
		limits  schedule.Limits
		waiting bool
		want    bool
	}{
		"a free place":      {schedule.Limits{Jobs: 4, PerHost: 4}, false, true},
		"the host is full":  {schedule.Limits{Jobs: 4, PerHost: 1}, false, false},
		"all are in use":    {schedule.Limits{Jobs: 1, PerHost: 4}, false, false},
		"another job waits": {schedule.Limits{Jobs: 2, PerHost: 1}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &stuck{helped: make(chan struct{})}
				helped := false
				err := schedule.Run(t.Context(), c.limits, func(q *schedule.Queue) error {
					q.Add(schedule.Job{Host: "h", Cost: 2, Run: func(_ context.Context, p *schedule.Slot) error {
						p.Share(s)
						time.Sleep(time.Second) // the clock is synctest's
						select {
						case <-s.helped:
							t.Error("a helper came by itself")
						default:
						}
						p.Nudge()
						select {
						case <-s.helped:
							helped = true
						case <-time.After(time.Second):
						}
						return nil
					}})
					if c.waiting {
						q.Add(schedule.Job{Host: "h", Cost: 1, Run: func(context.Context, *schedule.Slot) error { return nil }})
					}
					return nil
				})
				if err != nil || helped != c.want || helped && !s.kept {
					t.Errorf("helped: %v, and may stay: %v; %v", helped, s.kept, err)
				}
			})
		})
	}
}
