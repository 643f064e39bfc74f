package bench

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// Options say what to measure. All bounds are over all steps together.
type Options struct {
	// Connections are the numbers of connections to sweep over.
	Connections []int
	// Rate is requests a second in an open loop, 0 for a closed one.
	Rate     float64
	Rounds   int
	Duration time.Duration
	Bytes    int64
}

// Cost is what measuring takes at most.
type Cost struct {
	Bytes    int64
	Duration time.Duration
	Steps    int
}

// Cost works out what measuring takes.
func (o Options) Cost(targets int) Cost {
	return Cost{Bytes: o.Bytes, Duration: o.Duration, Steps: len(o.Connections) * o.Rounds * targets}
}

// Progress is told of each step before it begins.
type Progress func(step, steps int, target string, connections, round int)

// Measure reads from each target with each number of connections, in rounds in
// which all take their turn, so that what changes meanwhile changes for all. It
// ends early when ctx is done, with what was measured until then.
func Measure(ctx context.Context, o Options, targets []*Target, progress Progress) (*Report, error) {
	for _, t := range targets {
		if t.largest() > o.Bytes {
			return nil, fmt.Errorf("%s: one request takes %d bytes, more than all may", t.Name, t.largest())
		}
	}
	m := &measuring{options: o, left: new(atomic.Int64)}
	m.left.Store(o.Bytes)
	steps := o.Cost(len(targets)).Steps
	each := o.Duration / time.Duration(max(1, steps))
	runs := make(map[setting][]*Recorder)
	step := 0
	started := time.Now()
	for round := range o.Rounds {
		for _, n := range o.Connections {
			for i, t := range targets {
				step++
				// The bytes that are left are shared out among the steps that are.
				share := m.left.Load() / int64(steps-step+1)
				if ctx.Err() != nil || share < t.largest() {
					continue
				}
				if progress != nil {
					progress(step, steps, t.Name, n, round)
				}
				if r := m.step(ctx, t, n, each, share); r != nil {
					k := setting{i, n}
					runs[k] = append(runs[k], r)
				}
			}
		}
	}
	return report(o, targets, runs, started), nil
}

// setting is what is measured over and over.
type setting struct {
	target      int
	connections int
}

// measuring is a run of Measure.
type measuring struct {
	options Options
	left    *atomic.Int64 // bytes that may still be read
}

// step measures one setting once, within a time and a number of bytes. It is nil
// when nothing was read.
func (m *measuring) step(ctx context.Context, t *Target, connections int, within time.Duration, bytes int64) *Recorder {
	r := NewRecorder()
	var mine atomic.Int64
	mine.Store(bytes)
	var spent atomic.Bool
	reserve := func(n int64) bool {
		if mine.Add(-n) < 0 {
			mine.Add(n)
			spent.Store(true)
			return false
		}
		m.left.Add(-n)
		return true
	}
	Run(ctx, Load{Workers: connections, Rate: m.options.Rate, Duration: within, Precise: true},
		func(int) Work { return t.next(reserve, r) },
		func() bool { return !spent.Load() },
		func(_ int, s Sample) {
			if s.Err != errSkipped && s.Err != errCancelled {
				r.Add(s)
			}
		})
	if s := r.Summary(); s.Requests == 0 {
		return nil
	}
	return r
}
