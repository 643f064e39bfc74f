package registry

import (
	"net/http"
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
		for _, c := range parseChallenges(s) {
			again := parseChallenges(c.String())
			if len(again) != 1 || again[0].get("realm") != c.get("realm") {
				t.Errorf("%q: %q reads as %v", s, c.String(), again)
			}
		}
		h := http.Header{"Www-Authenticate": {s}}
		oneChallenge(h)
		if len(h.Values("WWW-Authenticate")) != 1 {
			t.Errorf("%q: %v", s, h)
		}
	})
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-1/2", "1-2/*", "bytes=5-6/7", "bytes */5", "-1-2/3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if start, ok := rangeStart(s); ok && start < 0 {
			t.Errorf("%q begins at %d", s, start)
		}
	})
}
