package status

import (
	"errors"
	"io"
	"strings"

	"drayage/cmd/drayage/internal/terminal"
	"drayage/engine/event"
)

// Reported wraps an error whose lines were written already.
type Reported struct{ error }

// Shown marks an error as reported: nothing more is to be said of it.
func Shown(err error) Reported { return Reported{err} }

// Unwrap is the error itself.
func (r Reported) Unwrap() error { return r.error }

// line is an error in one line, with what the user can do about it.
func line(err error) string {
	line := terminal.Line(err.Error())
	if h := Hint(err); h != "" {
		line += " (" + h + ")"
	}
	return line
}

// Event is the event that a run ends with.
func Event(err error) event.Error {
	status := Of(err)
	message := line(err)
	var several Failures
	if errors.As(err, &several) { // each with what can be done about it
		lines := make([]string, len(several))
		for i, err := range several {
			lines[i] = line(err)
		}
		message = strings.Join(lines, "; ")
	}
	return event.Error{Status: status, Name: nameOf(status), Message: message}
}

// Report writes one line for an error.
func Report(w io.Writer, err error, color bool) {
	text := line(err)
	prefix := "drayage:"
	if color {
		prefix = "\x1b[31mdrayage:\x1b[0m"
	}
	_, _ = io.WriteString(w, prefix+" "+text+"\n") // there is nobody to tell
}
