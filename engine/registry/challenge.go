package registry

import (
	"net/http"
	"strings"
)

// challenge is one of a WWW-Authenticate header (RFC 9110, section 11.6.1).
type challenge struct {
	scheme string // lower case
	params []param
	by     string // the scheme of the URL that was asked: http or https
}

type param struct{ name, value string }

func (c challenge) get(name string) string {
	for _, p := range c.params {
		if p.name == name {
			return p.value
		}
	}
	return ""
}

// pick is the challenge to answer of a response's: Bearer before Basic, wherever it stands.
// Registries send several in any order, in one header or in several (G28).
func pick(h http.Header) (best challenge, ok bool) {
	for _, value := range h.Values("WWW-Authenticate") {
		for _, c := range parseChallenges(value) {
			switch {
			case c.scheme == "bearer" && c.get("realm") != "" && best.scheme != "bearer",
				c.scheme == "basic" && !ok:
				best, ok = c, true
			}
		}
	}
	return best, ok
}

// parseChallenges reads the challenges of one header's value: schemes, each
// with parameters separated by commas, quoted or not. Commas separate
// challenges too, so a word followed by "=" is a parameter, and any other
// begins a challenge. What can't be read ends the reading.
func parseChallenges(s string) []challenge {
	var out []challenge
	for {
		s = strings.TrimLeft(s, " \t,")
		word, rest := cutToken(s)
		if word == "" {
			return out
		}
		after := strings.TrimLeft(rest, " \t")
		if !strings.HasPrefix(after, "=") {
			out = append(out, challenge{scheme: strings.ToLower(word)})
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
		last.params = append(last.params, param{strings.ToLower(word), value})
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
