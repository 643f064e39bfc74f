package registry

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"drayage/engine/printable"
)

// maxRedirects is how many hops are followed for one request.
const maxRedirects = 10

// errRedirect is wrapped when a redirect is not followed.
var errRedirect = errors.New("redirect refused")

// checkRedirect is the http.Client's rule for redirects. The registry's
// credentials, and all that tells where we came from, stay with the scheme,
// host and port that they are for: Go keeps them for subdomains and other
// ports (G1 to G3). Once a chain has left, they don't come back.
func checkRedirect(req *http.Request, via []*http.Request) error {
	last := via[len(via)-1]
	if byHand(req.Context()) && via[0].Method == http.MethodGet && strings.Contains(via[0].URL.Path, "/blobs/") {
		return http.ErrUseLastResponse
	}
	if upgradesByHand(req.Context()) && len(via) == 1 && isUpgrade(req.Response.StatusCode, last.URL, req.URL) {
		return http.ErrUseLastResponse
	}
	if err := mayFollow(last.URL, req.URL, len(via)); err != nil {
		return err
	}
	if req.Method == http.MethodPost && !sameOrigin(via[0].URL, req.URL) {
		return fmt.Errorf("%w: the token server redirected credentials to %s", errRedirect, req.URL.Host)
	}
	req.Header.Del("Referer")
	for _, hop := range append(via[1:len(via):len(via)], req) {
		if !sameOrigin(via[0].URL, hop.URL) {
			req.Header = harmless(req.Header)
			break
		}
	}
	return nil
}

// harmless are those of a request's headers that may go to any host: none that a user or a
// hosts.toml added, which may be keys.
func harmless(h http.Header) http.Header {
	out := make(http.Header)
	for _, name := range []string{"Accept", "Accept-Encoding", "Cache-Control", "Range", "User-Agent"} {
		if v := h.Values(name); v != nil {
			out[name] = v
		}
	}
	return out
}

// mayFollow says whether a redirect may be followed, the nth of a request.
func mayFollow(from, to *url.URL, nth int) error {
	if nth > maxRedirects {
		return fmt.Errorf("%w: more than %d hops", errRedirect, maxRedirects)
	}
	if from.Scheme == "https" && to.Scheme != "https" {
		return fmt.Errorf("%w: from HTTPS to %s at %s", errRedirect, strings.ToUpper(to.Scheme), to.Host)
	}
	if to.Scheme != "http" && to.Scheme != "https" {
		return fmt.Errorf("%w: to unsupported scheme %q", errRedirect, to.Scheme)
	}
	if nowhere(to) {
		return fmt.Errorf("%w: to %q, which is not a valid host and port", errRedirect, printable.Line(to.Host))
	}
	return nil
}

// sameOrigin reports whether two URLs have the same scheme, host and port.
func sameOrigin(a, b *url.URL) bool {
	return strings.EqualFold(a.Scheme, b.Scheme) && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case strings.EqualFold(u.Scheme, "https"):
		return "443"
	}
	return "80"
}
