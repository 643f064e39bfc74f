// Package textfile reads files that people write with whatever editor they have: lists of
// images, locks, credential files, password files.
//
// Windows' own programs write UTF-16 or a byte order mark, and end lines with a carriage
// return. All of them read as the same text.
package textfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf16"
	"unicode/utf8"
)

// ErrEncoding is wrapped for a file that is neither UTF-8 nor UTF-16.
var ErrEncoding = errors.New("not a text file in UTF-8 or UTF-16")

// ErrTooLarge is wrapped for a file that is larger than its kind ever is.
var ErrTooLarge = errors.New("too large")

// ReadFrom reads a text file of at most limit bytes. Errors are those of r, or wrap ErrEncoding or
// ErrTooLarge.
func ReadFrom(r io.Reader, limit int64) ([]byte, error) {
	raw, err := ReadRaw(r, limit)
	if err != nil {
		return nil, err
	}
	return Decode(raw)
}

// ReadRaw is ReadFrom for a file whose text is not decoded here, such as PEM.
func ReadRaw(r io.Reader, limit int64) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(raw)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)
	}
	return raw, nil
}

// Byte order marks (Unicode, section 23.8).
var (
	markUTF8    = []byte{0xef, 0xbb, 0xbf}
	markLittle  = []byte{0xff, 0xfe}
	markBig     = []byte{0xfe, 0xff}
	markUTF32LE = []byte{0xff, 0xfe, 0, 0}
)

// IsUTF16 reports whether the beginning of a file is UTF-16: by its mark or, without one,
// by every other byte of ASCII text being zero.
func IsUTF16(head []byte) bool {
	_, ok := utf16Order(head)
	return ok
}

func utf16Order(head []byte) (binary.ByteOrder, bool) {
	switch {
	case bytes.HasPrefix(head, markUTF32LE) && len(head)%4 == 0:
		return nil, false
	case bytes.HasPrefix(head, markLittle):
		return binary.LittleEndian, true
	case bytes.HasPrefix(head, markBig):
		return binary.BigEndian, true
	}
	const enough = 4
	if len(head) < enough {
		return nil, false
	}
	n := min(len(head), 256) &^ 1
	even, odd := 0, 0 // zero bytes
	for i := 0; i < n; i += 2 {
		if head[i] == 0 {
			even++
		}
		if head[i+1] == 0 {
			odd++
		}
	}
	switch {
	case even == 0 && odd > n/4: // most characters are ASCII
		return binary.LittleEndian, true
	case odd == 0 && even > n/4:
		return binary.BigEndian, true
	}
	return nil, false
}

// Decode is the text of a file in UTF-8, with lines that end with a line feed, and without
// a byte order mark. The error wraps ErrEncoding.
func Decode(raw []byte) ([]byte, error) {
	if order, ok := utf16Order(raw); ok {
		if len(raw)%2 != 0 {
			return nil, fmt.Errorf("%w: truncated UTF-16", ErrEncoding)
		}
		units := make([]uint16, len(raw)/2)
		for i := range units {
			units[i] = order.Uint16(raw[2*i:])
		}
		if len(units) > 0 && units[0] == 0xfeff {
			units = units[1:]
		}
		raw = []byte(string(utf16.Decode(units)))
	} else {
		raw = bytes.TrimPrefix(raw, markUTF8)
	}
	if !utf8.Valid(raw) || bytes.IndexByte(raw, 0) >= 0 {
		return nil, ErrEncoding
	}
	raw = bytes.ReplaceAll(raw, []byte("\r\n"), []byte("\n"))
	return bytes.ReplaceAll(raw, []byte("\r"), []byte("\n")), nil
}
