// Package drawing draws the plots of reports as SVG: axes with round ticks, lines,
// bars and signs. It uses no library, because those that were tried cost every command
// megabytes of memory. All text is escaped.
//
// New makes a Plot, its methods add marks, and SVG draws it. Axes may be set at any
// time before that.
package drawing

import (
	"fmt"
	"html"
	"strings"
)

const (
	// fonts are of similar width; the last one is generic.
	fonts = "Liberation Sans,Arial,Helvetica,sans-serif"
	// Letters is the size of letters in pixels, legible at two thirds of it.
	Letters = 13
	row     = 15  // height of a line of text
	gap     = 5   // between texts and what they label
	middle  = .35 // from the middle of a letter to its baseline, in units of its size

	thin, thick = 1, 2 // lines
	barLine     = 1.5
	tickLength  = 4
	capLength   = 8
	signRadius  = 4.5
	margin      = 6 // for signs at the edge
)

// Look has the colors of everything except data.
type Look struct{ Ink, Line, Shade string }

// Axis is one of the two axes of a plot.
type Axis struct {
	Title    string
	Min, Max float64
	Ticks    []Tick
	Bare     bool // without a line, for names rather than values
}

// share is the position of a value along the axis, from 0 to 1.
func (a *Axis) share(v float64) float64 { return (v - a.Min) / (a.Max - a.Min) }

// Plot is what will be drawn, in the order in which it was added.
type Plot struct {
	Title        string
	X, Y         Axis
	Above, Right float64 // extra margins next to the data, in pixels
	look         Look
	marks        []func(*Canvas)
}

// New returns an empty plot with a transparent background.
func New(l Look, xTitle, yTitle string) *Plot {
	return &Plot{X: Axis{Title: xTitle}, Y: Axis{Title: yTitle}, look: l}
}

// Add adds what f draws once the size of the plot is known.
func (p *Plot) Add(f func(*Canvas)) { p.marks = append(p.marks, f) }

// XY is a point, in units of the axes.
type XY struct{ X, Y float64 }

// Bar is an interval of values at X, in units of the axes.
type Bar struct{ X, Low, High float64 }

// Sign is the shape that marks a point.
type Sign int

// The signs, which look equally large.
const (
	Ring Sign = iota
	Square
	Diamond
	Dot
)

// Grid adds a line at each tick of the vertical axis.
func (p *Plot) Grid() {
	p.Add(func(c *Canvas) {
		var d strings.Builder
		for _, t := range p.Y.Ticks {
			fmt.Fprintf(&d, "M%.1f %.1fH%.1f", c.Left, c.Y(t.Value), c.Right)
		}
		c.Stroke(p.look.Line, thin, d.String())
	})
}

// Line adds a line from point to point.
func (p *Plot) Line(color string, points []XY) {
	p.Add(func(c *Canvas) {
		var d strings.Builder
		for i, at := range points {
			fmt.Fprintf(&d, "%c%.1f %.1f", "ML"[min(i, 1)], c.X(at.X), c.Y(at.Y))
		}
		c.Stroke(color, thick, d.String())
	})
}

// Bars adds bars with caps. A bar is cut off, without a cap, where it leaves the plot.
func (p *Plot) Bars(color string, bars []Bar) {
	p.Add(func(c *Canvas) {
		for _, b := range bars {
			x := c.X(b.X)
			d := fmt.Sprintf("M%.1f %.1fV%.1f", x, c.Y(max(b.Low, p.Y.Min)), c.Y(min(b.High, p.Y.Max)))
			for _, v := range []float64{b.Low, b.High} {
				if p.Y.Min <= v && v <= p.Y.Max {
					d += fmt.Sprintf("M%.1f %.1fh%d", x-capLength/2, c.Y(v), capLength)
				}
			}
			c.Stroke(color, barLine, d)
		}
	})
}

