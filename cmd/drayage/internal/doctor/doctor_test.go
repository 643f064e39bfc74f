package doctor_test

import (
	"crypto/tls"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"drayage/cmd/drayage/internal/doctor"
	"drayage/engine/chaos/chaostest"
	"drayage/engine/reference"
	"drayage/engine/registry"
	"drayage/engine/registry/registrytest"
)

// examine examines an image of a registry.
func examine(t *testing.T, s *registrytest.Server, size int) *doctor.Report {
	t.Helper()
	img := registrytest.Build("linux/amd64", registrytest.Random(1, size))
	ref, err := reference.Parse(s.Push("team/app", "1", img))
	if err != nil {
		t.Fatal(err)
	}
	r, err := doctor.Examine(t.Context(), doctor.Subject{
		Ref: ref, Manifest: img.Descriptor, Blob: img.Layers[0],
		Client: func(change func(*registry.Options)) (*registry.Client, error) {
			o := registry.Options{TLS: &tls.Config{RootCAs: s.Roots()}}
			change(&o)
			return registry.New(o), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// found is the finding of a name.
func found(t *testing.T, r *doctor.Report, name string) doctor.Finding {
	t.Helper()
	for _, f := range r.Findings {
		if f.Name == name {
			return f
		}
	}
	t.Errorf("no finding %q in %+v", name, r.Findings)
	return doctor.Finding{}
}

func TestHTTP2IsCompared(t *testing.T) {
	s := registrytest.NewTLS2()
	defer s.Close()
	r := examine(t, s, 4<<20)
	if f := found(t, r, "HTTP/2"); f.Verdict != doctor.Note {
		t.Errorf("%+v", f)
	}
	if f := found(t, r, "one connection"); !strings.Contains(f.Found, "over HTTP/1.1, ") {
		t.Errorf("%+v", f)
	}
	if f := found(t, r, "addresses"); f.Verdict != doctor.Good || !strings.Contains(f.Found, "IPv4 connects in") || !strings.Contains(f.Found, "IPv6 has no address") {
		t.Errorf("%+v", f)
	}
	if r.Ranges == nil || !*r.Ranges || r.FirstByte <= 0 {
		t.Errorf("ranges %v, first byte %s", r.Ranges, r.FirstByte)
	}
}

func TestTokensAreLookedAt(t *testing.T) {
	s := registrytest.New()
	defer s.Close()
	s.RequireToken("", "")
	r := examine(t, s, 1000)
	if f := found(t, r, "authentication"); f.Verdict != doctor.Good || !strings.HasPrefix(f.Found, "bearer, tokens from 127.0.0.1:") {
		t.Errorf("%+v", f)
	}
	if f := found(t, r, "life of tokens"); f.Verdict != doctor.Good || f.Found != "5m0s" {
		t.Errorf("%+v", f)
	}
	if f := found(t, r, "scopes"); f.Found != "repository:team/app:pull" {
		t.Errorf("%+v", f)
	}
}

// A token that is good for nothing, or for something else, is told.
func TestUselessTokens(t *testing.T) {
	for claims, want := range map[string]doctor.Verdict{
		`{"access":[]}`: doctor.Bad, `{"access":[{"type":"repository","name":"team/app","actions":["pull"]}]}`: doctor.Good,
		`{"access":[{"type":"repository","name":"team/other","actions":["pull"]}]}`: doctor.Bad, `{}`: doctor.Good, `[`: doctor.Good,
	} {
		s := registrytest.New()
		realm := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			token := "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".x"
			w.Write([]byte(`{"token":"` + token + `"}`))
		}))
		s.Break("/v2/", 1, chaostest.Status(http.StatusUnauthorized, "WWW-Authenticate", `Bearer realm="`+realm.URL+`/token",service="x",scope="repository:team/app:pull"`))
		r := examine(t, s, 1000)
		if f := found(t, r, "scopes"); f.Verdict != want {
			t.Errorf("%s: %+v", claims, f)
		}
		if f := found(t, r, "life of tokens"); f.Verdict != doctor.Note {
			t.Errorf("%s: %+v", claims, f)
		}
		realm.Close()
		s.Close()
	}
}

func TestNoRanges(t *testing.T) {
	s := registrytest.New()
	defer s.Close()
	s.Break("/blobs/", -1, chaostest.IgnoreRange())
	r := examine(t, s, 5000)
	if f := found(t, r, "a closed range"); f.Verdict != doctor.Bad {
		t.Errorf("%+v", f)
	}
	if r.Ranges == nil || *r.Ranges {
		t.Error("ranges are said to be served")
	}
}

func TestLeftAlone(t *testing.T) {
	s := registrytest.New()
	defer s.Close()
	s.Break("/referrers/", 1, chaostest.Status(http.StatusTooManyRequests, "Retry-After", "1"))
	began := time.Now()
	r := examine(t, s, 1000)
	if f := found(t, r, "Retry-After"); f.Found != "answers 429, Retry-After: 1" {
		t.Errorf("%+v after %s", f, time.Since(began))
	}
}
