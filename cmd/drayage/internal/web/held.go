package web

import (
	"context"
	"sync"
	"time"

	"drayage/blobstore"
)

// held keeps what is costly to find out. It is found out once for however many ask, and then kept
// for ten times as long as that took: however often it is asked for, and however large the store
// is, that takes a tenth of one core and of one disk at most.
type held[T any] struct {
	find func(ctx context.Context) (T, error)
	turn chan struct{} // held by who finds out

	mu    sync.Mutex
	value T
	until time.Time
}

func newHeld[T any](find func(ctx context.Context) (T, error)) *held[T] {
	return &held[T]{find: find, turn: make(chan struct{}, 1)}
}

func (h *held[T]) get(ctx context.Context) (T, error) {
	if v, ok := h.recent(); ok {
		return v, nil
	}
	var none T
	select {
	case h.turn <- struct{}{}:
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
	defer func() { <-h.turn }()
	if v, ok := h.recent(); ok {
		return v, nil
	}
	const times, most = 10, time.Minute
	began := time.Now()
	v, err := h.find(ctx)
	if err != nil {
		return none, err
	}
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.value, h.until = v, now.Add(min(most, times*now.Sub(began)))
	return v, nil
}

func (h *held[T]) recent() (T, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.value, time.Now().Before(h.until)
}

// looks are what the page, the metrics and the health check tell of the store.
type looks struct {
	ready  *held[*blobstore.Images] // whether it can be read at all
	usage  *held[blobstore.Usage]
	images *held[[]pageImage]
	groups *held[[]Group]
}

func newLooks(o Options) looks {
	return looks{
		ready:  newHeld(func(context.Context) (*blobstore.Images, error) { return o.Store.Images() }),
		usage:  newHeld(o.Store.Usage),
		images: newHeld(func(ctx context.Context) ([]pageImage, error) { return pageImages(ctx, o.Store, o.Fresh) }),
		groups: newHeld(func(context.Context) ([]Group, error) {
			if o.Groups == nil {
				return nil, nil
			}
			return o.Groups(), nil
		}),
	}
}
