package registry_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"drayage/engine/chaos/chaostest"
	"drayage/engine/credential"
	"drayage/engine/event"
	"drayage/engine/image"
	"drayage/engine/internal/retry"
	"drayage/engine/internal/transfer"
	"drayage/engine/reference"
	"drayage/engine/registry"
	"drayage/engine/registry/hosts"
	"drayage/engine/registry/registrytest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// quick is a retry policy that doesn't keep tests waiting.
var quick = retry.Policy{Tries: 3, Patience: 3 * time.Second, Backoff: retry.Backoff{Min: time.Millisecond, Max: 2 * time.Millisecond}}

// record keeps what an observer is told.
type record struct {
	mu     sync.Mutex
	events []event.Event
}

func (r *record) Observe(e event.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *record) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return fmt.Sprintf("%+v", r.events)
}

func client(t *testing.T, opts registry.Options) *registry.Client {
	t.Helper()
	if opts.Retry == (retry.Policy{}) {
		opts.Retry = quick
	}
	c := registry.New(opts)
	t.Cleanup(c.Close)
	return c
}

func serve(t *testing.T) *registrytest.Server {
	t.Helper()
	s := registrytest.New()
	t.Cleanup(s.Close)
	return s
}

func parse(t *testing.T, name string) reference.Image {
	t.Helper()
	ref, err := reference.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// pull fetches an image's manifest and reads its first layer to the end.
func pull(ctx context.Context, c *registry.Client, ref reference.Image) error {
	doc, err := c.Manifest(ctx, ref, ref.Wanted())
	if err != nil {
		return err
	}
	for _, l := range doc.Manifest.Layers {
		body, err := c.Blob(ref, l.Digest).Open(ctx, transfer.Ask{To: l.Size, Size: l.Size})
		if err != nil {
			return err
		}
		got, err := digest.FromReader(body)
		body.Close()
		if err != nil {
			return err
		}
		if got != l.Digest {
			return fmt.Errorf("%s came for %s", got, l.Digest)
		}
	}
	return nil
}

func small() registrytest.Image {
	return registrytest.Build("linux/amd64", registrytest.Random(1, 10_000), registrytest.Random(2, 20))
}

func TestAnonymousPullTakesOneRequestAPiece(t *testing.T) {
	s := serve(t)
	ref := parse(t, s.Push("a/b/c", "1", small()))
	if err := pull(t.Context(), client(t, registry.Options{}), ref); err != nil {
		t.Fatal(err)
	}
	if got := len(s.Requests()); got != 3 {
		t.Errorf("%d requests, want a manifest and two layers: %v", got, s.Requests())
	}
}

func TestTokensAreFetchedOnceARepository(t *testing.T) {
	s := serve(t)
	s.RequireToken("", "")
	ref := parse(t, s.Push("a/b", "1", small()))
	c := client(t, registry.Options{})
	for range 3 {
		if err := pull(t.Context(), c, ref); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.Count("/auth/token"); got != 1 {
		t.Errorf("%d tokens fetched, want 1", got)
	}
	if got := len(s.Requests()); got != 3*3+2 {
		t.Errorf("%d requests, want 3 pulls of 3, the first challenge and the token", got)
	}
	// G27: a token that was revoked or ran out is replaced.
	s.RevokeTokens()
	if err := pull(t.Context(), c, ref); err != nil {
		t.Errorf("after the token ran out: %v", err)
	}
}

func TestBasicAndBearerCredentials(t *testing.T) {
	b64 := base64.StdEncoding.EncodeToString([]byte("ann:s3cret"))
	t.Setenv("DRAYAGE_TEST_CREDENTIALS", b64)
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	config := filepath.Join(dir, "config.json")
	for _, scheme := range []string{"Basic", "Bearer"} {
		s := serve(t)
		if scheme == "Basic" {
			s.RequireBasic("ann", "s3cret")
		} else {
			s.RequireToken("ann", "s3cret")
		}
		write(t, plain, "ann:s3cret\n")
		write(t, config, `{"auths":{"`+s.Host()+`":{"auth":"`+b64+`"}}}`)
		ref := parse(t, s.Push("r", "1", small()))
		for _, given := range []string{b64, "ann:s3cret", "env:DRAYAGE_TEST_CREDENTIALS", "file:" + plain, "file:" + config} {
			creds, err := credential.Given(given)
			if err != nil {
				t.Fatal(err)
			}
			if err := pull(t.Context(), client(t, registry.Options{Credentials: creds}), ref); err != nil {
				t.Errorf("%s with -a %s: %v", scheme, given, err)
			}
		}
		for name, creds := range map[string]*credential.Set{"none": nil, "wrong": given(t, "ann:n0tthis")} {
			rec := &record{}
			err := pull(t.Context(), client(t, registry.Options{Credentials: creds, Observer: rec, TraceHeaders: true}), ref)
			if !errors.Is(err, registry.ErrDenied) {
				t.Errorf("%s with credentials: %s: %v, want ErrDenied", scheme, name, err)
			}
			for _, secret := range []string{"n0tthis", "s3cret", b64, base64.StdEncoding.EncodeToString([]byte("ann:n0tthis"))} {
				if strings.Contains(err.Error()+rec.text(), secret) {
					t.Errorf("%s: %q is told: %v %s", scheme, secret, err, rec.text())
				}
			}
		}
	}
	for _, bad := range []string{"env:DRAYAGE_TEST_UNSET", "file:" + dir + "/absent", "!!!", "bm9jb2xvbg=="} {
		var e *credential.Error
		if _, err := credential.Given(bad); !errors.As(err, &e) {
			t.Errorf("-a %s: %v, want a credential.Error", bad, err)
		}
	}
}

func given(t *testing.T, s string) *credential.Set {
	t.Helper()
	c, err := credential.Given(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestStoredCredentials(t *testing.T) {
	s := serve(t)
	s.RequireToken("ann", "s3cret")
	s.AllowRefresh("r3fresh")
	ref := parse(t, s.Push("r", "1", small()))
	auth := base64.StdEncoding.EncodeToString([]byte("ann:s3cret"))
	home := t.TempDir()
	bin := filepath.Join(home, "bin")
	write(t, filepath.Join(bin, "docker-credential-test"), "#!/bin/sh\ncat >/dev/null\necho '{\"Username\":\"ann\",\"Secret\":\"s3cret\"}'\n")
	write(t, filepath.Join(bin, "docker-credential-identity"), "#!/bin/sh\ncat >/dev/null\necho '{\"Username\":\"<token>\",\"Secret\":\"r3fresh\"}'\n")
	for _, helper := range []string{"test", "identity"} {
		if err := os.Chmod(filepath.Join(bin, "docker-credential-"+helper), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(home, ".config"))
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(home, "run"))
	t.Setenv("REGISTRY_AUTH_FILE", "")
	for name, file := range map[string][2]string{
		"docker's config": {"docker/config.json", `{"auths":{"` + s.Host() + `":{"auth":"` + auth + `"}}}`},
		"a helper":        {"docker/config.json", `{"credHelpers":{"` + s.Host() + `":"test"}}`},
		"a default store": {"docker/config.json", `{"credsStore":"test"}`},
		"identity token":  {"docker/config.json", `{"credsStore":"identity"}`},
		"podman, runtime": {"run/containers/auth.json", `{"auths":{"` + s.Host() + `":{"auth":"` + auth + `"}}}`},
		"podman, config":  {".config/containers/auth.json", `{"auths":{"` + s.Host() + `":{"auth":"` + auth + `"}}}`},
	} {
		t.Setenv("DOCKER_CONFIG", filepath.Join(home, "docker"))
		path := filepath.Join(home, file[0])
		write(t, path, file[1])
		if err := pull(t.Context(), client(t, registry.Options{Credentials: credential.Stored()}), ref); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(home, "docker/config.json"), "{")
	// A source that can't be read is part of the error of a registry that wants credentials.
	if err := pull(t.Context(), client(t, registry.Options{Credentials: credential.Stored()}), ref); !errors.Is(err, registry.ErrDenied) || !strings.Contains(err.Error(), "config.json") {
		t.Errorf("a broken config: %v", err)
	}
}

func TestG32StaleLoginDoesNotStandInTheWay(t *testing.T) {
	s := serve(t)
	s.RequireToken("", "") // tokens for whoever brings no credentials
	ref := parse(t, s.Push("r", "1", small()))
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	write(t, filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"),
		`{"auths":{"`+s.Host()+`":{"auth":"`+base64.StdEncoding.EncodeToString([]byte("ann:expired"))+`"}}}`)
	rec := &record{}
	c := client(t, registry.Options{Credentials: credential.Stored(), Observer: rec})
	for range 2 {
		if err := pull(t.Context(), c, ref); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Count(rec.text(), "rejected the stored credentials"); got != 1 {
		t.Errorf("warned %d times, want once", got)
	}
	// Credentials given for this call are not left out.
	err := pull(t.Context(), client(t, registry.Options{Credentials: given(t, "ann:expired")}), ref)
	if !errors.Is(err, registry.ErrDenied) {
		t.Errorf("with -a: %v, want ErrDenied", err)
	}
}

func TestG28ChallengesInEveryForm(t *testing.T) {
	for name, header := range map[string]func(realm, scope string) []string{
		"basic first, two headers": func(realm, scope string) []string {
			return []string{`Basic realm="x"`, `Bearer realm="` + realm + `",service="s",scope="` + scope + `"`}
		},
		"both in one header": func(realm, scope string) []string {
			return []string{`BASIC realm="x", BEARER realm="` + realm + `", service="s", scope="` + scope + `"`}
		},
		"unquoted": func(realm, scope string) []string {
			return []string{`Bearer realm=` + realm + `,service=s,scope=` + scope}
		},
		"unknown scheme": func(realm, _ string) []string { return []string{`Negotiate`, `Bearer realm="` + realm + `"`} },
		"extra params and escapes": func(realm, scope string) []string {
			return []string{`bearer error="a \"b\", c", realm="` + realm + `" , scope="` + scope + `",foo=bar`}
		},
		"G29 realm only": func(realm, _ string) []string { return []string{`Bearer realm="` + realm + `"`} },
	} {
		s := serve(t)
		s.RequireToken("", "")
		s.ChallengeWith(func(repo string) []string { return header(s.Realm(), "repository:"+repo+":pull") })
		ref := parse(t, s.Push("r", "1", small()))
		if err := pull(t.Context(), client(t, registry.Options{}), ref); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// G1 to G3, G8: the storage server refuses whoever brings an Authorization, a
// cookie or a referrer.
func TestRedirectsLeaveSecretsBehind(t *testing.T) {
	s := serve(t)
	s.RequireToken("", "")
	ref := parse(t, s.Push("r", "1", small()))
	location, storage := s.NewStorage()
	defer storage.Close()
	s.Break("/blobs/", registrytest.Always, chaostest.Redirect(location))
	rec := &record{}
	c := client(t, registry.Options{Observer: rec, TraceHeaders: true})
	if err := pull(t.Context(), c, ref); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(rec.text(), registrytest.Signature) {
		t.Errorf("the signature is told: %s", rec.text())
	}
	storage.Close()
	err := pull(t.Context(), c, ref)
	if !errors.Is(err, registry.ErrUnavailable) || strings.Contains(err.Error(), registrytest.Signature) {
		t.Errorf("with the storage gone: %v", err)
	}
}

func TestRedirectToTheSameHostKeepsAuthorization(t *testing.T) {
	s := serve(t)
	s.RequireBasic("ann", "s3cret")
	img := small()
	ref := parse(t, s.Push("r", "1", img))
	s.Push("other", "1", img)
	s.Break("/r/blobs/", 1, chaostest.Redirect("/v2/other/blobs/%s"))
	if err := pull(t.Context(), client(t, registry.Options{Credentials: given(t, "ann:s3cret")}), ref); err != nil {
		t.Error(err)
	}
}

// A chain that comes back to the registry by way of another host comes back
// without the credentials.
func TestRedirectChainsDontGetSecretsBack(t *testing.T) {
	s := serve(t)
	s.RequireBasic("ann", "s3cret")
	ref := parse(t, s.Push("r", "1", small()))
	detour := httptest.NewServer(http.RedirectHandler("http://"+s.Host()+"/v2/back", http.StatusFound))
	defer detour.Close()
	s.Break("/blobs/", registrytest.Always, chaostest.Redirect(detour.URL))
	if err := pull(t.Context(), client(t, registry.Options{Credentials: given(t, "ann:s3cret")}), ref); err == nil {
		t.Error("want an error: nothing is there")
	}
	for _, r := range s.Requests() {
		if r.Path == "/v2/back" && r.Authorization != "" {
			t.Errorf("Authorization came back by a detour")
		}
	}
	if s.Count("/v2/back") == 0 {
		t.Error("the detour was not taken")
	}
}

func TestRedirectsEnd(t *testing.T) {
	s := serve(t)
	ref := parse(t, s.Push("r", "1", small()))
	s.Break("/blobs/", registrytest.Always, chaostest.Redirect("/v2/r/blobs/%s"))
	if err := pull(t.Context(), client(t, registry.Options{}), ref); !errors.Is(err, registry.ErrInvalid) {
		t.Errorf("a circle: %v", err)
	}
	if got := s.Count("/blobs/"); got != 11 {
		t.Errorf("%d requests, want the first and 10 hops", got)
	}
}

func TestMalformedLocationsAreNotTold(t *testing.T) {
	s := serve(t)
	ref := parse(t, s.Push("r", "1", small()))
	s.Break("/blobs/", registrytest.Always, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "https://cdn.example/%zz?X-Signature="+registrytest.Signature)
			w.WriteHeader(http.StatusTemporaryRedirect)
		})
	})
	rec := &record{}
	err := pull(t.Context(), client(t, registry.Options{Observer: rec, TraceHeaders: true}), ref)
	if !errors.Is(err, registry.ErrInvalid) || strings.Contains(err.Error()+rec.text(), registrytest.Signature) {
		t.Errorf("%v %s", err, rec.text())
	}
	if got := s.Count("/blobs/"); got != 1 {
		t.Errorf("asked %d times, want once", got)
	}
}

// Headers that are shown hide what may be secret in URLs: users with passwords, queries, fragments.
func TestHeadersAreShownWithoutSecretsOfURLs(t *testing.T) {
	const url = `http://ann:SECRET1@127.0.0.1:1/token?sig=SECRET2&X-Amz-Signature=SECRET3,SECRET4#SECRET5`
	s := serve(t)
	ref := parse(t, s.Push("r", "1", small()))
	s.Break("/manifests/", registrytest.Always, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for name, values := range map[string][]string{
				"Www-Authenticate": {
					`Bearer realm="` + url + `",service="registry.example",scope="repository:team/app:pull"`, `Bearer realm=` + url, `Bearer realm="/token?sig=SECRET"`,
					`Bearer realm="//ann:SECRET@host.example/a b?sig=SECRET \"SECRET\" SECRET", service="x"`, `Bearer realm="ann:SECRET@host.example/token"`, `Bearer realm="` + url,
				},
				"Location": {url}, "Content-Location": {url}, "Link": {"<" + url + `>; rel="next"`}, "Refresh": {"1; url=" + url},
				"Server": {"nginx/1.2 (" + url + ")"}, "Via": {"1.1 " + url}, "X-Cache": {url}, "Etag": {`"` + url + `"`},
			} {
				w.Header()[name] = values
			}
			w.WriteHeader(http.StatusUnauthorized)
		})
	})
	rec := &record{}
	_, err := client(t, registry.Options{Observer: rec, TraceHeaders: true}).Manifest(t.Context(), ref, "1")
	text := fmt.Sprint(rec.text(), err)
	if at := strings.Index(text, "SECRET"); at >= 0 {
		t.Errorf("a secret is told: %s", text[max(0, at-100):min(len(text), at+20)])
	}
	for _, want := range []string{
		`Bearer realm="http://[hidden]@127.0.0.1:1/token?[hidden]",service="registry.example",scope="repository:team/app:pull"`, `realm="//[hidden]@host.example/a b?[hidden]", service="x"`,
		`realm="/token?[hidden]"`, "nginx/1.2 (http://[hidden]@127.0.0.1:1/token?[hidden]",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is not shown: %s", want, text)
		}
	}
}

