// Package jsonstream reads large JSON documents from outside piece by piece, so that what they are
// costs memory only as far as it is of use.
package jsonstream

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"drayage/engine/internal/limits"
)

var (
	// errJSON is wrapped for what is not the JSON that it should be.
	errJSON = errors.New("unexpected or malformed JSON")
	// ErrTooMuch is wrapped for what exceeds a bound.
	ErrTooMuch = errors.New("too much")
)

// Reader reads a JSON document from its beginning to its end. It holds no more than a piece of it.
type Reader struct {
	r    *bufio.Reader
	cost func(bytes int) error
	buf  []byte // of the last value
}

// New reads r. cost, if not nil, is told how much memory the names of fields take, and may end
// reading with an error.
func New(r io.Reader, cost func(bytes int) error) *Reader {
	const size = 64 << 10
	if cost == nil {
		cost = func(int) error { return nil }
	}
	return &Reader{r: bufio.NewReaderSize(r, size), cost: cost}
}

// Blank reports whether there is nothing to read.
func (s *Reader) Blank() bool {
	_, err := s.peek()
	return errors.Is(err, io.EOF)
}

// Null passes over a null, if one is next.
func (s *Reader) Null() bool {
	const null = "null"
	if _, err := s.peek(); err != nil {
		return false
	}
	if next, err := s.r.Peek(len(null)); err != nil || string(next) != null {
		return false
	}
	_, err := s.r.Discard(len(null))
	return err == nil
}

// peek is the next byte that is no white space. The error is io.EOF at the end.
func (s *Reader) peek() (byte, error) {
	for {
		c, err := s.r.ReadByte()
		if err != nil {
			return 0, err
		}
		if c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			return c, s.r.UnreadByte()
		}
	}
}

// take reads the next byte that is no white space, which is to be one of some.
func (s *Reader) take(oneOf string) (byte, error) {
	c, err := s.peek()
	if errors.Is(err, io.EOF) {
		return 0, errJSON
	}
	if err != nil {
		return 0, err
	}
	if strings.IndexByte(oneOf, c) < 0 {
		return 0, errJSON
	}
	_, err = s.r.Discard(1)
	return c, err
}

// list reads the elements of an array or an object, which f does, one at each call.
func (s *Reader) list(begin, end string, f func() error) error {
	if _, err := s.take(begin); err != nil {
		return err
	}
	if c, err := s.peek(); err == nil && c == end[0] {
		_, err := s.r.Discard(1)
		return err
	}
	for {
		if err := f(); err != nil {
			return err
		}
		if c, err := s.take("," + end); err != nil || c == end[0] {
			return err
		}
	}
}

// Array reads an array; f reads one element.
func (s *Reader) Array(f func() error) error { return s.list("[", "]", f) }

// Object reads an object; f reads the value of a field. Fields are not to be there twice.
func (s *Reader) Object(f func(name string) error) error {
	seen := make(map[string]bool)
	return s.list("{", "}", func() error {
		raw, err := s.Value(limits.ArchiveName)
		if err != nil {
			return err
		}
		var name string
		if raw[0] != '"' || json.Unmarshal(raw, &name) != nil {
			return errJSON
		}
		if seen[name] {
			return twice(name)
		}
		if err := s.cost(2*len(name) + costOfName); err != nil {
			return err
		}
		seen[name] = true
		if _, err := s.take(":"); err != nil {
			return err
		}
		return f(name)
	})
}

// Fields is object for one of which some fields mean something. f gets those names as they are
// known: others that differ from them in case alone are the same, as for encoding/json.
func (s *Reader) Fields(known []string, f func(name string) error) error {
	seen := make(map[string]bool)
	return s.Object(func(name string) error {
		for _, k := range known {
			if !strings.EqualFold(name, k) {
				continue
			}
			if seen[k] {
				return twice(name)
			}
			seen[k] = true
			return f(k)
		}
		return s.Skip()
	})
}

// costOfName is what a name takes beside its text, in bytes of memory. The text counts twice, since
// the collector lets garbage grow as large as what is in use.
const costOfName = 96

// shown is as much of a foreign text as a message has.
func shown(name string, most int) string {
	return strings.ToValidUTF8(name[:min(len(name), most)], "?")
}

func twice(name string) error {
	const most = 60
	return fmt.Errorf("%w: duplicate field %q", errJSON, shown(name, most))
}

