package registry_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"drayage/engine/internal/retry"
	"drayage/engine/internal/transfer"
	"drayage/engine/registry"
	"drayage/engine/registry/hosts"

	"github.com/opencontainers/go-digest"
)

// puppet is a registry whose answers are bytes that a test gives, and which keeps what it was asked
// for. Whoever comes with a token gets what is behind it.
type puppet struct {
	*httptest.Server
	mu      sync.Mutex
	answer  func(r *http.Request) string
	targets []string
}

func newPuppet(f *testing.F) *puppet {
	f.Helper()
	// What an answer leads to elsewhere is asked of a proxy that isn't there.
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		f.Setenv(name, "http://127.0.0.1:1")
	}
	p := new(puppet)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.targets = append(p.targets, r.Method+" "+r.RequestURI)
		text := p.answer(r)
		p.mu.Unlock()
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, text) // the client has gone, if not
	}))
	f.Cleanup(p.Close)
	return p
}

func (p *puppet) answers(f func(r *http.Request) string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer, p.targets = f, nil
}

func (p *puppet) asked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.targets
}

// hurried is a client that waits for nothing.
func hurried() registry.Options {
	return registry.Options{
		PlainHTTP: true, Stall: time.Second, FirstByte: time.Second, Connect: time.Second,
		Retry: retry.Policy{Tries: 2, Patience: 50 * time.Millisecond, Backoff: retry.Backoff{Min: time.Millisecond, Max: time.Millisecond}},
	}
}

// checkError fails when an error is not one printable line, or knows more than is good.
func checkError(ctx context.Context, t *testing.T, err error) {
	t.Helper()
	if ctx.Err() != nil {
		t.Error("it takes longer than it may")
	}
	if err == nil {
		return
	}
	const longest = 4000
	if text := err.Error(); len(text) > longest || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("not a printable line: %.5000q", text)
	}
}

// FuzzLink lists tags and referrers whose pages lead on by any header. No list goes on for ever,
// and the next page is always one of the same list at the same registry.
func FuzzLink(f *testing.F) {
	p := newPuppet(f)
	for _, link := range []string{
		`</v2/app/tags/list?last=b&n=1>; rel="next"`, `<http://other.example/x?last=b>; rel=next`, `<?last=b>; rel="prev next"`, `<x?last=b>`, `<x?n=5&a=b>;rel='next', <y?n=6>`, `<>;rel=next`, `<;rel=next`, `next`,
		`</v2/app/tags/list?last=%zz>; rel="next"`, `<a?b>; rel*=UTF-8''next`, `<//evil.example/v2/?last=b>; rel=next; title="x\"y"`, `</../../v2/_catalog?n=1>; rel=NEXT`, `<a?b#c>;rel="next`, `<a?b>;;;=;rel=next`, `<a?x y>; rel=next`,
		"<a?\x00>; rel=next", `<a?last=../../x>; rel=next`, `<http://[::1?last=1>; rel=next`, `<?last=b&last=a&n=-1>; rel=next`, `<a?%0d%0aX:%20y>; rel=next`,
	} {
		f.Add(link)
	}
	f.Fuzz(func(t *testing.T, link string) {
		if strings.ContainsAny(link, "\r\n") {
			return // FuzzAnswer has those
		}
		name := strings.TrimPrefix(p.URL, "http://") + "/app"
		subject := digest.FromString("x")
		for _, list := range []string{"/tags/list", "/referrers/" + subject.String()} {
			p.answers(func(*http.Request) string {
				body := `{"schemaVersion":2,"tags":["a"],"manifests":[{"digest":"` + subject.String() + `","size":1}]}`
				return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/vnd.oci.image.index.v1+json\r\nLink: %s\r\nContent-Length: %d\r\n\r\n%s", link, len(body), body)
			})
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			c := registry.New(hurried())
			var err error
			if list == "/tags/list" {
				_, err = c.Tags(ctx, parse(t, name))
			} else {
				_, err = c.Referrers(ctx, parse(t, name), subject)
			}
			checkError(ctx, t, err)
			c.Close()
			cancel()
			const most = 200 // pages; each of which is the same
			targets := p.asked()
			if len(targets) == 0 || len(targets) > most {
				t.Errorf("%q: %d requests", link, len(targets))
			}
			for _, target := range targets {
				if path := "GET /v2/app" + list; target != path && !strings.HasPrefix(target, path+"?") {
					t.Errorf("%q leads to %q", link, target)
				}
			}
		}
	})
}