func TestHTTPSNeverRedirectsToHTTP(t *testing.T) {
	s := registrytest.NewTLS()
	defer s.Close()
	plain := serve(t)
	ref := parse(t, s.Push("r", "1", small()))
	s.Break("/blobs/", registrytest.Always, chaostest.Redirect("http://"+plain.Host()+"/%s"))
	err := pull(t.Context(), client(t, registry.Options{TLS: &tls.Config{RootCAs: s.Roots()}}), ref)
	if err == nil || !strings.Contains(err.Error(), "HTTPS to HTTP") || len(plain.Requests()) > 0 {
		t.Errorf("%v; the plain server was asked %d times", err, len(plain.Requests()))
	}
}

// G5: the host behind the redirect refuses once, as a stale URL makes it.
func TestStaleSignedURLsAreAskedForAgain(t *testing.T) {
	for _, status := range []int{400, 401, 403, 404, 410} {
		s := serve(t)
		ref := parse(t, s.Push("r", "1", registrytest.Build("linux/amd64", registrytest.Random(1, 100))))
		location, storage := s.NewStorage()
		stale := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		s.Break("/blobs/", 1, chaostest.Redirect(stale.URL+"/%s?sig=old"))
		s.Break("/blobs/", registrytest.Always, chaostest.Redirect(location))
		if err := pull(t.Context(), client(t, registry.Options{}), ref); err != nil {
			t.Errorf("%d: %v", status, err)
		}
		if got := s.Count("/blobs/"); got != 2 {
			t.Errorf("%d: the registry was asked %d times, want 2", status, got)
		}
		stale.Close()
		storage.Close()
	}
}

