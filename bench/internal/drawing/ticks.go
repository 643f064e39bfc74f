package drawing

import (
	"math"
	"strconv"
)

// ticks is the approximate number of ticks of an axis.
const ticks = 6

// Tick is a labelled value of an axis. The label may be empty or have several lines.
type Tick struct {
	Value float64
	Label string
}

// tickStep is the distance of ticks for a span of values: 1, 2 or 5 times a power of ten.
func tickStep(span float64) float64 {
	rough := span / ticks
	if rough <= 0 {
		return 1
	}
	power := math.Pow10(int(math.Floor(math.Log10(rough))))
	for _, m := range []float64{1, 2, 5} {
		if rough <= m*power {
			return m * power
		}
	}
	return 10 * power
}

// Linear returns evenly spaced ticks from low to high. label makes labels of numbers.
func Linear(low, high float64, label func(string) string) []Tick {
	step := tickStep(high - low)
	digits := max(0, -int(math.Floor(math.Log10(step))))
	const rounding = 1e-9
	var out []Tick
	for k := int(math.Ceil(low/step - rounding)); float64(k) <= high/step+rounding; k++ {
		v := float64(k) * step
		out = append(out, Tick{Value: v, Label: label(strconv.FormatFloat(v, 'f', digits, 64))})
	}
	return out
}

// FromZero sets an axis to values from 0 to at least high.
func FromZero(a *Axis, high float64) {
	if high <= 0 {
		high = 1
	}
	step := tickStep(high)
	a.Min, a.Max = 0, step*math.Ceil(high/step)
	a.Ticks = Linear(a.Min, a.Max, func(s string) string { return s })
}

// mostLog is the largest number of ticks of a logarithmic axis, unless it has more
// powers of ten.
const mostLog = 10

// Log returns the values of ticks on a logarithmic axis from low to high: as many as
// fit, and round ones.
func Log(low, high float64) []float64 {
	for _, ms := range [][]float64{{1, 1.5, 2, 3, 5, 7}, {1, 2, 5}, {1}} {
		if out := multiples(low, high, ms, 1); len(out) <= mostLog {
			return out
		}
	}
	decades := math.Log10(high / low)
	return multiples(low, high, []float64{1}, int(math.Ceil(decades/mostLog)))
}

// LogAround returns the values of ticks on a logarithmic axis that starts and ends with
// a tick: the first is at most low, the last at least high.
func LogAround(low, high float64) []float64 {
	const ten = 10
	var out []float64
	for _, ms := range [][]float64{{1, 2, 5}, {1}} {
		out = multiples(low/ten, high*ten, ms, 1)
		for len(out) > 2 && out[1] <= low {
			out = out[1:]
		}
		for len(out) > 2 && out[len(out)-2] >= high {
			out = out[:len(out)-1]
		}
		if len(out) <= mostLog {
			break
		}
	}
	return out
}

// multiples are those of each power of ten, or of one in every so many, from low to high.
func multiples(low, high float64, ms []float64, every int) []float64 {
	const rounding = 1e-9
	var out []float64
	first, last := int(math.Floor(math.Log10(low))), int(math.Ceil(math.Log10(high)))
	for k := first; k <= last; k++ {
		if k%every != 0 {
			continue
		}
		for _, m := range ms {
			if v := m * math.Pow10(k); v >= low*(1-rounding) && v <= high*(1+rounding) {
				out = append(out, v)
			}
		}
	}
	return out
}
