package progress

import (
	"fmt"
	"io"
	"sync"
	"time"

	"drayage/engine/event"
	"drayage/engine/printable"
)

// Plain writes lines: one for each image that is done, and now and then where
// the run stands, few enough for the log of a job.
type Plain struct {
	w     io.Writer
	every time.Duration

	mu     sync.Mutex
	tally  *tally
	last   time.Time // when it last told where the run stands
	before int64     // bytes that had been fetched then
	closed bool
}

// NewPlain makes a plain printer that tells where the run stands every so
// often, while bytes come.
func NewPlain(w io.Writer, every time.Duration) *Plain {
	return &Plain{w: w, every: every, tally: newTally(), last: time.Now()}
}

// Observe implements Printer.
func (p *Plain) Observe(e event.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.tally.add(e)
	switch e := e.(type) {
	case event.Pulled:
		printable.Fprintf(p.w, "pulled %s: %s fetched, %s reused\n", e.Image, Size(e.Fetched), Size(e.Reused))
	case event.Waiting:
		printable.Fprintf(p.w, "waiting for blob %s: another process is fetching it\n", e.Digest)
	case event.Retrying:
		if e.Delay >= time.Second {
			printable.Fprintf(p.w, "trying again in %s: %s: %s\n", round(e.Delay), e.What, e.Why)
		}
	case event.Written:
		line := printable.Sprintf("wrote %s, %s", e.Output, Size(e.Size))
		if e.Cloned > 0 {
			line += fmt.Sprintf(", of which %s take no space beside the store", Size(e.Cloned))
		}
		printable.Fprintf(p.w, "%s\n", line)
	case event.Converted:
		printable.Fprintf(p.w, "%s: %s: its manifest is %s in the archive\n", e.Image, e.Why, e.To)
	}
	p.standing()
}

// standing tells where the run stands when that is due.
func (p *Plain) standing() {
	since := time.Since(p.last)
	if since < p.every {
		return
	}
	t := p.tally
	rate := float64(t.got-p.before) / since.Seconds()
	line := printable.Sprintf("%d of %d images, %d of %d blobs, %s of %s, %s/s",
		t.pulled, t.images, t.blobsDone, t.blobs, Size(t.got), Size(t.want), Size(int64(rate)))
	if rate > 0 && t.want > t.got {
		line += fmt.Sprintf(", %s left", round(time.Duration(float64(t.want-t.got)/rate*float64(time.Second))))
	}
	printable.Fprintf(p.w, "%s\n", line)
	p.last, p.before = time.Now(), t.got
}

// Log implements Printer.
func (p *Plain) Log(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = io.WriteString(p.w, line+"\n")
}

// Hide implements Printer.
func (*Plain) Hide() {}

// Close implements Printer.
func (p *Plain) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed && p.tally.images > 0 {
		printable.Fprintf(p.w, "%s\n", p.tally.summary())
	}
	p.closed = true
}