func TestLoopbackSpeaksEitherScheme(t *testing.T) {
	for _, s := range []*registrytest.Server{registrytest.New(), registrytest.NewTLS()} {
		defer s.Close()
		ref := parse(t, s.Push("r", "1", small()))
		c := client(t, registry.Options{TLS: &tls.Config{RootCAs: s.Roots()}})
		if err := pull(t.Context(), c, ref); err != nil {
			t.Error(err)
		}
		if got := len(s.Requests()); got != 3 {
			t.Errorf("%d requests, want 3", got)
		}
		// Also when the first question is a HEAD, whose answer has no text.
		again := client(t, registry.Options{TLS: &tls.Config{RootCAs: s.Roots()}})
		if d, err := again.Head(t.Context(), ref, "1"); err != nil || d == "" {
			t.Errorf("Head: %q, %v", d, err)
		}
	}
}

func TestCertificatesAreVerifiedAndNotRetried(t *testing.T) {
	s := registrytest.NewTLS()
	defer s.Close()
	ref := parse(t, s.Push("r", "1", small()))
	rec := &record{}
	err := pull(t.Context(), client(t, registry.Options{Observer: rec}), ref)
	if err == nil || !strings.Contains(err.Error(), "--ca-cert") || errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("unknown authority: %v", err)
	}
	if strings.Contains(rec.text(), "Try:") {
		t.Errorf("it was tried again: %s", rec.text())
	}
	if err := pull(t.Context(), client(t, registry.Options{TLS: &tls.Config{InsecureSkipVerify: true}}), ref); err != nil {
		t.Errorf("without verification: %v", err)
	}
}

