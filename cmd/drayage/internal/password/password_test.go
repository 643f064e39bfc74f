package password_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"drayage/cmd/drayage/internal/password"
	"drayage/cmd/drayage/internal/web"

	"golang.org/x/crypto/bcrypt"
)

// line is one of a password file, with a hash that is quick to check.
func line(t *testing.T, user, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return user + ":" + string(hash) + "\n"
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// ask checks a password as if it came from an address.
func ask(p *password.Passwords, from, user, password string) error {
	r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/v2/", nil)
	r.RemoteAddr = from + ":1234"
	r.SetBasicAuth(user, password)
	_, err := p.Check(r)
	return err
}

// reading reads a password file, and watches it until the test ends.
func reading(t *testing.T, path string, tell func(string)) *password.Passwords {
	t.Helper()
	p, err := password.Read(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); p.Watch(ctx, tell) }()
	t.Cleanup(func() { cancel(); <-done })
	return p
}

// within is how soon who is no longer in the file is refused.
const within = 10 * time.Second

// Whatever happens to the file, nobody is let in whom it doesn't have, soon; and when it is whole
// again, everybody is whom it has.
func TestPasswordFileFailsClosed(t *testing.T) {
	ann, bob := line(t, "ann", "s3cret"), line(t, "bob", "other")
	for name, c := range map[string]struct {
		spoil func(path string) error
		bob   bool // is still let in
	}{
		"the last users are removed": {func(p string) error { return os.WriteFile(p, nil, 0o600) }, false},
		"only comments are left":     {func(p string) error { return os.WriteFile(p, []byte("# nobody\n"), 0o600) }, false},
		"one is removed":             {func(p string) error { return os.WriteFile(p, []byte(bob), 0o600) }, true},
		"deleted":                    {os.Remove, false},
		"renamed away":               {func(p string) error { return os.Rename(p, p+".old") }, false},
		"broken":                     {func(p string) error { return os.WriteFile(p, []byte("ann\n"+bob), 0o600) }, false},
		"half a line":                {func(p string) error { return os.WriteFile(p, []byte(bob+ann[:20]), 0o600) }, false},
		"no text":                    {func(p string) error { return os.WriteFile(p, []byte("\xff\xfe\x00"), 0o600) }, false},
		"a folder":                   {func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) }, false},
		"another hash":               {func(p string) error { return os.WriteFile(p, []byte("ann:{SHA}abc\n"+bob), 0o600) }, false},
		"a hash that takes too long": {func(p string) error {
			return os.WriteFile(p, []byte(strings.Replace(ann, "$04$", "$31$", 1)+bob), 0o600)
		}, false},
		"replaced, with the same date and size": {func(p string) error {
			info, err := os.Stat(p)
			if err != nil {
				return err
			}
			text := strings.Replace(ann, "ann", "eve", 1) + bob
			if len(text) != int(info.Size()) {
				return errors.New("not of the same size")
			}
			return errors.Join(os.WriteFile(p+".new", []byte(text), 0o600), os.Chtimes(p+".new", info.ModTime(), info.ModTime()), os.Rename(p+".new", p))
		}, true},
	} {
		path := filepath.Join(t.TempDir(), "users")
		synctest.Test(t, func(t *testing.T) {
			write(t, path, ann+bob)
			p := reading(t, path, func(string) {})
			if err := errors.Join(ask(p, "10.0.0.1", "ann", "s3cret"), ask(p, "10.0.0.1", "bob", "other")); err != nil {
				t.Fatalf("%s: at first: %v", name, err)
			}
			if err := c.spoil(path); err != nil {
				t.Fatal(err)
			}
			time.Sleep(within)
			if err := ask(p, "10.0.0.1", "ann", "s3cret"); err == nil {
				t.Errorf("%s: ann is let in", name)
			}
			if err := ask(p, "10.0.0.1", "bob", "other"); (err == nil) != c.bob {
				t.Errorf("%s: bob: %v", name, err)
			}
			if err := p.Fault(); (err == nil) != c.bob {
				t.Errorf("%s: the fault is %v", name, err)
			}
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			write(t, path, ann)
			time.Sleep(within)
			if err := ask(p, "10.0.0.1", "ann", "s3cret"); err != nil || p.Fault() != nil {
				t.Errorf("%s: when it is whole again: %v, %v", name, err, p.Fault())
			}
			if err := ask(p, "10.0.0.1", "bob", "other"); err == nil {
				t.Errorf("%s: bob is let in in the end", name)
			}
		})
	}
}

