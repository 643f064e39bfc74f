package main

import (
	"io"
	"os"

	"drayage/blobstore/durable"
	"drayage/cmd/drayage/internal/process"
	"drayage/cmd/drayage/internal/terminal"
)

// toFile writes to what a user has named, as durable.WriteFile does, or to standard output for "-".
// On a terminal, text is made fit to print.
func toFile(s process.Streams, path string, write func(io.Writer) error) error {
	if path == "-" {
		return write(s.Out.Document())
	}
	const mode = 0o644
	return durable.WriteFile(path, mode, func(w io.Writer) error {
		if f, ok := w.(*os.File); ok {
			w = terminal.New(f).Document()
		}
		return write(w)
	})
}
