// Package schedule decides what runs next and how much runs at once.
//
// It holds one queue for a whole run. Jobs may add jobs; the run ends when
// none is left. The package knows hosts and costs, and nothing of images.
package schedule

import (
	"container/heap"
	"context"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Limits bound how much runs at once. Values under 1 mean 1.
type Limits struct {
	Jobs    int // over all hosts
	PerHost int // to one host
}

// Kind tells small requests, whose answers make new work, from bulk.
type Kind int

// The kinds of jobs. When jobs of both wait for a host they share its places
// evenly, so that neither holds the other up: bulk starts as soon as there is
// any, and the rest of it becomes known meanwhile.
const (
	Bulk Kind = iota
	Small
	kinds
)

// Job is a piece of work that takes one place of its host's and of the whole
// while Run is running.
type Job struct {
	Host string
	Kind Kind
	Cost int64 // costliest first within a host and kind; equal costs in order of Add
	// Run does the work. It should return soon after ctx is done. An error ends
	// the whole run: the other jobs' contexts are cancelled and what is queued
	// is dropped. A job whose failure should stop nothing returns nil.
	Run func(ctx context.Context) error
}

// Queue takes jobs while Run runs.
type Queue struct {
	limits Limits
	spawn  func(func(context.Context) error) // in the run's errgroup
	over   func() bool                       // whether the run has been cancelled

	mu      sync.Mutex
	seq     int
	running int
	hosts   map[string]*host
}

type host struct {
	waiting [kinds]jobHeap
	running [kinds]int
}

func (h *host) total() int { return h.running[Bulk] + h.running[Small] }

// Run calls start, which adds the first jobs, runs all jobs within the limits,
// and returns when start and every job have returned: the first error of
// them, or ctx's. It owns every goroutine that it starts.
func Run(ctx context.Context, l Limits, start func(*Queue) error) error {
	group, running := errgroup.WithContext(ctx)
	q := &Queue{
		limits: Limits{Jobs: max(1, l.Jobs), PerHost: max(1, l.PerHost)},
		spawn:  func(f func(context.Context) error) { group.Go(func() error { return f(running) }) },
		over:   func() bool { return running.Err() != nil },
		hosts:  make(map[string]*host),
	}
	q.spawn(func(context.Context) error { return start(q) })
	if err := group.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// Add queues a job. It must be called from Run's start function or from a
// running job, and never blocks.
func (q *Queue) Add(j Job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	h := q.hosts[j.Host]
	if h == nil {
		h = &host{}
		q.hosts[j.Host] = h
	}
	q.seq++
	heap.Push(&h.waiting[j.Kind], queued{Job: j, seq: q.seq})
	q.dispatch()
}

// dispatch starts all that may start now. The caller holds q.mu.
func (q *Queue) dispatch() {
	for q.running < q.limits.Jobs && !q.over() {
		h, k := q.next()
		if h == nil {
			return
		}
		j := heap.Pop(&h.waiting[k]).(queued)
		h.running[k]++
		q.running++
		q.spawn(func(ctx context.Context) error {
			err := j.Run(ctx)
			q.mu.Lock()
			defer q.mu.Unlock()
			h.running[k]--
			q.running--
			if err == nil {
				q.dispatch()
			}
			return err
		})
	}
}

// next finds the host and kind whose turn it is: small requests before bulk,
// then the host with the fewest running, then the costliest job. A nil host
// means that nothing may start.
func (q *Queue) next() (*host, Kind) {
	var best *host
	var bestKind Kind
	for _, h := range q.hosts {
		if h.total() >= q.limits.PerHost {
			continue
		}
		k, ok := h.turn()
		if !ok {
			continue
		}
		if best == nil || before(h, k, best, bestKind) {
			best, bestKind = h, k
		}
	}
	return best, bestKind
}

// turn is the kind that goes next on this host: of two that wait, the one that
// has fewer running, and small requests when that is equal.
func (h *host) turn() (Kind, bool) {
	small, bulk := h.waiting[Small].Len() > 0, h.waiting[Bulk].Len() > 0
	switch {
	case small && bulk && h.running[Small] > h.running[Bulk]:
		return Bulk, true
	case small:
		return Small, true
	default:
		return Bulk, bulk
	}
}

func before(a *host, ak Kind, b *host, bk Kind) bool {
	if ak != bk {
		return ak == Small
	}
	if a.total() != b.total() {
		return a.total() < b.total()
	}
	x, y := a.waiting[ak][0], b.waiting[bk][0]
	if x.Cost != y.Cost {
		return x.Cost > y.Cost
	}
	return x.seq < y.seq
}

type queued struct {
	Job
	seq int
}

// jobHeap has the costliest job on top, and of equals the earliest.
type jobHeap []queued

func (h jobHeap) Len() int { return len(h) }
func (h jobHeap) Less(i, j int) bool {
	if h[i].Cost != h[j].Cost {
		return h[i].Cost > h[j].Cost
	}
	return h[i].seq < h[j].seq
}
func (h jobHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *jobHeap) Push(x any)   { *h = append(*h, x.(queued)) }
func (h *jobHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = queued{} // lets go of what Run holds
	*h = old[:len(old)-1]
	return last
}
