package registry

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// FuzzNextPage: whatever a Link header says, the next page is one of the same list.
func FuzzNextPage(f *testing.F) {
	const list = "https://registry.example/v2/team/app/tags/list"
	from, err := url.Parse(list + "?n=1000")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, link string) {
		query, more, err := nextPage(&http.Response{Header: http.Header{"Link": {link}}, Request: &http.Request{URL: from}})
		if err != nil || !more {
			if query != "" {
				t.Errorf("%q: %q though there is none", link, query)
			}
			return
		}
		if !strings.HasPrefix(query, "?") {
			t.Errorf("%q leads to %q", link, query)
		}
		to, err := url.Parse(list + query)
		if err == nil && (to.Scheme != from.Scheme || to.Host != from.Host || to.Path != from.Path || to.User != nil || to.Fragment != "") {
			t.Errorf("%q leads to %s", link, to)
		}
	})
}

// FuzzHostsTOML: whatever a hosts.toml says, mirrors are URLs that can be asked, and errors are
// one line.
func FuzzHostsTOML(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "/dev") || strings.Contains(text, "/proc") || len(text) > 10_000 {
			return // files that certificates may be read from, for ever
		}
		mirrors, err := parseHosts(text, t.TempDir(), "registry.example", nil)
		if err != nil && (strings.ContainsAny(err.Error(), "\n\r\x1b") || len(err.Error()) > 5000) {
			t.Errorf("%q: %q", text, err)
		}
		for _, m := range mirrors {
			if m.URL.Scheme != "http" && m.URL.Scheme != "https" || m.URL.Hostname() == "" || nowhere(m.URL) || m.URL.User != nil {
				t.Errorf("%q names %v", text, m.URL)
			}
		}
	})
}
