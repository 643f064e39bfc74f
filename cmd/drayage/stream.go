package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"

	"drayage/engine/printable"

	"golang.org/x/term"
)

// stream is standard output or standard error. What is written to it comes out as lines of
// visible characters, whoever's words they are: it has no escapes, and nothing that turns text
// round or hides it. What is not for people has ways of its own: document, archive, json.
type stream struct{ file *os.File }

// Write implements io.Writer. Each call has whole characters.
func (s stream) Write(p []byte) (int, error) {
	if _, err := io.WriteString(s.file, printable.Lines(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Fd is the file's number, by which it can be asked whether it is a terminal.
func (s stream) Fd() uintptr { return s.file.Fd() }

// archive is for bytes that aren't text. They are not written to terminals.
func (s stream) archive() *os.File { return s.file }

// document is for a file's text, which must come out as it is where a file or a program takes it.
func (s stream) document() io.Writer {
	if isTerminal(s) {
		return s
	}
	return s.file
}

// json writes a value for programs.
func (s stream) json(v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err := s.file.Write(printable.JSON(b.Bytes()))
	return err
}

// drawn is for a display, which moves the cursor and has colours, and makes what it shows of
// others fit to print by itself.
func (s stream) drawn() *os.File { return s.file }

// descriptor is what a terminal is known by.
type descriptor interface{ Fd() uintptr }

func isTerminal(f descriptor) bool { return term.IsTerminal(int(f.Fd())) }
