package stats_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"drayage/bench/internal/stats"
)

// rounds draws n measurements of two things with true values a and b, with noise that
// a round has in common and noise of their own.
func rounds(rnd *rand.Rand, n int, a, b float64) (as, bs []float64) {
	const common, own = 0.10, 0.03
	for range n {
		both := math.Exp(common * rnd.NormFloat64())
		as = append(as, a*both*math.Exp(own*rnd.NormFloat64()))
		bs = append(bs, b*both*math.Exp(own*rnd.NormFloat64()))
	}
	return as, bs
}

// Equal things are rarely called different, and a difference of a tenth is nearly
// always found.
func TestCompareErrorRates(t *testing.T) {
	const runs, n = 1000, 6 // the default number of rounds
	rnd := rand.New(rand.NewPCG(7, 7))
	wrong, found, inside := 0, 0, 0
	for range runs {
		a, b := rounds(rnd, n, 100, 100)
		if stats.Compare(a, b).Significant {
			wrong++
		}
		a, b = rounds(rnd, n, 100, 110)
		r := stats.Compare(a, b)
		if r.Significant && r.Estimate > 1 {
			found++
		}
		if r.Low <= 1.1 && r.High >= 1.1 {
			inside++
		}
	}
	if wrong > runs*6/100 {
		t.Errorf("equal targets are significantly different in %d of %d runs", wrong, runs)
	}
	if found < runs*9/10 {
		t.Errorf("a difference of a tenth was found in %d of %d runs", found, runs)
	}
	if inside < runs*88/100 {
		t.Errorf("the interval contains the true ratio in %d of %d runs", inside, runs)
	}
}

// anyValues draws a few to many positive values, some of them 0 or equal.
func anyValues(rnd *rand.Rand) []float64 {
	out := make([]float64, rnd.IntN(25))
	for i := range out {
		switch rnd.IntN(8) {
		case 0:
		case 1:
			out[i] = 1
		default:
			out[i] = math.Pow(10, 12*rnd.Float64()-3)
		}
	}
	return out
}

// Whatever the values, an interval contains its estimate, is the same again, and
// scales with its values.
func TestMeanProperties(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 40 {
		values := anyValues(rnd)
		m := stats.Mean(values)
		if again := stats.Mean(values); again != m {
			t.Fatalf("%v: %v, and %v again", values, m, again)
		}
		if len(values) < 6 && len(values) > 1 {
			if least, largest := slices.Min(values), slices.Max(values); m.Low > least || m.High < largest {
				t.Fatalf("%v: %v is not the range", values, m)
			}
		}
		scaled := make([]float64, len(values))
		for i, v := range values {
			scaled[i] = 8 * v // exact
		}
		if s := stats.Mean(scaled); s.Estimate != 8*m.Estimate || s.Low != 8*m.Low || s.High != 8*m.High {
			t.Fatalf("%v: %v, and %v of values 8 times as large", values, m, s)
		}
		for _, v := range []float64{m.Estimate, m.Low, m.High} {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				t.Fatalf("%v: %v", values, m)
			}
		}
	}
}

func TestMeanOfFewValues(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   stats.Confidence
	}{
		{nil, stats.Confidence{}},
		{[]float64{3}, stats.Confidence{Estimate: 3, Low: 3, High: 3}},
		{[]float64{2, 2, 2, 2, 2, 2, 2}, stats.Confidence{Estimate: 2, Low: 2, High: 2}},
		{[]float64{1, 3}, stats.Confidence{Estimate: 2, Low: 1, High: 3}},
		{[]float64{1, 2, 3, 4, 5}, stats.Confidence{Estimate: 3, Low: 1, High: 5}},
	} {
		got := stats.Mean(c.values)
		for _, d := range []float64{got.Estimate - c.want.Estimate, got.Low - c.want.Low, got.High - c.want.High} {
			if math.Abs(d) > 1e-12 {
				t.Errorf("Mean(%v) = %v, want %v", c.values, got, c.want)
				break
			}
		}
	}
}

// From 6 values on the interval is a bootstrap, which contains the true mean about 95
// times in 100.
func TestMeanCoverage(t *testing.T) {
	const runs = 100
	for _, n := range []int{6, 12} {
		rnd := rand.New(rand.NewPCG(3, uint64(n)))
		inside := 0
		for range runs {
			values := make([]float64, n)
			for i := range values {
				values[i] = 50 + 5*rnd.NormFloat64()
			}
			if m := stats.Mean(values); m.Low <= 50 && 50 <= m.High {
				inside++
			}
		}
		if inside < runs*88/100 || inside == runs {
			t.Errorf("of %d values: inside in %d of %d runs", n, inside, runs)
		}
	}
}

