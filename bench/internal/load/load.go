// Package load makes requests on schedule: as many at once as there are workers
// (closed loop), or each at its due time (open loop). What a request does, and
// what is measured of it, is up to the caller.
package load

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Options say when requests are made, and when to stop.
type Options struct {
	// Workers is how many requests are in flight at once; at least one. In an open
	// loop it is an upper bound: requests that are due wait for a worker.
	Workers int
	// Rate is requests per second in an open loop; 0 means a closed loop, in which a
	// worker starts its next request when its last one has ended. In an open loop a
	// server that stalls cannot hide the requests that it would have delayed.
	Rate float64
	// Schedule has the due times of an open loop's requests, after its start and in
	// order. The loop ends with the last one.
	Schedule []time.Duration
	// Duration and Requests end the loop, whichever comes first; 0 means no bound.
	Duration time.Duration
	Requests int
	// Precise makes an open loop wait by the kernel's clock, to within some 10 µs,
	// rather than by the runtime's timers.
	Precise bool
	// More, if not nil, is asked before each request whether to continue.
	More func() bool
	// Ended, if not nil, is called once when Duration, More or the context ends the
	// loop. Requests in flight then run with less and less concurrency.
	Ended func()
}

// Run makes requests until a bound is reached or ctx is done, and returns when all
// of them have ended: those in flight at the end of Duration are completed. It
// calls do from several goroutines to make the n-th request, counted from 0, which was
// due at a time: in a closed loop, now.
func Run(ctx context.Context, o Options, do func(ctx context.Context, n int, due time.Time)) {
	if o.Schedule != nil && (o.Requests <= 0 || o.Requests > len(o.Schedule)) {
		o.Requests = len(o.Schedule)
	}
	over := o.bounds(ctx)
	if o.Rate > 0 || o.Schedule != nil {
		open(ctx, o, over, do)
		return
	}
	var count atomic.Int64
	var workers sync.WaitGroup
	for range max(1, o.Workers) {
		workers.Go(func() {
			for {
				n := int(count.Add(1)) - 1
				if over(n) {
					return
				}
				do(ctx, n, time.Now())
			}
		})
	}
	workers.Wait()
}

// bounds returns a function that reports whether the loop is over before its n-th
// request.
func (o Options) bounds(ctx context.Context) func(n int) bool {
	end := time.Time{}
	if o.Duration > 0 {
		end = time.Now().Add(o.Duration)
	}
	ended := sync.OnceFunc(func() {
		if o.Ended != nil {
			o.Ended()
		}
	})
	return func(n int) bool {
		if o.Requests > 0 && n >= o.Requests {
			return true
		}
		if ctx.Err() == nil && (end.IsZero() || time.Now().Before(end)) && (o.More == nil || o.More()) {
			return false
		}
		ended()
		return true
	}
}

// open is Run in an open loop.
func open(ctx context.Context, o Options, over func(n int) bool, do func(context.Context, int, time.Time)) {
	waiting := newQueue()
	var workers sync.WaitGroup
	for range max(1, o.Workers) {
		workers.Go(func() {
			for {
				r, ok := waiting.take()
				if !ok || ctx.Err() != nil {
					return
				}
				do(ctx, r.n, r.due)
			}
		})
	}
	o.dispatch(ctx, over, waiting)
	waiting.end()
	workers.Wait()
}

// dispatch queues each request at its due time.
func (o Options) dispatch(ctx context.Context, over func(n int) bool, waiting *queue) {
	start := time.Now()
	for n := 0; !over(n); n++ {
		if o.Duration > 0 && o.after(n) >= o.Duration {
			sleepUntil(ctx, start.Add(o.Duration))
			over(n)
			return
		}
		due := start.Add(o.after(n))
		if o.Precise {
			preciseUntil(ctx, due)
		} else {
			sleepUntil(ctx, due)
		}
		if ctx.Err() != nil {
			return
		}
		waiting.put(request{n, due})
	}
}

// after is how long after the start of an open loop its n-th request is due.
func (o Options) after(n int) time.Duration {
	if o.Schedule != nil {
		return o.Schedule[n]
	}
	return time.Duration(float64(n) * float64(time.Second) / o.Rate)
}

// sleepUntil waits until a time, or until ctx is done.
func sleepUntil(ctx context.Context, at time.Time) {
	wait := time.Until(at)
	if wait <= 0 {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
