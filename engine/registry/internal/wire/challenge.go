// Package wire reads what registries say in headers and signed URLs: challenges (RFC 9110, section
// 11.6.1), content ranges (RFC 9110, section 14.4), links to further pages (RFC 8288), warnings
// (RFC 7234, section 5.5) and expiry times. Its functions are pure, and take malformed input for
// what it most likely means, or refuse it; they never panic.
package wire

import (
	"net/http"
	"strings"
)

// Challenge is one challenge of a WWW-Authenticate header (RFC 9110, section 11.6.1).
type Challenge struct {
	Scheme string // lower case
	Params []Param
	By     string // the scheme of the URL that was asked: http or https
}

// Param is one parameter of a challenge, its name in lower case.
type Param struct{ Name, Value string }

// Get is the value of the first parameter of a name, "" when there is none.
func (c Challenge) Get(name string) string {
	for _, p := range c.Params {
		if p.Name == name {
			return p.Value
		}
	}
	return ""
}

// PickChallenge is the Challenge to answer of a response's: Bearer before Basic, wherever it stands.
// Registries send several in any order, in one header or in several (G28).
func PickChallenge(h http.Header) (best Challenge, ok bool) {
	for _, value := range h.Values("WWW-Authenticate") {
		for _, c := range ParseChallenges(value) {
			switch {
			case c.Scheme == "bearer" && c.Get("realm") != "" && best.Scheme != "bearer",
				c.Scheme == "basic" && !ok:
				best, ok = c, true
			}
		}
	}
	return best, ok
}

// ParseChallenges reads the challenges of one header's value: schemes, each
// with parameters separated by commas, quoted or not. Commas separate
// challenges too, so a word followed by "=" is a parameter, and any other
// begins a Challenge. What can't be read ends the reading.
func ParseChallenges(s string) []Challenge {
	var out []Challenge
	for {
		s = strings.TrimLeft(s, " \t,")
		word, rest := cutToken(s)
		if word == "" {
			return out
		}
		after := strings.TrimLeft(rest, " \t")
		if !strings.HasPrefix(after, "=") {
			out = append(out, Challenge{Scheme: strings.ToLower(word)})
			s = rest
			continue
		}
		if len(out) == 0 {
			return nil // a parameter of nothing
		}
		value, rest, ok := cutValue(strings.TrimLeft(after[1:], " \t"))
		if !ok {
			return out
		}
		last := &out[len(out)-1]
		last.Params = append(last.Params, Param{strings.ToLower(word), value})
		s = rest
	}
}

// cutToken cuts a token (RFC 9110, section 5.6.2) off the front.
func cutToken(s string) (token, rest string) {
	i := 0
	for i < len(s) && isTokenByte(s[i]) {
		i++
	}
	return s[:i], s[i:]
}

func isTokenByte(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", b) >= 0
}

// cutValue cuts a parameter's value off the front: a quoted string, or
// anything up to a comma or space, since unquoted URLs are seen too.
func cutValue(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		i := strings.IndexAny(s, " \t,")
		if i < 0 {
			i = len(s)
		}
		return s[:i], s[i:], i > 0
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			i++
			if i == len(s) {
				return "", "", false
			}
		}
		b.WriteByte(s[i])
	}
	return "", "", false
}
