package wire

import (
	"errors"
	"strconv"
	"strings"
)

// ContentRange is what a Content-Range says (RFC 9110, section 14.4).
type ContentRange struct {
	First, Last int64 // inclusive; -1 when it says "*", as with status 416
	Total       int64 // -1 when it isn't told
}

// ParseContentRange reads a Content-Range. A missing unit is let pass (G17).
func ParseContentRange(s string) (ContentRange, bool) {
	s = strings.TrimSpace(s)
	if rest, ok := strings.CutPrefix(strings.ToLower(s), "bytes"); ok {
		s = strings.TrimLeft(rest, " \t=:")
	}
	part, total, ok := strings.Cut(s, "/")
	if !ok {
		return ContentRange{}, false
	}
	r := ContentRange{First: -1, Last: -1, Total: -1}
	var err error
	if total = strings.TrimSpace(total); total != "*" {
		if r.Total, err = strconv.ParseInt(total, 10, 64); err != nil || r.Total < 0 {
			return ContentRange{}, false
		}
	}
	if part = strings.TrimSpace(part); part == "*" {
		return r, true
	}
	first, last, ok := strings.Cut(part, "-")
	if !ok {
		return ContentRange{}, false
	}
	r.First, err = strconv.ParseInt(strings.TrimSpace(first), 10, 64)
	var errLast error
	r.Last, errLast = strconv.ParseInt(strings.TrimSpace(last), 10, 64)
	if errors.Join(err, errLast) != nil || r.First < 0 || r.Last < r.First || r.Total >= 0 && r.Last >= r.Total {
		return ContentRange{}, false
	}
	return r, true
}
