package terminal

import (
	"io"
	"os"

	"drayage/blobstore/durable"
)

// WriteFile writes a text to a file that a user has named, as durable.WriteFile does, or to out for
// "-". On a terminal, control characters are escaped.
func WriteFile(out Escaper, path string, write func(io.Writer) error) error {
	if path == "-" {
		return write(out.Document())
	}
	const mode = 0o644
	return durable.WriteFile(path, mode, func(w io.Writer) error {
		if f, ok := w.(*os.File); ok {
			w = New(f).Document()
		}
		return write(w)
	})
}
