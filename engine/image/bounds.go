package image

import (
	"encoding/json"
	"fmt"

	"drayage/engine/limits"
)

// free are the fields whose names are anybody's, in manifests, indexes and configs.
var free = map[string]bool{"annotations": true, "Labels": true, "ExposedPorts": true, "Volumes": true}

// decodeJSON is json.Unmarshal of a foreign document into v, once the document was held against
// the bounds of package limits. The error wraps ErrInvalid.
func decodeJSON(raw []byte, v any) error {
	if err := CheckJSON(raw); err != nil {
		return err
	}
	return unmarshal(raw, v)
}

// CheckJSON holds a foreign document against the bounds of package limits. The error wraps
// ErrInvalid.
func CheckJSON(raw []byte) error {
	if len(raw) > limits.ManifestBytes {
		return fmt.Errorf("%w: larger than %d MiB", ErrInvalid, limits.ManifestBytes>>20)
	}
	if err := limits.CheckJSON(raw, free); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, printableError{err})
	}
	return nil
}

// unmarshal is json.Unmarshal with errors that wrap ErrInvalid, for documents that were checked.
func unmarshal(raw []byte, v any) error {
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%w: %s", ErrInvalid, jsonError(err))
	}
	return nil
}

// printableError is an error whose text may have parts of foreign documents.
type printableError struct{ error }

func (e printableError) Error() string { return Printable(e.error.Error()) }
func (e printableError) Unwrap() error { return e.error }

// checkCount refuses a list, which is JSON or nothing, with more descriptors than there may be:
// before it is decoded, which takes many times its size.
func checkCount(what string, list []byte) error {
	if n := elements(list, limits.Descriptors); n > limits.Descriptors {
		return fmt.Errorf("%w: it lists more than %d %s", ErrInvalid, limits.Descriptors, what)
	}
	return nil
}

// elements counts the elements of a JSON array, which is valid, up to one more than most.
func elements(list []byte, most int) int {
	n, depth, text := 0, 0, false
	for i := 0; i < len(list) && n <= most; i++ {
		switch c := list[i]; {
		case text:
			if c == '\\' {
				i++
			}
			text = c != '"'
		case c == '"':
			text = true
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			depth--
		case c == ',' && depth == 1:
			n++
		}
	}
	return n + 1 // of an empty array, too: it doesn't matter
}
