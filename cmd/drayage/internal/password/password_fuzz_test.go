package password_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"drayage/cmd/drayage/internal/password"
	"drayage/engine/textfile"

	"golang.org/x/crypto/bcrypt"
)

// FuzzPasswords reads password files. Of one that is taken only those get in who are in it, with
// the password of their line.
func FuzzPasswords(f *testing.F) {
	const hash = "$2a$04$gzwKq4MHoYbUTcoL/AWNleced/dvt.GGl8lC0CyYN.0/xBjWInwjy" // of "secret"
	line := "somebody:" + hash
	for _, s := range []string{
		line, line + "\n", "# comment\n\n" + line + "\r\n", "\xef\xbb\xbf" + line, "somebody:{SHA}x", ":" + hash, "somebody", "", "a:$2y$99$x", "a:$2a$04$", "a:$2y$04$" + strings.Repeat("x", 53), line + "\n" + line, "\x00:" + hash, "a:b:" + hash, "\xff\xfea\x00:\x00",
		"somebody :" + hash, "a\x1b[31m:x", strings.Repeat("x", 3000) + ":" + hash, "somebody:" + strings.Replace(hash, "$2a$", "$2x$", 1),
	} {
		f.Add([]byte(s), "somebody", "secret")
		f.Add([]byte(s), "", "")
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, raw []byte, user, secret string) {
		path := filepath.Join(dir, "htpasswd")
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := password.Read(path, nil)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x1b") || strings.Contains(err.Error(), "$2") {
				t.Errorf("not one line without hashes: %q", err)
			}
			return
		}
		if costly(raw) {
			return
		}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v2/", nil)
		if _, err := p.Check(r); err == nil {
			t.Errorf("%q lets in who says nothing", raw)
		}
		r.SetBasicAuth(user, secret)
		for range 2 { // the second time it is remembered
			if _, err := p.Check(r); err == nil && !matches(raw, user, secret) {
				t.Errorf("%q lets in %q with %q", raw, user, secret)
			}
		}
	})
}

// matches reports whether some line of a file is of a user and a password.
func matches(raw []byte, user, secret string) bool {
	text, err := textfile.Decode(raw)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		name, hash, _ := strings.Cut(strings.TrimSpace(line), ":")
		if name == user && bcrypt.CompareHashAndPassword([]byte(hash), []byte(secret)) == nil {
			return true
		}
	}
	return false
}

// costly reports whether a hash of a file takes long to try.
func costly(raw []byte) bool {
	text := strings.ReplaceAll(string(raw), "\x00", "") // of UTF-16
	for i := strings.IndexByte(text, '$'); i >= 0; i = strings.IndexByte(text, '$') {
		text = text[i+1:]
		if len(text) > 1 && (text[0] != '0' || text[1] > '5') && text[0] >= '0' && text[0] <= '9' && text[1] >= '0' && text[1] <= '9' {
			return true
		}
	}
	return false
}
