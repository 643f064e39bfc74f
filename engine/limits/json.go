package limits

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
)

// JSONError says which bound a JSON document exceeds, or which field it has twice.
type JSONError struct{ Reason string }

func (e *JSONError) Error() string { return e.Reason }

// CheckJSON holds a JSON document against JSONValues and JSONDepth, and refuses one that says
// something twice: two keys of an object that are the same, or that differ in case alone, since
// decoders disagree on which of them counts. In the objects that free has the keys of, such as
// annotations, names are anybody's, and may differ in case; nil is none. It takes little memory,
// whatever the document is, and is to be called before the document is decoded. What is no JSON
// may pass: the decoder finds out. The error is a *JSONError.
func CheckJSON(raw []byte, free map[string]bool) error {
	s := jsonScan{raw: raw, free: free}
	return s.run()
}

// jsonScan is a document that is looked through from its beginning to its end.
type jsonScan struct {
	raw    []byte
	free   map[string]bool
	values int
	open   []jsonLevel
}

// jsonLevel is an object or array that has begun.
type jsonLevel struct {
	object bool
	free   bool // names in it are anybody's
	value  bool // a key was read: what comes is its value
	key    string
	keys   map[string]bool // as they are compared
}

func (s *jsonScan) run() error {
	for i := 0; i < len(s.raw); {
		var err error
		switch c := s.raw[i]; c {
		case ' ', '\t', '\r', '\n':
			i++
			continue
		case '{', '[':
			i++
			err = s.begin(c == '{')
		case '}', ']':
			i++
			if len(s.open) > 0 {
				s.open = s.open[:len(s.open)-1]
			}
			s.ended()
		case ',':
			i++
			if n := len(s.open); n > 0 {
				s.open[n-1].value = false
			}
		case ':':
			i++
			if n := len(s.open); n > 0 {
				s.open[n-1].value = true
			}
		case '"':
			end := stringEnd(s.raw, i)
			err = s.text(s.raw[i:end])
			i = end
		default:
			for i++; i < len(s.raw) && !strings.ContainsRune(" \t\r\n{}[],:\"", rune(s.raw[i])); i++ {
			}
			err = s.count()
			s.ended()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// stringEnd is where a string ends that begins at i.
func stringEnd(raw []byte, i int) int {
	for i++; i < len(raw); i++ {
		switch raw[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(raw)
}

func (s *jsonScan) count() error {
	if s.values++; s.values > JSONValues {
		return &JSONError{fmt.Sprintf("it has more than %d values", JSONValues)}
	}
	return nil
}

// begin begins an object or an array.
func (s *jsonScan) begin(object bool) error {
	if len(s.open) >= JSONDepth {
		return &JSONError{fmt.Sprintf("it is nested more than %d deep", JSONDepth)}
	}
	free := false
	if n := len(s.open); n > 0 {
		free = s.open[n-1].free || s.open[n-1].object && s.free[s.open[n-1].key]
	}
	s.open = append(s.open, jsonLevel{object: object, free: free})
	return s.count()
}

// ended notes that a value ended.
func (s *jsonScan) ended() {
	if n := len(s.open); n > 0 {
		s.open[n-1].value = false
	}
}

// text takes a string, which is a key where one is due.
func (s *jsonScan) text(quoted []byte) error {
	if err := s.count(); err != nil {
		return err
	}
	n := len(s.open)
	if n == 0 || !s.open[n-1].object || s.open[n-1].value {
		s.ended()
		return nil
	}
	level := &s.open[n-1]
	level.value = true
	key := unquote(quoted)
	level.key = key
	same := key
	if !level.free {
		same = strings.Map(foldRune, key)
	}
	if level.keys == nil {
		level.keys = make(map[string]bool)
	}
	if level.keys[same] {
		const most = 60
		return &JSONError{fmt.Sprintf("it has the field %.*q twice in one object", most, key)}
	}
	level.keys[same] = true
	return nil
}

// unquote is the text of a string, which may have escapes.
func unquote(quoted []byte) string {
	plain := strings.Trim(string(quoted), `"`)
	if !strings.Contains(plain, `\`) {
		return plain
	}
	var out string
	if json.Unmarshal(quoted, &out) != nil {
		return plain
	}
	return out
}

// foldRune is one rune for all that differ in case alone, as encoding/json compares them.
func foldRune(r rune) rune {
	least := r
	for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
		least = min(least, f)
	}
	return least
}
