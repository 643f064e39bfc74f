package pullthrough

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"drayage/engine/mirror"
	"drayage/engine/registry"

	"golang.org/x/sync/semaphore"
)

// turns bound how much is done at once, in all and for one registry: what one holds up is its own.
type turns struct {
	all  *semaphore.Weighted
	each int64

	mu sync.Mutex
	of map[string]*semaphore.Weighted // by registry
}

func newTurns(all, each int64) *turns {
	return &turns{all: semaphore.NewWeighted(all), each: each, of: make(map[string]*semaphore.Weighted)}
}

// take waits for a turn, until ctx is done. over gives it to others.
func (t *turns) take(ctx context.Context, registry string) (over func(), err error) {
	t.mu.Lock()
	own := t.of[registry]
	if own == nil {
		own = semaphore.NewWeighted(t.each)
		t.of[registry] = own
	}
	t.mu.Unlock()
	if err := own.Acquire(ctx, 1); err != nil {
		return nil, context.Cause(ctx)
	}
	if err := t.all.Acquire(ctx, 1); err != nil {
		own.Release(1)
		return nil, context.Cause(ctx)
	}
	return func() { t.all.Release(1); own.Release(1) }, nil
}

// errTurns is told to clients as it is: the rate limit is not upstream's.
var errTurns = mirror.Refuse(http.StatusTooManyRequests, "TOOMANYREQUESTS", "too many requests to this upstream are waiting; try again later")

// ask asks a registry when it is its turn, and waits for the whole answer for so long, and no
// longer: bytes that come don't make it more.
func ask[T any](ctx context.Context, t *turns, registryName string, within time.Duration, question func(context.Context) (T, error)) (answer T, err error) {
	// To wait for a turn is nobody's fault but this mirror's.
	waiting, stop := context.WithTimeoutCause(ctx, within, fmt.Errorf("%s: %w", registryName, errTurns))
	over, err := t.take(waiting, registryName)
	stop()
	if err != nil {
		return answer, err
	}
	defer over()
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("%s: %w: no complete response within %s", registryName, registry.ErrUnavailable, within))
	defer cancel()
	if answer, err = question(ctx); err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return answer, err
}

// calls are questions that several may wait for the answer of, by what is asked.
type calls[T any] struct {
	mu    sync.Mutex
	under map[string]*call[T]
}

// call is one of them.
type call[T any] struct {
	done    chan struct{}
	waiting int
	cancel  context.CancelFunc
	answer  T
	err     error
}

// do waits for the answer to a question, which is asked if nobody has yet, by a goroutine of the
// group. It is cancelled when the last one who waited has gone, or base is done.
func (c *calls[T]) do(ctx, base context.Context, group *sync.WaitGroup, key string, question func(context.Context) (T, error)) (answer T, err error) {
	c.mu.Lock()
	q := c.under[key]
	if q == nil {
		under, cancel := context.WithCancel(base)
		q = &call[T]{done: make(chan struct{}), cancel: cancel}
		if c.under == nil {
			c.under = make(map[string]*call[T])
		}
		c.under[key] = q
		group.Go(func() {
			defer cancel()
			q.answer, q.err = question(under)
			c.forget(key, q)
			close(q.done)
		})
	}
	q.waiting++
	c.mu.Unlock()
	select {
	case <-q.done:
		return q.answer, q.err
	case <-ctx.Done():
	}
	c.mu.Lock()
	q.waiting--
	last := q.waiting == 0
	if last && c.under[key] == q { // who comes now asks anew
		delete(c.under, key)
	}
	c.mu.Unlock()
	if last {
		q.cancel()
	}
	return answer, context.Cause(ctx)
}

func (c *calls[T]) forget(key string, q *call[T]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.under[key] == q {
		delete(c.under, key)
	}
}

// memory is a map that takes about so many bytes at most: then all in it is forgotten.
type memory[K comparable, V any] struct {
	most, bytes int64
	of          map[K]remembered[V]
}

type remembered[V any] struct {
	value V
	bytes int64
}

func newMemory[K comparable, V any](most int64) *memory[K, V] {
	return &memory[K, V]{most: most, of: make(map[K]remembered[V])}
}

func (m *memory[K, V]) get(key K) (value V, ok bool) {
	r, ok := m.of[key]
	return r.value, ok
}

// put remembers a value of so many bytes in place of the one that there was. What would take all
// of the memory isn't remembered.
func (m *memory[K, V]) put(key K, value V, bytes int64) {
	m.bytes -= m.of[key].bytes
	delete(m.of, key)
	if bytes > m.most {
		return
	}
	if m.bytes+bytes > m.most {
		clear(m.of)
		m.bytes = 0
	}
	m.of[key] = remembered[V]{value, bytes}
	m.bytes += bytes
}
