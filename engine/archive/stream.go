package archive

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"drayage/engine/image"
	"drayage/engine/limits"
)

// notes counts the memory that is taken by what is noted of an archive, in bytes, as well as that
// can be told from outside: whoever made the archive decides how much there is to note.
type notes struct{ taken int }

// add takes memory, or refuses to. The error wraps ErrInvalid.
func (n *notes) add(bytes int) error {
	if n.taken += bytes; n.taken > limits.ArchiveNotes {
		return fmt.Errorf("%w: its images, names and blobs are too many: noting them takes more than %d MiB", errTooMuch, limits.ArchiveNotes>>20)
	}
	return nil
}

// errTooMuch is wrapped for what exceeds a bound: then the whole archive is refused, and not only
// one of its lists. It is an ErrInvalid.
var errTooMuch = fmt.Errorf("%w", ErrInvalid)

// errJSON is what is wrong with a list that is none.
var errJSON = errors.New("it is not the JSON that it should be")

// stream reads a JSON document piece by piece, and holds no more than a piece of it.
type stream struct {
	r     *bufio.Reader
	notes *notes // of names
}

func newStream(r io.Reader, n *notes) *stream {
	const size = 64 << 10
	return &stream{bufio.NewReaderSize(r, size), n}
}

// peek is the next byte that is no white space. The error is io.EOF at the end.
func (s *stream) peek() (byte, error) {
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
func (s *stream) take(oneOf string) (byte, error) {
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
func (s *stream) list(begin, end string, f func() error) error {
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

// array reads an array; f reads one element.
func (s *stream) array(f func() error) error { return s.list("[", "]", f) }

// object reads an object; f reads the value of a field. Fields are not to be there twice.
func (s *stream) object(f func(name string) error) error {
	seen := make(map[string]bool)
	return s.list("{", "}", func() error {
		raw, err := s.value(limits.ArchiveName)
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
		if err := s.notes.add(costOfString + len(name)); err != nil {
			return err
		}
		seen[name] = true
		if _, err := s.take(":"); err != nil {
			return err
		}
		return f(name)
	})
}

// fields is object for one of which some fields mean something. f gets those names as they are
// known: others that differ from them in case alone are the same, as for encoding/json.
func (s *stream) fields(known []string, f func(name string) error) error {
	seen := make(map[string]bool)
	return s.object(func(name string) error {
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
		return s.skip()
	})
}

func twice(name string) error {
	return fmt.Errorf("%w: it has the field %q twice", errJSON, image.Printable(name))
}

// value reads one value of at most some bytes. It may be no JSON, but is not empty.
func (s *stream) value(most int) ([]byte, error) {
	var out []byte
	err := s.bytes(func(c byte) error {
		if len(out) >= most {
			return fmt.Errorf("%w: an entry of it has more than %d KiB", errTooMuch, most>>10)
		}
		out = append(out, c)
		return nil
	})
	return out, err
}

// skip passes over one value.
func (s *stream) skip() error { return s.bytes(func(byte) error { return nil }) }

// bytes calls f with each byte of one value.
func (s *stream) bytes(f func(byte) error) error {
	if c, err := s.peek(); err != nil || strings.IndexByte(",:]}", c) >= 0 {
		return errors.Join(errJSON, notEOF(err))
	}
	depth, text := 0, false
	for n := 0; ; n++ {
		c, err := s.r.ReadByte()
		if errors.Is(err, io.EOF) && depth == 0 && !text && n > 0 {
			return nil // a number
		}
		if err != nil {
			return errors.Join(errJSON, notEOF(err))
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
				return errors.Join(errJSON, notEOF(err))
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
				return fmt.Errorf("%w: it is nested more than %d deep", errTooMuch, limits.JSONDepth)
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

// end is an error when there is more.
func (s *stream) end() error {
	if _, err := s.peek(); !errors.Is(err, io.EOF) {
		return errors.Join(errJSON, err)
	}
	return nil
}

func notEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
