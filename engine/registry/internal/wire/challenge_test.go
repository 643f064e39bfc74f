package wire

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func FuzzChallenge(f *testing.F) {
	for _, s := range []string{
		`Bearer realm="https://a/token",service="s",scope="repository:x:pull,push"`, `Basic realm="x", Bearer realm=y`,
		`Bearer realm="a\"b\\"`, `,,,`, `Basic`, `Bearer realm="`, `a=b`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		found := 0
		for _, c := range ParseChallenges(s) {
			if found += 1 + len(c.Params); found > len(s) {
				t.Errorf("%q: more challenges and parameters than bytes", s)
			}
			if c.Scheme == "" || c.Scheme != strings.ToLower(c.Scheme) {
				t.Errorf("%q: a scheme %q", s, c.Scheme)
			}
		}
		if c, ok := PickChallenge(http.Header{"Www-Authenticate": {s}}); ok && c.Scheme != "basic" && (c.Scheme != "bearer" || c.Get("realm") == "") {
			t.Errorf("%q: picked %+v", s, c)
		}
	})
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-9/10", "bytes */10", "0-9/10", "bytes=5-9/*", "bytes 9-5/10", "bytes 0-10/10", "bytes 0-99999999999999999999/1", "", "bytes -/", "bytes 0-1/-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, ok := ParseContentRange(s)
		if !ok {
			return
		}
		if r.First > r.Last || (r.First < 0) != (r.Last < 0) || r.Total < -1 || r.Total >= 0 && r.Last >= r.Total {
			t.Errorf("%q: %+v", s, r)
		}
	})
}

func FuzzExpiry(f *testing.F) {
	for _, s := range []string{
		"https://h/x?X-Amz-Date=20260102T030405Z&X-Amz-Expires=300", "https://h/x?Expires=1767323045", "https://h/x?se=2026-01-02T03%3A04%3A05Z",
		"https://h/x?X-Amz-Date=20260102T030405Z&X-Amz-Expires=-1", "https://h/x?Expires=99999999999999999999", "https://h/x?se=2026-01-02T03:04Z",
	} {
		f.Add(s)
	}
	f.Fuzz(func(_ *testing.T, s string) {
		if u, err := url.Parse(s); err == nil {
			Expiry(u)
		}
	})
}
