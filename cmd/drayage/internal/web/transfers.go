package web

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"drayage/engine/event"

	"github.com/opencontainers/go-digest"
)

// Transfers are what is on its way from upstream. It is an event.Observer.
type Transfers struct {
	metrics *Metrics

	mu    sync.Mutex
	under map[digest.Digest]*transfer
}

// NewTransfers begins to watch, and counts what comes in metrics.
func NewTransfers(m *Metrics) *Transfers {
	return &Transfers{metrics: m, under: make(map[digest.Digest]*transfer)}
}

type transfer struct {
	image string
	size  int64
	here  int64
	came  int64 // since begun
	begun time.Time
}

// Transfer is one that is under way.
type Transfer struct {
	Digest  digest.Digest `json:"digest"`
	Image   string        `json:"image"`
	Size    int64         `json:"size"`
	Here    int64         `json:"here"` // bytes that have arrived
	Rate    float64       `json:"rate"` // bytes a second
	Left    float64       `json:"left"` // seconds; 0 when that can't be told
	Percent float64       `json:"percent"`
}

// Observe implements event.Observer.
func (t *Transfers) Observe(e event.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch e := e.(type) {
	case event.Fetching:
		t.under[e.Digest] = &transfer{image: e.Image, size: e.Size, begun: time.Now()}
	case event.Progress:
		if x := t.under[e.Digest]; x != nil {
			x.here += e.N
			x.came += max(0, e.N)
		}
		if e.N > 0 {
			t.metrics.received.Add(float64(e.N))
		}
	case event.Resumed:
		if x := t.under[e.Digest]; x != nil {
			x.here += e.N
		}
	case event.Fetched:
		delete(t.under, e.Digest)
	case event.Failed:
		delete(t.under, e.Digest)
	}
}

// Now lists the transfers under way, the oldest first.
func (t *Transfers) Now() []Transfer {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	type dated struct {
		Transfer
		begun time.Time
	}
	var all []dated
	for d, x := range t.under {
		out := Transfer{Digest: d, Image: x.image, Size: x.size, Here: x.here}
		if took := time.Since(x.begun).Seconds(); took > 0 {
			out.Rate = float64(x.came) / took
		}
		if out.Rate > 0 {
			out.Left = float64(x.size-x.here) / out.Rate
		}
		if x.size > 0 {
			out.Percent = 100 * float64(x.here) / float64(x.size)
		}
		all = append(all, dated{out, x.begun})
	}
	slices.SortFunc(all, func(a, b dated) int { return cmp.Or(a.begun.Compare(b.begun), cmp.Compare(a.Digest, b.Digest)) })
	out := make([]Transfer, 0, len(all))
	for _, x := range all {
		out = append(out, x.Transfer)
	}
	return out
}