func TestManifestIsVerifiedByWhateverReference(t *testing.T) {
	other := small().Manifest
	flipped := append([]byte(nil), other...)
	flipped[len(flipped)-2] ^= 1
	img := registrytest.Build("linux/amd64", registrytest.Random(3, 10))
	for name, c := range map[string]struct {
		byTag, once bool
		fault       chaostest.Fault
		want        error
	}{
		"by digest, another manifest":    {false, false, chaostest.Body(img.Descriptor.MediaType, other), registry.ErrContent},
		"by digest, damaged once":        {false, true, chaostest.Flip(7), nil},
		"G42 by tag, damaged on the way": {true, true, chaostest.Flip(7), nil},
	} {
		s := serve(t)
		tag := ""
		if c.byTag {
			tag = "1"
		}
		ref := parse(t, s.Push("r", tag, img))
		times := registrytest.Always
		if c.once {
			times = 1
		}
		s.Break("/manifests/", times, c.fault)
		doc, err := client(t, registry.Options{}).Manifest(t.Context(), ref, ref.Wanted())
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if err == nil && doc.Descriptor.Digest != img.Descriptor.Digest {
			t.Errorf("%s: got %s", name, doc.Descriptor.Digest)
		}
	}
}

func TestG42WrongDigestHeaderOnlyWarns(t *testing.T) {
	s := serve(t)
	img := small()
	ref := parse(t, s.Push("r", "1", img))
	s.Break("/manifests/1", 1, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Docker-Content-Digest", digest.FromString("something else").String())
			w.Write(img.Manifest)
		})
	})
	rec := &record{}
	doc, err := client(t, registry.Options{Observer: rec}).Manifest(t.Context(), ref, "1")
	if err != nil || doc.Descriptor.Digest != img.Descriptor.Digest || !strings.Contains(rec.text(), "trusting the content") {
		t.Errorf("%v, %v, %s", doc.Descriptor, err, rec.text())
	}
}

