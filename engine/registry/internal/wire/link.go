package wire

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// NextPage is the query of the next page that a Link header leads on to (RFC 8288), with its
// question mark. Where the page is is known: registries behind proxies name inside hosts, ports
// and paths. more is false when this is the last page.
func NextPage(resp *http.Response) (query string, more bool, err error) {
	unnamed := make(map[string]bool)
	for _, value := range resp.Header.Values("Link") {
		for value != "" {
			var target string
			var params map[string]string
			var ok bool
			rest := value
			if target, params, value, ok = cutLink(rest); !ok {
				if strings.Contains(strings.ToLower(rest), "next") || strings.Contains(rest, "last=") {
					return "", false, errors.New("malformed Link header")
				}
				break
			}
			rel := params["rel"]
			if rel == "" {
				rel = params["rel*"]
				rel = rel[strings.LastIndexByte(rel, '\'')+1:] // behind the character set
			}
			if u, err := url.Parse(target); rel == "" && err == nil && leadsOn(u, resp.Request.URL) {
				unnamed["?"+u.RawQuery] = true
			}
			if !slices.ContainsFunc(strings.Fields(rel), func(r string) bool { return strings.EqualFold(r, "next") }) {
				continue
			}
			u, err := url.Parse(target)
			if err != nil {
				return "", false, errors.New("the Link header is not a valid URL")
			}
			if u.RawQuery == "" {
				return "", false, errors.New("the Link header has no query")
			}
			return "?" + u.RawQuery, true, nil
		}
	}
	if len(unnamed) > 1 {
		return "", false, errors.New("the Link header does not say which page is next")
	}
	for query = range unnamed {
		more = true
	}
	return query, more, nil
}

// leadsOn reports whether a link that doesn't say what it is leads to another page of a list.
func leadsOn(to, from *url.URL) bool {
	q := to.Query()
	return q.Has("last") || q.Has("n") && to.RawQuery != from.RawQuery
}

// cutLink cuts one link off a Link header: <target>; name=value; name="value", and then a comma
// or the end.
func cutLink(s string) (target string, params map[string]string, rest string, ok bool) {
	s = strings.TrimLeft(s, " \t,")
	if s == "" {
		return "", nil, "", true
	}
	if s[0] != '<' {
		return "", nil, "", false
	}
	target, s, ok = strings.Cut(s[1:], ">")
	if !ok {
		return "", nil, "", false
	}
	params = make(map[string]string)
	for {
		s = strings.TrimLeft(s, " \t")
		if s == "" || s[0] == ',' {
			return target, params, strings.TrimPrefix(s, ","), true
		}
		if s[0] != ';' {
			return "", nil, "", false
		}
		name, after := cutToken(strings.TrimLeft(s[1:], " \t"))
		s = strings.TrimLeft(after, " \t")
		if !strings.HasPrefix(s, "=") {
			if name == "" && s != "" && s[0] != ',' && s[0] != ';' {
				return "", nil, "", false
			}
			continue
		}
		value, after, ok := cutParam(strings.TrimLeft(s[1:], " \t"))
		if !ok {
			return "", nil, "", false
		}
		if name = strings.ToLower(name); params[name] == "" { // the first rel counts
			params[name] = value
		}
		s = after
	}
}

// cutParam cuts a parameter's value off the front: a quoted string, in single quotes too, as
// some write it, or anything up to what ends a parameter.
func cutParam(s string) (value, rest string, ok bool) {
	if strings.HasPrefix(s, "'") {
		return strings.Cut(s[1:], "'")
	}
	if strings.HasPrefix(s, `"`) {
		return cutValue(s)
	}
	i := strings.IndexAny(s, " \t,;")
	if i < 0 {
		i = len(s)
	}
	return s[:i], s[i:], i > 0
}