// Whatever the values: the interval contains the estimate, and contains 1 unless the
// difference is significant; exchanging the two inverts the ratio, and a common factor
// changes nothing.
func TestCompareProperties(t *testing.T) {
	rnd := rand.New(rand.NewPCG(2, 2))
	for range 30 {
		a, b := anyValues(rnd), anyValues(rnd)
		r := stats.Compare(a, b)
		if r.P <= 0 || r.P > 1 || r.Significant != (r.P <= 0.05) {
			t.Fatalf("%v, %v: %+v", a, b, r)
		}
		if r.Estimate == 0 { // no pairs
			continue
		}
		if !r.Significant && (r.Low > 1 || r.High < 1) {
			t.Fatalf("%v, %v: %+v excludes 1", a, b, r)
		}
		if r.Significant && r.Low < 1 && r.High > 1 {
			t.Fatalf("%v, %v: %+v includes 1", a, b, r)
		}
		back := stats.Compare(b, a)
		if math.Abs(math.Log(back.Estimate*r.Estimate)) > 1e-9 || math.Abs(back.P-r.P) > 1e-9 {
			t.Fatalf("%v, %v: %+v, and %+v of the inverse", a, b, r, back)
		}
		for _, x := range [][]float64{a, b} {
			for i := range x {
				x[i] *= 4
			}
		}
		if scaled := stats.Compare(a, b); math.Abs(math.Log(scaled.Estimate/r.Estimate)) > 1e-9 || scaled.P != r.P {
			t.Fatalf("%+v, and %+v of values 4 times as large", r, scaled)
		}
	}
}

// The smallest p-value of n pairs is 2/2^n: 5 rounds are too few for significance.
func TestCompareNeedsSixRounds(t *testing.T) {
	for n := 1; n <= 8; n++ {
		var a, b []float64
		for i := range n {
			a, b = append(a, float64(10+i)), append(b, float64(20+2*i))
		}
		r := stats.Compare(a, b)
		if want := math.Pow(2, 1-float64(n)); math.Abs(r.P-want) > 1e-12 {
			t.Errorf("%d pairs: p is %g, want %g", n, r.P, want)
		}
		if r.Significant != (n >= 6) {
			t.Errorf("%d pairs: significant %v", n, r.Significant)
		}
	}
}

// More pairs than are tried exactly, and more than a word has bits.
func TestCompareManyRounds(t *testing.T) {
	for _, n := range []int{17, 65} {
		rnd := rand.New(rand.NewPCG(4, uint64(n)))
		a, b := rounds(rnd, n, 100, 110)
		if r := stats.Compare(a, b); !r.Significant || r.Estimate < 1.05 || r.Estimate > 1.15 {
			t.Errorf("%d pairs that differ: %+v", n, r)
		}
		a, b = rounds(rnd, n, 100, 100)
		if r := stats.Compare(a, b); r.P < 0.001 {
			t.Errorf("%d pairs that do not: %+v", n, r)
		}
	}
}

// Signs of pairs that are 64 apart are flipped independently: of two equal differences
// the sum is as large as theirs in half of all cases.
func TestSignsAreIndependent(t *testing.T) {
	a, b := make([]float64, 65), make([]float64, 65)
	for i := range a {
		a[i], b[i] = 1, 1
	}
	b[0], b[64] = 2, 2
	if r := stats.Compare(a, b); math.Abs(r.P-0.5) > 0.02 {
		t.Errorf("p is %g, want 0.5", r.P)
	}
}

func TestCompareWithoutPairs(t *testing.T) {
	for _, c := range [][2][]float64{{nil, nil}, {{1}, nil}, {{0, 1}, {1, 0}}} {
		if r := stats.Compare(c[0], c[1]); r != (stats.Ratio{P: 1}) {
			t.Errorf("Compare(%v, %v) = %+v", c[0], c[1], r)
		}
	}
}

func TestKnee(t *testing.T) {
	for _, c := range []struct {
		n    []int
		tp   []float64
		want int
	}{
		{nil, nil, 0}, {[]int{1}, []float64{5}, 1}, {[]int{1, 2, 4, 8}, []float64{10, 20, 39, 40}, 4}, {[]int{1, 2, 4}, []float64{10, 9, 8}, 1},
		{[]int{1, 2}, []float64{0, 0}, 0}, {[]int{8, 4, 2, 1}, []float64{80, 40, 20, 10}, 8}, {[]int{1, 2}, []float64{95, 100}, 1}, {[]int{1, 2}, []float64{94.9, 100}, 2},
	} {
		if got := stats.Knee(c.n, c.tp); got != c.want {
			t.Errorf("Knee(%v, %v) = %d, want %d", c.n, c.tp, got, c.want)
		}
	}
}

