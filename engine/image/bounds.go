package image

import (
	"encoding/json"
	"fmt"

	"drayage/engine/internal/limits"
	"drayage/engine/printable"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// decodeJSON is json.Unmarshal of a foreign document into v, once the document was checked against
// the bounds of package limits. also are values of other types that readers decode it into. The
// error wraps ErrInvalid.
func decodeJSON(raw []byte, v any, also ...any) error {
	if err := checkJSON(raw, append(also, v)...); err != nil {
		return err
	}
	return unmarshal(raw, v)
}

// CheckConfig checks an image's config against the bounds of package limits. The error wraps
// ErrInvalid.
func CheckConfig(raw []byte) error { return checkJSON(raw, ocispec.Image{}, Schema1History{}) }

// checkJSON checks a foreign document against the bounds of package limits. known are values of the
// types that it is decoded into. The error wraps ErrInvalid.
func checkJSON(raw []byte, known ...any) error {
	if len(raw) > limits.ManifestBytes {
		return fmt.Errorf("%w: larger than %d MiB", ErrInvalid, limits.ManifestBytes>>20)
	}
	if err := limits.CheckJSON(raw, known...); err != nil {
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

func (e printableError) Error() string { return printable.Line(e.error.Error()) }
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
