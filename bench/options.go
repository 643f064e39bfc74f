package bench

import (
	"slices"
	"time"
)

// Options say what to measure. Connections, Rounds, Duration and Bytes must be
// positive. Duration and Bytes bound all steps together.
type Options struct {
	Connections []int // numbers of connections to measure with, one after the other
	Rounds      int   // how often to measure each of them

	// Rate is requests per second in an open loop; 0 means a closed loop.
	Rate     float64
	Duration time.Duration
	Bytes    int64

	// WarmUp is how long to read before the rounds, all targets together, out of
	// Duration and with at most a tenth of Bytes; 0 means no warm-up.
	WarmUp time.Duration

	// Exchanges, if not nil, has observed the registry client; its times become part
	// of the report.
	Exchanges *Exchanges

	// Progress, if not nil, is called before each step.
	Progress func(Step)
	// Watch, if not nil, is called after each request, from several goroutines.
	Watch func(Step, Sample)

	open bool // reads have due times, whatever the number of connections
}

// Step is one measurement of one target with one number of connections.
type Step struct {
	N, Of       int // counted from 1
	Target      string
	Connections int
	Round       int // counted from 1; 0 is the warm-up
	// Skipped means that the step is left out: its share of the bytes is too small
	// for one read per connection.
	Skipped bool
}

// Cost is the most that measuring takes.
type Cost struct {
	Bytes    int64
	Requests int64
	Duration time.Duration
	Steps    int
}

// Cost estimates what measuring takes.
func (o Options) Cost(targets []*Target) Cost {
	c := Cost{Bytes: o.Bytes, Duration: o.Duration, Steps: len(o.Connections) * o.Rounds * len(targets)}
	for _, t := range targets { // as if the target with the smallest reads took all bytes
		c.Requests = max(c.Requests, o.Bytes/max(1, t.meanRead()))
	}
	if o.Rate > 0 {
		c.Requests = min(c.Requests, int64(o.Rate*o.Duration.Seconds())+1)
	}
	return c
}

// warmUpShare is the largest share of the bytes that the warm-up takes.
const warmUpShare = 0.1

// affordable returns the numbers of connections for which Bytes suffices, the small
// ones first: for one read per connection in each step.
func (o Options) affordable(targets []*Target) []int {
	var largest int64
	for _, t := range targets {
		largest = max(largest, t.largestRead())
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

// weight is the share of the bytes that a number of connections gets. With it
// steps take about equally long.
func (o Options) weight(connections int) int {
	if o.open {
		return 1
	}
	return connections
}

// budget divides the remaining bytes among the remaining steps.
type budget struct {
	options    Options
	affordable []int
	weights    int // of the steps that remain
}

func newBudget(o Options, targets []*Target) *budget {
	b := &budget{options: o, affordable: o.affordable(targets)}
	for _, n := range b.affordable {
		b.weights += o.Rounds * len(targets) * o.weight(n)
	}
	return b
}

// share returns the next step's share of the bytes left. ok is false if that is too
// little for one read of a size on each connection.
func (b *budget) share(connections int, left, size int64) (share int64, ok bool) {
	if !slices.Contains(b.affordable, connections) {
		return 0, false
	}
	weight := b.options.weight(connections)
	share = int64(float64(left) * float64(weight) / float64(b.weights))
	b.weights -= weight
	return share, share >= int64(weight)*size
}

// stepTime is how long the next of the remaining steps may start requests. The rest
// of the time is for requests in flight at its end.
func stepTime(left time.Duration, steps int) time.Duration {
	const share = 0.95
	return max(1, time.Duration(share*float64(left))/time.Duration(steps)) // 0 would be no bound
}
