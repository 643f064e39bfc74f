package bench_test

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"drayage/bench"
	"drayage/bench/internal/stats"
)

// sweep describes a made-up report.
type sweep struct {
	ratios      []float64 // of the targets' throughputs to the first's
	connections []int
	rounds      int
	seconds     int // that each setting takes in each round
	noise       float64
	failing     bool // the first target, with the second number of connections
}

func (s sweep) report() *bench.Report {
	rnd := rand.New(rand.NewPCG(1, 2))
	noisy := func(v float64) float64 { return v * math.Exp(s.noise*rnd.NormFloat64()) }
	r := &bench.Report{Version: 1, Started: time.Unix(1e9, 0).UTC(), Rounds: s.rounds}
	rates := make(map[[2]int][]float64)
	at := 0.0
	for round := range s.rounds + 1 {
		for k, n := range s.connections {
			if round == 0 && k+1 < len(s.connections) {
				continue // the warm-up has the largest number only
			}
			for i, ratio := range s.ratios {
				rate := noisy(ratio * 1e7 * float64(min(n, 8)))
				if round > 0 {
					rates[[2]int{i, k}] = append(rates[[2]int{i, k}], rate)
				}
				for range s.seconds {
					r.Series = append(r.Series, bench.SeriesPoint{At: at, Target: target(i), Connections: n, Round: round, Throughput: noisy(rate)})
					at++
				}
			}
		}
	}
	for i := range s.ratios {
		knee := 0
		for k, n := range s.connections {
			if n <= 8 && len(s.connections) > 1 {
				knee = n
			}
			res := bench.Result{Target: target(i), Connections: n, Throughput: bench.Interval(stats.Mean(rates[[2]int{i, k}])), ByRound: rates[[2]int{i, k}]}
			for c := range 34 {
				res.LatencyCurve = append(res.LatencyCurve, 0.005*math.Pow(1.1, float64(c))*float64(i+1))
			}
			c := bench.Comparison{Target: target(i), To: target(0), Connections: n, Throughput: difference(rates[[2]int{0, k}], rates[[2]int{i, k}])}
			if s.failing && k == 1 {
				if i == 0 {
					res.Failing, res.Throughput, res.LatencyCurve = true, bench.Interval{}, nil
				}
				c.Throughput, c.Why = bench.Difference{P: 1}, "100% of the reads failed"
			}
			r.Results = append(r.Results, res)
			if i > 0 {
				r.Comparisons = append(r.Comparisons, c)
			}
		}
		r.Targets = append(r.Targets, bench.ReportTarget{Name: target(i), Blobs: 3, Size: 3e8, Knee: knee})
	}
	return r
}

func difference(a, b []float64) bench.Difference {
	r := stats.Compare(a, b)
	return bench.Difference{Ratio: bench.Interval(r.Confidence), P: r.P, Real: r.Significant}
}

func target(i int) string { return fmt.Sprintf("registry-%d.example/app:1", i) }

