// Package schedule decides what runs next and how much runs at once.
//
// It holds one queue for a whole run. Jobs may add jobs; the run ends when
// none is left. A job that is large may let others help it, when nothing else
// waits for its host. How many connections a host is worth is found out as
// they run. The package knows hosts and costs, and nothing of images.
package schedule

import (
	"container/heap"
	"context"
	"math"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Limits bound how much runs at once. Values under 1 mean 1.
type Limits struct {
	Jobs    int // over all hosts
	PerHost int // to one host
}

// Kind tells small requests, whose answers make new work, from bulk.
type Kind int

// The kinds of jobs. Small requests never queue behind bulk: as long as there
// are any for a host, one of its places is kept free of bulk, and they go first.
const (
	Bulk Kind = iota
	Small
	kinds
)

// Job is a piece of work that takes one place of its host's and of the whole
// while Run is running.
type Job struct {
	// ID is what Prefer knows the job by; it may be "".
	ID   string
	Host string
	Kind Kind
	Cost int64 // costliest first within a host and kind; equal costs in order of Add
	// Run does the work. It should return soon after ctx is done. An error ends
	// the whole run: the other jobs' contexts are cancelled and what is queued
	// is dropped. A job whose failure should stop nothing returns nil.
	Run func(ctx context.Context, p *Place) error
}

// Sharer is a job's work as others may take part in it.
type Sharer interface {
	// Rest is how many bytes another connection could take over now, with
	// gain; 0 for none. It must not block, nor call the queue.
	Rest() int64
	// Help takes part until nothing is left to take, or surplus reports that
	// the place is wanted back. An error ends the whole run.
	Help(ctx context.Context, surplus func() bool) error
}

// Queue takes jobs while Run runs. Its methods may be called from several
// goroutines.
type Queue struct {
	limits Limits
	spawn  func(func(context.Context) error) // in the run's errgroup
	over   func() bool                       // whether the run has been cancelled

	mu      sync.Mutex
	seq     int
	running int
	hosts   map[string]*host
	turns   map[string]int // by Prefer
}

type host struct {
	waiting [kinds]jobHeap
	running [kinds]int             // with helpers
	helping int                    // of them
	back    [kinds][]chan struct{} // jobs that want their place back
	sharing []*Place
	width   width
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
	h := q.host(j.Host)
	q.seq++
	heap.Push(&h.waiting[j.Kind], queued{Job: j, seq: q.seq, turn: q.turn(j.ID)})
	q.dispatch()
}

// Prefer has jobs go in a given order, by their IDs, and before all others,
// whatever they cost; and the first of those at work gets help first. It is for
// when something waits for them in that order. Jobs at work are not stopped.
func (q *Queue) Prefer(ids []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.turns = make(map[string]int, len(ids))
	for i, id := range ids {
		if _, ok := q.turns[id]; !ok {
			q.turns[id] = i - len(ids)
		}
	}
	for _, h := range q.hosts {
		for k := range h.waiting {
			for i := range h.waiting[k] {
				h.waiting[k][i].turn = q.turn(h.waiting[k][i].ID)
			}
			heap.Init(&h.waiting[k])
		}
	}
	q.dispatch()
}

// turn is a job's turn: those that are preferred are below 0. The caller holds
// q.mu.
func (q *Queue) turn(id string) int { return q.turns[id] }

// host finds a host. The caller holds q.mu.
func (q *Queue) host(name string) *host {
	h := q.hosts[name]
	if h == nil {
		h = &host{width: newWidth(q.limits.PerHost)}
		q.hosts[name] = h
	}
	return h
}

// Place is what a running job has: the right to one connection.
type Place struct {
	id    string
	queue *Queue
	host  *host
	kind  Kind

	// Under queue.mu:
	held   bool
	shared Sharer
}

// Release gives the place to others before the job ends, for work that needs
// no connection.
func (p *Place) Release() {
	p.queue.mu.Lock()
	defer p.queue.mu.Unlock()
	p.release()
	p.queue.dispatch()
}

// release gives up the place. The caller holds queue.mu.
func (p *Place) release() {
	if p.held {
		p.held = false
		p.host.running[p.kind]--
		p.queue.running--
	}
}

// Regain waits for a place after Release, ahead of the jobs that wait. The
// error is ctx's.
func (p *Place) Regain(ctx context.Context) error {
	q := p.queue
	q.mu.Lock()
	if p.held {
		q.mu.Unlock()
		return nil
	}
	ready := make(chan struct{})
	p.host.back[p.kind] = append(p.host.back[p.kind], ready)
	q.dispatch()
	q.mu.Unlock()
	select {
	case <-ready:
	case <-ctx.Done():
		q.mu.Lock()
		for i, c := range p.host.back[p.kind] {
			if c == ready {
				p.host.back[p.kind] = append(p.host.back[p.kind][:i], p.host.back[p.kind][i+1:]...)
				q.mu.Unlock()
				return context.Cause(ctx)
			}
		}
		q.mu.Unlock() // it came at the same moment
	}
	q.mu.Lock()
	p.held = true
	q.mu.Unlock()
	return nil
}

// Share lets others help the job; nil ends that for those who don't yet.
func (p *Place) Share(s Sharer) {
	p.queue.mu.Lock()
	defer p.queue.mu.Unlock()
	h := p.host
	p.shared = s
	for i, other := range h.sharing {
		if other == p {
			h.sharing = append(h.sharing[:i], h.sharing[i+1:]...)
			break
		}
	}
	if s != nil {
		h.sharing = append(h.sharing, p)
	}
	p.queue.dispatch()
}

// dispatch starts all that may start now. The caller holds q.mu.
func (q *Queue) dispatch() {
	for q.running < q.limits.Jobs && !q.over() {
		h, k := q.next()
		if h == nil {
			break
		}
		h.running[k]++
		q.running++
		if len(h.back[k]) > 0 {
			close(h.back[k][0])
			h.back[k] = h.back[k][1:]
			continue
		}
		j := heap.Pop(&h.waiting[k]).(queued)
		p := &Place{id: j.ID, queue: q, host: h, kind: k, held: true}
		q.spawn(func(ctx context.Context) error {
			err := j.Run(ctx, p)
			p.Share(nil)
			q.mu.Lock()
			defer q.mu.Unlock()
			p.release()
			if err == nil {
				q.dispatch()
			}
			return err
		})
	}
	for q.running < q.limits.Jobs && !q.over() && q.help() {
	}
}

// help has one more connection help where most is left to do, and reports
// whether there was such a place.
func (q *Queue) help() bool {
	var best *Place
	var most int64
	first := 0 // the turn of the best
	for _, h := range q.hosts {
		if h.busy() || h.total() >= h.width.helped() {
			continue
		}
		for _, p := range h.sharing {
			rest, turn := p.shared.Rest(), q.turn(p.id)
			if rest > 0 && (best == nil || turn < first || turn == first && rest > most) {
				best, most, first = p, rest, turn
			}
		}
	}
	if best == nil {
		return false
	}
	h, work := best.host, best.shared
	h.running[Bulk]++
	h.helping++
	q.running++
	h.width.helperStarted()
	q.spawn(func(ctx context.Context) error {
		err := work.Help(ctx, func() bool {
			q.mu.Lock()
			defer q.mu.Unlock()
			return h.busy() || h.total() > h.width.kept()
		})
		q.mu.Lock()
		defer q.mu.Unlock()
		h.running[Bulk]--
		h.helping--
		q.running--
		h.width.helperEnded(h.helping)
		if err == nil {
			q.dispatch()
		}
		return err
	})
	return true
}

// busy reports whether jobs wait for the host.
func (h *host) busy() bool {
	return h.waits(Bulk) || h.waits(Small)
}

func (h *host) waits(k Kind) bool { return h.waiting[k].Len() > 0 || len(h.back[k]) > 0 }

// next finds the host and kind whose turn it is: small requests before bulk,
// then the host with the fewest running, then the costliest job. A nil host
// means that nothing may start.
func (q *Queue) next() (*host, Kind) {
	smalls := false
	for _, h := range q.hosts {
		smalls = smalls || h.waits(Small)
	}
	var best *host
	var bestKind Kind
	for _, h := range q.hosts {
		k, ok := h.turn()
		if !ok || k == Bulk && smalls && q.limits.Jobs > 1 && q.running >= q.limits.Jobs-1 {
			continue
		}
		if best == nil || before(h, k, best, bestKind) {
			best, bestKind = h, k
		}
	}
	return best, bestKind
}

// turn is the kind that goes next on this host, if any may.
func (h *host) turn() (Kind, bool) {
	room := h.width.allowed() - h.total()
	switch {
	case room <= 0:
		return Bulk, false
	case h.waits(Small) && (h.running[Small] <= h.running[Bulk] || !h.waits(Bulk)):
		return Small, true
	case h.waits(Bulk) && (h.running[Bulk] < h.width.allowed()-1 || !h.waits(Small) && h.running[Small] == 0):
		return Bulk, true
	}
	return Small, h.waits(Small)
}

func before(a *host, ak Kind, b *host, bk Kind) bool {
	if ak != bk {
		return ak == Small
	}
	if a.total() != b.total() {
		return a.total() < b.total()
	}
	return sooner(a.first(ak), b.first(bk))
}

// sooner is the order of jobs: by turn, then the costliest, then the earliest.
func sooner(x, y queued) bool {
	if x.turn != y.turn {
		return x.turn < y.turn
	}
	if x.Cost != y.Cost {
		return x.Cost > y.Cost
	}
	return x.seq < y.seq
}

// first is the job that a kind starts with; one that wants its place back is
// before all others.
func (h *host) first(k Kind) queued {
	if len(h.back[k]) > 0 {
		return queued{turn: math.MinInt}
	}
	return h.waiting[k][0]
}

// Arrived tells of bytes that came from a host.
func (q *Queue) Arrived(name string, n int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	h := q.host(name)
	if h.width.arrived(n, h.total(), h.helping, time.Now()) {
		q.dispatch()
	}
}

// Ranged tells that a connection of a job or helper has had its first range: so
// the host can serve several connections with parts of one blob.
func (q *Queue) Ranged(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	h := q.host(name)
	h.width.ranged(time.Now())
	q.dispatch()
}

// Trouble tells that a connection to a host broke, or that the host wants less
// to do: it gets fewer connections for a while.
func (q *Queue) Trouble(name string, congested bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	h := q.host(name)
	h.width.trouble(h.total(), congested, time.Now())
}

// Learn tells what was found out of a host in an earlier run: whether it is
// known to serve ranges, and how many connections were worth it.
func (q *Queue) Learn(name string, ranges bool, connections int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.host(name).width.learn(ranges, connections)
}

// Learned is what Learn is to be told in a later run, for each host that
// showed it: how many connections were worth it, 0 when that isn't known.
func (q *Queue) Learned() map[string]int {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := make(map[string]int)
	for name, h := range q.hosts {
		out[name] = h.width.learned()
	}
	return out
}

type queued struct {
	Job
	seq  int
	turn int
}

// jobHeap has the job on top whose turn is next.
type jobHeap []queued

func (h jobHeap) Len() int           { return len(h) }
func (h jobHeap) Less(i, j int) bool { return sooner(h[i], h[j]) }
func (h jobHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *jobHeap) Push(x any)        { *h = append(*h, x.(queued)) }
func (h *jobHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = queued{} // lets go of what Run holds
	*h = old[:len(old)-1]
	return last
}
