package bench_test

import (
	"context"
	"io"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"drayage/bench"

	"github.com/google/go-cmp/cmp"
)

func forever() bool { return true }

// An open loop tells what a server that stalls kept waiting; a closed loop, which
// waits with it, hides nearly all of that.
func TestOpenLoopSeesStallsThatAClosedLoopHides(t *testing.T) {
	const stall, every = time.Second, 5 * time.Second
	// A server that answers within a millisecond, but for a second in five, when it
	// keeps everybody waiting.
	server := func(_ context.Context, s *bench.Sample) {
		begin := time.Now()
		time.Sleep(time.Millisecond)
		if into := time.Duration(time.Now().UnixNano()) % every; into < stall {
			time.Sleep(stall - into)
		}
		s.FirstByte = time.Since(begin)
	}
	measure := func(l bench.Load) bench.Summary {
		var out bench.Summary
		synctest.Test(t, func(t *testing.T) {
			r := bench.NewRecorder()
			l.Duration = 100 * time.Second
			bench.Run(t.Context(), l, func(int) bench.Work { return server }, forever, func(_ int, s bench.Sample) { r.Add(s) })
			out = r.Summary()
		})
		return out
	}
	open := measure(bench.Load{Rate: 100, Workers: 1000})
	// A fifth of all requests are due while it stalls, spread evenly over the
	// second: a tenth waits for more than half of it, a hundredth for 95 %.
	for _, c := range []struct {
		name      string
		got, want float64
	}{{"p90", open.Latency.P90, 0.5}, {"p99", open.Latency.P99, 0.95}, {"p99.9", open.Latency.P999, 0.995}} {
		if math.Abs(c.got-c.want) > 0.1*c.want {
			t.Errorf("open loop: %s is %.3f s, want %.3f s within 10 %%", c.name, c.got, c.want)
		}
	}
	if open.Lateness.Max > 0.001 {
		t.Errorf("the load is up to %.4f s late", open.Lateness.Max)
	}
	closed := measure(bench.Load{Workers: 1})
	if closed.Latency.P99 > 0.1*open.Latency.P99 {
		t.Errorf("closed loop: p99 is %.3f s, and the open loop's %.3f s: the test shows nothing", closed.Latency.P99, open.Latency.P99)
	}
}

func TestOpenLoopKeepsItsSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := bench.NewRecorder()
		var n atomic.Int64
		bench.Run(t.Context(), bench.Load{Rate: 1000, Workers: 10, Duration: 10 * time.Second}, func(int) bench.Work {
			return func(context.Context, *bench.Sample) { n.Add(1) }
		}, forever, func(_ int, s bench.Sample) { r.Add(s) })
		if got := n.Load(); got < 9990 || got > 10010 {
			t.Errorf("%d requests in 10 s at 1000 a second", got)
		}
		// With too few workers what is due waits, and that counts.
		slow := bench.NewRecorder()
		bench.Run(t.Context(), bench.Load{Rate: 10, Workers: 1, Requests: 20}, func(int) bench.Work {
			return func(context.Context, *bench.Sample) { time.Sleep(time.Second) }
		}, forever, func(_ int, s bench.Sample) { slow.Add(s) })
		if max := slow.Summary().Latency.Max; math.Abs(max-18.1) > 0.1 {
			t.Errorf("the last of 20 waited %.2f s, want 18.1 s", max)
		}
	})
}

func TestRunEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, c := range map[string]struct {
			load bench.Load
			more func() bool
			want int
		}{
			"after so many":       {bench.Load{Workers: 3, Requests: 10}, forever, 10},
			"after so long":       {bench.Load{Workers: 2, Duration: 5500 * time.Millisecond}, forever, 12},
			"when told":           {bench.Load{Workers: 2}, func() bool { return false }, 0},
			"after so many, open": {bench.Load{Workers: 3, Rate: 5, Requests: 10}, forever, 10},
		} {
			var mu sync.Mutex
			got := 0
			bench.Run(t.Context(), c.load, func(int) bench.Work {
				return func(context.Context, *bench.Sample) { time.Sleep(time.Second) }
			}, c.more, func(int, bench.Sample) { mu.Lock(); got++; mu.Unlock() })
			if got != c.want {
				t.Errorf("%s: %d requests, want %d", name, got, c.want)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		for _, rate := range []float64{0, 100} {
			bench.Run(ctx, bench.Load{Workers: 2, Rate: rate}, func(int) bench.Work {
				return func(ctx context.Context, _ *bench.Sample) {
					select {
					case <-time.After(time.Second):
					case <-ctx.Done():
					}
				}
			}, forever, func(int, bench.Sample) {})
		}
	})
}

// rounds are measurements of something with a true value and some noise, a part of
// which a round has for all that is measured in it.
func rounds(rnd *rand.Rand, n int, a, b float64) (as, bs []float64) {
	const common, own = 0.10, 0.03
	for range n {
		both := math.Exp(common * rnd.NormFloat64())
		as = append(as, a*both*math.Exp(own*rnd.NormFloat64()))
		bs = append(bs, b*both*math.Exp(own*rnd.NormFloat64()))
	}
	return as, bs
}

// The same thing twice is rarely told apart, and what differs by a tenth nearly
// always is.
func TestCompareIsRightMostOfTheTime(t *testing.T) {
	const runs, n = 1000, 6 // the default number of rounds
	rnd := rand.New(rand.NewPCG(7, 7))
	wrong, found, inside := 0, 0, 0
	for range runs {
		a, b := rounds(rnd, n, 100, 100)
		if bench.Compare(a, b).Real {
			wrong++
		}
		a, b = rounds(rnd, n, 100, 110)
		d := bench.Compare(a, b)
		if d.Real && d.Ratio.Estimate > 1 {
			found++
		}
		if d.Ratio.Low <= 1.1 && d.Ratio.High >= 1.1 {
			inside++
		}
	}
	if wrong > runs*6/100 {
		t.Errorf("a difference where there is none in %d of %d", wrong, runs)
	}
	if found < runs*9/10 {
		t.Errorf("a tenth was found in %d of %d", found, runs)
	}
	if inside < runs*88/100 {
		t.Errorf("the interval holds the truth in %d of %d", inside, runs)
	}
}

func TestKnee(t *testing.T) {
	for _, c := range []struct {
		n    []int
		tp   []float64
		want int
	}{
		{nil, nil, 0}, {[]int{1}, []float64{5}, 1}, {[]int{1, 2, 4, 8}, []float64{10, 20, 39, 40}, 4}, {[]int{1, 2, 4}, []float64{10, 9, 8}, 1},
		{[]int{1, 2}, []float64{0, 0}, 0}, {[]int{8, 4, 2, 1}, []float64{80, 40, 20, 10}, 8},
	} {
		if got := bench.Knee(c.n, c.tp); got != c.want {
			t.Errorf("Knee(%v, %v) = %d, want %d", c.n, c.tp, got, c.want)
		}
	}
}

