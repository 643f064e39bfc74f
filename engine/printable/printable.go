// Package printable makes text from outside fit to show: in messages, in logs, on a
// terminal. Whatever a registry, a proxy, a credential helper or an archive says passes
// through here before a person or a log sees it.
package printable

import (
	"cmp"
	"encoding/base64"
	"net/url"
	"slices"
	"strings"
	"sync"
	"unicode"
)

// most is the largest number of bytes that Line keeps of a text.
const most = 200

// look is how much of a text is looked at: a page that is all spaces ends somewhere.
const look = 16 * most

// Line makes foreign text fit to print: one line of printable characters, of at most most
// bytes.
func Line(s string) string {
	s = s[:min(len(s), look)]
	s = strings.Map(func(r rune) rune {
		if !visible(r) && !unicode.IsSpace(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// Hidden stands for a secret in a text.
const Hidden = "[hidden]"

// Secrets are texts that must not be shown. A nil value knows none. Its methods may be
// called from several goroutines.
type Secrets struct {
	mu          sync.Mutex
	credentials ring
	tokens      ring
	forms       map[string]int // in how many texts' forms each is
	known       []string       // longest first, so that one within another leaves nothing
}

// ring are the texts that were added last.
type ring struct {
	texts []string
	next  int
}

const (
	// shortest is how many bytes a text must have to be blanked out. Blanking every "a" would
	// make a message useless, and hide nothing.
	shortest = 4
	// A process that runs for months gets new tokens every few minutes. Those that are no longer
	// among the last so many have run out.
	mostCredentials, mostTokens = 4096, 256
)

// Add makes texts secret, each as it is, in base64, and escaped for URLs.
func (s *Secrets) Add(texts ...string) { s.add(&s.credentials, mostCredentials, texts) }

// AddToken makes a text secret that is good for some minutes.
func (s *Secrets) AddToken(text string) { s.add(&s.tokens, mostTokens, []string{text}) }

func (s *Secrets) add(to *ring, most int, texts []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.forms == nil {
		s.forms = make(map[string]int)
	}
	for _, text := range texts {
		if len(text) < shortest || s.forms[text] > 0 && slices.Contains(to.texts, text) {
			continue
		}
		if len(to.texts) < most {
			to.texts = append(to.texts, text)
		} else {
			s.forget(to.texts[to.next])
			to.texts[to.next] = text
			to.next = (to.next + 1) % most
		}
		for _, form := range formsOf(text) {
			if s.forms[form]++; s.forms[form] == 1 {
				i, _ := slices.BinarySearchFunc(s.known, form, longerFirst)
				s.known = slices.Insert(s.known, i, form)
			}
		}
	}
}

func (s *Secrets) forget(text string) {
	for _, form := range formsOf(text) {
		if s.forms[form]--; s.forms[form] > 0 {
			continue
		}
		delete(s.forms, form)
		if i, found := slices.BinarySearchFunc(s.known, form, longerFirst); found {
			s.known = slices.Delete(s.known, i, i+1)
		}
	}
}

func longerFirst(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) }

// formsOf are the forms in which a text may be met, each once.
func formsOf(text string) []string {
	raw := []byte(text)
	var out []string
	for _, form := range []string{
		text, url.QueryEscape(text), url.PathEscape(text), strings.Trim(text, " \t\r\n"),
		base64.StdEncoding.EncodeToString(raw), base64.RawStdEncoding.EncodeToString(raw),
		base64.URLEncoding.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw),
	} {
		if len(form) >= shortest && !slices.Contains(out, form) {
			out = append(out, form)
		}
	}
	return out
}

// Hide blanks out what is secret in a text.
func (s *Secrets) Hide(text string) string {
	if s == nil {
		return text
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hide(text)
}

func (s *Secrets) hide(text string) string {
	for _, secret := range s.known {
		text = strings.ReplaceAll(text, secret, Hidden)
	}
	return text
}

// Line is Line of a text in which secrets are blanked out.
func (s *Secrets) Line(text string) string {
	if s == nil {
		return Line(text)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) == 0 {
		return Line(text)
	}
	// No more than what Line looks at, and one secret beyond.
	if most := look + len(s.known[0]); len(text) > most {
		return Line(s.withoutHalves(s.hide(text[:most])))
	}
	return Line(s.hide(text))
}

// withoutHalves is a text that was cut, without a secret of which only the beginning is there.
func (s *Secrets) withoutHalves(text string) string {
	for _, secret := range s.known {
		for from := max(0, len(text)-len(secret)+1); ; from++ {
			i := strings.Index(text[from:], secret[:shortest])
			if i < 0 {
				break
			}
			if from += i; strings.HasPrefix(secret, text[from:]) {
				text = text[:from]
				break
			}
		}
	}
	return text
}
