package printable_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode"

	"drayage/engine/printable"
)

func TestTextShowsWhatIsNotSeen(t *testing.T) {
	for in, want := range map[string]string{
		"plain, and é 漢 ✓":          "plain, and é 漢 ✓",
		`C:\Users\ann`:              `C:\Users\ann`,
		"\x1b[2Jcleared\a":          `\x1b[2Jcleared\x07`,
		"\u009b2J and \x9b2J":       `\u009b2J and \x9b2J`,
		"one\nforged\tline\r":       `one\nforged\tline\r`,
		"user\u202e gpj.\u2066x":    `user\u202e gpj.\u2066x`,
		"zero\u200bwidth\ufeff":     `zero\u200bwidth\ufeff`,
		"no break\u00a0\u3164space": `no break\u00a0\u3164space`,
		"tag\U000e0041":             `tag\U000e0041`,
		"del\x7f, line\u2028":       `del\x7f, line\u2028`,
		"cut \xe2\x80":              `cut \xe2\x80`,
	} {
		if got := printable.Text(in); got != want {
			t.Errorf("Text(%q) = %s, want %s", in, got, want)
		}
	}
	if got := printable.Text(strings.Repeat("é", 1<<20)); len(got) > 65<<10 {
		t.Errorf("%d bytes are kept", len(got))
	}
	if got := printable.Lines("a\tb\n\x1bc\r\n"); got != "a\tb\n\\x1bc\\r\n" {
		t.Errorf("Lines: %q", got)
	}
}

type stringer struct{ s string }

func (s stringer) String() string { return s.s }

func TestSprintfTrustsItsFormatAlone(t *testing.T) {
	const evil = "a\n\tb\x1b"
	const shown = `a\n\tb\x1b`
	if got := printable.Sprintf("%s\t%v|%s|%v|%s\n", evil, errors.New(evil), stringer{evil}, []string{evil}, []byte(evil)); got != shown+"\t"+shown+"|"+shown+"|["+shown+"]|"+shown+"\n" {
		t.Errorf("got %q", got)
	}
	if got, want := printable.Sprintf("%5d %*d %-6s|%6.2f %q %x", 7, 4, 8, "ab", 1.5, evil, 255), fmt.Sprintf("%5d %*d %-6s|%6.2f %q %x", 7, 4, 8, "ab", 1.5, evil, 255); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func FuzzJSON(f *testing.F) {
	f.Add("a\u009b\u202e\U000e0041\x7f")
	f.Fuzz(func(t *testing.T, s string) {
		raw, err := json.Marshal(s)
		if err != nil {
			t.Skip()
		}
		shown := printable.JSON(raw)
		for _, r := range string(shown) {
			if !unicode.IsPrint(r) {
				t.Errorf("%q has %q", shown, r)
			}
		}
		var before, after string
		if err := errors.Join(json.Unmarshal(raw, &before), json.Unmarshal(shown, &after)); err != nil || before != after {
			t.Errorf("%q became %q, %v", before, after, err)
		}
		for _, r := range printable.Text(s) {
			if !unicode.IsPrint(r) {
				t.Errorf("Text(%q) has %q", s, r)
			}
		}
	})
}
