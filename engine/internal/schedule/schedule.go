// Package schedule decides which jobs run next and how many connections each host gets. It knows
// hosts and costs, and nothing of images.
//
// A run has one Queue. Jobs may add jobs; the run ends when none is left (Run). A server has one
// Queue for as long as it lives, whose jobs have nothing to do with each other (New, Do).
//
// A running job has a slot, the right to use one connection. Whenever a job is added, ends, or releases its slot, and whenever
// a concurrency limit rises, slots are assigned:
//
//  1. While fewer than Limits.Jobs slots are in use, the next job starts. Small requests come before
//     bulk, since their answers make new work; then the host with the fewest connections in use;
//     then the job that Prefer names first; then the largest. As long as a host has small requests,
//     one of its slots is kept free of bulk. A job that requests its slot back comes before waiting
//     ones of its kind.
//  2. If slots are left, helper connections are added to jobs that are Shared, to the one with the
//     most left to do first, on hosts that no job waits for.
//
// Each host has a concurrency limit (concurrency.go), at most Limits.PerHost, for two purposes:
//
//   - All connections: errors and rate limits reduce it, and time without them raises it again.
//   - Helper connections: one helper tests whether the host serves ranges. Then more are added as
//     long as throughput grows, and removed again when they brought nothing.
package schedule