func TestManifestsHaveALimit(t *testing.T) {
	for name, fault := range map[string]chaostest.Fault{
		"announced": chaostest.Body("application/json", []byte(strings.Repeat(" ", 64<<20))),
		"chunked": func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for range 64 {
					if _, err := w.Write([]byte(strings.Repeat(" ", 1<<20))); err != nil {
						return
					}
					http.NewResponseController(w).Flush()
				}
			})
		},
	} {
		s := serve(t)
		ref := parse(t, s.Push("r", "1", small()))
		s.Break("/manifests/", registrytest.Always, fault)
		if _, err := client(t, registry.Options{}).Manifest(t.Context(), ref, "1"); !errors.Is(err, image.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		if got := s.Sent(); got > 16<<20 {
			t.Errorf("%s: took %d bytes", name, got)
		}
	}
}

func TestErrorsTellWhatTheyAre(t *testing.T) {
	const many = -1
	impatient := quick
	impatient.Patience = 200 * time.Millisecond
	for _, c := range []struct {
		name  string
		fault chaostest.Fault
		want  error
		tries int
	}{
		{"404", chaostest.Status(404), registry.ErrNotFound, 1},
		{"403", chaostest.Status(403), registry.ErrDenied, 1},
		{"401", chaostest.Status(401), registry.ErrDenied, 1},
		{"500", chaostest.Status(500), registry.ErrUnavailable, many},
		{"502", chaostest.Status(502), registry.ErrUnavailable, many},
		{"418", chaostest.Status(418), registry.ErrInvalid, 1},
		{"G37 429 for an hour", chaostest.Status(429, "Retry-After", "3600"), registry.ErrQuota, 1},
		{"web page", chaostest.Body("text/html", []byte("<title>Log in</title>")), image.ErrInvalid, 1},
	} {
		s := serve(t)
		ref := parse(t, s.Push("r", "1", small()))
		s.Break("/manifests/", registrytest.Always, c.fault)
		_, err := client(t, registry.Options{Retry: impatient}).Manifest(t.Context(), ref, "1")
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if got := len(s.Requests()); got != c.tries && (c.tries != many || got < 3) {
			t.Errorf("%s: %d requests, want %d", c.name, got, c.tries)
		}
	}
}