func written(t *testing.T, r *bench.Report) string {
	t.Helper()
	var b strings.Builder
	if err := r.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

var (
	pictures = regexp.MustCompile(`(?s)<svg role="img" aria-label="([^"]*)".*?</svg>`)
	texts    = regexp.MustCompile(`<text x="([^"]+)" y="([^"]+)" font-size="([^"]+)" text-anchor="([^"]+)"[^>]*>([^<]*)</text>`)
)

// picture returns the light form of a plot, or "" if there is none.
func picture(page, title string) string {
	for _, m := range pictures.FindAllStringSubmatch(page, -1) {
		if m[1] == title {
			return m[0]
		}
	}
	return ""
}

// words are all texts of a plot.
func words(picture string) []string {
	var out []string
	for _, m := range texts.FindAllStringSubmatch(picture, -1) {
		out = append(out, m[5])
	}
	return out
}

const (
	byConnections = "Throughput by connections"
	overTime      = "Throughput over time"
	latency       = "Latency"
	against       = "Throughput ratio"
)

var sweeps = map[string]sweep{
	"one target":         {[]float64{1}, []int{1, 2, 4, 8, 16}, 6, 3, 0.1, false},
	"three targets":      {[]float64{1, 1.2, 0.8}, []int{1, 2, 4, 8, 16, 32}, 6, 3, 0.1, false},
	"nine targets":       {[]float64{1, 1, 1, 1, 2, 2, 2, 2, 2}, []int{1, 8, 64}, 2, 1, 0.1, false},
	"equal":              {[]float64{1, 1, 1}, []int{1, 4, 16}, 6, 2, 0, false},
	"nearly equal":       {[]float64{1, 1.0001}, []int{1, 4, 16}, 6, 2, 1e-6, false},
	"one fails":          {[]float64{1, 1}, []int{1, 4, 16}, 6, 2, 0.1, true},
	"one round":          {[]float64{1, 1.1}, []int{1, 4, 16}, 1, 2, 0.1, false},
	"one setting":        {[]float64{1, 2}, []int{4}, 6, 1, 0.1, false},
	"long":               {[]float64{1, 0.5}, []int{1, 8, 64}, 6, 100, 0.1, false},
	"far from another":   {[]float64{1, 0.01, 50}, []int{1, 8, 64}, 6, 2, 0.5, false},
	"nothing arrives":    {[]float64{0, 0}, []int{1, 8}, 2, 2, 0, false},
	"many settings":      {[]float64{1, 1.1}, []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 256, 512, 1024}, 6, 1, 0.1, false},
	"slower than slow":   {[]float64{1e-6, 2e-6}, []int{1, 8}, 2, 2, 0.1, false},
	"faster than a disk": {[]float64{1e4, 2e4}, []int{1, 8}, 2, 2, 0.1, false},
}

// Whatever was measured, plots are well-formed SVG with finite numbers, and no label overlaps
// another.
func TestPlotsAreLegible(t *testing.T) {
	for name, s := range sweeps {
		page := written(t, s.report())
		const most = 1 << 20
		if len(page) > most {
			t.Errorf("%s: %d bytes", name, len(page))
		}
		all := pictures.FindAllStringSubmatch(page, -1)
		if len(all) == 0 || len(all)%2 != 0 {
			t.Errorf("%s: %d plots", name, len(all))
		}
		for _, m := range all {
			for _, bad := range []string{"NaN", "Inf", ">-0<"} {
				if strings.Contains(m[0], bad) {
					t.Errorf("%s: %s: it has %s", name, m[1], bad)
				}
			}
			if err := wellFormed(m[0]); err != nil {
				t.Errorf("%s: %s: %v", name, m[1], err)
			}
			if a, b := overlapping(m[0]); a != "" {
				t.Errorf("%s: %s: %q is written over %q", name, m[1], a, b)
			}
		}
	}
}