// Value reads one value of at most some bytes. It may be no JSON, but is not empty. It is good
// until the next one is read.
func (s *Reader) Value(most int) ([]byte, error) {
	s.buf = s.buf[:0]
	err := s.bytes(func(c byte) error {
		if len(s.buf) >= most {
			return fmt.Errorf("%w: an entry of it has more than %d KiB", ErrTooMuch, most>>10)
		}
		s.buf = append(s.buf, c)
		return nil
	})
	return s.buf, err
}

// Skip passes over one value.
func (s *Reader) Skip() error { return s.bytes(func(byte) error { return nil }) }

// bytes calls f with each byte of one value.
func (s *Reader) bytes(f func(byte) error) error {
	if c, err := s.peek(); err != nil || strings.IndexByte(",:]}", c) >= 0 {
		return bad(err)
	}
	depth, text := 0, false
	for n := 0; ; n++ {
		c, err := s.r.ReadByte()
		if errors.Is(err, io.EOF) && depth == 0 && !text && n > 0 {
			return nil // a number
		}
		if err != nil {
			return bad(err)
		}
		if depth == 0 && !text && n > 0 && strings.IndexByte(",:]} \t\r\n", c) >= 0 {
			return s.r.UnreadByte()
		}
		if err := f(c); err != nil {
			return err
		}
		switch {
		case text && c == '\\':
			if c, err = s.r.ReadByte(); err != nil {
				return bad(err)
			}
			if err := f(c); err != nil {
				return err
			}
			continue
		case c == '"':
			text = !text
		case text:
			continue
		case c == '{' || c == '[':
			if depth++; depth > limits.JSONDepth {
				return fmt.Errorf("%w: nested more than %d deep", ErrTooMuch, limits.JSONDepth)
			}
			continue
		case c == '}' || c == ']':
			depth--
		default:
			continue
		}
		if depth == 0 && !text {
			return nil
		}
	}
}

// EndAfter is the error of what was read before or, when there is none, End's.
func (s *Reader) EndAfter(err error) error {
	if err != nil {
		return err
	}
	return s.End()
}

// End is an error when there is more.
func (s *Reader) End() error {
	if _, err := s.peek(); !errors.Is(err, io.EOF) {
		return bad(err)
	}
	return nil
}

// bad is why reading ended: it could not be read, or it is not what it should be.
func bad(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return errJSON
	}
	return err
}

// wrong wraps what decoders say of a document, which may have much of it, as a short line.
func wrong(err error) error {
	const most = 100
	text := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, shown(err.Error(), most))
	return fmt.Errorf("%w: %s", errJSON, text)
}

// Entry decodes the next value into v, once it was checked against the bounds of package limits. It
// returns the size of the text in bytes.
func (s *Reader) Entry(v any) (size int, err error) {
	raw, err := s.Value(limits.EntryBytes)
	if err != nil {
		return 0, err
	}
	if err := limits.CheckJSON(raw, v); err != nil {
		return 0, fmt.Errorf("%w: %w", errJSON, err)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return 0, fmt.Errorf("%w: %w", errJSON, err)
	}
	return len(raw), nil
}

// Document reads an object into v, but its arrays that lists has a function for: each of those
// reads one element. All the rest may have limits.EntryBytes.
func (s *Reader) Document(v any, lists map[string]func() error) error {
	var known, rest []string
	for name := range lists {
		known = append(known, name)
	}
	size, seen := 0, make(map[string]bool)
	err := s.Object(func(name string) error {
		for _, k := range known {
			if !strings.EqualFold(name, k) {
				continue
			}
			if seen[k] {
				return twice(name)
			}
			seen[k] = true
			if s.Null() {
				return nil
			}
			return s.Array(lists[k])
		}
		raw, err := s.Value(limits.EntryBytes - size)
		if err != nil {
			return err
		}
		quoted, err := json.Marshal(name)
		if err != nil {
			return err
		}
		size += len(raw) + len(quoted)
		rest = append(rest, string(quoted)+":"+string(raw))
		return nil
	})
	if err != nil {
		return err
	}
	raw := []byte("{" + strings.Join(rest, ",") + "}")
	if err := limits.CheckJSON(raw, v); err != nil {
		return wrong(err)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return wrong(err)
	}
	return nil
}
