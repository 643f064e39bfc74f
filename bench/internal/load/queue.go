package load

import (
	"sync"
	"time"
)

// request is a request that is due.
type request struct {
	n   int
	due time.Time
}

// queue holds requests that wait for a worker. It is unbounded: a full queue would
// delay the schedule.
type queue struct {
	ready *sync.Cond

	mu    sync.Mutex
	list  []request
	ended bool
}

func newQueue() *queue {
	q := &queue{}
	q.ready = sync.NewCond(&q.mu)
	return q
}

func (q *queue) put(r request) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.list = append(q.list, r)
	q.ready.Signal()
}

// take waits for the next request. ok is false when none will come.
func (q *queue) take() (r request, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.list) == 0 {
		if q.ended {
			return request{}, false
		}
		q.ready.Wait()
	}
	r = q.list[0]
	q.list = q.list[1:]
	return r, true
}

// end announces that no more requests will be put.
func (q *queue) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = true
	q.ready.Broadcast()
}
