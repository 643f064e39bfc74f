package registry_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"drayage/engine/internal/limits"
	"drayage/engine/limitstest"
	"drayage/engine/registry"
	"drayage/engine/registry/hosts"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// answering starts a registry that gives one answer to everything.
func answering(t *testing.T, answer http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(answer)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// lists are the calls that read what a registry lists or says.
func lists(t *testing.T, c *registry.Client, host string) map[string]func() error {
	t.Helper()
	ref := parse(t, host+"/team/app:1")
	return map[string]func() error{
		"tags":      func() error { _, err := c.Tags(t.Context(), ref); return err },
		"referrers": func() error { _, err := c.Referrers(t.Context(), ref, digest.FromString("x")); return err },
		"manifest":  func() error { _, err := c.Manifest(t.Context(), ref, "1"); return err },
	}
}

// TestAnswersTakeLittleMemory: whatever a registry or a token server answers, with whatever
// status. (What decodes manifests has tests of its own.)
func TestAnswersTakeLittleMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes minutes on an emulated processor")
	}
	var text atomic.Pointer[[]byte]
	var status atomic.Int64
	host := answering(t, func(w http.ResponseWriter, r *http.Request) {
		if status.Load() == http.StatusUnauthorized && r.URL.Path != "/token" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
		if code := int(status.Load()); code != http.StatusUnauthorized {
			w.WriteHeader(code)
		}
		_, _ = w.Write(*text.Load())
	})
	c := client(t, registry.Options{})
	hold := func(kind, name string, code int, answer []byte) {
		t.Run(fmt.Sprint(kind, " ", code, " ", name), func(t *testing.T) {
			text.Store(&answer)
			status.Store(int64(code))
			limitstest.Within(t, limitstest.Most, func() {
				if err := lists(t, c, host)[kind](); err != nil && (len(err.Error()) > 1000 || strings.ContainsAny(err.Error(), "\n\x1b")) {
					t.Errorf("%v", err)
				}
			})
		})
	}
	for _, of := range []struct {
		kind, begin string
		code, size  int
	}{
		{"tags", `{"tags":`, http.StatusOK, limits.PageBytes - 10}, {"tags", ``, http.StatusOK, limits.PageBytes - 10},
		{"referrers", `{"manifests":`, http.StatusOK, limits.PageBytes - 10}, {"referrers", ``, http.StatusOK, limits.PageBytes - 10},
		{"manifest", `{"errors":`, http.StatusForbidden, limits.ErrorBytes}, {"tags", `{"errors":`, http.StatusForbidden, limits.PageBytes},
		{"manifest", `{"token":`, http.StatusUnauthorized, limits.TokenBytes - 10}, {"manifest", `{"expires_in":`, http.StatusUnauthorized, limits.PageBytes},
	} {
		for name, answer := range limitstest.Texts(of.begin, strings.Repeat("}", strings.Count(of.begin, "{")), of.size) {
			hold(of.kind, of.begin+" "+name, of.code, answer)
		}
	}
	var b bytes.Buffer
	b.WriteString(`{"tags":[""`)
	for i := 0; b.Len() < limits.PageBytes-20; i++ {
		fmt.Fprintf(&b, `,"%x"`, i)
	}
	b.WriteString(`]}`)
	hold("tags", "many tags", http.StatusOK, b.Bytes())
}

// TestHeadersHaveALimit: an answer's header, and those of informational answers before it.
func TestHeadersHaveALimit(t *testing.T) {
	const many = 60_000
	for name, header := range map[string]http.Header{
		"challenges":          {"Www-Authenticate": {strings.Repeat("a,", limits.HeaderBytes)}},
		"challenge headers":   {"Www-Authenticate": many2(`Bearer realm="x"`, many)},
		"links":               {"Link": {strings.Repeat(`<?n=1>; rel="prev", `, many)}},
		"rate limits":         {"Ratelimit-Remaining": many2("0;w=1", many)},
		"warnings":            {"Warning": many2(`299 - "x"`, many)},
		"a long location":     {"Location": {"/" + strings.Repeat("x", limits.HeaderBytes)}},
		"encodings":           {"Content-Encoding": many2("gzip", many)},
		"a long content type": {"Content-Type": {strings.Repeat("x", limits.HeaderBytes)}},
	} {
		for _, status := range []int{http.StatusOK, http.StatusFound, http.StatusUnauthorized, http.StatusTooManyRequests, http.StatusEarlyHints} {
			t.Run(fmt.Sprint(name, " ", status), func(t *testing.T) {
				host := answering(t, func(w http.ResponseWriter, _ *http.Request) {
					for k, v := range header {
						w.Header()[k] = v
					}
					w.WriteHeader(status)
				})
				c := client(t, registry.Options{})
				limitstest.Within(t, limitstest.Most, func() {
					if err := lists(t, c, host)["tags"](); err == nil || len(err.Error()) > 1000 {
						t.Errorf("%v", err)
					}
				})
			})
		}
	}
	t.Run("informational answers without an end", func(t *testing.T) {
		host := raw(t, func(c net.Conn) {
			for {
				if _, err := io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: <"+strings.Repeat("x", 1000)+">\r\n\r\n"); err != nil {
					return
				}
			}
		})
		if err := lists(t, client(t, registry.Options{}), host)["tags"](); err == nil {
			t.Error("it was taken")
		}
	})
}

