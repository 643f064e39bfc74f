// Package redirect holds the rules for redirects: which are followed, and what goes along. A
// redirect never leads from HTTPS to plain HTTP, and credentials, cookies and headers of users never
// go to another scheme, host or port than they are for (G1 to G3).
//
// Check is for http.Client; those that follow redirects themselves ask MayFollow, and send Harmless
// headers. Whether a redirect comes back to who asked goes with the request's context, by
// KeepingBlobs and KeepingUpgrades: net/http hands nothing else to CheckRedirect.
package redirect

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"drayage/engine/printable"
	"drayage/engine/registry/internal/origin"
)

// mostHops is how many hops are followed for one request.
const mostHops = 10

// ErrRefused is wrapped when a redirect is not followed.
var ErrRefused = errors.New("redirect refused")

// Harmless are those of a request's headers that may go to any host: none that a user or a
// hosts.toml added, which may be keys.
func Harmless(h http.Header) http.Header {
	out := make(http.Header)
	for _, name := range []string{"Accept", "Accept-Encoding", "Cache-Control", "Range", "User-Agent"} {
		if v := h.Values(name); v != nil {
			out[name] = v
		}
	}
	return out
}

// MayFollow says whether a redirect may be followed, the nth of a request.
func MayFollow(from, to *url.URL, nth int) error {
	if nth > mostHops {
		return fmt.Errorf("%w: more than %d hops", ErrRefused, mostHops)
	}
	if from.Scheme == "https" && to.Scheme != "https" {
		return fmt.Errorf("%w: from HTTPS to %s at %s", ErrRefused, strings.ToUpper(to.Scheme), to.Host)
	}
	if to.Scheme != "http" && to.Scheme != "https" {
		return fmt.Errorf("%w: to unsupported scheme %q", ErrRefused, to.Scheme)
	}
	if origin.IsNowhere(to) {
		return fmt.Errorf("%w: to %q, which is not a valid host and port", ErrRefused, printable.Line(to.Host))
	}
	return nil
}

// Is reports whether a response redirects to another URL.
func Is(resp *http.Response) bool {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return resp.Header.Get("Location") != ""
	}
	return false
}

// IsUpgrade reports whether a redirect leads from plain HTTP to the same thing by HTTPS, of
// the same name: at the default port or at the same one. On this machine, where servers seldom
// have default ports, one at another port is taken for the registry's own HTTPS when the
// redirect says that it has moved there for good. Credentials go there only when it asks for
// them itself, and the headers of a hosts.toml never.
func IsUpgrade(status int, from, to *url.URL) bool {
	if from.Scheme != "http" || to.Scheme != "https" || !strings.EqualFold(from.Hostname(), to.Hostname()) || from.EscapedPath() != to.EscapedPath() {
		return false
	}
	return to.Port() == from.Port() || (from.Port() == "" || from.Port() == "80") && (to.Port() == "" || to.Port() == "443") ||
		origin.IsLoopback(from.Host) && (status == http.StatusMovedPermanently || status == http.StatusPermanentRedirect)
}

// Check is the http.Client's rule for redirects. The registry's
// credentials, and all that tells where we came from, stay with the scheme,
// host and port that they are for: Go keeps them for subdomains and other
// ports (G1 to G3). Once a chain has left, they don't come back.
func Check(req *http.Request, via []*http.Request) error {
	last := via[len(via)-1]
	if keepsBlobs(req.Context()) && via[0].Method == http.MethodGet && strings.Contains(via[0].URL.Path, "/blobs/") {
		return http.ErrUseLastResponse
	}
	if keepsUpgrades(req.Context()) && len(via) == 1 && IsUpgrade(req.Response.StatusCode, last.URL, req.URL) {
		return http.ErrUseLastResponse
	}
	if err := MayFollow(last.URL, req.URL, len(via)); err != nil {
		return err
	}
	if req.Method == http.MethodPost && !origin.Same(via[0].URL, req.URL) {
		return fmt.Errorf("%w: the token server redirected credentials to %s", ErrRefused, req.URL.Host)
	}
	req.Header.Del("Referer")
	for _, hop := range append(via[1:len(via):len(via)], req) {
		if !origin.Same(via[0].URL, hop.URL) {
			req.Header = Harmless(req.Header)
			break
		}
	}
	return nil
}
