package transfer

import (
	"time"

	"drayage/engine/internal/transfer/internal/policy"
)

// save makes what was noted outlast a power cut, every Options.Checkpoint. It
// also has the system write back early, so that the sync of the whole in the end
// finds little to do.
func (t *Transfer) save(stop <-chan struct{}) {
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

// watch replaces connections that are silent, or much too slow, while others
// move.
func (t *Transfer) watch(stop <-chan struct{}) {
	tick := time.NewTicker(min(t.opts.PeerStall/6, lateLeast/2))
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		t.mu.Lock()
		now := time.Now()
		t.leaveJoined(now)
		for w := range t.workers {
			switch {
			case w.state != reading || !w.resumable:
			case t.isTooSlow(w, now):
				w.replaced = now
				w.replace()
			case t.isSilent(w, now):
				w.replace()
			}
		}
		late := t.late(now) != nil
		t.mu.Unlock()
		if late {
			t.opts.Late()
		}
	}
}

// isTooSlow reports whether a worker's connection is so much slower than the
// others that a new one should replace it. The caller holds t.mu.
func (t *Transfer) isTooSlow(w *worker, now time.Time) bool {
	if now.Sub(w.began) < policy.SlowWatch || w.meter.Since(now) > policy.SlowWatch || now.Sub(w.replaced) < policy.SlowAgain || w.gap == nil {
		return false
	}
	var others []float64
	for o := range t.workers {
		if o != w {
			others = append(others, o.rate(now))
		}
	}
	return policy.TooSlow(w.rate(now), w.gap.Len(), others)
}

// isSilent reports whether nothing has come over a worker's connection for
// Options.PeerStall, while bytes came over others, of this transfer or another. The
// caller holds t.mu.
func (t *Transfer) isSilent(w *worker, now time.Time) bool {
	const moved = 250 * time.Millisecond
	if now.Sub(w.heard) < t.opts.PeerStall {
		return false
	}
	if t.opts.Activity.Last().Sub(w.heard) > moved {
		return true
	}
	for o := range t.workers {
		if o != w && o.heard.Sub(w.heard) > moved {
			return true
		}
	}
	return false
}
