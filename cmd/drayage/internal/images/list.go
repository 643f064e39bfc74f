// Package images reads what names images: lists, locks, and files that say what was carried before.
package images

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"drayage/blobstore/durable"
	"drayage/cmd/drayage/internal/limits"
	"drayage/cmd/drayage/internal/status"
	"drayage/engine/reference"
	"drayage/engine/textfile"
)

// Word is a word that names an image, and where it stood.
type Word struct {
	Text string
	file string // "" for the command line
	line int    // in file
}

// where is where the word stood: "list.txt:3", or "" for the command line.
func (n Word) where() string {
	if n.file == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d", n.file, n.line)
}

const maxName = 4096 // bytes of a line that may name an image

// ReadList reads image names from a file or, for "-", from standard input: one
// a line, with comments from # on.
func ReadList(path string, stdin io.Reader) ([]Word, error) {
	return ReadNames("list of images", path, stdin)
}

// ReadNames is readList of what is called so.
func ReadNames(what, path string, stdin io.Reader) ([]Word, error) {
	in, name := stdin, "standard input"
	if path != "-" {
		f, err := durable.OpenNamed(path)
		if err != nil {
			return nil, fmt.Errorf("reading the %s: %w", what, err)
		}
		defer f.Close()
		in, name = f, path
	}
	var out []Word
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
		out = append(out, Word{Text: strings.Clone(text), file: name, line: n}) // without the comment
		return nil
	})
	if BadText(err) {
		return nil, status.Misuse(fmt.Errorf("%s: %w", name, err))
	}
	var usage status.UsageError
	if err != nil && !errors.As(err, &usage) {
		return nil, fmt.Errorf("reading the %s: %w", what, err)
	}
	return out, err
}

// BadText reports whether an error is of what a text file has in it.
func BadText(err error) bool {
	return errors.Is(err, textfile.ErrEncoding) || errors.Is(err, textfile.ErrTooLarge) || errors.Is(err, textfile.ErrLine)
}

// ParseNames reads image names. Those that are none come back as errors.
func ParseNames(words []Word) (refs []reference.Image, bad []error) {
	for _, w := range words {
		ref, err := reference.Parse(w.Text)
		switch {
		case err == nil:
			refs = append(refs, ref)
		case w.file != "":
			bad = append(bad, BadName{w.Text, fmt.Errorf("%s: %w", w.where(), err)})
		default:
			bad = append(bad, BadName{w.Text, err})
		}
	}
	return refs, bad
}

// BadName is a word that should have named an image.
type BadName struct {
	Word string
	err  error
}

// Error implements error.
func (e BadName) Error() string { return e.err.Error() }

// Unwrap is what is wrong with it.
func (e BadName) Unwrap() error { return e.err }