func TestPassingErrorsPass(t *testing.T) {
	for name, fault := range map[string]chaostest.Fault{
		"408": chaostest.Status(408), "500": chaostest.Status(500), "502": chaostest.Status(502),
		"503": chaostest.Status(503), "504": chaostest.Status(504),
		"429 with a time":           chaostest.Status(429, "Retry-After", "1"),
		"G36 429 with an odd time":  chaostest.Status(429, "Retry-After", "1.16ms"),
		"G37 403 that means 429":    throttled403,
		"reset before the answer":   chaostest.ResetAfter(0),
		"closed within the body":    chaostest.CloseAfter(10),
		"reset within the manifest": chaostest.ResetAfter(10),
	} {
		s := serve(t)
		ref := parse(t, s.Push("r", "1", small()))
		s.Break("/manifests/", 1, fault)
		if _, err := client(t, registry.Options{}).Manifest(t.Context(), ref, "1"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func throttled403(http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, `{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}`)
	})
}

// A host that wants to be left alone is left alone by all requests.
func TestRetryAfterHoldsTheWholeHostBack(t *testing.T) {
	s := serve(t)
	ref := parse(t, s.Push("r", "1", small()))
	var mu sync.Mutex
	var told, next time.Time
	s.Break("/manifests/", 1, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			told = time.Now()
			mu.Unlock()
			chaostest.Status(429, "Retry-After", "1")(h).ServeHTTP(w, r)
		})
	})
	s.Break("/manifests/", registrytest.Always, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			if next.IsZero() {
				next = time.Now()
			}
			mu.Unlock()
			h.ServeHTTP(w, r)
		})
	})
	retrying := make(chan struct{})
	c := client(t, registry.Options{Observer: onRetry{retrying, new(sync.Once)}})
	first := make(chan error)
	go func() { _, err := c.Manifest(context.Background(), ref, "1"); first <- err }()
	<-retrying
	if _, err := c.Manifest(t.Context(), ref, "1"); err != nil {
		t.Error(err)
	}
	if err := <-first; err != nil {
		t.Error(err)
	}
	if wait := next.Sub(told); wait < 900*time.Millisecond {
		t.Errorf("asked again after %v, though told to wait 1s", wait)
	}
}

type onRetry struct {
	ch   chan struct{}
	once *sync.Once
}

func (o onRetry) Observe(e event.Event) {
	if _, ok := e.(event.Retrying); ok {
		o.once.Do(func() { close(o.ch) })
	}
}

func TestNobodyThere(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // now nobody listens there
	ref := parse(t, l.Addr().String()+"/x:1")
	_, err = client(t, registry.Options{}).Manifest(t.Context(), ref, "1")
	if !errors.Is(err, registry.ErrUnavailable) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("%v", err)
	}
}

func TestSilentBodiesEnd(t *testing.T) {
	s := serve(t)
	img := registrytest.Build("linux/amd64", registrytest.Random(1, 100_000))
	ref := parse(t, s.Push("r", "1", img))
	s.Break("/blobs/", 1, chaostest.StallAfter(50_000))
	c := client(t, registry.Options{Stall: 50 * time.Millisecond})
	body, err := c.Blob(ref, img.Layers[0].Digest).Open(t.Context(), transfer.Ask{To: img.Layers[0].Size, Size: img.Layers[0].Size})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if n, err := io.Copy(io.Discard, body); err == nil || !strings.Contains(err.Error(), "no data received") {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// A refusal whose text never ends, and a token that never comes whole.
func TestSilentErrorsAndTokensEnd(t *testing.T) {
	stalling := func(status int) chaostest.Fault {
		return func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", "1000")
				w.WriteHeader(status)
				io.WriteString(w, `{"token":"`)
				http.NewResponseController(w).Flush()
				<-r.Context().Done()
			})
		}
	}
	s := serve(t)
	ref := parse(t, s.Push("r", "1", small()))
	c := client(t, registry.Options{Stall: 50 * time.Millisecond})
	s.Break("/manifests/", 1, stalling(404))
	if _, err := c.Manifest(t.Context(), ref, "1"); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("an error: %v", err)
	}
	s.RequireToken("", "")
	s.Break("/auth/token", 1, stalling(200))
	if _, err := c.Manifest(t.Context(), ref, "1"); !errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("a token: %v", err)
	}
}

