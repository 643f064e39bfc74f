// Package listing decodes the lists of registries, tags and referrers, as they arrive and within limits
// (OCI distribution spec, "Listing Tags" and "Listing Referrers"): a page may be of any size, depth
// and kind, and a list is whole or an error.
package listing

import (
	"encoding/json"
	"errors"
	"io"

	"drayage/engine/internal/limits"
)

// beginning keeps what a reader begins with.
type beginning struct {
	io.Reader
	text []byte
}

func (b *beginning) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	const most = 512
	b.text = append(b.text, p[:min(n, most-len(b.text))]...)
	return n, err
}

// counted counts what a reader gives.
type counted struct {
	io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

// tokens is JSON text for a decoder that reads it as it comes: spaces between values are one at
// most, which the decoder would otherwise look at again with each part that comes, and keep; and
// a string or number that is longer than any name is an error.
type tokens struct {
	io.Reader
	most             int
	length           int // of the token so far
	spaces           int
	quoted, escaping bool
}

var errLongToken = errors.New("it has a text longer than any name")

func (t *tokens) Read(p []byte) (int, error) {
	for {
		n, err := t.Reader.Read(p)
		out := 0
		for _, c := range p[:n] {
			switch {
			case t.escaping:
				t.escaping = false
			case t.quoted && c == '\\':
				t.escaping = true
			case c == '"':
				t.quoted, t.length = !t.quoted, 0
			case !t.quoted && (c == ' ' || c == '\t' || c == '\r' || c == '\n'):
				t.length = 0
				if t.spaces++; t.spaces > 1 {
					continue
				}
				p[out] = c
				out++
				continue
			case !t.quoted && (c == ',' || c == ':' || c == '[' || c == ']' || c == '{' || c == '}'):
				t.length = 0
			}
			t.spaces = 0
			if t.length++; t.length > t.most {
				return out, errLongToken
			}
			p[out] = c
			out++
		}
		if out > 0 || err != nil || len(p) == 0 {
			return out, err
		}
	}
}

var errNotObject = errors.New("it is not a JSON object")

// eachField calls f with each key of a JSON object, and the decoder before its value.
func eachField(d *json.Decoder, f func(key string, d *json.Decoder) error) error {
	token, err := d.Token()
	if err == nil && token != json.Delim('{') {
		err = errNotObject
	}
	for err == nil && d.More() {
		if token, err = d.Token(); err == nil {
			key, _ := token.(string) // the decoder sees to that
			err = f(key, d)
		}
	}
	if err == nil {
		_, err = d.Token()
	}
	if err != nil {
		return err
	}
	if _, err = d.Token(); !errors.Is(err, io.EOF) {
		return errNotObject // something is behind it
	}
	return nil
}

// skipValue reads over a value, and keeps nothing of it.
func skipValue(d *json.Decoder) error {
	for depth := 0; ; {
		token, err := d.Token()
		if err != nil {
			return err
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			if depth++; depth > limits.JSONDepth {
				return errors.New("it is nested too deep")
			}
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return nil
		}
	}
}

// isSyntax reports whether an error says that something is no JSON.
func isSyntax(err error) bool {
	return errors.As(err, new(*json.SyntaxError)) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, errNotObject)
}
