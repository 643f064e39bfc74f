package textfile_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"unicode/utf16"
	"unicode/utf8"

	"drayage/engine/textfile"
)

// utf16Of is a text as Windows writes it.
func utf16Of(s string, big, mark bool) []byte {
	units := utf16.Encode([]rune(s))
	if mark {
		units = append([]uint16{0xfeff}, units...)
	}
	var out []byte
	for _, u := range units {
		if big {
			out = append(out, byte(u>>8), byte(u))
		} else {
			out = append(out, byte(u), byte(u>>8))
		}
	}
	return out
}

func TestEveryEditorsTextIsTheSame(t *testing.T) {
	const want = "alpine:3.20\n# Größe\nbusybox\n"
	windows := strings.ReplaceAll(want, "\n", "\r\n")
	for name, raw := range map[string][]byte{
		"as it is":            []byte(want),
		"carriage returns":    []byte(windows),
		"old Macs":            []byte(strings.ReplaceAll(want, "\n", "\r")),
		"mark":                []byte("\ufeff" + windows),
		"UTF-16":              utf16Of(windows, false, true),
		"UTF-16 big":          utf16Of(windows, true, true),
		"UTF-16, no mark":     utf16Of(windows, false, false),
		"UTF-16 big, no mark": utf16Of(windows, true, false),
	} {
		got, err := textfile.Decode(raw)
		if err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestWhatIsNoTextIsRefused(t *testing.T) {
	for name, raw := range map[string][]byte{
		"Latin-1":     []byte("Gr\xf6\xdfe\n"),
		"zero bytes":  []byte("abc\x00def"),
		"half UTF-16": append(utf16Of("abc", false, true), 'x'),
		"UTF-32":      {0xff, 0xfe, 0, 0, 'a', 0, 0, 0},
	} {
		if got, err := textfile.Decode(raw); !errors.Is(err, textfile.ErrEncoding) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := textfile.ReadFrom(strings.NewReader("12345"), 4); !errors.Is(err, textfile.ErrTooLarge) {
		t.Errorf("one byte over the limit: %v", err)
	}
	if got, err := textfile.ReadFrom(strings.NewReader("1234"), 4); err != nil || string(got) != "1234" {
		t.Errorf("as many bytes as allowed: %q, %v", got, err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("\xff\xfea\x00"))
	f.Add([]byte("a\r\nb"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := textfile.Decode(raw)
		if err == nil && (!utf8.Valid(got) || bytes.ContainsAny(got, "\r\x00")) {
			t.Errorf("Decode(%q) = %q", raw, got)
		}
	})
}
