package wire

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
		query, more, err := NextPage(&http.Response{Header: http.Header{"Link": {link}}, Request: &http.Request{URL: from}})
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
