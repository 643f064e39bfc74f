package registry

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
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
	if len(via) > maxRedirects {
		return fmt.Errorf("%w: more than %d hops", errRedirect, maxRedirects)
	}
	from := via[len(via)-1].URL
	if from.Scheme == "https" && req.URL.Scheme != "https" {
		return fmt.Errorf("%w: from HTTPS to %s at %s", errRedirect, strings.ToUpper(req.URL.Scheme), req.URL.Host)
	}
	if req.URL.Scheme != "http" && req.URL.Scheme != "https" {
		return fmt.Errorf("%w: to the scheme %q", errRedirect, req.URL.Scheme)
	}
	req.Header.Del("Referer")
	for _, hop := range append(via[1:len(via):len(via)], req) {
		if !sameOrigin(via[0].URL, hop.URL) {
			for _, h := range []string{"Authorization", "Cookie", "Cookie2", "Proxy-Authorization", "Www-Authenticate"} {
				req.Header.Del(h)
			}
			break
		}
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
