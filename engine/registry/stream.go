package registry

import (
	"encoding/json"
	"errors"
	"io"

	"drayage/engine/limits"
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
