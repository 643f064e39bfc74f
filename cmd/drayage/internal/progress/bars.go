package progress

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"drayage/engine/event"
	"drayage/engine/printable"

	"github.com/cheggaaa/pb/v3"
	"github.com/opencontainers/go-digest"
)

// Bars draws on a terminal: a line for the whole run, and below it a line for
// each blob on its way, as many as fit. It paints at a steady pace, however
// fast events come, and each picture in one write, so that nothing flickers.
type Bars struct {
	w    io.Writer
	size func() (width, height int)
	stop chan struct{}
	done chan struct{}

	mu     sync.Mutex
	tally  *tally
	whole  *pb.ProgressBar
	disk   *pb.ProgressBar // of the archive that is being written
	blobs  map[digest.Digest]*pb.ProgressBar
	shown  []int  // widths of the lines on the screen
	note   string // what is waited for
	until  time.Time
	closed bool
	summed bool
}

const (
	paintEvery = 100 * time.Millisecond
	mostLines  = 20 // of blobs, also where more would fit

	// Columns have a fixed width, so that bars end below each other and don't
	// jump while numbers grow.
	wholeTemplate pb.ProgressBarTemplate = `{{string . "head"}} {{bar . "[" "=" ">" " " "]"}} {{string . "bytes"}} {{printf "%12s" (speed . "%s/s" " ")}} {{printf "%-10s" (rtime . "%s left" "" "")}}`
	earlyTemplate pb.ProgressBarTemplate = `{{string . "head"}} {{bar . "[" "=" ">" " " "]"}} {{string . "bytes"}} {{printf "%12s" (speed . "%s/s" " ")}} {{printf "%-10s" ""}}` // while it isn't known how much there is
	diskTemplate  pb.ProgressBarTemplate = earlyTemplate                                                                                                                         // it ends when what it waits for ends
	blobTemplate  pb.ProgressBarTemplate = `  {{string . "head"}} {{bar . "[" "=" ">" " " "]"}} {{string . "bytes"}} {{printf "%12s" (speed . "%s/s" " ")}} {{printf "%-10s" ""}}`
)

// NewBars starts to draw on w. size tells the terminal's size at each picture.
// The painter ends with Close.
func NewBars(w io.Writer, size func() (width, height int)) *Bars {
	b := &Bars{
		w: w, size: size, stop: make(chan struct{}), done: make(chan struct{}),
		tally: newTally(), whole: newBar(wholeTemplate, 0), blobs: make(map[digest.Digest]*pb.ProgressBar),
	}
	go b.paintUntilStopped()
	return b
}

// newBar makes a bar that only renders: the painter decides when and where.
func newBar(t pb.ProgressBarTemplate, total int64) *pb.ProgressBar {
	return pb.New64(total).SetTemplate(t).Set(pb.Static, true).Set(pb.Bytes, true).SetWriter(io.Discard).Start()
}

func (b *Bars) paintUntilStopped() {
	defer close(b.done)
	tick := time.NewTicker(paintEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			b.mu.Lock()
			b.paint()
			b.mu.Unlock()
		case <-b.stop:
			return
		}
	}
}

// Observe implements Printer.
func (b *Bars) Observe(e event.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.tally.add(e)
	switch e := e.(type) {
	case event.Fetching:
		b.blobs[e.Digest] = newBar(blobTemplate, e.Size)
	case event.Fetched:
		delete(b.blobs, e.Digest)
	case event.Failed:
		delete(b.blobs, e.Digest)
	case event.Retrying:
		if e.Delay >= time.Second {
			b.note, b.until = printable.Sprintf("trying again in %s: %s: %s", round(e.Delay), e.What, e.Why), time.Now().Add(e.Delay)
		}
	case event.Composing:
		b.disk = newBar(diskTemplate, e.Size)
	case event.Written:
		b.disk = nil
	}
}

// Log implements Printer: the line goes above the bars.
func (b *Bars) Log(line string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out bytes.Buffer
	width, _ := b.size()
	b.erase(&out, width)
	out.WriteString(line + "\n")
	_, _ = b.w.Write(out.Bytes())
	if !b.closed {
		b.paint()
	}
}

// Close implements Printer: it takes the bars off the screen and leaves one
// line that sums up.
func (b *Bars) Close() {
	b.Hide()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.summed && b.tally.images > 0 {
		printable.Fprintf(b.w, "%s\n", b.tally.summary())
	}
	b.summed = true
}

// Hide implements Printer: it takes the bars off the screen for good.
func (b *Bars) Hide() {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return
	}
	b.closed = true
	b.mu.Unlock()
	close(b.stop)
	<-b.done

	b.mu.Lock()
	defer b.mu.Unlock()
	var out bytes.Buffer
	width, _ := b.size()
	b.erase(&out, width)
	_, _ = b.w.Write(out.Bytes())
}