import (
	"container/heap"
	"context"
	"errors"
	"maps"
	"math"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Limits are the maximum numbers of connections at a time.
type Limits struct {
	Jobs    int  // to all hosts; 0 means 128
	PerHost int  // to one host; 0 means that Measure is set, and 64
	Measure bool // how many are worth it to a host is found by measurement, below PerHost
}

// Resolved are the limits with what 0 means.
func (l Limits) Resolved() Limits {
	const all, each = 128, 64
	l.Measure = l.Measure || l.PerHost <= 0
	if l.Jobs <= 0 {
		l.Jobs = all
	}
	if l.PerHost <= 0 {
		l.PerHost = each
	}
	return l
}

// Kind distinguishes small requests, whose answers make new work, from bulk transfers.
type Kind int

// The kinds of jobs. Small requests never wait for bulk: as long as there are any for a host, one of
// its slots is kept free of bulk, and they come first.
const (
	Bulk Kind = iota
	Small
	kinds
)

// Job is work that uses one connection to a host while Run is running.
type Job struct {
	// ID identifies the job for Prefer; it may be "".
	ID   string
	Host string
	Kind Kind
	Cost int64 // highest first within a host and kind, for example bytes; equal costs in order of Add
	// Run does the work. It should return soon after ctx is done. An error ends the whole run: the
	// contexts of other jobs are cancelled and queued jobs are dropped. A job whose failure should
	// not affect others returns nil.
	Run func(ctx context.Context, p *Slot) error
}

// Sharer is the work of a job that helper connections can take part in. Its methods may be called
// from several goroutines.
type Sharer interface {
	// Rest is how many bytes another connection could take over now and gain by it; 0 for none. It
	// must neither block nor call the Queue.
	Rest() int64
	// Help downloads on a helper connection until nothing is left to take over, or surplus reports
	// that the slot is needed elsewhere. An error ends the whole run.
	Help(ctx context.Context, surplus func() bool) error
}

// Queue accepts jobs. Its methods may be called from several goroutines; all but Do and Wait never
// block.
type Queue struct {
	limits Limits
	serves bool                              // its jobs are of unrelated clients
	spawn  func(func(context.Context) error) // in the run's errgroup
	cause  func() error                      // why the run has been cancelled; nil if it hasn't
	ended  <-chan struct{}                   // closed when it has been
	wait   func() error                      // for all that was spawned

	mu      sync.Mutex
	seq     int
	running int
	hosts   map[string]*host
	turns   map[string]int // by job ID, from Prefer
}

// host is the state of one host.
type host struct {
	reserves    bool // one slot is always kept free of bulk
	jobs        int  // that have begun and not ended
	waiting     [kinds]jobHeap
	running     [kinds]int             // slots in use, helper connections included
	helping     int                    // of them helper connections
	regaining   [kinds][]chan struct{} // jobs that request their slot back, in order
	sharing     []*Slot
	concurrency concurrency
}

// total is the number of slots in use.
func (h *host) total() int { return h.running[Bulk] + h.running[Small] }

// Run calls start, which adds the first jobs, runs all jobs within the limits, and returns when
// start and every job have returned: the first error of them, or the cause of ctx. It waits for
// every goroutine that it starts.
func Run(ctx context.Context, l Limits, start func(*Queue) error) error {
	q := newQueue(ctx, l)
	q.spawn(func(context.Context) error { return start(q) })
	if err := q.wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// New returns a Queue that runs jobs of Do until ctx is done. They are of unrelated clients, of whom
// none should wait for another longer than must be: jobs have as many slots as the limits allow,
// however many are worth it, of which one a host is kept free of bulk. Hosts that are idle may be
// forgotten.
func New(ctx context.Context, l Limits) *Queue {
	l = l.Resolved()
	l.Measure = false
	q := newQueue(ctx, l)
	q.serves = true
	return q
}

func newQueue(ctx context.Context, l Limits) *Queue {
	group, running := errgroup.WithContext(ctx)
	return &Queue{
		limits: l.Resolved(),
		spawn:  func(f func(context.Context) error) { group.Go(func() error { return f(running) }) },
		cause:  func() error { return context.Cause(running) },
		ended:  running.Done(),
		wait:   group.Wait,
		hosts:  make(map[string]*host),
	}
}

// Wait waits for all goroutines of a Queue that New has returned. Call it when every Do has
// returned.
func (q *Queue) Wait() { _ = q.wait() }

// Do queues a job, and returns its error when it has run; or the cause of ctx, when that is done
// before the job has begun. The job's context ends with ctx and with the Queue's. Its error is
// nothing to other jobs.
func (q *Queue) Do(ctx context.Context, j Job) error {
	done := make(chan error, 1)
	run := j.Run
	j.Run = func(all context.Context, p *Slot) error {
		if ctx.Err() != nil { // since its turn came
			done <- context.Cause(ctx)
			return nil
		}
		within := func(all context.Context) (context.Context, context.CancelFunc) {
			both, cancel := context.WithCancelCause(ctx)
			stop := context.AfterFunc(all, func() { cancel(context.Cause(all)) })
			return both, func() { stop(); cancel(nil) }
		}
		p.within = within
		both, cancel := within(all)
		defer cancel()
		done <- run(both, p)
		return nil
	}
	seq := q.add(j)
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	case <-q.ended:
	}
	if q.withdraw(j, seq) {
		return errors.Join(context.Cause(ctx), q.cause())
	}
	return <-done
}

// Add queues a job. It must be called from Run's start function or from a running job.
func (q *Queue) Add(j Job) { q.add(j) }

// add queues a job, and returns what identifies it in its host's queue.
func (q *Queue) add(j Job) (seq int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	h := q.host(j.Host)
	q.seq++
	heap.Push(&h.waiting[j.Kind], queued{Job: j, seq: q.seq, turn: q.turn(j.ID)})
	q.dispatch()
	return q.seq
}

// Prefer runs jobs of the given IDs in that order and before all others, whatever their cost; the
// first of those that are running gets helper connections first. It is for when something waits for
// them in that order. Running jobs are not stopped. It replaces an earlier order.
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

// turn is a job's rank in the order of Prefer: below 0 for those that are preferred, 0 for others.
// The caller holds q.mu.
func (q *Queue) turn(id string) int { return q.turns[id] }

// host returns the state of a host. The caller holds q.mu.
func (q *Queue) host(name string) *host {
	h := q.hosts[name]
	if h == nil {
		if q.serves && len(q.hosts) >= hostsKept {
			maps.DeleteFunc(q.hosts, func(_ string, h *host) bool { return h.isIdle() })
		}
		h = &host{concurrency: newConcurrency(q.limits.PerHost, q.limits.Measure), reserves: q.serves}
		q.hosts[name] = h
	}
	return h
}

// hostsKept is how many hosts a Queue of New may know before it forgets those that are idle.
const hostsKept = 1000

// isIdle reports whether no job of the host waits or runs, with a slot or without.
func (h *host) isIdle() bool { return h.jobs == 0 && h.total() == 0 && !h.busy() }

// held is the size of the job that waits because of the host's width, or negative when there is none.
func (h *host) held() int64 {
	next := int64(-1)
	if h.waits(Small) || len(h.regaining[Bulk]) > 0 {
		next = 0
	} else if h.waits(Bulk) {
		next = h.waiting[Bulk][0].Cost
	}
	return h.concurrency.held(next, h.total())
}

// bulkLimit is how many slots may be in use for bulk.
func (h *host) bulkLimit() int {
	limit := h.concurrency.toAddJob()
	if limit > 1 && (h.reserves || h.waits(Small) || h.running[Small] > 0) {
		limit--
	}
	return limit
}

// Slot is that of a running job: the right to use one connection. Its methods are for the job's
// own goroutine.
type Slot struct {
	id    string
	queue *Queue
	host  *host
	kind  Kind
	began time.Time
	// within, if not nil, has a helper's context end with the job's.
	within func(context.Context) (context.Context, context.CancelFunc)

	// Under queue.mu:
	answered bool
	held     bool
	shared   Sharer
	nudged   bool // while Nudge looks for a place
}

// Release frees the slot before the job ends, for work that needs no connection. It does nothing when
// the slot is free already.
func (p *Slot) Release() {
	p.queue.mu.Lock()
	defer p.queue.mu.Unlock()
	p.release()
	p.queue.dispatch()
}

// release frees the slot. The caller holds queue.mu.
func (p *Slot) release() {
	if p.held {
		p.held = false
		p.host.running[p.kind]--
		p.queue.running--
	}
}

// Regain waits for a slot after Release, ahead of jobs that have not started. The error is the cause
// of ctx.
func (p *Slot) Regain(ctx context.Context) error {
	q := p.queue
	q.mu.Lock()
	if p.held {
		q.mu.Unlock()
		return nil
	}
	ready := make(chan struct{})
	p.host.regaining[p.kind] = append(p.host.regaining[p.kind], ready)
	q.dispatch()
	q.mu.Unlock()
	select {
	case <-ready:
	case <-ctx.Done():
		q.mu.Lock()
		for i, c := range p.host.regaining[p.kind] {
			if c == ready {
				p.host.regaining[p.kind] = append(p.host.regaining[p.kind][:i], p.host.regaining[p.kind][i+1:]...)
				q.mu.Unlock()
				return context.Cause(ctx)
			}
		}
		q.mu.Unlock() // the slot was assigned at the same moment
	}
	q.mu.Lock()
	p.held = true
	q.mu.Unlock()
	return nil
}

// Answered reports that the host's first answer to the job has begun, the first time that it is
// called. Jobs that aren't answered tell nothing of what connections are worth.
func (p *Slot) Answered() {
	p.queue.mu.Lock()
	defer p.queue.mu.Unlock()
	if p.answered {
		return
	}
	p.answered = true
	p.host.concurrency.answered(time.Since(p.began), p.host.held())
	p.queue.measure(p.host, 0)
	p.queue.dispatch()
}

// Nudge asks for one more helper connection for a job whose Rest has changed although nothing has
// arrived: for one in place of another that is late, and not for more throughput. So it is added
// whatever more connections are worth, if the host's limit allows it and no job waits. It may be called
// from any goroutine.
func (p *Slot) Nudge() {
	p.queue.mu.Lock()
	defer p.queue.mu.Unlock()
	p.nudged = true
	p.queue.dispatch()
	p.nudged = false
}

// Share lets helper connections take part in the job. Share(nil) ends that for new ones; those that are
// in Help return by themselves.
func (p *Slot) Share(s Sharer) {
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

// dispatch assigns free slots: to jobs, then to helper connections. The caller holds q.mu.
func (q *Queue) dispatch() {
	for q.running < q.limits.Jobs && q.cause() == nil {
		h, k := q.next()
		if h == nil {
			break
		}
		h.running[k]++
		q.running++
		if len(h.regaining[k]) > 0 {
			close(h.regaining[k][0])
			h.regaining[k] = h.regaining[k][1:]
			continue
		}
		j := heap.Pop(&h.waiting[k]).(queued)
		h.jobs++
		p := &Slot{id: j.ID, queue: q, host: h, kind: k, held: true, began: time.Now()}
		q.spawn(func(ctx context.Context) error {
			err := j.Run(ctx, p)
			p.Share(nil)
			q.mu.Lock()
			defer q.mu.Unlock()
			p.release()
			h.jobs--
			if p.answered {
				h.concurrency.jobEnded()
				q.measure(h, 0)
			}
			if err == nil {
				q.dispatch()
			}
			return err
		})
	}
	for q.running < q.limits.Jobs && q.cause() == nil && q.help() {
	}
}

// help adds a helper connection to the shared job with the most left to do, and reports whether there
// was one that can use it. The caller holds q.mu.
func (q *Queue) help() bool {
	var best *Slot
	var most int64
	first := 0 // the turn of the best
	for _, h := range q.hosts {
		if h.busy() || h.total() >= h.concurrency.limit || h.reserves && h.running[Bulk] >= h.concurrency.limit-1 {
			continue
		}
		full := h.total() >= h.concurrency.toAddHelper()
		for _, p := range h.sharing {
			if full && !p.nudged {
				continue
			}
			rest, turn := p.shared.Rest(), q.turn(p.id)
			if rest > 0 && (best == nil || turn < first || turn == first && rest > most) {
				best, most, first = p, rest, turn
			}
		}
	}
	if best == nil {
		return false
	}
	h, work, within, extra := best.host, best.shared, best.within, best.nudged
	best.nudged = false
	h.running[Bulk]++
	h.helping++
	q.running++
	h.concurrency.helperStarted()
	q.spawn(func(ctx context.Context) error {
		if within != nil {
			both, cancel := within(ctx)
			defer cancel()
			ctx = both
		}
		err := work.Help(ctx, func() bool {
			q.mu.Lock()
			defer q.mu.Unlock()
			keep := h.concurrency.toKeepHelper()
			if extra { // at first: what it is there for isn't more throughput
				keep, extra = h.concurrency.limit, false
			}
			return h.busy() || h.total() > keep
		})
		q.mu.Lock()
		defer q.mu.Unlock()
		h.running[Bulk]--
		h.helping--
		q.running--
		h.concurrency.helperEnded(h.helping)
		if err == nil {
			q.dispatch()
		}
		return err
	})
	return true
}

// busy reports whether jobs wait for a slot of the host.
func (h *host) busy() bool {
	return h.waits(Bulk) || h.waits(Small)
}

// waits reports whether jobs of a kind wait for a slot of the host.
func (h *host) waits(k Kind) bool { return h.waiting[k].Len() > 0 || len(h.regaining[k]) > 0 }

// next finds the host and kind of the next job: small requests before bulk, then the host with the
// fewest slots in use, then the order of jobs. A nil host means that none may start.
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

// turn is the kind of this host's next job, if one may start.
func (h *host) turn() (Kind, bool) {
	switch {
	case h.total() >= h.concurrency.toAddJob():
		return Bulk, false
	case h.waits(Small) && (h.running[Small] <= h.running[Bulk] || !h.waits(Bulk)):
		return Small, true
	case h.waits(Bulk) && h.running[Bulk] < h.bulkLimit():
		return Bulk, true
	}
	return Small, h.waits(Small)
}

// before reports whether the next job of host a starts before that of host b.
func before(a *host, ak Kind, b *host, bk Kind) bool {
	if ak != bk {
		return ak == Small
	}
	if a.total() != b.total() {
		return a.total() < b.total()
	}
	return sooner(a.first(ak), b.first(bk))
}

// sooner is the order of jobs: by turn, then the highest cost, then the earliest.
func sooner(x, y queued) bool {
	if x.turn != y.turn {
		return x.turn < y.turn
	}
	if x.Cost != y.Cost {
		return x.Cost > y.Cost
	}
	return x.seq < y.seq
}

// first is the next job of a kind; one that requests its slot back is before all others.
func (h *host) first(k Kind) queued {
	if len(h.regaining[k]) > 0 {
		return queued{turn: math.MinInt}
	}
	return h.waiting[k][0]
}

// Arrived reports n bytes from a host, by which throughput is measured.
func (q *Queue) Arrived(name string, n int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	h := q.host(name)
	more := h.concurrency.arrived(n, h.total(), h.helping, time.Now())
	if q.measure(h, n) || more {
		q.dispatch()
	}
}

// measure counts bytes, and reports whether the width of the host's jobs may have changed. The caller
// holds q.mu.
func (q *Queue) measure(h *host, n int64) bool {
	return h.concurrency.widened(n, h.total(), h.held() >= 0, time.Now())
}

// Ranged reports that a connection has received its first range: the host can serve parts of one
// blob on several connections.
func (q *Queue) Ranged(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	h := q.host(name)
	h.concurrency.ranged(time.Now())
	q.dispatch()
}

// Trouble reports that a connection to a host broke or, if congested, that the host is overloaded or
// limits the rate of requests. It reduces the host's concurrency limit.
func (q *Queue) Trouble(name string, congested bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	h := q.host(name)
	h.concurrency.trouble(h.total(), congested, time.Now())
}

// Findings are what a run finds out about a host, for later runs.
type Findings struct {
	Ranges      bool // it serves ranges
	Connections int  // that are worth it for few large blobs; 0 when that is not known
	Width       int  // connections that are worth it for many blobs; 0 when that is not known
}

// Learn sets what an earlier run has found about a host.
func (q *Queue) Learn(name string, h Findings) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.host(name).concurrency.learn(h)
}

// Learned is what to pass to Learn in a later run, by host.
func (q *Queue) Learned() map[string]Findings {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := make(map[string]Findings)
	for name, h := range q.hosts {
		out[name] = h.concurrency.learned()
	}
	return out
}

// withdraw takes a job that Do has queued out again, and reports whether it hadn't begun.
func (q *Queue) withdraw(j Job, seq int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	h := q.host(j.Host)
	for i, waiting := range h.waiting[j.Kind] {
		if waiting.seq == seq {
			heap.Remove(&h.waiting[j.Kind], i)
			return true
		}
	}
	return false
}

// queued is a job in a queue.
type queued struct {
	Job
	seq  int
	turn int
}

// jobHeap is a heap.Interface with the next job on top.
type jobHeap []queued

func (h jobHeap) Len() int           { return len(h) }
func (h jobHeap) Less(i, j int) bool { return sooner(h[i], h[j]) }
func (h jobHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *jobHeap) Push(x any)        { *h = append(*h, x.(queued)) }
func (h *jobHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = queued{} // frees what Run refers to
	*h = old[:len(old)-1]
	return last
}
