package wire

import (
	"regexp"
	"strings"
)

// anotherWarning is where the next one begins behind one whose text has no quotes.
var anotherWarning = regexp.MustCompile(`,\s*[0-9]{3} \S+ "`)

// CutWarning cuts one warning off a Warning header (RFC 7234, section 5.5): a code, an agent, a
// quoted text and perhaps a quoted date, and then a comma or the end.
func CutWarning(s string) (code, text, rest string) {
	code, s, _ = strings.Cut(strings.TrimLeft(s, " \t,"), " ")
	_, s, _ = strings.Cut(strings.TrimSpace(s), " ") // the agent
	s = strings.TrimSpace(s)
	if text, rest, ok := cutValue(s); ok && strings.HasPrefix(s, `"`) {
		rest = strings.TrimSpace(rest)
		if _, after, ok := cutValue(rest); ok && strings.HasPrefix(rest, `"`) {
			rest = after // the date
		}
		_, rest, _ = strings.Cut(rest, ",")
		return code, text, rest
	}
	if at := anotherWarning.FindStringIndex(s); at != nil {
		return code, s[:at[0]], s[at[0]:]
	}
	return code, s, ""
}