// Whatever the curve, its knee reaches 95 % of the best, no smaller number does, and
// the order of the numbers does not matter.
func TestKneeProperties(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 5))
	for range 1000 {
		n := rnd.Perm(1 + rnd.IntN(10))
		tp := make([]float64, len(n))
		for i := range n {
			n[i]++
			tp[i] = rnd.Float64()
		}
		knee, best := stats.Knee(n, tp), slices.Max(tp)
		for i := range n {
			if n[i] == knee && tp[i] < 0.95*best || n[i] < knee && tp[i] >= 0.95*best {
				t.Fatalf("Knee(%v, %v) = %d", n, tp, knee)
			}
		}
		slices.Reverse(n)
		slices.Reverse(tp)
		if again := stats.Knee(n, tp); again != knee {
			t.Fatalf("Knee(%v, %v) = %d, and %d in the other order", n, tp, again, knee)
		}
	}
}

// A quantile of a histogram is within a thousandth of the exact one.
func TestHistogramQuantiles(t *testing.T) {
	rnd := rand.New(rand.NewPCG(6, 6))
	times, rates := stats.NewTimes(), stats.NewRates()
	var exact, exactRates []float64
	for range 5000 {
		d := time.Duration(math.Exp(20*rnd.Float64()) * float64(time.Microsecond)) // up to 485 s
		n := 1 + int64(d.Seconds()*math.Exp(24*rnd.Float64()))                     // up to 26 GB/s
		times.AddTime(d)
		rates.AddRate(n, d)
		exact = append(exact, d.Seconds())
		exactRates = append(exactRates, float64(n)/d.Seconds())
	}
	for _, c := range []struct {
		h     stats.Histogram
		exact []float64
		unit  float64 // the resolution
	}{{times, exact, 1e-6}, {rates, exactRates, 1000}} {
		slices.Sort(c.exact)
		for _, share := range []float64{0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 1} {
			want := c.exact[int(math.Ceil(share*float64(len(c.exact))))-1]
			if got := c.h.At(share); math.Abs(got-want) > 0.002*want+2*c.unit {
				t.Errorf("p%g is %g, want %g", 100*share, got, want)
			}
		}
		if c.h.Count() != int64(len(c.exact)) {
			t.Errorf("%d values", c.h.Count())
		}
	}
	curve := times.Curve()
	if !slices.IsSorted(curve) || len(curve) != 37 { // 10^3.6 < 5000 < 10^3.7
		t.Errorf("%d points: %v", len(curve), curve)
	}
	for k, v := range curve {
		if v != times.At(stats.CurveShare(k)) {
			t.Errorf("point %d is %g", k, v)
		}
	}
}

func TestHistogramBounds(t *testing.T) {
	h := stats.NewTimes()
	if h.At(0.5) != 0 || h.Mean() != 0 || h.Count() != 0 || h.Curve() != nil {
		t.Error("an empty distribution has values")
	}
	h.AddTime(-time.Second)
	if got := h.At(1); got != 1e-6 {
		t.Errorf("a negative time counts as %g s", got)
	}
	h.AddTime(time.Hour)
	if got := h.At(1); got < 599 || got > 601 {
		t.Errorf("an hour counts as %g s", got)
	}
	r := stats.NewRates()
	r.AddRate(1<<62, 0)
	if got := r.At(1); got < 0.99e12 || got > 1.01e12 {
		t.Errorf("the highest rate is %g", got)
	}
}

func TestMergeIsAddingAll(t *testing.T) {
	rnd := rand.New(rand.NewPCG(8, 8))
	a, b, both := stats.NewTimes(), stats.NewTimes(), stats.NewTimes()
	for range 1000 {
		d := time.Duration(rnd.Int64N(int64(time.Minute)))
		both.AddTime(d)
		if rnd.IntN(2) == 0 {
			a.AddTime(d)
		} else {
			b.AddTime(d)
		}
	}
	a.Merge(b)
	if a.Count() != both.Count() || !slices.Equal(a.Curve(), both.Curve()) {
		t.Errorf("%d values merged, %d added", a.Count(), both.Count())
	}
}
