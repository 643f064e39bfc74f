package bench

import "drayage/bench/internal/stats"

// Quantiles describe a distribution of times, in seconds. All are 0 if Count is.
type Quantiles struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	P999  float64 `json:"p99.9"`
	Max   float64 `json:"max"`
}

// RateQuantiles describe a distribution of rates, in bytes per second. They have
// more of its slow end, which is the one that matters.
type RateQuantiles struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean"`
	P1    float64 `json:"p1"`
	P10   float64 `json:"p10"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	Max   float64 `json:"max"`
}

func quantiles(h stats.Histogram) Quantiles {
	return Quantiles{Count: h.Count(), Mean: h.Mean(), P50: h.At(0.5), P90: h.At(0.9), P99: h.At(0.99), P999: h.At(0.999), Max: h.At(1)}
}

func rateQuantiles(h stats.Histogram) RateQuantiles {
	return RateQuantiles{Count: h.Count(), Mean: h.Mean(), P1: h.At(0.01), P10: h.At(0.1), P50: h.At(0.5), P90: h.At(0.9), Max: h.At(1)}
}
