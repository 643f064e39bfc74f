package stats

import (
	"math"
	"math/rand/v2"
)

// level is the largest p-value of a significant difference.
const level = 0.05

// Ratio estimates by what factor two series of measurements differ.
type Ratio struct {
	Confidence
	P           float64 // p-value of the hypothesis that they do not differ
	Significant bool    // P is at most 0.05
}

// Compare estimates the ratio of b to a, pair by pair, since what disturbs a
// round disturbs both measurements of it. Pairs with a value of 0 are left out.
// The test of significance is a permutation test that flips signs: it assumes
// nothing about the distributions. The interval contains 1 exactly when the
// difference is not significant.
func Compare(a, b []float64) Ratio {
	var logs []float64
	for i := range min(len(a), len(b)) {
		if a[i] > 0 && b[i] > 0 {
			logs = append(logs, math.Log(b[i]/a[i]))
		}
	}
	if len(logs) == 0 {
		return Ratio{P: 1}
	}
	m := Mean(logs)
	r := Ratio{Confidence: Confidence{math.Exp(m.Estimate), math.Exp(m.Low), math.Exp(m.High)}, P: signFlips(logs)}
	r.Significant = r.P <= level
	switch { // the interval agrees with the test
	case !r.Significant:
		r.Low, r.High = min(1, r.Low), max(1, r.High)
	case r.Estimate > 1:
		r.Low = max(1, r.Low)
	default:
		r.High = min(1, r.High)
	}
	return r
}

const (
	// mostExact is the largest number of values for which all sign flips are tried.
	mostExact = 16
	// someFlips is how many are drawn for more values.
	someFlips = 20000
)

// signFlips returns the share of sign flips of values whose sum is as far from
// zero as the values' own.
func signFlips(values []float64) float64 {
	sum := math.Abs(flippedSum(values, func(int) bool { return false }))
	ways := someFlips
	if len(values) <= mostExact {
		ways = 1 << len(values)
	}
	rnd := rand.New(rand.NewPCG(2, uint64(len(values))))
	reached := 0
	for way := range ways {
		bits := uint64(way)
		if len(values) > mostExact {
			bits = rnd.Uint64()
		}
		s := flippedSum(values, func(i int) bool {
			if i%64 == 0 && i > 0 {
				bits = rnd.Uint64()
			}
			return bits>>(i%64)&1 == 1
		})
		const rounding = 1e-12
		if math.Abs(s) >= sum*(1-rounding) {
			reached++
		}
	}
	return float64(reached) / float64(ways)
}

// flippedSum is the sum of values, of which some have their signs flipped.
func flippedSum(values []float64, flipped func(i int) bool) float64 {
	var s float64
	for i, v := range values {
		if flipped(i) {
			s -= v
		} else {
			s += v
		}
	}
	return s
}
