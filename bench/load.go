package bench

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Work is one request. It fills in what it measures of it; Run fills in the rest.
type Work func(ctx context.Context, s *Sample)

// Load says how requests are made.
type Load struct {
	// Workers is how many requests are under way at once. In an open loop it
	// bounds them: what is due then waits, and its wait counts.
	Workers int
	// Rate is requests a second in an open loop, where each has a time at which it
	// is due and its latency counts from then on, so that a server that stalls can't
	// hide what it would have kept waiting. 0 is a closed loop: each worker begins
	// the next request when the last one has ended.
	Rate float64
	// Schedule is an open loop, too, whose requests are due at these times after its
	// beginning, in order. It ends with the last.
	Schedule []time.Duration
	// Duration and Requests end it, whichever comes first; 0 is no bound.
	Duration time.Duration
	Requests int
	// Precise keeps an open loop's schedule by the kernel's clock, to some hundredths
	// of a millisecond, and not by the runtime's timers.
	Precise bool
	// Ended, if not nil, is called once when the load is cut off: by its Duration, by
	// ctx or by more. What is under way then doesn't run beside as much as before.
	Ended func()
}

// Run makes requests until the load's bounds are reached, ctx is done, or more
// reports false, which is asked before each. next gives the n-th request, counted
// from 0. record is told of each that has ended, one at a time for each worker. It returns when all
// have ended; what is under way at the end of Duration is let end, and counts.
func Run(ctx context.Context, l Load, next func(n int) Work, more func() bool, record func(worker int, s Sample)) {
	end := time.Time{}
	if l.Duration > 0 {
		end = time.Now().Add(l.Duration)
	}
	if l.Schedule != nil && (l.Requests <= 0 || l.Requests > len(l.Schedule)) {
		l.Requests = len(l.Schedule)
	}
	ended := sync.OnceFunc(func() {
		if l.Ended != nil {
			l.Ended()
		}
	})
	over := func(n int) bool {
		if l.Requests > 0 && n >= l.Requests {
			return true
		}
		if ctx.Err() == nil && (end.IsZero() || time.Now().Before(end)) && more() {
			return false
		}
		ended()
		return true
	}
	if l.Rate > 0 || l.Schedule != nil {
		open(ctx, l, next, over, record)
		return
	}
	var count atomic.Int64
	var workers sync.WaitGroup
	for w := range max(1, l.Workers) {
		workers.Go(func() {
			for {
				n := int(count.Add(1)) - 1
				if over(n) {
					return
				}
				s := Sample{Start: time.Now()}
				s.Due = s.Start
				do(ctx, next(n), &s)
				record(w, s)
			}
		})
	}
	workers.Wait()
}

// do runs a request, and measures it as a whole.
func do(ctx context.Context, w Work, s *Sample) {
	w(ctx, s)
	s.Total = time.Since(s.Due)
}

// due is a request with the time at which it should begin.
type due struct {
	n  int
	at time.Time
}

// open is Run at a fixed rate, or by a schedule.
func open(ctx context.Context, l Load, next func(n int) Work, over func(n int) bool, record func(worker int, s Sample)) {
	// What is due and finds no worker waits here, however much it is.
	queue := newQueue()
	var workers sync.WaitGroup
	for w := range max(1, l.Workers) {
		workers.Go(func() {
			for {
				d, ok := queue.take()
				if !ok {
					return
				}
				s := Sample{Due: d.at, Start: time.Now()}
				if ctx.Err() != nil {
					return
				}
				do(ctx, next(d.n), &s)
				record(w, s)
			}
		})
	}
	start := time.Now()
	for n := 0; !over(n); n++ {
		if l.Duration > 0 && l.after(n) >= l.Duration {
			timerUntil(ctx, start.Add(l.Duration))
			over(n)
			break
		}
		at := start.Add(l.after(n))
		if l.Precise {
			waitUntil(ctx, at)
		} else {
			timerUntil(ctx, at)
		}
		if ctx.Err() != nil {
			break
		}
		queue.put(due{n, at})
	}
	queue.end(ctx.Err() != nil)
	workers.Wait()
}

// after is how long after its beginning the n-th request of an open loop is due.
func (l Load) after(n int) time.Duration {
	if l.Schedule != nil {
		return l.Schedule[n]
	}
	return time.Duration(float64(n) * float64(time.Second) / l.Rate)
}

// timerUntil waits until a time or until ctx is done.
func timerUntil(ctx context.Context, at time.Time) {
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

// queue is a list of what is due, without a bound: a full one would hold the
// schedule back.
type queue struct {
	mu    sync.Mutex
	ready *sync.Cond
	list  []due
	ended bool
}

func newQueue() *queue {
	q := &queue{}
	q.ready = sync.NewCond(&q.mu)
	return q
}

func (q *queue) put(d due) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.list = append(q.list, d)
	q.ready.Signal()
}

// take waits for what is due next. ok is false when nothing comes any more.
func (q *queue) take() (d due, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.list) == 0 {
		if q.ended {
			return due{}, false
		}
		q.ready.Wait()
	}
	d = q.list[0]
	q.list = q.list[1:]
	return d, true
}

// end says that nothing comes any more; what is there is dropped or not.
func (q *queue) end(drop bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = true
	if drop {
		q.list = nil
	}
	q.ready.Broadcast()
}