// verbs are what is asked of a registry.
var verbs = []func(ctx context.Context, t *testing.T, c *registry.Client, name string) error{
	func(ctx context.Context, t *testing.T, c *registry.Client, name string) error {
		_, err := c.Tags(ctx, parse(t, name))
		return err
	},
	func(ctx context.Context, t *testing.T, c *registry.Client, name string) error {
		all, err := c.Referrers(ctx, parse(t, name), digest.FromString("x"))
		for _, d := range all {
			if err == nil && (d.Digest.Validate() != nil || d.Size < 0) {
				t.Errorf("it lists %+v", d)
			}
		}
		return err
	},
	func(ctx context.Context, t *testing.T, c *registry.Client, name string) error {
		doc, err := c.Manifest(ctx, parse(t, name), "1")
		if err == nil && doc.Descriptor.Digest != digest.FromBytes(doc.Raw) {
			t.Errorf("a manifest %s is of other bytes: %q", doc.Descriptor.Digest, doc.Raw)
		}
		return err
	},
	func(ctx context.Context, t *testing.T, c *registry.Client, name string) error {
		d := digest.FromString("x")
		doc, err := c.Manifest(ctx, parse(t, name), d.String())
		if err == nil && digest.FromBytes(doc.Raw) != d {
			t.Errorf("what is not %s was taken for it: %q", d, doc.Raw)
		}
		return err
	},
	func(ctx context.Context, t *testing.T, c *registry.Client, name string) error {
		d, err := c.Head(ctx, parse(t, name), "1")
		if err == nil && d != "" && d.Validate() != nil {
			t.Errorf("a tag stands for %q", d)
		}
		return err
	},
	func(ctx context.Context, t *testing.T, c *registry.Client, name string) error {
		size, err := c.BlobSize(ctx, parse(t, name), digest.FromString("x"))
		if err == nil && size < -1 {
			t.Errorf("a blob has %d bytes", size)
		}
		return err
	},
	func(ctx context.Context, t *testing.T, c *registry.Client, name string) error {
		body, err := c.Blob(parse(t, name), digest.FromString("x")).Open(ctx, transfer.Ask{})
		if err == nil {
			_, _ = io.Copy(io.Discard, body) // it ends somehow
			body.Close()
		}
		return err
	},
}

// FuzzAnswer lets a registry answer with any bytes, a token server with others.
func FuzzAnswer(f *testing.F) {
	p := newPuppet(f)
	ok := "HTTP/1.1 200 OK\r\n"
	for i, s := range []string{
		ok + "\r\n{\"tags\":[\"a\",null]}", ok + "Content-Length: 2\r\n\r\n{}", ok + "Content-Type: application/vnd.oci.image.index.v1+json\r\n\r\n{\"schemaVersion\":2,\"manifests\":[]}",
		ok + "Docker-Content-Digest: sha256:x\r\nContent-Length: 5\r\n\r\n{}", ok + "Content-Encoding: gzip, gzip, deflate\r\n\r\nxx", ok + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", ok + "Content-Length: -1\r\n\r\n",
		"HTTP/1.1 429 \r\nRetry-After: 99999999999\r\nRateLimit-Remaining: 0;w=21600\r\nX-RateLimit-Reset: 99999999999\r\n\r\n", "HTTP/1.1 503 x\r\nRetry-After: Fri, 31 Dec 9999 23:59:59 GMT\r\n\r\n",
		"HTTP/1.1 401 \x1b[31m\r\nWWW-Authenticate: Bearer realm=\"http://127.0.0.1:1/\",scope=\"\x01\"\r\n\r\n{\"errors\":[{\"code\":\"DENIED\",\"message\":\"\\u001b[31m\\n\",\"detail\":{}}]}",
		"HTTP/1.1 307 x\r\nLocation: file:///etc/passwd\r\n\r\n", "HTTP/1.1 307 x\r\nLocation: http://127.0.0.1:1\x00/\r\n\r\n", "HTTP/1.1 302 x\r\nLocation: /v2/app/manifests/1\r\n\r\n", "HTTP/1.1 206 x\r\nContent-Range: bytes 5-1/*\r\n\r\nxx", "HTTP/1.1 999 x\r\n\r\n", "HTTP/0.9", "", "\x15\x03\x01\x00\x02\x02\x16",
		"HTTP/1.1 200 OK\r\nX: \x00\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nLink: <x>\r\n\r\nHTTP/1.1 404 x\r\n\r\n<html>", "HTTP/1.1 403 x\r\n\r\n{\"errors\":[null,{\"code\":5}]}", "HTTP/1.1 403 x\r\n\r\n{\"errors\":{\"code\":5},\"message\":[]}",
	} {
		f.Add(uint8(i), s)
		f.Add(uint8(i+3), s)
	}
	f.Fuzz(func(t *testing.T, verb uint8, raw string) {
		p.answers(func(*http.Request) string { return raw })
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		c := registry.New(hurried())
		defer c.Close()
		name := strings.TrimPrefix(p.URL, "http://") + "/app:1"
		checkError(ctx, t, verbs[int(verb)%len(verbs)](ctx, t, c, name))
		const most = 50
		if n := len(p.asked()); n > most {
			t.Errorf("%q: %d requests", raw, n)
		}
	})
}

