package bench

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"drayage/bench/internal/load"
)

// Measure reads from each target with each number of connections, in rounds in
// which all of them take turns. When ctx ends it returns what was measured until
// then. An error means that nothing was measured: a single read of a target exceeds
// Options.Bytes.
func Measure(ctx context.Context, o Options, targets []*Target) (*Report, error) {
	for _, t := range targets {
		if t.largestRead() > o.Bytes {
			return nil, fmt.Errorf("%s: a single read of %d bytes exceeds the limit of %d bytes", t.Name, t.largestRead(), o.Bytes)
		}
		o.open = o.Rate > 0 || t.schedule != nil
	}
	m := &measuring{options: o, targets: targets, results: newResults(o, targets)}
	m.left.Store(o.Bytes)
	m.deadline = m.results.started.Add(o.Duration)
	ctx, cancel := context.WithDeadline(ctx, m.deadline)
	defer cancel()
	m.warmUp(ctx)
	m.rounds(ctx)
	return m.results.report(), nil
}

// measuring is a run of Measure.
type measuring struct {
	options  Options
	targets  []*Target
	results  *results
	deadline time.Time
	left     atomic.Int64 // bytes that may still be read
}

// warmUp reads from each target over the largest number of connections, which
// establishes them, fetches tokens and resolves redirects.
func (m *measuring) warmUp(ctx context.Context) {
	o := m.options
	share := int64(warmUpShare*float64(o.Bytes)) / int64(max(1, len(m.targets)))
	for i, t := range m.targets {
		connections := slices.Max(o.Connections)
		if o.WarmUp <= 0 || share < int64(o.weight(connections))*t.largestRead() || t.schedule != nil || ctx.Err() != nil {
			continue
		}
		st := Step{Of: o.Cost(m.targets).Steps, Target: t.Name, Connections: connections}
		m.results.warm[i] = m.step(ctx, t, st, o.WarmUp/time.Duration(len(m.targets)), share)
	}
}

// rounds measures all steps, until ctx is done.
func (m *measuring) rounds(ctx context.Context) {
	o, bytes := m.options, newBudget(m.options, m.targets)
	n, steps := 0, o.Cost(m.targets).Steps
	for round := range o.Rounds {
		for _, connections := range o.Connections {
			for i, t := range m.targets {
				if ctx.Err() != nil {
					return
				}
				n++
				share, ok := bytes.share(connections, m.left.Load(), t.largestRead())
				st := Step{N: n, Of: steps, Target: t.Name, Connections: connections, Round: round + 1, Skipped: !ok}
				if r := m.step(ctx, t, st, stepTime(time.Until(m.deadline), steps-n+1), share); r != nil {
					m.results.add(setting{i, connections}, round, r)
				}
			}
		}
	}
}

// step runs one step within a time and a number of bytes. It returns nil if nothing
// was read.
func (m *measuring) step(ctx context.Context, t *Target, st Step, within time.Duration, bytes int64) *recorder {
	if m.options.Progress != nil {
		m.options.Progress(st)
	}
	if st.Skipped {
		return nil
	}
	r := newRecorder()
	var mine atomic.Int64
	mine.Store(bytes)
	var spent atomic.Bool
	reserve := func(n int64) bool {
		if mine.Add(-n) < 0 {
			mine.Add(n)
			spent.Store(true)
			r.endLoad()
			return false
		}
		m.left.Add(-n)
		return true
	}
	load.Run(ctx, load.Options{
		Workers: st.Connections, Rate: m.options.Rate, Schedule: t.schedule, Duration: within, Precise: true,
		More: func() bool { return !spent.Load() }, Ended: r.endLoad,
	}, func(ctx context.Context, n int, due time.Time) {
		s := Sample{Due: due, Start: time.Now()}
		if !t.readNext(ctx, n, reserve, &s, r.addBytes) || s.Err == errCancelled {
			return
		}
		s.Total = time.Since(s.Due)
		r.add(s)
		if m.options.Watch != nil {
			m.options.Watch(st, s)
		}
	})
	if r.isEmpty() {
		return nil
	}
	return r
}