// What a token server says has a limit, and no secret of it is told.
func TestTokensHaveALimit(t *testing.T) {
	s := serve(t)
	ref := parse(t, s.Push("r", "1", small()))
	s.RequireToken("", "")
	var sent atomic.Int64
	s.Break("/auth/token", registrytest.Always, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, `{"token":"`)
			more := bytes.Repeat([]byte("secret"), 10_000)
			const most = 1 << 30 // the test fails then
			for sent.Load() < most && r.Context().Err() == nil {
				n, err := w.Write(more)
				if sent.Add(int64(n)); err != nil {
					return
				}
			}
		})
	})
	_, err := client(t, registry.Options{}).Manifest(t.Context(), ref, "1")
	if err == nil || strings.Contains(err.Error(), "secretsecret") {
		t.Errorf("%v", err)
	}
	if got := sent.Load(); got > 100<<20 {
		t.Errorf("%d bytes were taken for a token", got)
	}
}

func TestCancellationEndsEveryWait(t *testing.T) {
	s := serve(t)
	img := small()
	ref := parse(t, s.Push("r", "1", img))
	cause := errors.New("enough")
	for name, fault := range map[string]chaostest.Fault{
		"no answer": chaostest.Hold(nil), "told to wait": chaostest.Status(429, "Retry-After", "2"),
	} {
		s.Break("/manifests/", 1, fault)
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(50*time.Millisecond, func() { cancel(cause) })
		if _, err := client(t, registry.Options{}).Manifest(ctx, ref, "1"); !errors.Is(err, cause) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Ranges, right and wrong: what Open returns begins where it was asked to, or
// is an error.
func TestOpenFromTheMiddle(t *testing.T) {
	img := registrytest.Build("linux/amd64", registrytest.Random(1, 10_000))
	layer := img.Layers[0]
	content := img.Blobs[layer.Digest]
	contentRange := func(s string, from int) chaostest.Fault {
		return func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Range", s)
				w.WriteHeader(http.StatusPartialContent)
				w.Write(content[from:])
			})
		}
	}
	for _, c := range []struct {
		name  string
		from  int64
		fault chaostest.Fault
		fails bool
	}{
		{"plain", 4000, nil, false},
		{"the last byte", 9999, nil, false},
		{"G11 range ignored", 4000, chaostest.IgnoreRange(), false},
		{"G17 an earlier start", 4000, contentRange("bytes 1000-9999/10000", 1000), false},
		{"G17 no unit", 4000, contentRange("4000-9999/10000", 4000), false},
		{"G17 unknown total", 4000, contentRange("bytes 4000-9999/*", 4000), false},
		{"G17 a later start", 4000, contentRange("bytes 5000-9999/10000", 5000), true},
		{"no Content-Range", 4000, contentRange("", 4000), true},
		{"nonsense", 4000, contentRange("bytes x-y/z", 4000), true},
		{"416", 4000, chaostest.Status(416), true},
	} {
		s := serve(t)
		ref := parse(t, s.Push("r", "1", img))
		if c.fault != nil {
			s.Break("/blobs/", registrytest.Always, c.fault)
		}
		body, err := client(t, registry.Options{}).Blob(ref, layer.Digest).Open(t.Context(), transfer.Ask{From: c.from, To: layer.Size, Size: layer.Size})
		var got []byte
		if err == nil {
			got, err = io.ReadAll(body)
			body.Close()
			got = got[min(int(c.from-body.From), len(got)):]
		}
		if c.fails {
			if !errors.Is(err, transfer.ErrRange) {
				t.Errorf("%s: %v, want ErrRange", c.name, err)
			}
			continue
		}
		if err != nil || string(got) != string(content[c.from:]) {
			t.Errorf("%s: %d bytes, %v; want %d", c.name, len(got), err, len(content)-int(c.from))
		}
		// G13, G14: closed, and within the blob.
		for _, r := range s.Requests() {
			if rng := r.Header.Get("Range"); rng != fmt.Sprintf("bytes=%d-9999", c.from) {
				t.Errorf("%s: asked for %q", c.name, rng)
			}
		}
	}
}

func TestG21BlobsAreNeverDecompressed(t *testing.T) {
	s := serve(t)
	img := registrytest.Build("linux/amd64", registrytest.Layer(1, 10_000))
	ref := parse(t, s.Push("r", "1", img))
	s.Break("/blobs/", registrytest.Always, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			next.ServeHTTP(w, r)
		})
	})
	if err := pull(t.Context(), client(t, registry.Options{}), ref); err != nil {
		t.Error(err)
	}
	for _, r := range s.Requests() {
		if strings.Contains(r.Path, "/blobs/") && r.Header.Get("Accept-Encoding") != "identity" {
			t.Errorf("Accept-Encoding: %q", r.Header.Get("Accept-Encoding"))
		}
	}
}

