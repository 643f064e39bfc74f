package registry

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"drayage/engine/reference"
	"drayage/engine/registry/internal/proxies"
	"drayage/engine/registry/internal/reach"
	"drayage/engine/registry/internal/redact"
	"drayage/engine/registry/internal/redirect"
	"drayage/engine/registry/internal/response"
	"drayage/engine/registry/internal/retrying"
	"drayage/engine/registry/internal/wire"
)

// Ask sends one request for something of a reference's repository to its registry:
// below is /manifests/TAG, /blobs/DIGEST and the like. A GET of a blob is not
// followed where it is redirected. The caller judges the answer, and closes its
// body.
func (c *Client) Ask(ctx context.Context, method string, ref reference.Image, below string, header http.Header) (*http.Response, error) {
	at := c.home(ref)
	resp, err := c.ask(redirect.KeepingBlobs(retrying.WithTries(ctx, retrying.Tries{Host: at.host.name, Once: true})), method, at, below, header)
	if err == nil {
		response.AsWhole(resp.Body)
	}
	return resp, err
}

// Bare is Ask without any credentials, and without asking for some.
func (c *Client) Bare(ctx context.Context, method string, ref reference.Image, below string, header http.Header) (*http.Response, error) {
	at := c.home(ref)
	scheme := at.host.spoken()
	if scheme == "" {
		scheme = "https"
	}
	u, err := url.Parse(at.host.at(scheme, at.path(below, "")))
	if err != nil {
		return nil, &Error{Method: method, URL: at.host.name, Detail: "the URL is malformed", kind: errInvalid}
	}
	return c.Elsewhere(ctx, method, ref, u, header)
}

// Challenges are the schemes of authentication that an answer asks for, in lower case,
// with the realm of the first.
func Challenges(h http.Header) (schemes []string, realm string) {
	for _, value := range h.Values("WWW-Authenticate") {
		for _, c := range wire.ParseChallenges(value) {
			schemes = append(schemes, c.Scheme)
			if realm == "" {
				realm = c.Get("realm")
			}
		}
	}
	return schemes, realm
}

// Token is what a token server gave out, without the token.
type Token struct {
	Host string
	// Scopes are what was asked for, and Granted what a token that tells of it (a JWT
	// as the distribution project has them) is good for; nil when it doesn't tell.
	Scopes  []string
	Granted []string
	Life    time.Duration // 0 when the server doesn't say: then it is 60 s, by the specification
}

// Elsewhere sends one request to a URL that a reference's registry has redirected to, without
// credentials.
func (c *Client) Elsewhere(ctx context.Context, method string, ref reference.Image, u *url.URL, header http.Header) (*http.Response, error) {
	ctx = reach.WithTrail(ctx, reach.NewTrail(c.home(ref).host))
	req, err := http.NewRequestWithContext(retrying.WithTries(ctx, retrying.Tries{Host: u.Host, Once: true}), method, u.String(), nil)
	if err != nil {
		return nil, &Error{Method: method, URL: redact.URL(u), Detail: "the URL is malformed", kind: errInvalid}
	}
	maps.Copy(req.Header, header)
	req.Header.Set("User-Agent", c.opts.UserAgent)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.requestError(ctx, req, err)
	}
	response.AsWhole(resp.Body)
	return resp, nil
}

// Follow takes over from another client where a reference's registry is, which says where it may
// lead.
func (c *Client) Follow(other *Client, ref reference.Image) {
	theirs := other.home(ref).host
	c.home(ref).host.location.Note(theirs.location.Where(), theirs.location.IsProxied())
}

// Expiry is when a signed URL stops working, the zero time when it doesn't tell.
func Expiry(u *url.URL) time.Time { return wire.Expiry(u) }

// CheckProxies checks the proxies that the environment names, of which net/http skips invalid ones.
func CheckProxies() error { return proxies.Check() }

// Dial makes a connection to a host and port that is a reference's registry, or that this has
// led to, as far as it may lead there.
func (c *Client) Dial(ctx context.Context, ref reference.Image, network, address string) (net.Conn, error) {
	at := c.home(ref).host
	if at.Has(&url.URL{Scheme: "https", Host: address}) {
		return c.base.DialAny(ctx, network, address)
	}
	return c.base.Dial(ctx, at.location.Where(), network, address)
}

// ParseAllowed reads a range of addresses that registries elsewhere may lead to: 10.1.0.0/16, or
// one address. Those that nobody may lead to can't be allowed.
func ParseAllowed(s string) (netip.Prefix, error) { return reach.ParseAllowed(s) }

// Learn records how long a host took to begin to send blobs in an earlier run.
func (c *Client) Learn(host string, firstByte time.Duration) { c.latencies.Learn(host, firstByte) }

// Learned is what to pass to Learn in a later run, for each host that has answered.
func (c *Client) Learned() map[string]time.Duration { return c.latencies.Learned() }

// Ping asks a registry whether it lets us in, by the base request of the
// distribution spec ("Determining Support").
func (c *Client) Ping(ctx context.Context, registry string) error {
	ref, err := reference.Parse(registry + "/x")
	if err != nil {
		return err
	}
	h := c.host(ref)
	at := site{host: h}
	resp, err := c.over(ctx, h, h.grant("", h.credentials), http.MethodGet, "/v2/", nil)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		e := c.refusal(resp, at, "/v2/")
		if errors.Is(e, ErrDenied) {
			e.Hint = "incorrect user name or password"
		}
		return e
	}
	return resp.Body.Close()
}