// sample is a report with names that would like to be markup.
func sample() *bench.Report {
	times := bench.Quantiles{Count: 10, Mean: 0.02, P50: 0.01, P90: 0.03, P99: 0.2, P999: 0.5, Max: 1}
	r := &bench.Report{Version: bench.ReportVersion, Started: time.Unix(1e9, 0).UTC(), Rounds: 2}
	for _, name := range []string{"registry.example/app:1", `evil<script src="https://x.example/x.js">&'</svg><b onload="x">`} {
		r.Targets = append(r.Targets, bench.ReportTarget{Name: name, Blobs: 3, Size: 3e8, Knee: 4, All: bench.Summary{Cold: times, Warm: times}})
		for i := range 8 {
			r.Series = append(r.Series, bench.Point{At: float64(len(r.Series)), Target: name, Connections: 4, Round: 1, Throughput: float64(1e7 * (i + 1))})
		}
		for i, n := range []int{1, 2, 4, 8} {
			tp := float64(10e6 * min(4, i+1))
			r.Results = append(r.Results, bench.Result{Target: name, Connections: n, Throughput: bench.Interval{Estimate: tp, Low: tp * 0.9, High: tp * 1.1},
				ByRound: []float64{tp, tp * 1.01}, Summary: bench.Summary{Requests: 10, Bytes: 1e8, Latency: times, FirstByte: times, LatencyCurve: []float64{0.01, 0.02, 0.05}}})
		}
	}
	r.Comparisons = []bench.Comparison{{Target: r.Targets[1].Name, To: r.Targets[0].Name, Connections: 4, Throughput: bench.Compare([]float64{1, 2, 3, 4, 5, 6}, []float64{2, 4, 6, 8, 10, 12})}}
	r.Comparisons = append(r.Comparisons, r.Comparisons[0])
	r.Comparisons[1].Connections = 8
	return r
}

// The page needs nothing from elsewhere, and lets no name become markup.
// A report that has a knee and no results, as a damaged file may, has nothing to say of it.
func TestKneeOfNothing(t *testing.T) {
	target := bench.ReportTarget{Name: "a", Knee: 4}
	r := bench.Report{Targets: []bench.ReportTarget{target}}
	if got := r.KneeText(target); got != "" {
		t.Errorf("%q", got)
	}
}

func TestHTMLStandsAlone(t *testing.T) {
	var b strings.Builder
	if err := sample().WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	if len(page) > 1<<20 {
		t.Errorf("%d bytes", len(page))
	}
	for _, bad := range []string{"<script", "<link", "<iframe", "@import", "url(", "<img", "href=", "<b onload", "'</svg>"} {
		if strings.Contains(page, bad) {
			t.Errorf("it has %q", bad)
		}
	}
	for _, want := range []string{"<svg", "role=\"img\"", "aria-label=\"Throughput by connections\"", "Latency of whole reads", "Which is faster", "<td>2.00</td>", "<strong>faster</strong>", "evil&lt;script", "default-src 'none'"} {
		if !strings.Contains(page, want) {
			t.Errorf("it has no %q", want)
		}
	}
	if n := strings.Count(page, "<svg"); n != 8 || strings.Count(page, "</svg>") != n {
		t.Errorf("%d plots, want 4 in two forms", n)
	}
}

func TestReportsComeBackAndAreCompared(t *testing.T) {
	was := sample()
	var b strings.Builder
	if err := was.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	is, err := bench.ReadReport(strings.NewReader(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(was, is); diff != "" {
		t.Error(diff)
	}
	if worse := is.Baseline(was, 0.1); len(worse) != 0 {
		t.Errorf("the same is worse: %v", worse)
	}
	for i := range is.Results {
		is.Results[i].Throughput = bench.Interval{Estimate: 5e6, Low: 4e6, High: 6e6}
	}
	worse := is.Baseline(was, 0.1)
	if len(worse) != 8 || worse[0].Fraction < worse[7].Fraction {
		t.Errorf("%v", worse)
	}
	if worse := is.Baseline(was, 0.9); len(worse) != 0 {
		t.Errorf("beyond the tolerance: %v", worse)
	}
	for _, bad := range []string{"", "{}", `{"version":99}`, "[]"} {
		if _, err := bench.ReadReport(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is a report", bad)
		}
	}
	for name, write := range map[string]func(io.Writer) error{"csv": was.WriteCSV, "benchstat": was.WriteBenchstat} {
		var b strings.Builder
		if err := write(&b); err != nil || strings.Count(b.String(), "\n") < 9 {
			t.Errorf("%s: %v\n%s", name, err, b.String())
		}
	}
}
