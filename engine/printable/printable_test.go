package printable_test

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"unicode"

	"drayage/engine/printable"
)

func TestLineIsOneShortPrintableLine(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                      "plain",
		"two\r\nlines\tand  a tab":   "two lines and a tab",
		"\x1b[31mred\x1b[0m \a bell": "[31mred[0m bell",
		"\u202eright to left":        "right to left",
		"broken \xff byte":           "broken ? byte",
		"":                           "",
	} {
		if got := printable.Line(in); got != want {
			t.Errorf("Line(%q) = %q, want %q", in, got, want)
		}
	}
	if got := printable.Line(strings.Repeat("é", 1000)); len(got) > printable.Most+len("…") {
		t.Errorf("a long text keeps %d bytes", len(got))
	}
}

func TestSecretsAreBlankedInEveryForm(t *testing.T) {
	const secret = "p/ss w%rd?"
	var s printable.Secrets
	s.Add(secret, "ann:"+secret)
	for _, form := range []string{
		secret, url.QueryEscape(secret), url.PathEscape(secret),
		base64.StdEncoding.EncodeToString([]byte(secret)), base64.StdEncoding.EncodeToString([]byte("ann:" + secret)),
		base64.RawURLEncoding.EncodeToString([]byte("ann:" + secret)),
	} {
		if got := s.Line("denied: " + form + "!"); strings.Contains(got, form) || !strings.Contains(got, printable.Hidden) {
			t.Errorf("%q is shown as %q", form, got)
		}
	}
	var none *printable.Secrets
	if got := none.Line("as it is"); got != "as it is" {
		t.Errorf("no secrets: %q", got)
	}
}

func FuzzLine(f *testing.F) {
	f.Add("a\x1b]0;title\a")
	f.Fuzz(func(t *testing.T, s string) {
		got := printable.Line(s)
		for _, r := range got {
			if !unicode.IsPrint(r) {
				t.Errorf("Line(%q) = %q has %q", s, got, r)
			}
		}
	})
}

// A process that runs for months gets a new token every few minutes: old ones are forgotten,
// credentials aren't.
func TestSecretsAreBounded(t *testing.T) {
	var s printable.Secrets
	s.Add("password")
	for i := range 10_000 {
		s.AddToken(fmt.Sprintf("token-%d.", i))
	}
	for text, hidden := range map[string]bool{"token-9999.": true, "token-9900.": true, "token-0.": false, "password": true} {
		if got := s.Hide(text) == printable.Hidden; got != hidden {
			t.Errorf("%s is hidden: %v", text, got)
		}
	}
	long := strings.Repeat("secret-", 5000)
	s.AddToken(long)
	if got := s.Line(strings.Repeat(" ", 3000) + long + long); strings.Contains(got, "secret-") {
		t.Errorf("a part of a long secret is left: %s", got)
	}
}
