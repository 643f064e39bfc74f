package chaos_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode"

	"drayage/engine/chaos"
)

// FuzzProxy makes links of any kind, and sends a request through each. It ends, whatever the link
// does to it.
func FuzzProxy(f *testing.F) {
	for _, s := range []string{"127.0.0.1:1", "http://127.0.0.1:1/x?y", "https://", "ftp://x", "\x1b", "http://[::1", "http://127.0.0.1:99999", "x y", "http://u:p@127.0.0.1:1"} {
		f.Add(s, uint64(1), 0.5, int64(10), int64(0))
		f.Add(s, uint64(2), 1.0, int64(-1), int64(1)<<62)
	}
	body := strings.Repeat("x", 1000)
	f.Fuzz(func(t *testing.T, upstream string, seed uint64, share float64, n, rate int64) {
		if _, err := chaos.NewProxy(upstream, chaos.Options{}); err != nil && strings.ContainsFunc(err.Error(), func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("not a printable line: %q", err)
		}
		if !(share >= 0 && share <= 1) || rate > 0 && rate < 1<<20 {
			return // flags refuse those, and slow links are slow
		}
		o := chaos.Options{Seed: seed, Rate: rate, Errors: share, FlipEvery: n, IgnoreRange: share, WrongRange: share, StormLength: int(n % 5), RedirectLife: time.Duration(rate)}
		p := chaos.New(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }), o)
		for range 3 {
			w := httptest.NewRecorder()
			func() {
				defer func() { // how a server's handler breaks a connection off
					p := recover()
					if err, _ := p.(error); p != nil && !errors.Is(err, http.ErrAbortHandler) {
						panic(p)
					}
				}()
				p.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v2/app/blobs/x", nil))
			}()
			if w.Body.Len() > len(body) && w.Code == http.StatusOK {
				t.Errorf("%d bytes of %d", w.Body.Len(), len(body))
			}
		}
		if _, err := p.Stats().MarshalJSON(); err != nil {
			t.Error(err)
		}
	})
}
