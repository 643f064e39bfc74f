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

// Jobs of unrelated callers keep one host's limit together, and who came first goes first, however
// much others have to do.
func TestDoKeepsTheLimitsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := schedule.New(t.Context(), schedule.Limits{Jobs: 16, PerHost: 4})
		var g gauge
		start := time.Now()
		began := make([]time.Duration, 12)
		var callers sync.WaitGroup
		for i := range began {
			callers.Go(func() {
				err := q.Do(t.Context(), schedule.Job{Host: "h", Run: func(context.Context, *schedule.Slot) error {
					began[i] = time.Since(start)
					g.hold("h", time.Second)
					return nil
				}})
				if err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		callers.Wait()
		q.Wait()
		if g.most["h"] != 3 { // of four, one is kept free of bulk
			t.Errorf("%d at once, want 3", g.most["h"])
		}
		if !slices.IsSorted(began) || began[11] != 3*time.Second {
			t.Errorf("they began after %v", began)
		}
	})
}

// However much bulk a host has, something small has a slot at once.
func TestDoHasASlotForWhatIsSmall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := schedule.New(t.Context(), schedule.Limits{Jobs: 16, PerHost: 2})
		var callers sync.WaitGroup
		for range 3 {
			callers.Go(func() {
				_ = q.Do(t.Context(), schedule.Job{Host: "h", Run: func(context.Context, *schedule.Slot) error { time.Sleep(time.Hour); return nil }})
			})
		}
		synctest.Wait()
		start := time.Now()
		for range 5 {
			if err := q.Do(t.Context(), schedule.Job{Host: "h", Kind: schedule.Small, Run: func(context.Context, *schedule.Slot) error { time.Sleep(time.Second); return nil }}); err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("five small jobs of a second took %v", took)
		}
		callers.Wait()
		q.Wait()
	})
}

func TestDoReturnsTheErrorOfItsJobAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := schedule.New(t.Context(), schedule.Limits{Jobs: 16, PerHost: 8})
		var callers sync.WaitGroup
		for i := range 6 {
			want := fmt.Errorf("error %d", i)
			callers.Go(func() {
				err := q.Do(t.Context(), schedule.Job{Host: "h", Run: func(ctx context.Context, _ *schedule.Slot) error {
					time.Sleep(time.Duration(i) * time.Second)
					if ctx.Err() != nil {
						t.Errorf("job %d was cancelled", i)
					}
					return want
				}})
				if !errors.Is(err, want) {
					t.Errorf("job %d: %v", i, err)
				}
			})
		}
		callers.Wait()
		q.Wait()
	})
}

// A caller that leaves takes its job along, waiting or running, with those that help it.
func TestDoEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := schedule.New(t.Context(), schedule.Limits{Jobs: 16, PerHost: 2})
		ctx, leave := context.WithCancel(t.Context())
		var callers sync.WaitGroup
		w := &work{q: q, host: "h", perConn: 1 * mib, cap: 100 * mib, ranges: true, left: 1000 * mib}
		callers.Go(func() {
			err := q.Do(ctx, schedule.Job{Host: "h", Run: func(ctx context.Context, p *schedule.Slot) error {
				p.Share(w)
				w.fetch(ctx, func() bool { return false })
				return context.Cause(ctx)
			}})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("running: %v", err)
			}
		})
		synctest.Wait()
		callers.Go(func() {
			err := q.Do(ctx, schedule.Job{Host: "h", Run: func(context.Context, *schedule.Slot) error { t.Error("it ran"); return nil }})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("waiting: %v", err)
			}
		})
		time.Sleep(time.Second)
		leave()
		callers.Wait()
		time.Sleep(2 * step)
		if w.Rest() == 0 || w.now > 0 {
			t.Errorf("%d bytes are left, and %d connections", w.Rest(), w.now)
		}
		if err := q.Do(t.Context(), schedule.Job{Host: "h", Run: func(context.Context, *schedule.Slot) error { return nil }}); err != nil {
			t.Errorf("the next: %v", err)
		}
		q.Wait()
	})
}

func TestDoEndsWithTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("closed")
		all, closeAll := context.WithCancelCause(t.Context())
		q := schedule.New(all, schedule.Limits{Jobs: 1, PerHost: 1})
		var callers sync.WaitGroup
		for range 2 { // one runs, and one waits
			callers.Go(func() {
				err := q.Do(t.Context(), schedule.Job{Host: "h", Run: func(ctx context.Context, _ *schedule.Slot) error { <-ctx.Done(); return context.Cause(ctx) }})
				if !errors.Is(err, cause) {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		closeAll(cause)
		callers.Wait()
		q.Wait()
	})
}

// Hosts that were asked once are forgotten when there are many, and those in use are not.
func TestDoForgetsIdleHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := schedule.New(t.Context(), schedule.Limits{Jobs: 16, PerHost: 8})
		q.Learn("idle", schedule.Findings{Ranges: true, Connections: 5})
		q.Arrived("busy", 1)
		var callers sync.WaitGroup
		callers.Go(func() {
			_ = q.Do(t.Context(), schedule.Job{Host: "busy", Run: func(context.Context, *schedule.Slot) error { time.Sleep(time.Hour); return nil }})
		})
		synctest.Wait()
		for i := range 3000 {
			q.Arrived(fmt.Sprintf("host%d", i), 1)
		}
		known := q.Learned()
		if _, ok := known["busy"]; !ok || len(known) > 1001 {
			t.Errorf("%d hosts are known; the one in use among them: %v", len(known), ok)
		}
		callers.Wait()
		q.Wait()
	})
}