func many2(s string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = s
	}
	return out
}

// raw starts a server that answers in its own way once it has a request.
func raw(t *testing.T, answer func(net.Conn)) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 4096)
				if n, err := c.Read(buf); err != nil || buf[0] == 0x16 || n == 0 { // TLS is not spoken
					return
				}
				answer(c)
			}()
		}
	}()
	return l.Addr().String()
}

// TestCompressedAnswersHaveALimit: what is small on the wire, and large behind it.
func TestCompressedAnswersHaveALimit(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	fill := bytes.Repeat([]byte(" "), 1<<20)
	for range 200 {
		if _, err := z.Write(fill); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for _, status := range []int{http.StatusOK, http.StatusForbidden, http.StatusNotFound} {
		host := answering(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.WriteHeader(status)
			_, _ = w.Write(bomb.Bytes())
		})
		for kind, do := range lists(t, client(t, registry.Options{}), host) {
			t.Run(fmt.Sprint(kind, " ", status), func(t *testing.T) {
				limitstest.Within(t, limitstest.Most, func() {
					if err := do(); err == nil && status == http.StatusOK {
						t.Error("it was taken")
					}
				})
			})
		}
	}
}

// TestListsHaveAnEnd: pages that are empty, come again, or are too large.
func TestListsHaveAnEnd(t *testing.T) {
	tag := func(i int) string { return fmt.Sprintf("v%d", i) }
	for _, c := range []struct {
		name string
		page func(i int) (tags, link string) // the ith answer
		most int                             // requests
		want string
	}{
		{"empty pages", func(i int) (string, string) { return ``, tag(i) }, 2, "no new tags"},
		{"pages of null", func(i int) (string, string) { return `null`, tag(i) }, 2, "no new tags"},
		{"the same page under other names", func(i int) (string, string) { return `"a","b"`, tag(i) }, 3, "no new tags"},
		{"a page that leads to itself", func(i int) (string, string) { return `"` + tag(i) + `"`, "v" }, 3, "pagination loop"},
		{"a large page that leads on", func(i int) (string, string) {
			return `"` + tag(i) + `"` + strings.Repeat(`,"`+strings.Repeat("x", 1000)+`"`, limits.PageBytes/1000), tag(i)
		}, 1, "more than 4 MiB"},
		{"nothing but entries", func(int) (string, string) { return `""` + strings.Repeat(`,""`, limits.Tags), "" }, 1, "more than 1000000 tags"},
		{"a name without an end", func(int) (string, string) { return `"` + strings.Repeat("x", 1<<20) + `"`, "" }, 1, "longer than any name"},
		{"two lists of tags", func(int) (string, string) { return `"a"],"tags":["b"`, "" }, 1, "occurs twice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var asked atomic.Int64
			host := answering(t, func(w http.ResponseWriter, r *http.Request) {
				tags, link := c.page(int(asked.Add(1)))
				if link != "" {
					w.Header().Set("Link", fmt.Sprintf(`<%s?last=%s>; rel="next"`, r.URL.Path, link))
				}
				fmt.Fprintf(w, `{"name":"x","tags":[%s]}`, tags)
			})
			err := lists(t, client(t, registry.Options{}), host)["tags"]()
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, registry.ErrInvalid) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if int(asked.Load()) > c.most {
				t.Errorf("%d requests", asked.Load())
			}
		})
	}
	t.Run("referrers", func(t *testing.T) {
		var asked atomic.Int64
		host := answering(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			w.Header().Set("Link", fmt.Sprintf(`<%s?last=%d>; rel="next"`, r.URL.Path, asked.Add(1)))
			fmt.Fprint(w, `{"manifests":[]}`)
		})
		if err := lists(t, client(t, registry.Options{}), host)["referrers"](); err == nil || asked.Load() > 1 {
			t.Errorf("%v after %d requests", err, asked.Load())
		}
	})
}

// TestAListWithoutPagesIsRead: more tags than a page may have, as registries have them that know no pages.
func TestAListWithoutPagesIsRead(t *testing.T) {
	const many = 300_000
	host := answering(t, func(w http.ResponseWriter, _ *http.Request) {
		var b bytes.Buffer
		b.WriteString(`{"name":"x","tags":["v0.0.0"`)
		for i := 1; i < many; i++ {
			fmt.Fprintf(&b, `,"v1.%d.%d-alpine"`, i/1000, i%1000)
		}
		b.WriteString(`]}`)
		_, _ = w.Write(b.Bytes())
	})
	tags, err := client(t, registry.Options{}).Tags(t.Context(), parse(t, host+"/team/app"))
	if err != nil || len(tags) != many {
		t.Errorf("%d tags, %v", len(tags), err)
	}
}

