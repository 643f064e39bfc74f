package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"drayage/engine/reference"
	"drayage/engine/textfile"
)

// named is a word that names an image, and where it stood.
type named struct {
	word  string
	where string // "list.txt:3", or "" for the command line
}

const (
	maxList = 64 << 20 // bytes of a list: half a million images
	maxName = 4096     // bytes of a line that may name one
)

// readList reads image names from a file or, for "-", from standard input: one
// a line, with comments from # on.
func readList(path string, stdin io.Reader) ([]named, error) {
	in, name := stdin, "standard input"
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("reading the list of images: %w", err)
		}
		defer f.Close()
		in, name = f, path
	}
	raw, err := textfile.ReadFrom(in, maxList)
	if errors.Is(err, textfile.ErrEncoding) || errors.Is(err, textfile.ErrTooLarge) {
		return nil, usageError{fmt.Errorf("%s: %w", name, err)}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the list of images: %w", err)
	}
	var out []named
	n := 0
	for line := range strings.Lines(string(raw)) {
		n++
		text, _, _ := strings.Cut(line, "#")
		text = strings.TrimSpace(text)
		if len(text) > maxName {
			return nil, usageError{fmt.Errorf("%s:%d: the line is too long to name an image", name, n)}
		}
		if text != "" {
			out = append(out, named{word: text, where: fmt.Sprintf("%s:%d", name, n)})
		}
	}
	return out, nil
}

// parseNames reads image names. Those that are none come back as errors.
func parseNames(words []named) (refs []reference.Image, bad []error) {
	for _, w := range words {
		ref, err := reference.Parse(w.word)
		switch {
		case err == nil:
			refs = append(refs, ref)
		case w.where != "":
			bad = append(bad, badName{w.word, fmt.Errorf("%s: %w", w.where, err)})
		default:
			bad = append(bad, badName{w.word, err})
		}
	}
	return refs, bad
}

// badName is a word that should have named an image.
type badName struct {
	word string
	err  error
}

func (e badName) Error() string { return e.err.Error() }
func (e badName) Unwrap() error { return e.err }
