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

// Bars draws on a terminal: a line for the run, and below it a line per transfer, as many as fit. It
// draws 10 times per second, however many events arrive, and each frame in one write, so that
// nothing flickers.
type Bars struct {
	w    io.Writer
	size func() (columns, lines int)
	stop chan struct{}
	done chan struct{}

	mu     sync.Mutex
	tally  *tally
	whole  *pb.ProgressBar
	disk   *pb.ProgressBar // of the archive that is being written
	blobs  map[digest.Digest]*pb.ProgressBar
	shown  []int  // columns of the lines on the screen
	note   string // about a retry, shown until it starts
	until  time.Time
	closed bool
	summed bool
}

const (
	paintEvery = 100 * time.Millisecond
	mostLines  = 20 // of transfers, also where more would fit

	// Columns have a fixed size, so that bars are aligned and do not move while numbers grow.
	wholeTemplate pb.ProgressBarTemplate = `{{string . "head"}} {{bar . "[" "=" ">" " " "]"}} {{string . "bytes"}} {{printf "%12s" (speed . "%s/s" " ")}} {{printf "%-10s" (rtime . "%s left" "" "")}}`
	earlyTemplate pb.ProgressBarTemplate = `{{string . "head"}} {{bar . "[" "=" ">" " " "]"}} {{string . "bytes"}} {{printf "%12s" (speed . "%s/s" " ")}} {{printf "%-10s" ""}}` // while the total is not known
	diskTemplate  pb.ProgressBarTemplate = earlyTemplate                                                                                                                         // the archive is complete when the last blob is
	blobTemplate  pb.ProgressBarTemplate = `  {{string . "head"}} {{bar . "[" "=" ">" " " "]"}} {{string . "bytes"}} {{printf "%12s" (speed . "%s/s" " ")}} {{printf "%-10s" ""}}`
)

// NewBars starts drawing on w, from a goroutine that ends with Close or Hide. size returns the
// terminal's columns and lines, and is called for each frame.
func NewBars(w io.Writer, size func() (columns, lines int)) *Bars {
	b := &Bars{
		w: w, size: size, stop: make(chan struct{}), done: make(chan struct{}),
		tally: newTally(), whole: newBar(wholeTemplate, 0), blobs: make(map[digest.Digest]*pb.ProgressBar),
	}
	go b.paintUntilStopped()
	return b
}

// newBar makes a bar that is only rendered: paint decides when and where.
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
			b.note, b.until = printable.Sprintf("retrying in %s: %s: %s", round(e.Delay), e.What, e.Why), time.Now().Add(e.Delay)
		}
	case event.Composing:
		b.disk = newBar(diskTemplate, e.Size)
	case event.Written:
		b.disk = nil
	}
}

// Log implements Printer. The line is printed above the bars.
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

// Close implements Printer. It removes the bars from the screen and prints a summary.
func (b *Bars) Close() {
	b.Hide()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.summed && b.tally.images > 0 {
		if b.tally.unchanged != "" {
			printable.Fprintf(b.w, "%s is unchanged\n", b.tally.unchanged)
		}
		printable.Fprintf(b.w, "%s\n", b.tally.summary())
	}
	b.summed = true
}

// Hide implements Printer. It removes the bars from the screen for good.
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

// erase moves to the first of the lines on the screen and clears from there. A terminal that has
// become narrower has wrapped them.
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

// paint draws a frame over the last one.
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

// lines are a frame: fewer lines than height, each of at most width columns.
func (b *Bars) lines(width, height int) []string {
	t := b.tally
	var disk []string
	if b.disk != nil {
		b.disk.Set("head", "writing "+printable.Text(t.output)).Set("bytes", amount(t.written, t.size)).SetCurrent(t.written)
		disk = []string{render(b.disk, width)}
	}
	if t.pulled+t.lost >= t.images { // nothing more is downloaded
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
	free := min(mostLines, height-2-len(lines))
	hidden := 0
	for _, f := range t.order {
		if free <= 0 {
			if f != nil {
				hidden++
			}
			continue
		}
		free--
		lines = append(lines, b.line(f, width))
	}
	if hidden > 0 {
		lines = append(lines, fmt.Sprintf("  and %d more", hidden))
	}
	return lines
}

// line is the line of a transfer.
func (b *Bars) line(f *transfer, width int) string {
	if f == nil {
		return "" // a line for the next transfer
	}
	name := shortDigest(f.digest)
	bar := b.blobs[f.digest]
	if f.waiting || bar == nil {
		return cut("  "+name+" "+f.image, width)
	}
	if free := width/3 - len(name); free > 10 {
		name += " " + pad(f.image, min(free, 32))
	}
	bar.Set("head", name).Set("bytes", amount(f.got, f.size)).SetCurrent(f.got)
	return render(bar, width)
}

// amount is "done/total" in one unit, with a fixed number of columns.
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

// cut shortens a line to a number of columns.
func cut(s string, width int) string {
	r := []rune(s)
	if len(r) <= width {
		return s
	}
	return string(r[:max(0, width)])
}

// pad brings a name to a number of columns. It omits the beginning, which distinguishes images the
// least.
func pad(s string, width int) string {
	r := []rune(s)
	if len(r) > width {
		return "…" + string(r[len(r)-width+1:])
	}
	return s + strings.Repeat(" ", width-len(r))
}
