package progress

import (
	"fmt"
	"io"
	"sync"
	"time"

	"drayage/engine/event"
	"drayage/engine/printable"
)

// Plain prints one line per image when it is done, and the state of the run at intervals, few enough
// for the log of a job.
type Plain struct {
	w     io.Writer
	every time.Duration

	mu     sync.Mutex
	tally  *tally
	last   time.Time // when the state of the run was last printed
	before int64     // bytes that had been downloaded then
	closed bool
}

// NewPlain makes a Plain that prints to w. every is the minimum interval between lines with the state
// of the run, which are printed only while events arrive.
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
		printable.Fprintf(p.w, "waiting for blob %s: another process is downloading it\n", e.Digest)
	case event.Retrying:
		if e.Delay >= time.Second {
			printable.Fprintf(p.w, "retrying in %s: %s: %s\n", round(e.Delay), e.What, e.Why)
		}
	case event.Written:
		line := printable.Sprintf("wrote %s, %s", e.Output, Size(e.Size))
		if into := loaders[e.Output]; into != "" {
			line = printable.Sprintf("loaded into %s, %s", into, Size(e.Size))
		}
		if e.Unchanged {
			line = printable.Sprintf("%s is unchanged, %s", e.Output, Size(e.Size))
		}
		if e.Cloned > 0 {
			line += fmt.Sprintf(", of which %s share disk space with the store", Size(e.Cloned))
		}
		printable.Fprintf(p.w, "%s\n", line)
	case event.Converted:
		printable.Fprintf(p.w, "%s: %s; new manifest digest %s\n", e.Image, e.Why, e.To)
	}
	p.standing()
}

// loaders are the outputs that are no files, by the command that reads them.
var loaders = map[string]string{"docker load": "Docker", "podman load": "Podman", "nerdctl load": "containerd", "ctr images import": "containerd"}

// standing prints the state of the run when that is due.
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
