// Package progress draws what the engine does: as bars on a terminal, as plain
// lines elsewhere, as JSON for programs. Its printers are observers of the
// engine's events; they see and never steer.
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

// Printer shows events as they come. Log writes a line of its own among what
// is shown, as it is: its caller has made it fit to print. After Close nothing more is shown but log lines; it may be called
// again.
type Printer interface {
	event.Observer
	Log(line string)
	Hide() // takes off the screen what would be painted over; results follow, and then Close
	Close()
}

// tally is where a run stands, by the events so far. Its user guards it.
type tally struct {
	start                    time.Time
	images, resolved, pulled int
	lost                     int
	blobs, blobsDone         int
	want, got                int64 // bytes to fetch as far as known, and fetched
	reused                   int64
	resumed                  int64 // bytes of half-fetched blobs that were here
	flying                   map[digest.Digest]*flight
	order                    []*flight // by place: one that ends leaves its place to the next
	output                   string    // being written, or ""
	size, written            int64
}

// flight is a blob on its way.
type flight struct {
	digest    digest.Digest
	image     string
	size, got int64
	waiting   bool
}

func newTally() *tally {
	return &tally{start: time.Now(), flying: make(map[digest.Digest]*flight)}
}

func (t *tally) add(e event.Event) {
	switch e := e.(type) {
	case event.Started: // of several that one display shows
		t.images += e.Images
	case event.Resolved:
		t.resolved++
	case event.Queued:
		t.blobs++
		t.want += e.Size
	case event.Waiting:
		t.take(&flight{digest: e.Digest, image: "another process is fetching it", waiting: true})
	case event.Fetching:
		t.leave(e.Digest)
		t.take(&flight{digest: e.Digest, image: printable.Text(e.Image), size: e.Size})
	case event.Progress:
		t.got += e.N
		if f := t.flying[e.Digest]; f != nil {
			f.got += e.N
		}
	case event.Resumed:
		t.want -= e.N
		t.resumed += e.N
		if f := t.flying[e.Digest]; f != nil {
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
	}
}

// take gives a flight the first free place.
func (t *tally) take(f *flight) {
	t.flying[f.digest] = f
	for i, other := range t.order {
		if other == nil {
			t.order[i] = f
			return
		}
	}
	t.order = append(t.order, f)
}

func (t *tally) leave(d digest.Digest) {
	f := t.flying[d]
	if f == nil {
		return
	}
	delete(t.flying, d)
	for i, other := range t.order {
		if other == f {
			t.order[i] = nil
		}
	}
	for len(t.order) > 0 && t.order[len(t.order)-1] == nil {
		t.order = t.order[:len(t.order)-1]
	}
}

// summary is a finished run in one line.
func (t *tally) summary() string {
	took := time.Since(t.start)
	line := fmt.Sprintf("pulled %d of %d images in %s: %s fetched", t.pulled, t.images, round(took), Size(t.got))
	if t.got > 0 && took > 0 {
		line += fmt.Sprintf(" (%s/s)", Size(int64(float64(t.got)/took.Seconds())))
	}
	line += fmt.Sprintf(", %s reused", Size(t.reused))
	if t.resumed > 0 {
		line += fmt.Sprintf(", %s of them in half-fetched blobs", Size(t.resumed))
	}
	return line
}

// Size is a number of bytes for people, in powers of 1024.
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

// round is a duration for people: to the second, or finer while it is short.
func round(d time.Duration) string {
	if d < 10*time.Second {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// None shows log lines only.
type None struct{ W io.Writer }

// Observe implements Printer.
func (None) Observe(event.Event) {}

// Log implements Printer.
func (n None) Log(line string) { _, _ = io.WriteString(n.W, line+"\n") }

// Hide implements Printer.
func (None) Hide() {}

// Close implements Printer.
func (None) Close() {}

// JSON writes each event as one line, as docs/events.md says.
type JSON struct {
	mu sync.Mutex
	w  io.Writer
}

// NewJSON makes a JSON printer.
func NewJSON(w io.Writer) *JSON { return &JSON{w: w} }

// Observe implements Printer.
func (j *JSON) Observe(e event.Event) {
	line, err := json.Marshal(struct {
		Event string      `json:"event"`
		Time  time.Time   `json:"time"`
		Data  event.Event `json:"data"`
	}{e.Kind(), time.Now().UTC(), e})
	if err != nil {
		return // the events' types have nothing that can't be marshalled
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	_, _ = j.w.Write(append(printable.JSON(line), '\n'))
}

// Log implements Printer: a line that is no event is a warning.
func (j *JSON) Log(line string) { j.Observe(event.Warned{Message: line}) }

// Hide implements Printer.
func (*JSON) Hide() {}

// Close implements Printer.
func (*JSON) Close() {}