// Signs adds signs at points.
func (p *Plot) Signs(color string, s Sign, points []XY) {
	p.Add(func(c *Canvas) {
		for _, at := range points {
			c.sign(color, s, c.X(at.X), c.Y(at.Y))
		}
	})
}

// Canvas is a picture whose area for data is known, in pixels from its upper left
// corner.
type Canvas struct {
	Left, Right, Top, Bottom float64
	plot                     *Plot
	strings.Builder
}

// X is the position of a value of the horizontal axis.
func (c *Canvas) X(v float64) float64 { return c.Left + c.plot.X.share(v)*(c.Right-c.Left) }

// Y is the position of a value of the vertical axis.
func (c *Canvas) Y(v float64) float64 { return c.Bottom - c.plot.Y.share(v)*(c.Bottom-c.Top) }

// Stroke draws a path in SVG's notation.
func (c *Canvas) Stroke(color string, width float64, path string) {
	if path != "" {
		fmt.Fprintf(c, `<path d="%s" stroke="%s" stroke-width="%g" fill="none"/>`+"\n", path, color, width)
	}
}

// Fill fills a rectangle.
func (c *Canvas) Fill(color string, left, top, right, bottom float64) {
	fmt.Fprintf(c, `<path d="M%.1f %.1fH%.1fV%.1fH%.1fZ" fill="%s"/>`+"\n", left, top, right, bottom, left, color)
}

// Anchor is the part of a text that is at its position.
type Anchor string

// The anchors, with SVG's names.
const (
	Start Anchor = "start"
	Mid   Anchor = "middle"
	end   Anchor = "end"
)

// Text draws a line of text with its baseline at y.
func (c *Canvas) Text(a Anchor, x, y, size float64, text string) { c.text(a, x, y, size, "", text) }

// Beside draws a line of text with its middle at y.
func (c *Canvas) Beside(a Anchor, x, y float64, text string) {
	c.Text(a, x, y+middle*Letters, Letters, text)
}

func (c *Canvas) text(a Anchor, x, y, size float64, more, text string) {
	fmt.Fprintf(c, `<text x="%.1f" y="%.1f" font-size="%g" text-anchor="%s" fill="%s"%s>%s</text>`+"\n", x, y, size, a, c.plot.look.Ink, more, html.EscapeString(text))
}

// sign draws a sign.
func (c *Canvas) sign(color string, s Sign, x, y float64) {
	const r, half, corner = signRadius, 0.9 * signRadius, 1.2 * signRadius
	switch s {
	case Ring:
		fmt.Fprintf(c, `<circle cx="%.1f" cy="%.1f" r="%g" stroke="%s" stroke-width="%d" fill="none"/>`+"\n", x, y, r, color, thick)
	case Square:
		c.Fill(color, x-half, y-half, x+half, y+half)
	case Diamond:
		fmt.Fprintf(c, `<path d="M%.1f %.1fl%[3]g %[3]gl-%[3]g %[3]gl-%[3]g -%[3]gZ" fill="%[4]s"/>`+"\n", x, y-corner, corner, color)
	case Dot:
		fmt.Fprintf(c, `<circle cx="%.1f" cy="%.1f" r="%g" fill="%s"/>`+"\n", x, y, r, color)
	}
}

// SVG draws a plot of a size in pixels, with a name for screen readers.
func SVG(p *Plot, width, height float64, name string) string {
	c := p.canvas(width, height)
	fmt.Fprintf(c, `<svg role="img" aria-label="%s" xmlns="http://www.w3.org/2000/svg" width="%g" height="%g" viewBox="0 0 %g %g" font-family="%s" stroke-linejoin="round">`+"\n",
		html.EscapeString(name), width, height, width, height, fonts)
	c.axes(height)
	for _, draw := range p.marks {
		draw(c)
	}
	return c.String() + "</svg>\n"
}

