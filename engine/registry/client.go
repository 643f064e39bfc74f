// Package registry speaks to container registries, by the OCI distribution
// spec and Docker's: manifests and ranges of blobs, with authentication,
// redirects, limits and errors understood.
//
// What registries do beyond the specification, and the rule followed here, has
// a number from G1 on; tests name them.
package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"drayage/engine/event"
	"drayage/engine/reference"
	"drayage/engine/retry"

	"golang.org/x/time/rate"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// Options say how a Client speaks. The zero value is anonymous and careful.
type Options struct {
	// Credentials are asked for when a registry wants some; nil means none.
	Credentials *Credentials
	// PlainHTTP reaches registries without TLS, except Docker Hub. Those on
	// the loopback interface are reached so in any case, if they speak it.
	PlainHTTP bool
	// TLS is used for every connection; nil means the system's authorities.
	TLS *tls.Config
	// PerHost bounds connections to one host; 0 means 8.
	PerHost int
	// UserAgent is sent with every request.
	UserAgent string
	// Retry bounds the tries to establish a request.
	Retry retry.Policy
	// Connect is how long a connection may take to be made, and as long again
	// its TLS handshake; 0 means 15 seconds.
	Connect time.Duration
	// Stall is how long a body may be silent; 0 means 15 seconds.
	Stall time.Duration
	// FirstByte is how long an answer may take to begin; 0 means 2 minutes,
	// since some caches answer only when they have the whole blob (G54). A host
	// that was seen to answer fast gets less, and more again when that failed.
	FirstByte time.Duration
	// Mirrors are asked before the registries, in their order.
	Mirrors []Mirror
	// Limit, if not nil, is waited for with every byte of every body.
	Limit *rate.Limiter
	// Observer is told of warnings, retries and requests; nil means nobody.
	Observer event.Observer
	// TraceHeaders adds headers to the Requested events, less their secrets.
	TraceHeaders bool
	// HTTP2 offers HTTP/2 to TLS servers. Then PerHost bounds connections, of which
	// one carries any number of requests. It is for measuring what that makes of it.
	HTTP2 bool
	// Network is "tcp4" or "tcp6" for addresses of one family only; "" is both.
	Network string
	// Tokens, if not nil, is told of each token that a token server gives out.
	Tokens func(Token)
}

// Client speaks to any number of registries. Its methods may be called from
// several goroutines.
type Client struct {
	opts Options
	base *transports
	http *http.Client

	pulse  *retry.Pulse
	habits *habits

	mu    sync.Mutex
	hosts map[string]*host
}

// host is what is known of one registry.
type host struct {
	name      string // with port, as in URLs
	base      string // the path below which repositories are: /v2
	header    http.Header
	stored    *auth.Client
	anonymous *auth.Client

	mu        sync.Mutex
	scheme    string // "http" or "https"; "" while that isn't known
	usedCreds bool   // credentials were found for it
	// Repositories that refuse the stored credentials and work without. Others
	// of the same registry may need them.
	anonymously map[string]bool
	downUntil   time.Time // for a mirror
}

// New makes a Client. Close it when done.
func New(opts Options) *Client {
	if opts.PerHost <= 0 {
		opts.PerHost = 8
	}
	if opts.Connect <= 0 {
		opts.Connect = 15 * time.Second
	}
	if opts.Stall <= 0 {
		opts.Stall = 15 * time.Second
	}
	if opts.FirstByte <= 0 {
		opts.FirstByte = 2 * time.Minute
	}
	if opts.Observer == nil {
		opts.Observer = event.Observers{}
	}
	c := &Client{opts: opts, hosts: make(map[string]*host), pulse: new(retry.Pulse)}
	c.habits = newHabits(opts, c.pulse)
	// HTTP/1.1 only, unless asked for: the streams of an HTTP/2 connection share one
	// congestion window, and some registries break HTTP/2 under load (G40, G41).
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(opts.HTTP2)
	c.base = newTransports(&http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         dialer(opts.Connect, opts.Network),
		TLSClientConfig:     opts.TLS,
		TLSHandshakeTimeout: opts.Connect,
		MaxIdleConnsPerHost: opts.PerHost,
		MaxConnsPerHost:     opts.PerHost,
		IdleConnTimeout:     90 * time.Second,
		DisableCompression:  true,
		Protocols:           &protocols,
	}, opts.Mirrors)
	c.http = &http.Client{Transport: newRetrying(c), CheckRedirect: checkRedirect}
	if opts.Tokens != nil {
		c.http.Transport = tokenWatch{c.http.Transport, opts.Tokens}
	}
	return c
}

