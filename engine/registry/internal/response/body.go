// Package response reads what registries send, within limits and in time: Watch ends bodies that are
// silent or drip, Plain undoes compression that nobody asked for, Buffer keeps the body of an error,
// and ParseErrors and its siblings understand that (OCI distribution spec, "Error Codes").
package response

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"drayage/engine/internal/limits"
	"drayage/engine/printable"

	"github.com/klauspost/compress/gzip"
)

// spent holds an error response's body after it was read.
type spent struct {
	io.Reader
	text []byte
}

func (spent) Close() error { return nil }

// ErrInvalid is wrapped when a response is not one of a registry.
var ErrInvalid = errors.New("invalid response from the registry")

// Buffer reads the body of an error response, so that both the retry
// policy and the error message can look at it, and frees the connection.
func Buffer(resp *http.Response) []byte {
	if s, ok := resp.Body.(spent); ok {
		return s.text
	}
	var text []byte
	if body, err := Plain(resp, limits.ErrorBytes); err == nil {
		text, _ = io.ReadAll(body) // a part serves too
	}
	resp.Body.Close()
	resp.Body = spent{Reader: strings.NewReader(string(text)), text: text}
	return text
}

// Plain is a body as it was meant: compression that nobody asked for, as proxies add it to
// manifests, tokens and lists, is undone (RFC 9110, section 8.4). It is not for blobs, whose
// digest is over their bytes as they are sent. No more is read than limit allows, on either side:
// compressed data can go on for ever and be nothing. What begins as JSON is taken as it is,
// whatever it is labelled: static stores label plain files with a character set, or with the
// encoding of their upload.
func Plain(resp *http.Response, limit int64) (io.Reader, error) {
	encodings := strings.Split(strings.Join(resp.Header.Values("Content-Encoding"), ","), ",")
	const slack = 64 << 10 // of compression
	AsWhole(resp.Body)
	beginning := bufio.NewReader(resp.Body)
	body := io.LimitReader(beginning, limit+slack)
	if isJSON(beginning) {
		return io.LimitReader(body, limit), nil
	}
	const most = 4 // one within the other
	if len(encodings) > most {
		return nil, fmt.Errorf("%w: encoded %d times", ErrInvalid, len(encodings))
	}
	for i := len(encodings) - 1; i >= 0; i-- { // the last one was applied last
		var err error
		switch strings.ToLower(strings.TrimSpace(encodings[i])) {
		case "", "identity":
		case "gzip", "x-gzip":
			body, err = gzip.NewReader(body)
		case "deflate":
			body, err = zlib.NewReader(body)
		default:
			err = fmt.Errorf("%w: unrequested Content-Encoding %q", ErrInvalid, printable.Line(encodings[i]))
		}
		if errors.Is(err, gzip.ErrHeader) || errors.Is(err, zlib.ErrHeader) {
			err = fmt.Errorf("%w: content does not match its Content-Encoding", ErrInvalid)
		}
		if err != nil {
			return nil, err
		}
	}
	return io.LimitReader(body, limit), nil
}

// isJSON reports whether a body begins as JSON, which nothing does that is compressed.
func isJSON(body *bufio.Reader) bool {
	const spaces = 16 // that may stand before it
	start, _ := body.Peek(spaces)
	return bytes.HasPrefix(bytes.TrimLeft(start, " \t\r\n"), []byte("{"))
}
