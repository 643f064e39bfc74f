package printable

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// mostText is the largest number of bytes that Text keeps of a text: more than any name or list of
// names that a person reads.
const mostText = 64 << 10

// Text makes foreign text fit to print as part of a line, all of it up to 64 KiB: what doesn't
// print as one visible character is written as an escape of Go's (\x1b, \n, \u202e), bytes that
// are no UTF-8 included. It is for text of which nothing may be lost, such as names; Line is for
// what others say.
func Text(s string) string {
	if len(s) > mostText {
		s = strings.ToValidUTF8(s[:mostText], "") + "…"
	}
	return escaped(s, "")
}

// Lines is Text for several lines with tabs: ends of lines and tabs stay. It has no largest size.
func Lines(s string) string { return escaped(s, "\n\t") }

// escaped is a text with escapes for what isn't visible, but for some characters.
func escaped(s, but string) string {
	keep := func(r rune) bool { return visible(r) || strings.ContainsRune(but, r) }
	if utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !keep(r) }) < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, width := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && width == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case keep(r):
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\r':
			b.WriteString(`\r`)
		case r < utf8.RuneSelf:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r > 0xffff:
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		i += width
	}
	return b.String()
}

// visible reports whether a character prints as what it is: no control of a terminal, of the
// direction of text, or of nothing that is seen, and no space but the ordinary one. Fillers are
// letters to Unicode, and print as nothing.
func visible(r rune) bool {
	switch r {
	case '\u034f', '\u115f', '\u1160', '\u17b4', '\u17b5', '\u2800', '\u3164', '\uffa0':
		return false
	}
	return unicode.IsPrint(r)
}

// Sprintf is fmt.Sprintf in which only the format may have ends of lines, tabs and other
// control: each argument is made fit to print by Text.
func Sprintf(format string, args ...any) string {
	if false {
		_ = fmt.Sprintf(format, args...) // go vet checks the callers' formats by this
	}
	shown := make([]any, len(args))
	for i, a := range args {
		switch a.(type) {
		case bool, int, int32, int64, uint, uint8, uint32, uint64, float32, float64:
			shown[i] = a
		default:
			shown[i] = argument{a}
		}
	}
	return fmt.Sprintf(format, shown...)
}

// Fprintf is fmt.Fprintf with Sprintf's arguments.
func Fprintf(w io.Writer, format string, args ...any) (int, error) {
	if false {
		_ = fmt.Sprintf(format, args...) // go vet checks the callers' formats by this
	}
	return io.WriteString(w, Sprintf(format, args...))
}

// argument is one of Sprintf's.
type argument struct{ value any }

// Format implements fmt.Formatter.
func (a argument) Format(f fmt.State, verb rune) {
	_, _ = io.WriteString(f, Text(fmt.Sprintf(fmt.FormatString(f, verb), a.value))) // its error is never one
}

// JSON is the same JSON in which strings have nothing but visible characters: encoding/json
// leaves most of what isn't ASCII as it is.
func JSON(raw []byte) []byte {
	shown := func(r rune) bool { return visible(r) || r == '\n' || r == '\t' || r == '\r' }
	if utf8.Valid(raw) && strings.IndexFunc(string(raw), func(r rune) bool { return !shown(r) }) < 0 {
		return raw
	}
	out := make([]byte, 0, len(raw)+64)
	for i := 0; i < len(raw); {
		r, width := utf8.DecodeRune(raw[i:])
		switch {
		case r == utf8.RuneError && width == 1:
			out = append(out, `\ufffd`...)
		case shown(r):
			out = append(out, raw[i:i+width]...)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		i += width
	}
	return out
}
