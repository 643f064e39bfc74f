// Package display shows a run on standard error: progress, warnings, traces, and the errors that it
// ends with.
package display

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"drayage/cmd/drayage/internal/process"
	"drayage/cmd/drayage/internal/progress"
	"drayage/cmd/drayage/internal/status"
	"drayage/cmd/drayage/internal/terminal"
	"drayage/engine/event"
	"drayage/engine/printable"
)

// Flags say how a run is shown.
type Flags struct {
	Progress string
	Quiet    bool
	debug    int
	color    bool
	noColor  bool
}

// Calm is what displays of programs that run on and on have by default: what is odd,
// and no progress, which has no end there.
func (d *Flags) Calm() {
	if d.Progress == "auto" {
		d.Progress = "none"
	}
}

// Display shows a run on standard error: progress, warnings, traces, errors.
type Display struct {
	printer progress.Printer
	err     *progress.Patient
	json    bool
	Debug   int
	color   bool
	ending  *process.Ending // of the run
}

// Start begins to show a run, which ends with Close.
func (d *Flags) Start(s process.Streams) (*Display, error) {
	mode := d.Progress
	if !slices.Contains(progressModes[:], mode) {
		return nil, status.Misuse(fmt.Errorf("--progress %q: must be auto, bar, plain, json or none", mode))
	}
	if d.color && d.noColor {
		return nil, status.Misuse(errors.New("-c and -C cannot be combined"))
	}
	capable := terminal.Is(s.Err) && os.Getenv("TERM") != "dumb"
	if mode == "auto" {
		mode = "plain"
		if terminal.DrawsOver(s.Err) {
			mode = "bar"
		}
	}
	if d.Quiet && mode != "json" {
		mode = "none"
	}
	// Whoever reads standard error may be slow, or not read at all: nothing waits for that.
	w := progress.NewPatient(s.Err.Drawn(), func(left int) []byte { return LeftOut(left, mode == "json") })
	out := &Display{err: w, Debug: d.debug, json: mode == "json", ending: s.Ending}
	out.color = d.color || !d.noColor && capable && os.Getenv("NO_COLOR") == ""
	switch mode {
	case "bar":
		out.printer = progress.NewBars(w, func() (int, int) { return terminal.Size(s.Err) })
	case "plain":
		out.printer = progress.NewPlain(w, 10*time.Second)
	case "json":
		out.printer = progress.NewJSON(w)
	default:
		out.printer = progress.None{W: w}
	}
	return out, nil
}

// LeftOut is the message about lines or events that nobody has read in time.
func LeftOut(n int, asEvent bool) []byte {
	var b bytes.Buffer
	message := fmt.Sprintf("%d lines were dropped because the reader is slow", n)
	if asEvent {
		progress.NewJSON(&b).Observe(event.Warned{Message: message})
	} else {
		b.WriteString(message + "\n")
	}
	return b.Bytes()
}

// Observe implements event.Observer.
func (d *Display) Observe(e event.Event) {
	if _, request := e.(event.Requested); request && d.Debug == 0 {
		return
	}
	d.printer.Observe(e)
	if d.json {
		return
	}
	if w, ok := e.(event.Warned); ok {
		d.printer.Log(d.paint("33", "warning:") + " " + terminal.Line(w.Message))
		return
	}
	if d.Debug > 0 {
		for _, line := range trace(e) {
			d.printer.Log(d.paint("2", printable.Text(line)))
		}
	}
}

// trace is an event as lines of a log, or none for events that come by the
// thousand.
func trace(e event.Event) []string {
	now := time.Now().Format("15:04:05.000 ")
	switch e := e.(type) {
	case event.Requested:
		line := fmt.Sprintf("%s %s: %d in %s", e.Method, e.URL, e.Status, e.Took.Round(100*time.Microsecond))
		if e.Why != "" {
			line = fmt.Sprintf("%s %s: %s after %s", e.Method, e.URL, e.Why, e.Took.Round(100*time.Microsecond))
		}
		out := []string{now + line}
		out = append(out, headers("> ", e.Request)...)
		return append(out, headers("< ", e.Response)...)
	case event.Retrying:
		return []string{now + fmt.Sprintf("attempt %d in %s: %s: %s", e.Try, e.Delay.Round(time.Millisecond), e.What, e.Why)}
	case event.Resolved:
		return []string{now + fmt.Sprintf("%s is %s: %d blobs, %d bytes, %d local", e.Image, e.Digest, e.Blobs, e.Size, e.Here)}
	case event.Fetching:
		return []string{now + fmt.Sprintf("fetching %s, %d bytes, for %s", e.Digest, e.Size, e.Image)}
	case event.Fetched:
		return []string{now + fmt.Sprintf("fetched %s", e.Digest)}
	case event.Failed:
		return []string{now + fmt.Sprintf("gave up %s: %s", e.Digest, e.Why)}
	}
	return nil
}

func headers(mark string, h map[string][]string) []string {
	var out []string
	for k, values := range h {
		for _, v := range values {
			out = append(out, mark+k+": "+v)
		}
	}
	slices.Sort(out)
	return out
}

func (d *Display) paint(code, s string) string {
	if !d.color {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// Say writes a line for people, or an event of it. from is the program whose words they are; ""
// is this one.
func (d *Display) Say(from, line string) {
	if d.json {
		d.printer.Observe(event.Message{From: from, Message: terminal.Line(line)})
		return
	}
	d.printer.Log(terminal.Line(line))
}

// Writer is where lines for people are written. What is kept back of it comes with Flush.
type Writer interface {
	io.Writer
	Flush()
}

// Words is where another program writes what it has to say to people.
func (d *Display) Words(from string) Writer {
	return &lines{d: d, from: from}
}

// lines says a program's lines.
type lines struct {
	d    *Display
	from string
	rest []byte
}

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	const longest = 64 << 10 // bytes of a line
	l.rest = append(l.rest, p...)
	for {
		i := bytes.IndexByte(l.rest, '\n')
		if i < 0 && len(l.rest) < longest {
			return len(p), nil
		}
		if i < 0 {
			i = len(l.rest) - 1
		}
		if line := strings.TrimSpace(string(l.rest[:i+1])); line != "" {
			l.d.Say(l.from, line)
		}
		l.rest = l.rest[i+1:]
	}
}

// Flush says what comes after the last end of a line.
func (l *lines) Flush() {
	if line := strings.TrimSpace(string(l.rest)); line != "" {
		l.d.Say(l.from, line)
	}
	l.rest = nil
}

// Hide takes the progress off the screen until more of it comes.
func (d *Display) Hide() {
	d.printer.Hide()
	d.err.Flush()
}

// IsSilent reports whether nothing is shown but warnings and errors.
func (d *Display) IsSilent() bool {
	_, silent := d.printer.(progress.None)
	return silent
}

// Close takes the progress off the screen. It may be called again.
func (d *Display) Close() {
	d.printer.Close()
	d.err.Flush()
}

// Fail reports errors, a line each, and returns them for the exit status.
func (d *Display) Fail(errs status.Failures) error {
	if len(errs) == 0 {
		return nil
	}
	defer d.err.Flush()
	if slices.ContainsFunc(errs, status.As[status.SignalError]) && !d.ending.Tell() {
		return status.Shown(errs)
	}
	if d.json {
		d.printer.Observe(status.Event(errs))
		return status.Shown(errs)
	}
	var lines strings.Builder
	for _, err := range errs {
		status.Report(&lines, err, d.color)
	}
	_, _ = io.WriteString(d.err, lines.String()) // its error is never one
	return status.Shown(errs)
}