// Pulse tells when something last arrived: a manifest, or bytes of a blob,
// which who reads the blob has to say.
func (c *Client) Pulse() *retry.Pulse { return c.pulse }

// Close closes idle connections.
func (c *Client) Close() { c.base.CloseIdleConnections() }

func (c *Client) host(ref reference.Image) *host {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := ref.Host()
	h := c.hosts[name]
	if h != nil {
		return h
	}
	h = &host{name: name, base: "/v2", scheme: "https", anonymously: make(map[string]bool)}
	local := isLoopback(name)
	switch {
	case local:
		h.scheme = "" // found out by the first request
	case c.opts.PlainHTTP && ref.Registry() != "docker.io":
		h.scheme = ""
	}
	c.addAuth(h, ref.Registry(), local, c.opts.Credentials)
	c.hosts[name] = h
	return h
}

// addAuth gives a host what authorization it takes, by the name that credentials
// are stored under.
func (c *Client) addAuth(h *host, registry string, local bool, from *Credentials) {
	newAuth := func(credential auth.CredentialFunc) *auth.Client {
		client := &auth.Client{
			Client:     c.http,
			Header:     http.Header{"User-Agent": {c.opts.UserAgent}},
			Credential: credential,
			Cache:      auth.NewCache(),
			ClientID:   "drayage",
		}
		if local {
			client.BlockedRealmPrefixes = []netip.Prefix{} // its token server may be on this machine too
		}
		return client
	}
	h.anonymous = newAuth(nil)
	h.stored = newAuth(func(ctx context.Context, _ string) (auth.Credential, error) {
		cred, err := from.get(ctx, registry)
		if err == nil && cred != auth.EmptyCredential {
			h.mu.Lock()
			h.usedCreds = true
			h.mu.Unlock()
		}
		return cred, err
	})
}

// isLoopback reports whether a registry is on this machine: localhost,
// 127.0.0.0/8 or ::1, as Docker has it.
func isLoopback(hostport string) bool {
	name := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		name = h
	}
	name = strings.Trim(name, "[]")
	if name == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(name)
	return err == nil && addr.IsLoopback()
}

// send sends a request for something of a repository. Its errors are of
// this package, and so are those of the response's status. want are the statuses that count as success.
func (c *Client) send(ctx context.Context, method string, at site, path string, header http.Header, want ...int) (*http.Response, error) {
	resp, err := c.ask(ctx, method, at, path, header)
	if err != nil {
		return nil, err
	}
	for _, status := range want {
		if resp.StatusCode == status {
			return resp, nil
		}
	}
	return nil, responseError(resp, at.host.name, quotaUntil(resp))
}

// ask is send without a look at the status.
func (c *Client) ask(ctx context.Context, method string, at site, path string, header http.Header) (*http.Response, error) {
	return c.authorized(scoped(ctx, at), at, method, path, header)
}

// askURL is ask for a URL of the registry that it has redirected to.
func (c *Client) askURL(ctx context.Context, at site, url string, header http.Header) (*http.Response, error) {
	return c.once(scoped(ctx, at), c.client(at.host, at.repo), http.MethodGet, url, header)
}

func scoped(ctx context.Context, at site) context.Context {
	return auth.AppendScopesForHost(ctx, at.host.name, auth.ScopeRepository(at.repo, auth.ActionPull))
}

// client is what a repository is asked with: stored credentials, or none.
func (c *Client) client(h *host, repo string) *auth.Client {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.anonymously[repo] || c.opts.Credentials == nil {
		return h.anonymous
	}
	return h.stored
}

func quotaUntil(resp *http.Response) time.Time {
	if wait, ok := retry.After(resp.Header.Get("Retry-After"), time.Now()); ok {
		return time.Now().Add(wait)
	}
	return time.Time{}
}

// authorized sends a request with what authorization it takes. Stored
// credentials that are refused are left out once: a stale login should not
// stand in the way of a public image (G32).
func (c *Client) authorized(ctx context.Context, at site, method, path string, header http.Header) (*http.Response, error) {
	h, repo := at.host, at.repo
	path = at.path(path)
	if len(h.header) > 0 {
		header = header.Clone()
		maps.Copy(header, h.header)
	}
	client := c.client(h, repo)
	resp, err := c.over(ctx, h, client, method, path, header)

	h.mu.Lock()
	tryAnonymous := client == h.stored && h.usedCreds && c.opts.Credentials.Stored() && h.refused(resp, err)
	h.mu.Unlock()
	if !tryAnonymous {
		return resp, err
	}
	again, errAgain := c.over(ctx, h, h.anonymous, method, path, header)
	if errAgain != nil || h.refused(again, nil) {
		if again != nil {
			again.Body.Close()
		}
		return resp, err
	}
	if resp != nil {
		resp.Body.Close()
	}
	h.mu.Lock()
	first := len(h.anonymously) == 0
	h.anonymously[repo] = true
	h.mu.Unlock()
	if first {
		c.opts.Observer.Observe(event.Warned{Message: fmt.Sprintf(
			"%s refuses the stored credentials for %s; going on without. Log in again, or leave them out with -A", h.name, repo)})
	}
	return again, nil
}

