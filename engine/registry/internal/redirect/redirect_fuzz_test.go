package redirect

import (
	"net/url"
	"testing"
)

// FuzzMayFollow: wherever a redirect from HTTPS leads that may be followed, it stays with HTTPS and
// has a host.
func FuzzMayFollow(f *testing.F) {
	for _, s := range []string{"https://h/x", "http://h/x", "ftp://h", "https://", "https://h:0/", "https://h:99999/", "//h", ""} {
		f.Add(s)
	}
	from := &url.URL{Scheme: "https", Host: "registry.example"}
	f.Fuzz(func(t *testing.T, s string) {
		to, err := url.Parse(s)
		if err != nil {
			return
		}
		if MayFollow(from, to, 1) == nil && (to.Scheme != "https" || to.Hostname() == "") {
			t.Errorf("%q may be followed", s)
		}
		if MayFollow(from, to, mostHops+1) == nil {
			t.Errorf("%q may be followed without end", s)
		}
	})
}