// erase moves to the first line on the screen that is ours and clears from
// there. Lines wider than the terminal now is have been wrapped by it.
func (b *Bars) erase(out *bytes.Buffer, width int) {
	rows := 0
	for _, w := range b.shown {
		rows += max(1, (w+width-1)/width)
	}
	if rows > 0 {
		fmt.Fprintf(out, "\x1b[%dA\r\x1b[J", rows)
	}
	b.shown = nil
}

// paint draws the lines over those of the last picture.
func (b *Bars) paint() {
	width, height := b.size()
	lines := b.lines(width-1, height)
	var out bytes.Buffer
	narrowed := false
	for _, w := range b.shown {
		narrowed = narrowed || w >= width
	}
	if narrowed {
		b.erase(&out, width)
	} else if len(b.shown) > 0 {
		printable.Fprintf(&out, "\x1b[%dA\r", len(b.shown))
	}
	shown := make([]int, 0, len(lines))
	for _, l := range lines {
		out.WriteString(l + "\x1b[K\n")
		shown = append(shown, utf8.RuneCountInString(l))
	}
	if len(b.shown) > len(lines) {
		out.WriteString("\x1b[J")
	}
	b.shown = shown
	_, _ = b.w.Write(out.Bytes())
}

// lines are the picture: each at most width wide, and fewer than height.
func (b *Bars) lines(width, height int) []string {
	t := b.tally
	var disk []string
	if b.disk != nil {
		b.disk.Set("head", "writing "+printable.Text(t.output)).Set("bytes", amount(t.written, t.size)).SetCurrent(t.written)
		disk = []string{render(b.disk, width)}
	}
	if t.pulled+t.lost >= t.images { // nothing comes any more
		return disk
	}
	head := fmt.Sprintf("%d/%d images, %d/%d blobs", t.pulled, t.images, t.blobsDone, t.blobs)
	if t.lost > 0 {
		head += fmt.Sprintf(", %d failed", t.lost)
	}
	if t.resolved+t.lost < t.images {
		b.whole.SetTemplate(earlyTemplate)
	} else {
		b.whole.SetTemplate(wholeTemplate)
	}
	b.whole.Set("head", head).Set("bytes", amount(t.got, t.want)).SetTotal(t.want).SetCurrent(t.got)
	lines := append([]string{render(b.whole, width)}, disk...)
	if time.Now().Before(b.until) {
		lines = append(lines, cut("  "+b.note, width))
	}
	room := min(mostLines, height-2-len(lines))
	hidden := 0
	for _, f := range t.order {
		if room <= 0 {
			if f != nil {
				hidden++
			}
			continue
		}
		room--
		lines = append(lines, b.line(f, width))
	}
	if hidden > 0 {
		lines = append(lines, fmt.Sprintf("  and %d more", hidden))
	}
	return lines
}

func (b *Bars) line(f *flight, width int) string {
	if f == nil {
		return "" // a place that the next blob is going to take
	}
	name := shortDigest(f.digest)
	bar := b.blobs[f.digest]
	if f.waiting || bar == nil {
		return cut("  "+name+" "+f.image, width)
	}
	if room := width/3 - len(name); room > 10 {
		name += " " + pad(f.image, min(room, 32))
	}
	bar.Set("head", name).Set("bytes", amount(f.got, f.size)).SetCurrent(f.got)
	return render(bar, width)
}

// amount is how much there is of how much, in one unit and a fixed width.
func amount(got, of int64) string {
	total := Size(of)
	unit := total[strings.IndexByte(total, ' ')+1:]
	per := float64(1)
	for _, prefix := range "KMGTPE" {
		if unit[0] == 'B' {
			break
		}
		per *= 1024
		if rune(unit[0]) == prefix {
			break
		}
	}
	return fmt.Sprintf("%17s", fmt.Sprintf("%.1f/%s", float64(got)/per, total))
}

func shortDigest(d digest.Digest) string {
	const most = 12
	if hex := d.Encoded(); len(hex) > most {
		return hex[:most]
	}
	return d.Encoded()
}

func render(bar *pb.ProgressBar, width int) string {
	return cut(strings.TrimRight(bar.SetWidth(width).String(), " \r\n"), width)
}

// cut shortens a line to a width, and pad brings it to one by leaving out its
// beginning, which for image names tells least.
func cut(s string, width int) string {
	r := []rune(s)
	if len(r) <= width {
		return s
	}
	return string(r[:max(0, width)])
}

func pad(s string, width int) string {
	r := []rune(s)
	if len(r) > width {
		return "…" + string(r[len(r)-width+1:])
	}
	return s + strings.Repeat(" ", width-len(r))
}