// refused reports whether the registry itself, and not a host that it
// redirects to, refuses who asks, and not how often.
func (h *host) refused(resp *http.Response, err error) bool {
	if err != nil {
		return errors.Is(err, ErrDenied)
	}
	return (resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden) &&
		resp.Request.URL.Host == h.name && !throttled(resp.StatusCode, bufferError(resp))
}

// over sends a request by HTTPS or, where that is allowed and the host speaks
// it, by plain HTTP. While it isn't known which, plain HTTP is tried first,
// since a TLS server says at once and clearly that it got plain HTTP, while the
// reverse may hang. Requests that come meanwhile find out by themselves: if
// they waited, one slow answer would hold them all up.
func (c *Client) over(ctx context.Context, h *host, client *auth.Client, method, path string, header http.Header) (*http.Response, error) {
	if scheme := h.spoken(); scheme != "" {
		return c.once(ctx, client, method, scheme+"://"+h.name+path, header)
	}
	scheme := "http"
	resp, err := c.once(ctx, client, method, "http://"+h.name+path, header)
	if wantsTLS(resp, err) {
		if resp != nil {
			resp.Body.Close()
		}
		scheme = "https"
		resp, err = c.once(ctx, client, method, "https://"+h.name+path, header)
	}
	if err == nil {
		h.mu.Lock()
		h.scheme = scheme
		h.mu.Unlock()
	}
	return resp, err
}

func (h *host) spoken() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.scheme
}

// wantsTLS reports whether a plain HTTP request reached a TLS server: servers
// say so in an answer of status 400, whose text a HEAD doesn't show, or send a
// TLS alert.
func wantsTLS(resp *http.Response, err error) bool {
	if err != nil {
		return strings.Contains(err.Error(), `malformed HTTP response "\x15`)
	}
	if resp.StatusCode != http.StatusBadRequest {
		return false
	}
	text := string(bufferError(resp))
	return resp.Request.Method == http.MethodHead || strings.Contains(text, "HTTP request to an HTTPS server") ||
		strings.Contains(text, "HTTP request was sent to HTTPS port")
}

func (c *Client) once(ctx context.Context, client *auth.Client, method, url string, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, &Error{Method: method, URL: oneLine(url), Detail: bareError(err), kind: ErrInvalid}
	}
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, requestError(ctx, req, err)
	}
	return resp, nil
}

// requestError makes the error of a request that got no response.
func requestError(ctx context.Context, req *http.Request, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	e := &Error{Method: req.Method, URL: bareURL(req.URL), Detail: bareError(err), kind: ErrUnavailable, passing: true}
	var token *errcode.ErrorResponse
	var local *CredentialsError
	switch {
	case errors.As(err, &local):
		return local
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		e.Detail, e.Hint, e.kind = "it wants a user name and password, and there are none for it", "docker login, or -a", ErrDenied
	case errors.As(err, &token):
		e.Status = token.StatusCode
		e.Detail = "no token from " + bareURL(token.URL)
		if len(token.Errors) > 0 {
			e.Detail += ": " + oneLine(token.Errors.Error())
		}
		switch {
		case token.StatusCode == http.StatusTooManyRequests:
			e.kind = ErrQuota
		case token.StatusCode < 500:
			e.kind = ErrDenied
			e.Hint = "the credentials are wrong, or not for this repository"
		}
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		e.Hint, e.kind = "the registry speaks plain HTTP: -I allows that", ErrInvalid
	case errors.Is(err, errRedirect):
		e.kind = ErrInvalid
	case errors.Is(err, errHeldBack):
		e.kind = ErrQuota
		return e
	case isCertificate(err):
		e.Hint, e.kind = "--ca-cert names an authority of your own", ErrInvalid
	}
	e.passing = e.passing && errors.Is(e.kind, ErrUnavailable) && retry.Error(err)
	return e
}

func isCertificate(err error) bool {
	var verify *tls.CertificateVerificationError
	return errors.As(err, &verify)
}
