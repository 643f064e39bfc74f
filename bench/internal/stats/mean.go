package stats

import (
	"math"
	"math/rand/v2"
	"slices"
)

// Confidence is an estimate with the bounds of its 95 % confidence interval.
type Confidence struct{ Estimate, Low, High float64 }

const (
	// enough is the least number of values for a bootstrap.
	enough = 6
	// resamples is how often the bootstrap draws values.
	resamples = 4000
)

// Mean estimates a mean. Its interval is a studentized bootstrap, which keeps its
// promise for few values, too (Efron and Tibshirani, An Introduction to the
// Bootstrap, section 12.5). Fewer than 6 values are too few for that: then the
// bounds are the least and the largest of them.
func Mean(values []float64) Confidence {
	m, se := meanError(values)
	exact := Confidence{m, m, m}
	if len(values) < 2 || se == 0 {
		return exact
	}
	if len(values) < enough {
		return Confidence{m, slices.Min(values), slices.Max(values)}
	}
	ts := studentized(values, m)
	if len(ts) == 0 {
		return exact
	}
	const tail = 0.025
	return Confidence{m, m - ts[int((1-tail)*float64(len(ts)-1))]*se, m - ts[int(tail*float64(len(ts)-1))]*se}
}

// studentized returns, in order, by how many standard errors the means of
// resamples differ from the mean m.
func studentized(values []float64, m float64) []float64 {
	rnd := rand.New(rand.NewPCG(1, uint64(len(values))))
	ts := make([]float64, 0, resamples)
	drawn := make([]float64, len(values))
	for range resamples {
		for i := range drawn {
			drawn[i] = values[rnd.IntN(len(values))]
		}
		if dm, dse := meanError(drawn); dse > 0 {
			ts = append(ts, (dm-m)/dse)
		}
	}
	slices.Sort(ts)
	return ts
}

// meanError returns the mean of values and its standard error.
func meanError(values []float64) (mean, se float64) {
	n := float64(len(values))
	for _, v := range values {
		mean += v / n
	}
	var sum float64
	for _, v := range values {
		sum += (v - mean) * (v - mean)
	}
	if n < 2 {
		return mean, 0
	}
	return mean, math.Sqrt(sum / (n - 1) / n)
}
