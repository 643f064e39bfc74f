package limits

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// jsonError says which bound a JSON document exceeds, or which field it has twice.
type jsonError struct{ Reason string }

func (e *jsonError) Error() string { return e.Reason }

// CheckJSON checks a JSON document against JSONValues and JSONDepth, and rejects ambiguous ones: an
// object that has a key twice, or two keys that differ only in case where known has a field of that
// name. known are values of the types that the document is decoded into: encoding/json ignores case
// and other decoders don't, so they would read different values. Names that are not fields of
// these types, such as labels and annotations, may differ in case. It takes little memory,
// whatever the document is, and must be called before the document is decoded. What isn't JSON
// may pass: the decoder reports it. The error is a *JSONError.
func CheckJSON(raw []byte, known ...any) error {
	s := jsonScan{raw: raw}
	for _, v := range known {
		if v != nil {
			s.known = append(s.known, reflect.TypeOf(v))
		}
	}
	return s.run()
}

// jsonScan is a document that is scanned from its beginning to its end.
type jsonScan struct {
	raw    []byte
	known  []reflect.Type // of the whole document
	values int
	open   []jsonLevel
}

// jsonLevel is an object or array that has begun.
type jsonLevel struct {
	object bool
	value  bool // a key was read: what comes is its value
	// element are the types of an array's elements or of a map's values, and fields those of the
	// fields of structs, by their folded names.
	element []reflect.Type
	fields  []map[string]reflect.Type
	key     string          // the last one, folded
	keys    map[string]bool // as they are compared
}

// below are the types of the value that comes next in a level.
func (l *jsonLevel) below() []reflect.Type {
	if !l.object {
		return l.element
	}
	out := l.element
	for _, f := range l.fields {
		if t, ok := f[l.key]; ok {
			out = append(slices.Clip(out), t)
		}
	}
	return out
}

// knows reports whether a folded name is one of a field.
func (l *jsonLevel) knows(folded string) bool {
	return slices.ContainsFunc(l.fields, func(f map[string]reflect.Type) bool { _, ok := f[folded]; return ok })
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

// level begins an object or array of some types. A type that decodes itself, such as
// json.RawMessage, has no fields here.
func level(object bool, types []reflect.Type) jsonLevel {
	l := jsonLevel{object: object}
	for _, t := range types {
		for t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		switch {
		case t.Implements(unmarshaler) || reflect.PointerTo(t).Implements(unmarshaler):
		case object && t.Kind() == reflect.Struct:
			l.fields = append(l.fields, fieldsOf(t))
		case object && t.Kind() == reflect.Map, !object && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array):
			l.element = append(l.element, t.Elem())
		}
	}
	return l
}

// knownFields caches fieldsOf: map[reflect.Type]map[string]reflect.Type.
var knownFields sync.Map

// fieldsOf are the types of the fields that encoding/json decodes into a struct, by their folded
// names.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	if known, ok := knownFields.Load(t); ok {
		return known.(map[string]reflect.Type)
	}
	out := make(map[string]reflect.Type)
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || f.Tag.Get("json") == "-" || f.Anonymous && name == "" {
			continue // the fields of an embedded struct are visible as well
		}
		if name == "" {
			name = f.Name
		}
		out[strings.Map(foldRune, name)] = f.Type
	}
	knownFields.Store(t, out)
	return out
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
		return &jsonError{fmt.Sprintf("more than %d values", JSONValues)}
	}
	return nil
}

// begin begins an object or an array.
func (s *jsonScan) begin(object bool) error {
	if len(s.open) >= JSONDepth {
		return &jsonError{fmt.Sprintf("nested more than %d deep", JSONDepth)}
	}
	types := s.known
	if n := len(s.open); n > 0 {
		types = s.open[n-1].below()
	}
	s.open = append(s.open, level(object, types))
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
	same := key
	if len(level.fields) > 0 {
		if level.key = strings.Map(foldRune, key); level.knows(level.key) {
			same = level.key
		}
	}
	if level.keys == nil {
		level.keys = make(map[string]bool)
	}
	if level.keys[same] {
		const most = 60
		return &jsonError{fmt.Sprintf("duplicate field %.*q in one object", most, key)}
	}
	level.keys[same] = true
	return nil
}

// unquote is the text of a string as decoders read it: with escapes, or bytes that are not UTF-8.
func unquote(quoted []byte) string {
	plain := strings.Trim(string(quoted), `"`)
	if !strings.Contains(plain, `\`) && utf8.ValidString(plain) {
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
