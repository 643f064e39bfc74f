// Package terminal is what people read by: streams that let no control characters through, whoever
// wrote them, and what is known of the terminal behind a stream.
package terminal

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"strings"

	"drayage/engine/printable"

	"golang.org/x/term"
)

// Escaper is standard output or standard error. What is written to it comes out as lines of
// visible characters, whoever's words they are: it has no escapes, and nothing that turns text
// round or hides it. What is not for people has ways of its own: Document, Archive, JSON.
type Escaper struct{ file *os.File }

// New is the stream of an open file, which stays the caller's to close.
func New(f *os.File) Escaper { return Escaper{f} }

// Write implements io.Writer. Each call has whole characters.
func (s Escaper) Write(p []byte) (int, error) {
	if _, err := io.WriteString(s.file, printable.Lines(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Fd is the file's number, by which it can be asked whether it is a terminal.
func (s Escaper) Fd() uintptr { return s.file.Fd() }

// Archive is for bytes that aren't text. They are not written to terminals.
func (s Escaper) Archive() *os.File { return s.file }

// Document is for a file's text, which must come out as it is where a file or a program takes it.
func (s Escaper) Document() io.Writer {
	if Is(s) {
		return s
	}
	return s.file
}

// JSON writes a value for programs.
func (s Escaper) JSON(v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err := s.file.Write(printable.JSON(b.Bytes()))
	return err
}

// Drawn is for a display, which moves the cursor and has colours, and makes what it shows of
// others fit to print by itself.
func (s Escaper) Drawn() *os.File { return s.file }

// Descriptor is what a terminal is known by.
type Descriptor interface{ Fd() uintptr }

// Is reports whether a file is a terminal.
func Is(f Descriptor) bool { return term.IsTerminal(int(f.Fd())) }

// DrawsOver reports whether what is drawn on a file can be drawn over: on a terminal that is not
// a job's, which keeps all.
func DrawsOver(f Descriptor) bool {
	ci := os.Getenv("CI")
	return Is(f) && os.Getenv("TERM") != "dumb" && (ci == "" || ci == "false" || ci == "0")
}

// Size is the number of columns and lines of a terminal, or 80 and 24 where they are unknown or absurd.
func Size(f Descriptor) (width, height int) {
	width, height, err := term.GetSize(int(f.Fd()))
	if err != nil || width < 20 || height < 4 {
		return 80, 24
	}
	return width, height
}

// Line makes one line, fit to print, of text that may have several.
func Line(text string) string {
	return printable.Text(strings.ReplaceAll(strings.Trim(text, "\r\n"), "\n", "; "))
}