func wellFormed(text string) error {
	d := xml.NewDecoder(strings.NewReader(text))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

const plotWidth, plotHeight = 860, 360

// overlapping returns two texts that overlap, or one beyond the edge, if there are any. Titles, one
// of which is rotated, are left out.
func overlapping(picture string) (string, string) {
	type box struct {
		text                     string
		left, right, top, bottom float64
	}
	var boxes []box
	for _, m := range texts.FindAllStringSubmatch(picture, -1) {
		anchor, text := m[4], m[5]
		if strings.Contains(text, "MiB") || strings.Contains(text, "logarithmic") {
			continue
		}
		var v [3]float64
		for i := range v {
			v[i], _ = strconv.ParseFloat(m[i+1], 64)
		}
		const letter, high = 0.6, 0.75 // of the size, in a wide font
		width := letter * v[2] * float64(len([]rune(text)))
		left := v[0] - width*map[string]float64{"start": 0, "middle": 0.5, "end": 1}[anchor]
		b := box{text, left, left + width, v[1] - high*v[2], v[1]}
		if left < 0 || b.right > plotWidth || b.top < 0 || b.bottom > plotHeight {
			return text, "the edge"
		}
		for _, o := range boxes {
			if b.left < o.right && o.left < b.right && b.top < o.bottom && o.top < b.bottom {
				return b.text, o.text
			}
		}
		boxes = append(boxes, b)
	}
	return "", ""
}

// Estimates with an interval have bars, and those without have none.
func TestPlotsHaveBars(t *testing.T) {
	r := sweeps["three targets"].report()
	paths := func(title string) int { return strings.Count(picture(written(t, r), title), "<path") }
	for title, collapse := range map[string]func(){
		byConnections: func() {
			for i := range r.Results {
				x := &r.Results[i].Throughput
				x.Low, x.High = x.Estimate, x.Estimate
			}
		},
		against: func() {
			for i := range r.Comparisons {
				x := &r.Comparisons[i].Throughput.Ratio
				x.Low, x.High = x.Estimate, x.Estimate
			}
		},
	} {
		with := paths(title)
		collapse()
		want := len(r.Results)
		if title == against {
			want = len(r.Comparisons)
		}
		if got := with - paths(title); got != want {
			t.Errorf("%s: %d bars, want %d", title, got, want)
		}
	}
}

// A bar that is far longer than all values does not flatten them.
func TestLongBarsAreCutOff(t *testing.T) {
	r := sweeps["three targets"].report()
	r.Results[0].Throughput.High *= 1e6
	if got := words(picture(written(t, r), byConnections)); !slices.Contains(got, "50") && !slices.Contains(got, "100") {
		t.Errorf("ticks: %q", got)
	}
}

// Ticks have round numbers.
func TestPlotsHaveTheirTicks(t *testing.T) {
	for _, c := range []struct {
		sweep, plot string
		want        []string
	}{
		{"three targets", byConnections, []string{"0", "20", "8", "knee", "32", "MiB/s"}},
		{"three targets", overTime, []string{"round 1", "round 6", "1", "32", "seconds"}},
		{"many settings", overTime, []string{"round 1", "round 6"}},
		{"one round", overTime, []string{"warm-up", "round 1", "4", "16"}},
		{"three targets", latency, []string{"0 %", "50 %", "90 %", "99 %", "99.9 %", "5 ms", "10 ms", "20 ms", "100 ms"}},
		{"three targets", against, []string{"×0.7", "×1", "×1.5"}},
		{"nearly equal", against, []string{"×0.98", "×1.00", "×1.02"}},
		{"far from another", against, []string{"×0.01", "×1", "×100"}},
		{"one setting", against, nil}, // it is in the table
		{"one setting", byConnections, nil},
		{"nothing arrives", against, nil},
	} {
		got := words(picture(written(t, sweeps[c.sweep].report()), c.plot))
		if c.want == nil && len(got) > 0 {
			t.Errorf("%s: there is %q", c.sweep, c.plot)
		}
		for _, w := range c.want {
			if !slices.Contains(got, w) {
				t.Errorf("%s: %s: no %q in %q", c.sweep, c.plot, w, got)
			}
		}
	}
}

// A failing setting is not drawn as one without throughput, but mentioned in the caption.
func TestFailingSettingsAreGaps(t *testing.T) {
	s := sweeps["one fails"]
	page := written(t, s.report())
	if !strings.Contains(page, target(0)+": most reads failed with 4 connections") {
		t.Error("it doesn't say what failed")
	}
	s.failing = false
	whole := picture(written(t, s.report()), byConnections)
	const color = "#4a7fd4" // the first target's
	// A sign, a bar, and the line, whose two parts have a single point each.
	if got, want := strings.Count(picture(page, byConnections), color), strings.Count(whole, color)-3; got != want {
		t.Errorf("%d marks of the first target, want %d", got, want)
	}
}

// Single seconds are visible as strokes.
func TestLoneSecondsAreSeen(t *testing.T) {
	r := sweeps["one setting"].report()
	got := 0
	for _, m := range regexp.MustCompile(`d="M([0-9.]+) ([0-9.]+)L([0-9.]+) ([0-9.]+)" stroke="#4a7fd4"`).FindAllStringSubmatch(picture(written(t, r), overTime), -1) {
		from, _ := strconv.ParseFloat(m[1], 64)
		to, _ := strconv.ParseFloat(m[3], 64)
		const least = 20
		if m[2] == m[4] && to-from > least {
			got++
		}
	}
	if want := r.Rounds + 1; got != want {
		t.Errorf("%d strokes, want %d", got, want)
	}
}
