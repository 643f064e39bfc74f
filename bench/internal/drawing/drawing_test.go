package drawing_test

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"drayage/bench/internal/drawing"
)

// No text of a plot becomes markup.
func TestTextsAreEscaped(t *testing.T) {
	const evil = `"><script>alert('&')</script></svg>`
	p := drawing.New(drawing.Look{}, evil, evil)
	p.Title = evil
	for _, a := range []*drawing.Axis{&p.X, &p.Y} {
		a.Max, a.Ticks = 1, []drawing.Tick{{Value: 1, Label: evil}}
	}
	p.Add(func(c *drawing.Canvas) { c.Text(drawing.Start, 0, 0, drawing.Letters, evil) })
	text := drawing.SVG(p, 100, 100, evil)
	if strings.Contains(text, "<script") || strings.Count(text, "</svg>") != 1 {
		t.Error(text)
	}
	found := 0
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch x := token.(type) {
		case xml.CharData:
			if string(x) == evil {
				found++
			}
		case xml.StartElement:
			for _, a := range x.Attr {
				if a.Value == evil {
					found++
				}
			}
		}
	}
	const want = 7 // the name, three titles, two labels, and what was added
	if found != want {
		t.Errorf("it occurs %d times, want %d", found, want)
	}
}

// A bar that leaves the plot is cut off, and has a cap only at its other end.
func TestBarsAreCutOff(t *testing.T) {
	p := drawing.New(drawing.Look{}, "", "")
	p.X.Max, p.Y.Max = 1, 1
	// The plot's upper end is at 13, and its middle at 49.
	p.Bars("red", []drawing.Bar{{X: 0.5, Low: 0.5, High: 1e6}})
	text := drawing.SVG(p, 100, 100, "")
	if !strings.Contains(text, `V13.0M50.5 49.0h8" stroke="red"`) {
		t.Error(text)
	}
}

func TestTicks(t *testing.T) {
	var a drawing.Axis
	drawing.FromZero(&a, 0.23)
	var labels []string
	for _, tick := range a.Ticks {
		labels = append(labels, tick.Label)
	}
	if got := strings.Join(labels, " "); got != "0.00 0.05 0.10 0.15 0.20 0.25" || a.Max != 0.25 {
		t.Errorf("%s, up to %g", got, a.Max)
	}
}

func TestLinearTicksAreRound(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 2000 {
		low := 1e3 * (rnd.Float64() - 0.5)
		high := low + math.Pow(10, 8*rnd.Float64()-2)
		all := drawing.Linear(low, high, func(s string) string { return s })
		if len(all) < 2 || len(all) > 8 {
			t.Fatalf("%g to %g: %d ticks", low, high, len(all))
		}
		for i, tick := range all {
			slack := 1e-6 * (high - low)
			if tick.Value < low-slack || tick.Value > high+slack {
				t.Fatalf("%g to %g: a tick at %g", low, high, tick.Value)
			}
			if v, err := strconv.ParseFloat(tick.Label, 64); err != nil || math.Abs(v-tick.Value) > slack {
				t.Fatalf("%g is labelled %q", tick.Value, tick.Label)
			}
			if i > 0 && tick.Label == all[i-1].Label {
				t.Fatalf("%g to %g: two ticks are labelled %q", low, high, tick.Label)
			}
		}
	}
}

func TestLogarithmicTicks(t *testing.T) {
	rnd := rand.New(rand.NewPCG(2, 2))
	for range 2000 {
		low := math.Pow(10, 12*rnd.Float64()-6)
		high := low * math.Pow(10, 10*rnd.Float64()+0.3)
		inside, around := drawing.Log(low, high), drawing.LogAround(low, high)
		if !slices.IsSorted(inside) || len(inside) < 1 || len(inside) > 11 || inside[0] < low*0.999 || inside[len(inside)-1] > high*1.001 {
			t.Fatalf("Log(%g, %g) = %g", low, high, inside)
		}
		if !slices.IsSorted(around) || len(around) < 2 || around[0] > low || around[len(around)-1] < high {
			t.Fatalf("LogAround(%g, %g) = %g", low, high, around)
		}
	}
}