// FuzzToken lets a token server answer with any bytes.
func FuzzToken(f *testing.F) {
	p := newPuppet(f)
	for _, s := range []string{
		`{"token":"abc"}`, `{"access_token":"abc","expires_in":60}`, `{"token":"a b"}`, `{"token":"a\r\nX: y"}`, `{"token":5}`, `{"token":"x","expires_in":"-1"}`, `{"token":"x","expires_in":1e999}`, `{"token":"x","expires_in":"NaN"}`,
		`{"token":"x","expires_in":{"a":1}}`, `{}`, `[]`, ``, `{"token":"x","Token":"y"}`, `{"token":"` + strings.Repeat("x", 3000) + `"}`, `{"token":"eyJ.eyJhY2Nlc3MiOlt7fV19.x"}`, `{"token":"a.bnVsbA.c"}`, `{"errors":[{"message":"\u001b"}]}`, "\x1f\x8b",
	} {
		f.Add(uint16(200), s)
	}
	f.Add(uint16(429), `{"errors":[]}`)
	f.Add(uint16(401), `{"details":"no"}`)
	f.Add(uint16(599), `<html>`)
	f.Fuzz(func(t *testing.T, status uint16, body string) {
		if status < 200 || status > 999 || status/100 == 3 {
			return
		}
		p.answers(func(r *http.Request) string {
			switch {
			case strings.HasPrefix(r.URL.Path, "/token"):
				return fmt.Sprintf("HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body)
			case r.Header.Get("Authorization") == "":
				return fmt.Sprintf("HTTP/1.1 401 x\r\nWWW-Authenticate: Bearer realm=\"%s/token\",service=\"s\"\r\nContent-Length: 0\r\n\r\n", p.URL)
			}
			if given := r.Header.Get("Authorization"); !strings.HasPrefix(given, "Bearer ") {
				t.Errorf("%q is sent as %q", body, given)
			}
			return "HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{\"tags\":[\"a\"]}"
		})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		opts := hurried()
		opts.Tokens = func(token registry.Token) { _ = fmt.Sprint(token) }
		c := registry.New(opts)
		defer c.Close()
		_, err := c.Tags(ctx, parse(t, strings.TrimPrefix(p.URL, "http://")+"/app"))
		checkError(ctx, t, err)
		const most = 50
		if n := len(p.asked()); n > most {
			t.Errorf("%q: %d requests", body, n)
		}
	})
}

// FuzzNames reads what people type for mirrors and registries.
func FuzzNames(f *testing.F) {
	for _, s := range []string{"docker.io=https://mirror.example", "a=b", "ghcr.io=http://[::1]:5000/v2/hub", "x.y=https://h:99999999", "https://r.example:5000/v2/", "=", "a.b=https://u:p@h", "a.b=https://h?q", "[::1]:5000", "a.b=https://h:/", "a.b=https://\x1b[31m"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 500 {
			return // what a user types is shown as a whole
		}
		m, err := hosts.ParseMirror(s)
		checkError(t.Context(), t, err)
		if err == nil && (m.URL == nil || m.URL.Host == "" || m.URL.User != nil || m.URL.RawQuery != "" || m.Registry == "") {
			t.Errorf("%q is the mirror %+v", s, m)
		}
		name, err := hosts.ParseName(s)
		checkError(t.Context(), t, err)
		if err != nil {
			return
		}
		if again, err := hosts.ParseName(name); err != nil || again != name || strings.Contains(name, "/") {
			t.Errorf("%q is the registry %q, and that is %q, %v", s, name, again, err)
		}
	})
}
