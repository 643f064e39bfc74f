// Package printable makes text from outside fit to show: in messages, in logs, on a
// terminal. Whatever a registry, a proxy, a credential helper or an archive says passes
// through here before a person or a log sees it.
package printable

import (
	"encoding/base64"
	"net/url"
	"slices"
	"strings"
	"sync"
	"unicode"
)

// Most is the largest number of bytes that Line keeps of a text.
const Most = 200

// Line makes foreign text fit to print: one line of printable characters, of at most Most
// bytes.
func Line(s string) string {
	const look = 16 * Most // a page that is all spaces ends somewhere
	s = s[:min(len(s), look)]
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) && !unicode.IsSpace(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > Most {
		s = strings.ToValidUTF8(s[:Most], "") + "…"
	}
	return s
}

// Hidden stands for a secret in a text.
const Hidden = "[hidden]"

// Secrets are texts that must not be shown. A nil value knows none. Its methods may be
// called from several goroutines.
type Secrets struct {
	mu    sync.Mutex
	known []string // longest first, so that one within another leaves nothing
}

// shortest is how many bytes a text must have to be blanked out. Blanking every "a" would
// make a message useless, and hide nothing.
const shortest = 4

// Add makes texts secret, each as it is, in base64, and escaped for URLs.
func (s *Secrets) Add(texts ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, text := range texts {
		if text == "" {
			continue
		}
		for _, form := range []string{
			text, url.QueryEscape(text), url.PathEscape(text), strings.Trim(text, " \t\r\n"),
			base64.StdEncoding.EncodeToString([]byte(text)), base64.RawStdEncoding.EncodeToString([]byte(text)),
			base64.URLEncoding.EncodeToString([]byte(text)), base64.RawURLEncoding.EncodeToString([]byte(text)),
		} {
			if len(form) >= shortest && !slices.Contains(s.known, form) {
				s.known = append(s.known, form)
			}
		}
	}
	slices.SortStableFunc(s.known, func(a, b string) int { return len(b) - len(a) })
}

// Hide blanks out what is secret in a text.
func (s *Secrets) Hide(text string) string {
	if s == nil {
		return text
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, secret := range s.known {
		text = strings.ReplaceAll(text, secret, Hidden)
	}
	return text
}

// Line is Line of a text in which secrets are blanked out.
func (s *Secrets) Line(text string) string { return Line(s.Hide(text)) }