func TestHead(t *testing.T) {
	s := serve(t)
	img := small()
	ref := parse(t, s.Push("r", "1", img))
	c := client(t, registry.Options{})
	if d, err := c.Head(t.Context(), ref, "1"); err != nil || d != img.Descriptor.Digest {
		t.Errorf("Head = %s, %v", d, err)
	}
	for _, status := range []int{404, 405, 400, 410, 500, 501, 503, 520} {
		s.Break("/manifests/", 1, chaostest.Status(status))
		if d, err := c.Head(t.Context(), ref, "1"); err != nil || d != "" {
			t.Errorf("HEAD is answered with %d: %s, %v; GET has to tell", status, d, err)
		}
	}
	s.OmitDigestHeader()
	if d, err := c.Head(t.Context(), ref, "1"); err != nil || d != "" {
		t.Errorf("G42 without the header: %s, %v", d, err)
	}
}

func TestG43AcceptIsOneList(t *testing.T) {
	s := serve(t)
	ref := parse(t, s.PushIndex("r", "1", ocispec.MediaTypeImageIndex, small()))
	if _, err := client(t, registry.Options{}).Manifest(t.Context(), ref, "1"); err != nil {
		t.Fatal(err)
	}
	if got := s.Requests()[0].Header.Values("Accept"); len(got) != 1 || strings.Count(got[0], ",") != 5 {
		t.Errorf("Accept: %q", got)
	}
}

// A list of referrers that has no end is given up.
func TestReferrersHaveAnEnd(t *testing.T) {
	s := serve(t)
	ref := parse(t, s.Push("r", "1", small()))
	s.Break("/referrers/", registrytest.Always, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			w.Header().Set("Link", fmt.Sprintf(`<%s?n=1>; rel="next"`, r.URL.Path))
			fmt.Fprint(w, `{"schemaVersion":2,"manifests":[]}`)
		})
	})
	if _, err := client(t, registry.Options{}).Referrers(t.Context(), ref, digest.FromString("x")); err == nil {
		t.Error("it went on for ever, or believed it")
	}
	if n := s.Count("/referrers/"); n > 200 {
		t.Errorf("%d requests", n)
	}
}

// A mirror gets what belongs to it: its headers, whose images are meant, and never
// the credentials that were given for the registry.
func TestMirrorsGetWhatIsTheirs(t *testing.T) {
	mirror, home := serve(t), serve(t)
	mirror.RequireBasic("ann", "s3cret")
	home.RequireBasic("ann", "s3cret")
	home.Push("r", "1", small())
	mirror.Push("r", "1", small())
	ref := parse(t, home.Host()+"/r:1")
	u, err := url.Parse("http://" + mirror.Host())
	if err != nil {
		t.Fatal(err)
	}
	given, err := credential.Given("ann:s3cret")
	if err != nil {
		t.Fatal(err)
	}
	c := client(t, registry.Options{Credentials: given, Mirrors: []hosts.Mirror{{Registry: ref.Registry(), URL: u, Header: http.Header{"X-Who": {"me"}}}}})
	if _, err := c.Manifest(t.Context(), ref, "1"); err != nil {
		t.Fatal(err)
	}
	asked := mirror.Requests()
	if len(asked) == 0 || asked[0].Header.Get("X-Who") != "me" {
		t.Errorf("the mirror was asked %v", asked)
	}
	for _, r := range asked {
		if r.Authorization != "" {
			t.Errorf("the mirror got %s", r.Authorization)
		}
	}
	for _, r := range home.Requests() {
		if r.Header.Get("X-Who") != "" {
			t.Error("the registry got the mirror's header")
		}
	}
}

func TestParseMirror(t *testing.T) {
	for _, bad := range []string{"", "x", "docker.io", "docker.io=", "docker.io=ftp://x", "docker.io=https://u:p@x", "no registry=https://x", "docker.io=https://x?y", "docker.io=x:5000", "docker.io=http://fd00::10:30020"} {
		if m, err := hosts.ParseMirror(bad); err == nil {
			t.Errorf("%q is %+v", bad, m)
		}
	}
	for in, want := range map[string]bool{"docker.io=https://x": false, "docker.io=https://x/v2/hub": true, "https://index.docker.io/v1/=http://x:5000/a/": false} {
		if m, err := hosts.ParseMirror(in); err != nil || m.Registry != "docker.io" || m.Whole != want {
			t.Errorf("%q is %+v, %v", in, m, err)
		}
	}
}
