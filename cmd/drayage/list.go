package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"drayage/blobstore/durable"
	"drayage/cmd/drayage/internal/status"
	"drayage/engine/limits"
	"drayage/engine/reference"
	"drayage/engine/textfile"
)

// named is a word that names an image, and where it stood.
type named struct {
	word string
	file string // "" for the command line
	line int    // in file
}

// where is where the word stood: "list.txt:3", or "" for the command line.
func (n named) where() string {
	if n.file == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d", n.file, n.line)
}

const maxName = 4096 // bytes of a line that may name an image

// readList reads image names from a file or, for "-", from standard input: one
// a line, with comments from # on.
func readList(path string, stdin io.Reader) ([]named, error) {
	return readNames("list of images", path, stdin)
}

// readNames is readList of what is called so.
func readNames(what, path string, stdin io.Reader) ([]named, error) {
	in, name := stdin, "standard input"
	if path != "-" {
		f, err := durable.OpenNamed(path)
		if err != nil {
			return nil, fmt.Errorf("reading the %s: %w", what, err)
		}
		defer f.Close()
		in, name = f, path
	}
	var out []named
	n := 0
	err := textfile.EachLine(in, limits.ListBytes, func(line string) error {
		n++
		text, _, _ := strings.Cut(line, "#")
		text = strings.TrimSpace(text)
		switch {
		case len(text) > maxName:
			return status.Misuse(fmt.Errorf("%s:%d: the line is too long to name an image", name, n))
		case text == "":
			return nil
		case len(out) >= limits.ListImages:
			return status.Misuse(fmt.Errorf("%s: it names more than %d images", name, limits.ListImages))
		}
		out = append(out, named{word: strings.Clone(text), file: name, line: n}) // without the comment
		return nil
	})
	if badText(err) {
		return nil, status.Misuse(fmt.Errorf("%s: %w", name, err))
	}
	var usage status.UsageError
	if err != nil && !errors.As(err, &usage) {
		return nil, fmt.Errorf("reading the %s: %w", what, err)
	}
	return out, err
}

// badText reports whether an error is of what a text file has in it.
func badText(err error) bool {
	return errors.Is(err, textfile.ErrEncoding) || errors.Is(err, textfile.ErrTooLarge) || errors.Is(err, textfile.ErrLine)
}

// parseNames reads image names. Those that are none come back as errors.
func parseNames(words []named) (refs []reference.Image, bad []error) {
	for _, w := range words {
		ref, err := reference.Parse(w.word)
		switch {
		case err == nil:
			refs = append(refs, ref)
		case w.file != "":
			bad = append(bad, badName{w.word, fmt.Errorf("%s: %w", w.where(), err)})
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