// canvas reserves space for titles and labels, and leaves the rest to data.
func (p *Plot) canvas(width, height float64) *Canvas {
	c := &Canvas{plot: p, Left: margin, Right: width - margin - p.Right, Top: margin, Bottom: height - margin}
	widest, rows := 0.0, 0
	for _, t := range p.Y.Ticks {
		widest = max(widest, Width(t.Label, Letters))
	}
	for _, t := range p.X.Ticks {
		rows = max(rows, len(lines(t.Label)))
	}
	c.Left += widest + tickLength + gap
	if p.Y.Title != "" {
		c.Left += row + gap
	}
	if n := len(p.X.Ticks); n > 0 { // half of the last label may extend beyond the axis
		last := p.X.Ticks[n-1]
		inside := (1 - p.X.share(last.Value)) * (c.Right - c.Left)
		c.Right -= max(0, Width(last.Label, Letters)/2-inside-p.Right)
	}
	c.Bottom -= tickLength + gap + float64(rows*row)
	if p.X.Title != "" {
		c.Bottom -= row + gap
	}
	if p.Title != "" {
		c.Top += row
	}
	c.Top += max(p.Above, row/2) // for the topmost label
	return c
}

// axes draws both axes and the titles.
func (c *Canvas) axes(height float64) {
	p := c.plot
	var d strings.Builder
	if !p.X.Bare {
		fmt.Fprintf(&d, "M%.1f %.1fH%.1f", c.Left, c.Bottom, c.Right)
	}
	for _, t := range p.X.Ticks {
		x := c.X(t.Value)
		if !p.X.Bare {
			fmt.Fprintf(&d, "M%.1f %.1fv%d", x, c.Bottom, tickLength)
		}
		for i, line := range lines(t.Label) {
			c.Text(Mid, x, c.Bottom+tickLength+float64((i+1)*row), Letters, line)
		}
	}
	if !p.Y.Bare {
		fmt.Fprintf(&d, "M%.1f %.1fV%.1f", c.Left, c.Bottom, c.Top)
	}
	for _, t := range p.Y.Ticks {
		y := c.Y(t.Value)
		if !p.Y.Bare {
			fmt.Fprintf(&d, "M%.1f %.1fh-%d", c.Left, y, tickLength)
		}
		c.Beside(end, c.Left-tickLength-gap, y, t.Label)
	}
	c.Stroke(p.look.Line, thin, d.String())
	c.titles(height)
}

// titles draws the titles: above the plot, below it, and rotated to its left.
func (c *Canvas) titles(height float64) {
	p := c.plot
	x, y := (c.Left+c.Right)/2, (c.Top+c.Bottom)/2
	if p.Title != "" {
		c.Text(Mid, x, Letters, Letters, p.Title)
	}
	if p.X.Title != "" {
		c.Text(Mid, x, height-gap, Letters, p.X.Title)
	}
	if p.Y.Title != "" {
		c.text(Mid, Letters, y, Letters, fmt.Sprintf(` transform="rotate(-90 %d %.1f)"`, Letters, y), p.Y.Title)
	}
}

// lines are the lines of a label.
func lines(label string) []string {
	if label == "" {
		return nil
	}
	return strings.Split(label, "\n")
}

// Width estimates the width of a text's widest line in pixels, for a wide font, since
// the browser's is not known.
func Width(text string, size float64) float64 {
	const narrow, usual, capital, wide = .4, .64, .75, 1
	widest := 0.0
	for _, line := range lines(text) {
		w := 0.0
		for _, r := range line {
			switch {
			case strings.ContainsRune(" .,:;!|()[]/'ijlfrtI", r):
				w += narrow
			case r >= 'A' && r <= 'Z' && r != 'M' && r != 'W':
				w += capital
			case strings.ContainsRune("mwMW%@", r), r > 'ÿ': // any other script
				w += wide
			default:
				w += usual
			}
		}
		widest = max(widest, w)
	}
	return widest * size
}