// Without a request, too, it is told once that the file is broken, and once that it is whole.
func TestPasswordFileIsWatched(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	ann := line(t, "ann", "s3cret")
	synctest.Test(t, func(t *testing.T) {
		write(t, path, ann)
		p, err := password.Read(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		var told []string
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			p.Watch(ctx, func(s string) { told = append(told, s) })
		}()
		time.Sleep(within + time.Second) // when the file isn't just looked at, nor later
		for _, text := range []string{"", ann[:30], ann, ann, "# none", ann} {
			write(t, path, text)
			time.Sleep(3 * within)
		}
		cancel()
		<-done
		want := []string{"nobody is let in", "can be used again", "nobody is let in", "can be used again"}
		if len(told) != len(want) {
			t.Fatalf("%d lines are told: %q", len(told), told)
		}
		for i, part := range want {
			if !strings.Contains(told[i], part) || !strings.Contains(told[i], path) {
				t.Errorf("%q, want %q of the file", told[i], part)
			}
		}
	})
}

func TestPasswordFileThatCanNotBeUsedIsRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "users")
	write(t, path, strings.Replace(line(t, "ann", "x"), "$04$", "$16$", 1))
	for p, want := range map[string]string{path: "cost 16", dir: "not a regular file", filepath.Join(dir, "absent"): "no such file"} {
		if _, err := password.Read(p, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", p, err, want)
		}
	}
}

// bcrypt reads 72 bytes of a password, again and again when it is shorter, each time with a zero
// after it: what it doesn't see must not match.
func TestPasswordsAreComparedAsAWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	long := strings.Repeat("a", 72)
	write(t, path, line(t, "long", long)+line(t, "ann", "abc"))
	p, err := password.Read(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		user, password string
		ok             bool
	}{
		{"long", long, true}, {"long", long + "a", false}, {"long", long + "b", false}, {"long", long[:71], false},
		{"ann", "abc", true}, {"ann", "abc\x00abc", false}, {"ann", "abc\x00", false}, {"ann\x00abc", "", false}, {"ann", "", false}, {"", "abc", false}, {"bob", "abc", false},
	} {
		if err := ask(p, "10.0.0.1", c.user, c.password); (err == nil) != c.ok {
			t.Errorf("%q with %q: %v", c.user, c.password, err)
		}
	}
}

// anything answers whatever it is asked.
type anything struct{}

func (anything) Serve(http.ResponseWriter, *http.Request, string) {}

// An address that guesses is refused before anything is worked out; those that were let in from
// there still are, and others are at all times.
func TestGuessesAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	write(t, path, line(t, "ann", "s3cret")+line(t, "bob", "other"))
	synctest.Test(t, func(t *testing.T) {
		p := reading(t, path, func(string) {})
		site := web.Handler(web.Options{Mirror: anything{}, Passwords: p, Metrics: web.NewMetrics()})
		get := func(from, user, password string) (status int, retry string) {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v2/", nil)
			r.RemoteAddr = from
			r.SetBasicAuth(user, password)
			w := httptest.NewRecorder()
			site.ServeHTTP(w, r)
			return w.Code, w.Header().Get("Retry-After")
		}
		want := func(from, user, password string, status int) {
			t.Helper()
			if got, _ := get(from, user, password); got != status {
				t.Errorf("%s as %s with %q: %d, want %d", from, user, password, got, status)
			}
		}
		for _, bad := range []string{"10.0.0.1:1", "[2001:db8::1]:1"} {
			want(bad, "ann", "s3cret", 200)
			for range 100 {
				want(bad, "ann", "the same again", 401) // tells nothing new
			}
			refused := 0
			for i := range 100 {
				switch status, retry := get(bad, "ann", fmt.Sprint("guess", i, bad)); {
				case status == http.StatusTooManyRequests && retry != "":
					refused++
				case status != http.StatusUnauthorized:
					t.Errorf("a guess: %d", status)
				}
			}
			if refused < 75 {
				t.Errorf("only %d of 100 guesses from %s are refused", refused, bad)
			}
			want(bad, "ann", "s3cret", 200)
		}
		want("[2001:db8::ffff:2]:1", "bob", "other", 429) // of the same network
		want("10.0.0.1:77", "bob", "other", 429)
		want("10.0.0.2:1", "bob", "other", 200)
		want("[2001:db8:0:1::1]:1", "bob", "wrong", 401)
		want("10.0.0.1:1", "bob", "other", 200) // found to be right from elsewhere
		want("10.0.0.1:1", "ann", "guess more", 429)
		time.Sleep(time.Minute)
		want("10.0.0.1:1", "ann", "guess more", 401)
	})
}
