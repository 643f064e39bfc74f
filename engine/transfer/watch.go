package transfer

import (
	"time"
)

// keep makes what was noted last: a power cut costs what came since the last
// checkpoint. It also has the system write back early, so that the sync of the
// whole in the end finds little to do.
func (t *Transfer) keep(stop <-chan struct{}) {
	const writeBack = 500 * time.Millisecond
	tick := time.NewTicker(min(writeBack, t.opts.Checkpoint))
	defer tick.Stop()
	var saved int64
	last := time.Now()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		t.mu.Lock()
		arrived := t.arrived
		t.mu.Unlock()
		if arrived == saved {
			continue
		}
		t.sink.StartWriting(0, 0)
		if time.Since(last) < t.opts.Checkpoint {
			continue
		}
		if err := t.sink.Checkpoint(); err != nil {
			t.fail(err)
			return
		}
		saved, last = arrived, time.Now()
	}
}

// tooSlow reports whether a worker's connection is so much slower than the
// others that a new one, perhaps to another server behind the same name, should
// have its place. The caller holds t.mu.
func (t *Transfer) tooSlow(w *worker, now time.Time) bool {
	const (
		times = 8
		watch = 2 * time.Second  // before a connection is judged
		again = 15 * time.Second // before its successor is
	)
	if now.Sub(w.began) < watch || now.Sub(w.from) > watch || now.Sub(w.replaced) < again || w.gap == nil || w.pass {
		return false
	}
	rate := w.rate(now)
	faster := 0
	for o := range t.workers {
		if o != w && o.rate(now) > times*rate {
			faster++
		}
	}
	return rate > 0 && faster > 0 && 2*faster >= len(t.workers) && float64(w.gap.size()) > rate*watch.Seconds()
}

// listen replaces connections that are silent, or much too slow, while others
// move.
func (t *Transfer) listen(stop <-chan struct{}) {
	const moved = 250 * time.Millisecond
	tick := time.NewTicker(t.opts.Hush / 6)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		t.mu.Lock()
		now := time.Now()
		t.hurry(now)
		for w := range t.workers {
			if w.body == nil || w.paced || w.pass || !w.resumable {
				continue
			}
			if t.tooSlow(w, now) {
				w.hushed, w.replaced = true, now
				w.body.Close()
				continue
			}
			if now.Sub(w.heard) < t.opts.Hush {
				continue
			}
			others := t.opts.Pulse.Last().Sub(w.heard) > moved
			for o := range t.workers {
				others = others || o != w && o.heard.Sub(w.heard) > moved
			}
			if others {
				w.hushed = true
				w.body.Close()
			}
		}
		t.mu.Unlock()
	}
}
