package bench

import (
	"context"
	"fmt"
	"slices"
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
	// WarmUp is how long each target is read from before it counts, out of Duration;
	// at most a tenth of Bytes goes for all of them. 0 is not at all.
	WarmUp time.Duration
	// Progress, if not nil, is told of each step before it begins.
	Progress func(Step)
	// Watch, if not nil, is told of each request that has ended, from many goroutines.
	Watch func(Step, Sample)

	open bool // requests are due at their times, however many connections there are
}

// Step is one setting that is measured once.
type Step struct {
	N, Of       int // counted from 1
	Target      string
	Connections int
	Round       int // counted from 1; 0 is the warm-up
	// Skipped says that it isn't measured: of the bytes there are too few left for one
	// read on each connection.
	Skipped bool
}

// warmUpShare is the largest share of the bytes that warming up takes.
const warmUpShare = 0.1

// Cost is what measuring takes at most.
type Cost struct {
	Bytes    int64
	Requests int64
	Duration time.Duration
	Steps    int
}

// Cost works out what measuring takes.
func (o Options) Cost(targets []*Target) Cost {
	c := Cost{Bytes: o.Bytes, Duration: o.Duration, Steps: len(o.Connections) * o.Rounds * len(targets)}
	for _, t := range targets { // as if all bytes came by the smallest requests
		c.Requests = max(c.Requests, o.Bytes/max(1, t.typical()))
	}
	if o.Rate > 0 {
		c.Requests = min(c.Requests, int64(o.Rate*o.Duration.Seconds())+1)
	}
	return c
}

// Measure reads from each target with each number of connections, in rounds in
// which all take their turn, so that what changes meanwhile changes for all. It
// ends early when ctx is done, with what was measured until then.
func Measure(ctx context.Context, o Options, targets []*Target) (*Report, error) {
	for _, t := range targets {
		if t.largest() > o.Bytes {
			return nil, fmt.Errorf("%s: one request takes %d bytes, more than all may", t.Name, t.largest())
		}
		o.open = o.Rate > 0 || t.schedule != nil
	}
	m := &measuring{options: o, left: new(atomic.Int64), started: time.Now(), runs: make(map[setting][]run), warm: make([]*Recorder, len(targets))}
	m.left.Store(o.Bytes)
	deadline := m.started.Add(o.Duration)
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	m.warmUp(ctx, targets)
	steps := o.Cost(targets).Steps
	fit := o.fitting(targets)
	n, weights := 0, 0 // of the steps that are left
	for _, connections := range fit {
		weights += o.Rounds * len(targets) * o.weight(connections)
	}
	for round := range o.Rounds {
		for _, connections := range o.Connections {
			for i, t := range targets {
				if ctx.Err() != nil {
					return m.report(targets), nil
				}
				n++
				// The bytes that are left are shared out among the steps that are.
				st := Step{N: n, Of: steps, Target: t.Name, Connections: connections, Round: round + 1, Skipped: true}
				var share int64
				if weight := o.weight(connections); slices.Contains(fit, connections) {
					share = int64(float64(m.left.Load()) * float64(weight) / float64(weights))
					weights -= weight
					st.Skipped = share < int64(weight)*t.largest()
				}
				if r := m.step(ctx, t, st, forStep(time.Until(deadline), steps-n+1), share); r != nil {
					k := setting{i, connections}
					m.runs[k] = append(m.runs[k], run{round, r})
				}
			}
		}
	}
	return m.report(targets), nil
}

// fitting are the numbers of connections that Bytes has one read each for, of the
// small ones first.
func (o Options) fitting(targets []*Target) []int {
	var largest int64
	for _, t := range targets {
		largest = max(largest, t.largest())
	}
	left := (1 - warmUpShare) * float64(o.Bytes)
	var out []int
	for _, n := range slices.Sorted(slices.Values(o.Connections)) {
		if left -= float64(o.Rounds*len(targets)*o.weight(n)) * float64(largest); left >= 0 || len(out) == 0 {
			out = append(out, n)
		}
	}
	return out
}

// weight is the share of the bytes that a number of connections gets, by which steps
// take about as long as each other.
func (o Options) weight(connections int) int {
	if o.open {
		return 1
	}
	return connections
}

// forStep is how long a step may begin requests when so many are left to do. Some time
// is kept for those that are under way at its end.
func forStep(left time.Duration, steps int) time.Duration {
	const share = 0.95
	return max(1, time.Duration(share*float64(left))/time.Duration(steps)) // 0 would be no bound
}

// warmUp reads from each target over as many connections as there will be: they are
// made, tokens fetched and redirects found out, which none of the rounds pays then.
func (m *measuring) warmUp(ctx context.Context, targets []*Target) {
	share := int64(warmUpShare*float64(m.options.Bytes)) / int64(max(1, len(targets)))
	for i, t := range targets {
		connections := slices.Max(m.options.Connections)
		if m.options.WarmUp <= 0 || share < int64(m.options.weight(connections))*t.largest() || t.schedule != nil || ctx.Err() != nil {
			continue
		}
		st := Step{Of: m.options.Cost(targets).Steps, Target: t.Name, Connections: connections}
		m.warm[i] = m.step(ctx, t, st, m.options.WarmUp/time.Duration(len(targets)), share)
	}
}

// setting is what is measured over and over.
type setting struct {
	target      int
	connections int
}

// run is a setting, measured once.
type run struct {
	round int
	*Recorder
}

// measuring is a run of Measure.
type measuring struct {
	options Options
	started time.Time
	left    *atomic.Int64 // bytes that may still be read
	runs    map[setting][]run
	warm    []*Recorder // by target, nil where there was no warming up
}

// step measures one setting once, within a time and a number of bytes. It is nil
// when nothing was read.
func (m *measuring) step(ctx context.Context, t *Target, st Step, within time.Duration, bytes int64) *Recorder {
	if m.options.Progress != nil {
		m.options.Progress(st)
	}
	if st.Skipped {
		return nil
	}
	r := NewRecorder()
	var mine atomic.Int64
	mine.Store(bytes)
	var spent atomic.Bool
	reserve := func(n int64) bool {
		if mine.Add(-n) < 0 {
			mine.Add(n)
			spent.Store(true)
			r.Cut()
			return false
		}
		m.left.Add(-n)
		return true
	}
	load := Load{Workers: st.Connections, Rate: m.options.Rate, Schedule: t.schedule, Duration: within, Precise: true, Ended: r.Cut}
	Run(ctx, load, func(n int) Work { return t.next(n, reserve, r) }, func() bool { return !spent.Load() }, func(_ int, s Sample) {
		if s.Err == errSkipped || s.Err == errCancelled {
			return
		}
		r.Add(s)
		if m.options.Watch != nil {
			m.options.Watch(st, s)
		}
	})
	if s := r.Summary(); s.Requests == 0 {
		return nil
	}
	return r
}
