package stats

import (
	"math"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	slowest   = 10 * time.Minute // longer times count as this
	fastest   = 1e12             // bytes per second; higher rates count as this
	timeUnit  = time.Microsecond
	rateUnit  = 1000 // bytes per second
	precision = 3    // significant digits
)

// CurveStep is the number of points of a Curve from one nine to the next.
const CurveStep = 10

// Histogram is a distribution of values with three significant digits, in
// constant memory. It must be made by NewTimes or NewRates, and is not safe for
// concurrent use.
type Histogram struct {
	h *hdrhistogram.Histogram
	// A value is its count in h times and divided by these, which are exact.
	times, by float64
}

// NewTimes returns an empty distribution of times, from 1 µs to 10 minutes.
// Its values are in seconds.
func NewTimes() Histogram {
	return Histogram{hdrhistogram.New(1, int64(slowest/timeUnit), precision), 1, float64(time.Second / timeUnit)}
}

// NewRates returns an empty distribution of rates, from 1 kB/s to 1 TB/s. Its
// values are in bytes per second.
func NewRates() Histogram {
	return Histogram{hdrhistogram.New(1, fastest/rateUnit, precision), rateUnit, 1}
}

// AddTime counts a time. It must only be called on a distribution of times.
func (h Histogram) AddTime(d time.Duration) { h.add(int64(d / timeUnit)) }

// AddRate counts the rate of n bytes within a time. It must only be called on a
// distribution of rates.
func (h Histogram) AddRate(n int64, took time.Duration) {
	h.add(int64(min(fastest, float64(n)/max(took, timeUnit).Seconds()) / rateUnit))
}

// add counts a value. One out of bounds counts as the closest bound, so that
// RecordValue has no reason to fail.
func (h Histogram) add(v int64) {
	_ = h.h.RecordValue(min(max(1, v), h.h.HighestTrackableValue()))
}

// Merge adds all values of a distribution of the same kind.
func (h Histogram) Merge(other Histogram) { h.h.Merge(other.h) }

// Count is the number of values.
func (h Histogram) Count() int64 { return h.h.TotalCount() }

// At is the value that a share of all values, between 0 and 1, does not exceed;
// 0 if there are none.
func (h Histogram) At(share float64) float64 {
	if h.Count() == 0 {
		return 0
	}
	return h.value(float64(h.h.ValueAtQuantile(100 * share)))
}

// Mean is the mean value; 0 if there are none.
func (h Histogram) Mean() float64 { return h.value(h.h.Mean()) }

func (h Histogram) value(n float64) float64 { return n * h.times / h.by }

// Curve returns the values not exceeded by the shares CurveShare(0),
// CurveShare(1), …, as far as there are enough values to tell them apart.
func (h Histogram) Curve() []float64 {
	var out []float64
	for k := 0; math.Pow(10, float64(k)/CurveStep) <= float64(h.Count()); k++ {
		out = append(out, h.At(CurveShare(k)))
	}
	return out
}

// CurveShare is the share of all values at point k of a Curve: 1 − 10^(−k/10).
func CurveShare(k int) float64 { return 1 - math.Pow(10, -float64(k)/CurveStep) }
