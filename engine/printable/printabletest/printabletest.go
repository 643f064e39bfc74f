// Package printabletest has what tests need to hold texts to what terminals may get.
package printabletest

import (
	"strings"
	"testing"
	"unicode"
)

// Check fails the test when what an error says is not one printable line. It is nothing for nil.
func Check(t testing.TB, err error) {
	t.Helper()
	if err == nil {
		return
	}
	const longest = 10_000 // a line of a list is shown as it is
	if text := err.Error(); text == "" || len(text) > longest || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("not a printable line: %.11000q", text)
	}
}