// TestNextPagesStayInTheirList: whatever a Link header names, the list is asked that was asked.
func TestNextPagesStayInTheirList(t *testing.T) {
	for _, link := range []string{
		"/v2/xevil/tags/list?last=a", "/v2/team/app/../../../admin?last=a", "http://169.254.169.254/v2/team/app/tags/list?last=a",
		"//evil.example/v2/team/app/tags/list?last=a", "https://u:p@evil.example:70000?last=a",
	} {
		t.Run(link, func(t *testing.T) {
			var paths log
			host := answering(t, func(w http.ResponseWriter, r *http.Request) {
				paths.add(r.URL.Path)
				if r.URL.Query().Get("last") == "" {
					w.Header().Set("Link", "<"+link+`>; rel="next"`)
					fmt.Fprint(w, `{"tags":["a"]}`)
					return
				}
				fmt.Fprint(w, `{"tags":["b"]}`)
			})
			tags, err := client(t, registry.Options{}).Tags(t.Context(), parse(t, host+"/team/app"))
			for _, p := range paths.all() {
				if p != "/v2/team/app/tags/list" {
					t.Errorf("%s was asked", p)
				}
			}
			if err == nil && len(tags) != 2 {
				t.Errorf("%v", tags)
			}
		})
	}
}

// TestAnswersThatDripEnd: what is no blob and comes a byte at a time is not waited for without
// end, though it is never silent; what comes slowly, and comes, is read.
func TestAnswersThatDripEnd(t *testing.T) {
	for _, c := range []struct {
		kind   string
		path   string // whose answer drips
		status int
	}{
		{"manifest", "/manifests/", http.StatusOK}, {"manifest", "/token", http.StatusOK}, {"manifest", "/token", http.StatusForbidden},
		{"manifest", "/manifests/", http.StatusNotFound}, {"tags", "/tags/", http.StatusOK}, {"referrers", "/referrers/", http.StatusOK},
	} {
		t.Run(fmt.Sprint(c.kind, c.path, c.status), func(t *testing.T) {
			host := answering(t, func(w http.ResponseWriter, r *http.Request) {
				if strings.Contains(r.URL.Path, c.path) {
					w.WriteHeader(c.status)
					drip(w, r)
					return
				}
				w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token"`)
				w.WriteHeader(http.StatusUnauthorized)
			})
			opts := registry.Options{Grace: 50 * time.Millisecond, Stall: time.Hour, Retry: quick}
			opts.Retry.Patience = 300 * time.Millisecond
			if err := lists(t, client(t, opts), host)[c.kind](); err == nil {
				t.Error("it was taken")
			}
		})
	}
}

// drip sends a space now and then until the client has left.
func drip(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		if _, err := io.WriteString(w, " "); err != nil {
			return
		}
		w.(http.Flusher).Flush()
		time.Sleep(5 * time.Millisecond) // what a slow server does
	}
}

// TestHostsTOMLTakesLittleMemory: whatever is in hosts.toml.
func TestHostsTOMLTakesLittleMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes minutes on an emulated processor")
	}
	fill := func(unit string) string { return strings.Repeat(unit, limits.HostsBytes/len(unit)) }
	numbered := func(format string) string {
		var b strings.Builder
		for i := 0; b.Len() < limits.HostsBytes-200; i++ {
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	for name, text := range map[string]string{
		"arrays":        "x = " + fill("["),
		"tables":        "x = " + fill("{a="),
		"hosts":         numbered("[host.\"https://h%d\"]\n"),
		"keys":          numbered("a%d = 0\n"),
		"short keys":    numbered("%x=0\n"),
		"dotted keys":   "a" + fill(".a") + " = 1",
		"dotted tables": "[a" + fill(".a") + "]",
		"many dotted":   numbered("a%d" + strings.Repeat(".a", 50) + " = 1\n"),
		"deep tables":   numbered("[a%d" + strings.Repeat(".a", 50) + "]\n"),
		"array tables":  fill("[[a]]\n"),
		"sub tables":    numbered("[[a]]\n[a.b%d]\n"),
		"values":        "x = [" + fill("0,") + "]",
		"empty arrays":  "x = [" + fill("[],") + "]",
		"empty tables":  "x = [" + fill("{},") + "]",
		"headers":       "[header]\n" + numbered("a%d = [\"\"]\n"),
		"capabilities":  "capabilities = [" + fill(`"",`) + "]",
		"a long string": `server = "` + fill("x") + `"`,
		"lines":         fill("\n"),
		"comments":      fill("#\n"),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.MkdirAll(filepath.Join(dir, "registry.example"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "registry.example", "hosts.toml"), []byte(text[:min(len(text), limits.HostsBytes)]), 0o600); err != nil {
				t.Fatal(err)
			}
			limitstest.Within(t, limitstest.Most, func() {
				if _, err := hosts.ReadDir(dir, "registry.example", &tls.Config{MinVersion: tls.VersionTLS12}); err != nil && len(err.Error()) > 1000 {
					t.Errorf("%v", err)
				}
			})
		})
	}
}

// log keeps lines that handlers write.
type log struct {
	mu    sync.Mutex
	lines []string
}

func (l *log) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
}

func (l *log) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.lines...)
}
