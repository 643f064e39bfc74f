// Package progress prints the engine's events: as bars on a terminal, as lines elsewhere, as JSON for
// programs. Its printers are observers, which do not influence the engine.
package progress

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"drayage/engine/event"
	"drayage/engine/printable"

	"github.com/opencontainers/go-digest"
)

// Printer prints events as they arrive. Its methods may be called from several goroutines.
type Printer interface {
	event.Observer
	// Log prints a line between what is printed for events, unchanged: its caller has escaped it.
	Log(line string)
	// Hide removes from the screen what would be drawn over. Results follow, and then Close.
	Hide()
	// Close ends the printing of events; Log still prints. It may be called again.
	Close()
}

// tally is the state of a run by the events so far. Its user guards it.
type tally struct {
	start                    time.Time
	images, resolved, pulled int
	lost                     int
	blobs, blobsDone         int
	want, got                int64 // bytes to download as far as known, and downloaded
	reused                   int64
	resumed                  int64 // bytes of partial blobs from an earlier run
	transfers                map[digest.Digest]*transfer
	order                    []*transfer // by line: one that ends leaves its line to the next
	output                   string      // being written, or ""
	unchanged                string      // the output that was not written, or ""
	size, written            int64
}

// transfer is a transfer in progress, or a blob that another process is downloading.
type transfer struct {
	digest    digest.Digest
	image     string
	size, got int64
	waiting   bool
}

func newTally() *tally {
	return &tally{start: time.Now(), transfers: make(map[digest.Digest]*transfer)}
}

// add counts an event.
func (t *tally) add(e event.Event) {
	switch e := e.(type) {
	case event.Started: // of several runs that one display shows
		t.images += e.Images
	case event.Resolved:
		t.resolved++
	case event.Queued:
		t.blobs++
		t.want += e.Size
	case event.Waiting:
		t.take(&transfer{digest: e.Digest, image: "another process is downloading it", waiting: true})
	case event.Fetching:
		t.leave(e.Digest)
		t.take(&transfer{digest: e.Digest, image: printable.Text(e.Image), size: e.Size})
	case event.Progress:
		t.got += e.N
		if f := t.transfers[e.Digest]; f != nil {
			f.got += e.N
		}
	case event.Resumed:
		t.want -= e.N
		t.resumed += e.N
		if f := t.transfers[e.Digest]; f != nil {
			f.got += e.N
		}
	case event.Fetched:
		t.blobsDone++
		if e.Reused {
			t.want -= e.Size
		}
		t.leave(e.Digest)
	case event.Failed:
		t.leave(e.Digest)
	case event.Pulled:
		t.pulled++
		t.reused += e.Reused
	case event.Lost:
		t.lost++
	case event.Composing:
		t.output, t.size, t.written = e.Output, e.Size, 0
	case event.Composed:
		t.written += e.N
	case event.Written:
		t.output = ""
		if e.Unchanged {
			t.unchanged = e.Output
		}
	}
}

// take assigns a transfer the first free line.
func (t *tally) take(f *transfer) {
	t.transfers[f.digest] = f
	for i, other := range t.order {
		if other == nil {
			t.order[i] = f
			return
		}
	}
	t.order = append(t.order, f)
}

// leave frees the line of a transfer that ended.
func (t *tally) leave(d digest.Digest) {
	f := t.transfers[d]
	if f == nil {
		return
	}
	delete(t.transfers, d)
	for i, other := range t.order {
		if other == f {
			t.order[i] = nil
		}
	}
	for len(t.order) > 0 && t.order[len(t.order)-1] == nil {
		t.order = t.order[:len(t.order)-1]
	}
}

// summary describes a finished run in one line.
func (t *tally) summary() string {
	took := time.Since(t.start)
	line := fmt.Sprintf("pulled %d of %d images in %s: %s fetched", t.pulled, t.images, round(took), Size(t.got))
	if t.got > 0 && took > 0 {
		line += fmt.Sprintf(" (%s/s)", Size(int64(float64(t.got)/took.Seconds())))
	}
	line += fmt.Sprintf(", %s reused", Size(t.reused))
	if t.resumed > 0 {
		line += fmt.Sprintf(", %s of them in partial blobs", Size(t.resumed))
	}
	return line
}

// Size formats a number of bytes for people, in powers of 1024.
func Size(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/unit, 0
	for ; v >= unit-0.05 && i < len("KMGTPE")-1; i++ {
		v /= unit
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTPE"[i])
}

// round rounds a duration for people: to the second, or to 100 ms below 10 seconds.
func round(d time.Duration) string {
	if d < 10*time.Second {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// None prints log lines only.
type None struct{ W io.Writer }

// Observe implements Printer.
func (None) Observe(event.Event) {}

// Log implements Printer.
func (n None) Log(line string) { _, _ = io.WriteString(n.W, line+"\n") }

// Hide implements Printer.
func (None) Hide() {}

// Close implements Printer.
func (None) Close() {}

// JSON prints each event as one line, in the format of docs/events.md.
type JSON struct {
	mu sync.Mutex
	w  io.Writer
}

// NewJSON makes a JSON that prints to w.
func NewJSON(w io.Writer) *JSON { return &JSON{w: w} }

// Observe implements Printer.
func (j *JSON) Observe(e event.Event) {
	line, err := json.Marshal(struct {
		Event string      `json:"event"`
		Time  time.Time   `json:"time"`
		Data  event.Event `json:"data"`
	}{event.Kind(e), time.Now().UTC(), e})
	if err != nil {
		return // the types of events can always be marshalled
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	_, _ = j.w.Write(append(printable.JSON(line), '\n'))
}

// Log implements Printer. The line becomes a warning.
func (j *JSON) Log(line string) { j.Observe(event.Warned{Message: line}) }

// Hide implements Printer.
func (*JSON) Hide() {}

// Close implements Printer.
func (*JSON) Close() {}
