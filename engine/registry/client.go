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
	"io"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"drayage/engine/cpulimit"
	"drayage/engine/credential"
	"drayage/engine/event"
	"drayage/engine/internal/limits"
	"drayage/engine/internal/retry"
	"drayage/engine/printable"
	"drayage/engine/reference"
	"drayage/engine/registry/hosts"
	"drayage/engine/registry/internal/failure"
	"drayage/engine/registry/internal/latency"
	"drayage/engine/registry/internal/notice"
	"drayage/engine/registry/internal/origin"
	"drayage/engine/registry/internal/probing"
	"drayage/engine/registry/internal/proxies"
	"drayage/engine/registry/internal/reach"
	"drayage/engine/registry/internal/redact"
	"drayage/engine/registry/internal/redirect"
	"drayage/engine/registry/internal/response"
	"drayage/engine/registry/internal/retrying"

	"golang.org/x/time/rate"
)

// Options say how a Client speaks. The zero value is anonymous and careful.
type Options struct {
	// Credentials are asked for when a registry wants some; nil means none.
	Credentials *credential.Set
	// PlainHTTP reaches registries without TLS that don't speak it, except Docker
	// Hub. Those on the loopback interface are reached so in any case.
	PlainHTTP bool
	// TLS is used for every connection; nil means the system's authorities.
	TLS *tls.Config
	// PerHost bounds connections to one host; 0 means 64.
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
	Mirrors []hosts.Mirror
	// Limit, if not nil, is waited for with every byte of every body.
	Limit *rate.Limiter
	// Observer is told of warnings, retries and requests; nil means nobody.
	Observer event.Observer
	// NeverWait sends requests at once, also to a host that has asked to be left alone: for
	// measuring what it does then.
	NeverWait bool
	// TraceHeaders adds headers to the Requested events, less their secrets.
	TraceHeaders bool
	// HTTP2 offers HTTP/2 to TLS servers. Then PerHost bounds connections, of which
	// one carries any number of requests. It is for measuring what that makes of it.
	HTTP2 bool
	// Network is "tcp4" or "tcp6" for addresses of one family only; "" is both.
	Network string
	// Tokens, if not nil, is told of each token that a token server gives out.
	Tokens func(Token)
	// Allowed are addresses to which registries may lead that are elsewhere themselves: of
	// private networks or this machine, as ParseAllowed reads them.
	Allowed []netip.Prefix
	// Work, if not nil, bounds how many large answers are decoded at once.
	Work *cpulimit.Limit
	// Grace is how long the body of an answer that is no blob may take before it is held against
	// limits.AnswerRate; 0 means limits.AnswerGrace.
	Grace time.Duration
}

// Client speaks to any number of registries. Its methods may be called from
// several goroutines.
type Client struct {
	opts Options
	base *reach.Transports
	http *http.Client

	activity  *retry.Activity
	latencies *latency.History
	secrets   *printable.Secrets
	notices   *notice.Notices

	stop    chan struct{} // ends what Close waits for
	keeping sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	hosts     map[string]*host
	strangers map[string]*host // that registries have redirected to, by scheme and host
}

// host is what is known of one registry.
type host struct {
	name        string // with port, as in URLs
	registry    string // as credentials are stored for
	base        string // the path below which repositories are: /v2
	header      http.Header
	credentials bool // there may be some for it

	location reach.Location

	mu     sync.Mutex
	scheme string // "http" or "https"; "" while that isn't known
	addr   string // where it is when it has redirected to HTTPS at another port; "" else
	basic  bool   // it wants a name and password with each request
	grants map[grantKey]*grant
	// Repositories that refuse the stored credentials and work without. Others
	// of the same registry may need them.
	anonymously map[string]bool
	downUntil   time.Time // for a mirror
	hint        nsHint    // what it makes of the parameter ns
	// It speaks plain HTTP, beside TLS with a certificate that can't be verified: no password and
	// no header of a hosts.toml goes there.
	unverified bool
}

// under is a repository with the path that a mirror has before it: what credentials and
// tokens are for.
func (h *host) under(repo string) string {
	prefix := strings.Trim(h.base, "/")
	if rest, ok := strings.CutPrefix(prefix, "v2"); ok && (rest == "" || rest[0] == '/') {
		prefix = strings.Trim(rest, "/")
	}
	if prefix == "" {
		return repo
	}
	return prefix + "/" + repo
}

// is reports whether a URL is of the registry itself.
func (h *host) is(u *url.URL) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.EqualFold(u.Host, h.name) || h.addr != "" && strings.EqualFold(u.Host, h.addr)
}

// Has is is, whether a URL says its scheme's port or not. With Location, it makes a host a
// reach.Named.
func (h *host) Has(u *url.URL) bool {
	if h.is(u) {
		return true
	}
	named := &url.URL{Scheme: u.Scheme, Host: h.name}
	return strings.EqualFold(named.Hostname(), u.Hostname()) && origin.Port(named) == origin.Port(u)
}

// Location is where the host is, as far as its answers have shown.
func (h *host) Location() *reach.Location { return &h.location }

// at is a URL of the host.
func (h *host) at(scheme, path string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.addr != "" {
		return scheme + "://" + h.addr + path
	}
	return scheme + "://" + h.name + path
}

// New makes a Client. Close it when done.
func New(opts Options) *Client {
	if opts.PerHost <= 0 {
		opts.PerHost = 64
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
	if opts.Grace <= 0 {
		opts.Grace = limits.AnswerGrace
	}
	if opts.Observer == nil {
		opts.Observer = event.Observers{}
	}
	c := &Client{
		opts: opts, hosts: make(map[string]*host), strangers: make(map[string]*host),
		activity: new(retry.Activity), secrets: new(printable.Secrets), stop: make(chan struct{}),
	}
	c.notices = notice.New(opts.Observer, c.secrets)
	c.secrets.Add(proxies.Secrets()...)
	// Half of all patience at most: a dead connection should leave time for another one.
	c.latencies = latency.New(min(opts.FirstByte, opts.Retry.PatienceOrDefault()/2), opts.Stall, c.activity)
	c.keeping.Go(func() { c.activity.Keep(c.stop) })
	opts.Credentials.Use(credential.Options{
		Deadline: opts.Retry.PatienceOrDefault(),
		Warn:     func(message string) { c.opts.Observer.Observe(event.Warned{Message: c.secrets.Hide(message)}) },
	})
	// HTTP/1.1 only, unless asked for: the streams of an HTTP/2 connection share one
	// congestion window, and some registries break HTTP/2 under load (G40, G41).
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(opts.HTTP2)
	own := make(map[string]*tls.Config)
	for _, m := range opts.Mirrors {
		if m.TLS != nil && own[m.URL.Host] == nil {
			own[m.URL.Host] = m.TLS
		}
	}
	c.base = reach.New(reach.Options{Connect: opts.Connect, Network: opts.Network, Allowed: opts.Allowed, Own: own}, &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSClientConfig:     opts.TLS,
		TLSHandshakeTimeout: opts.Connect,
		MaxIdleConnsPerHost: opts.PerHost,
		MaxConnsPerHost:     opts.PerHost,
		IdleConnTimeout:     90 * time.Second,
		DisableCompression:  true,
		Protocols:           &protocols,

		OnProxyConnectResponse: proxies.CheckConnect,
		MaxResponseHeaderBytes: limits.HeaderBytes,
	})
	c.http = &http.Client{Transport: c.transport(), CheckRedirect: redirect.Check}
	return c
}

// Activity records when something last arrived: a manifest, or bytes of a blob,
// which who reads the blob has to say.
func (c *Client) Activity() *retry.Activity { return c.activity }

// Close closes idle connections.
func (c *Client) Close() {
	c.base.CloseIdleConnections()
	c.mu.Lock()
	again := c.closed
	c.closed = true
	c.mu.Unlock()
	if !again {
		close(c.stop)
	}
	c.keeping.Wait()
}

func (c *Client) host(ref reference.Image) *host {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := ref.Host()
	h := c.hosts[name]
	if h != nil {
		return h
	}
	h = newHost(name, ref.Registry(), "/v2", "https", c.opts.Credentials != nil)
	if origin.IsLoopback(name) || c.opts.PlainHTTP && ref.Registry() != "docker.io" {
		h.scheme = "" // found out by the first request
	}
	c.hosts[name] = h
	return h
}

// newHost makes a host. Credentials for it are stored under the registry's name.
func newHost(name, registry, base, scheme string, credentials bool) *host {
	return &host{name: name, registry: registry, base: base, scheme: scheme, credentials: credentials,
		anonymously: make(map[string]bool), grants: make(map[grantKey]*grant)}
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
	return nil, c.refusal(resp, at, path)
}

// refusal makes the error of an answer that is not what was wanted of a repository. Where a
// registry redirects to another for manifests and lists, that speaks for it; where it redirects
// to a storage for blobs, that knows nothing of repositories.
func (c *Client) refusal(resp *http.Response, at site, path string) *Error {
	h := at.host
	name := resp.Request.URL.Host
	if strings.HasPrefix(path, "/blobs/") && !h.is(resp.Request.URL) {
		name = h.name
	}
	e := c.responseError(resp, name, quotaUntil(resp))
	h.grant(at.repo, h.credentials && !h.worksWithout(at.repo)).explain(e)
	return e
}

// ask is send without a look at the status.
func (c *Client) ask(ctx context.Context, method string, at site, path string, header http.Header) (*http.Response, error) {
	return c.authorized(ctx, at, method, path, header)
}

// askURL is ask for a URL of the registry that it has redirected to.
func (c *Client) askURL(ctx context.Context, at site, url string, header http.Header) (*http.Response, error) {
	return c.once(ctx, at.host.grant(at.repo, at.host.credentials && !at.host.worksWithout(at.repo)), http.MethodGet, url, at.host.dressed(header, url))
}

func quotaUntil(resp *http.Response) time.Time {
	if wait, ok := retry.After(resp.Header.Get("Retry-After"), time.Now()); ok {
		return time.Now().Add(wait)
	}
	return time.Time{}
}

// nsHint is what a mirror makes of the parameter ns, which tells it whose images are meant.
type nsHint int

const (
	nsUntried nsHint = iota
	nsTaken
	nsRefused // it answers errors because of it
)

// dressed are headers with those that a hosts.toml has for the host. They may be keys, and
// stay with the host and port that they were written for, wherever the registry has moved to.
func (h *host) dressed(header http.Header, place string) http.Header {
	if len(h.header) == 0 || !h.isAt(place) || h.isUnverified() {
		return header
	}
	out := make(http.Header)
	maps.Copy(out, header)
	maps.Copy(out, h.header)
	return out
}

// isAt reports whether a URL is of the host and port that the host is known by.
func (h *host) isAt(place string) bool {
	u, err := url.Parse(place)
	return err == nil && strings.EqualFold(u.Host, h.name)
}

// hinted sends a request with the parameter that tells a mirror whose images are meant. That
// is a hint: a mirror that refuses requests because of it is asked without, from then on.
func (c *Client) hinted(ctx context.Context, at site, g *grant, method, below string, header http.Header) (*http.Response, error) {
	h := at.host
	if at.ns == "" {
		return c.over(ctx, h, g, method, at.path(below, ""), header)
	}
	h.mu.Lock()
	known := h.hint
	h.mu.Unlock()
	if known == nsRefused {
		return c.over(ctx, h, g, method, at.path(below, ""), header)
	}
	resp, err := c.over(ctx, h, g, method, at.path(below, at.ns), header)
	if err != nil {
		return resp, err
	}
	is := known
	switch status := resp.StatusCode; {
	case status < 400:
		is = nsTaken
	case status == http.StatusBadRequest, known == nsUntried && odd(status):
		again, err := c.over(ctx, h, g, method, at.path(below, ""), header)
		if err != nil || again.StatusCode >= 400 {
			closeBody(again)
			return resp, nil
		}
		closeBody(resp)
		resp, is = again, nsRefused
	}
	h.mu.Lock()
	h.hint = is
	h.mu.Unlock()
	return resp, nil
}

// odd reports whether a status may come from a parameter that a server doesn't expect.
func odd(status int) bool {
	switch status {
	case http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusUnprocessableEntity, http.StatusNotImplemented:
		return true
	}
	return false
}

// over sends a request by HTTPS or, where that is allowed and HTTPS can't be had, by plain HTTP.
// While it isn't known which, HTTPS is tried first: a server that asks for a name and password by
// plain HTTP gets them only when there is no TLS to have. Where there is, with a certificate that
// can't be verified, plain HTTP is asked without credentials: the certificate may be the
// registry's own and only not be trusted yet, and a password must not be readable on the way for
// that. Requests that come meanwhile find out by themselves: if they waited, one slow answer would
// hold them all up.
func (c *Client) over(ctx context.Context, h *host, g *grant, method, path string, header http.Header) (*http.Response, error) {
	by := func(ctx context.Context, scheme string) (*http.Response, error) {
		place := h.at(scheme, path)
		return c.once(ctx, g, method, place, h.dressed(header, place))
	}
	if h.isUnverified() { // since who chose the grant has looked, perhaps
		g = h.grant(g.repo, false)
	}
	switch h.spoken() {
	case "https":
		return by(ctx, "https")
	case "http":
		return c.upgrading(ctx, h, by)
	}
	asking, p := probing.Start(retrying.Unsurely(ctx))
	resp, err := by(asking, "https")
	if err == nil {
		h.speaks("https")
		p.Until(resp)
		return resp, nil
	}
	p.End()
	switch {
	case ctx.Err() != nil:
		return nil, err
	case p.SpokeTLS():
		h.speaks("https")
		if maySucceed(err) && !retrying.TriesOf(ctx).Once {
			return by(ctx, "https")
		}
		return nil, err
	case causedBy(err, failure.IsCertificate):
		return c.unverified(ctx, h, g, method, path, header, err)
	case !maySpeakPlain(err):
		return nil, err
	}
	noTLS := err
	resp, err = c.upgrading(ctx, h, by)
	if wantsTLS(resp, err) { // it was too slow to say so
		tlsResp, tlsErr := by(ctx, "https")
		if tlsErr != nil && resp != nil && speaksPlain(tlsErr) {
			h.speaks("http")
			return resp, nil // what it answered was no word about TLS
		}
		closeBody(resp)
		if tlsErr == nil {
			h.speaks("https")
		}
		return tlsResp, tlsErr
	}
	if err == nil && h.spoken() == "" {
		h.speaks("http")
	}
	return resp, bothWays(noTLS, err)
}

// bothWays adds to an error of plain HTTP, where nobody was reached, how the server has ended TLS.
func bothWays(withTLS, plain error) error {
	var first, second *Error
	if errors.As(withTLS, &first) && errors.As(plain, &second) && causedBy(withTLS, failure.IsAlert) && causedBy(plain, reach.IsUnreachable) {
		second.Detail += "; by HTTPS: " + first.Detail
	}
	return plain
}

// unverified asks by plain HTTP, without credentials, a host whose certificate can't be verified.
// That error stands unless a registry answers.
func (c *Client) unverified(ctx context.Context, h *host, g *grant, method, path string, header http.Header, failed error) (*http.Response, error) {
	resp, err := c.once(redirect.KeepingUpgrades(retrying.Unsurely(ctx)), h.grant(g.repo, false), method, h.at("http", path), header)
	denied := errors.Is(err, ErrDenied)
	if err == nil {
		switch {
		case isAnswer(resp):
			h.mu.Lock()
			h.scheme, h.unverified = "http", true
			h.mu.Unlock()
			return resp, nil
		case method == http.MethodHead && resp.StatusCode >= http.StatusBadRequest:
			return resp, nil // which says nothing; GET will tell
		}
		denied = isDenial(resp.StatusCode)
		closeBody(resp)
	}
	var e *Error
	if ctx.Err() == nil && denied && errors.As(failed, &e) {
		e.Hint += unverifiedHint
	}
	return nil, failed
}

const unverifiedHint = "; it requires a login by plain HTTP, where no password is sent while its certificate can't be verified"

// isUnverified reports whether a host speaks plain HTTP beside TLS that can't be verified.
func (h *host) isUnverified() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.unverified
}

// isAnswer reports whether an answer to a request by plain HTTP is one of a registry: not a page,
// an error of some other server, or the way to the same by HTTPS.
func isAnswer(resp *http.Response) bool {
	kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	switch to, err := resp.Location(); {
	case redirect.Is(resp):
		return err == nil && !redirect.IsUpgrade(resp.StatusCode, resp.Request.URL, to)
	case resp.StatusCode < http.StatusBadRequest:
		return !strings.EqualFold(strings.TrimSpace(kind), "text/html")
	case isDenial(resp.StatusCode):
		return false
	}
	return resp.Header.Get("Docker-Distribution-Api-Version") != "" || len(response.ParseErrors(response.Buffer(resp)).Errors) > 0
}

// isDenial reports whether a status says that a login is required, or another one.
func isDenial(status int) bool {
	return status == http.StatusUnauthorized || status == http.StatusForbidden
}

// upgrading sends a request by plain HTTP, and by HTTPS where the answer leads there.
func (c *Client) upgrading(ctx context.Context, h *host, by func(ctx context.Context, scheme string) (*http.Response, error)) (*http.Response, error) {
	resp, err := by(redirect.KeepingUpgrades(ctx), "http")
	if err == nil && c.upgraded(h, resp) {
		resp.Body.Close()
		return by(ctx, "https")
	}
	return resp, err
}

// maySpeakPlain reports whether an error of trying TLS leaves it open that the registry speaks
// plain HTTP: nobody is there, or who is answers something else, hangs up, says nothing, or ends
// the handshake, as servers do that have TLS for other names. One that wants a certificate of ours
// has TLS for us, and so has one whose certificate can't be verified.
func maySpeakPlain(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return errors.Is(err, probing.ErrNoTLS)
	}
	return e.plain || e.proxy != "" || causedBy(err, func(cause error) bool {
		return reach.IsUnreachable(cause) || failure.IsAlert(cause) && !retry.CertificateRefused(cause) || failure.IsHandshake(cause) ||
			failure.IsAny(cause, io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE)
	})
}

// causedBy reports whether an error is of a request that got no response for some cause.
func causedBy(err error, is func(cause error) bool) bool {
	var e *Error
	return errors.As(err, &e) && e.cause != nil && is(e.cause)
}

// speaks remembers the scheme that a host answers to.
func (h *host) speaks(scheme string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.scheme = scheme
}

// maySucceed reports whether a request that got no answer may get one by another try.
func maySucceed(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == 0 && e.passing
}

// upgraded reports whether a registry that was asked by plain HTTP leads to the same by
// HTTPS, and remembers that.
func (c *Client) upgraded(h *host, resp *http.Response) bool {
	if !redirect.Is(resp) {
		return false
	}
	to, err := resp.Location()
	if err != nil || !redirect.IsUpgrade(resp.StatusCode, resp.Request.URL, to) {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.scheme = "https"
	if to.Port() != "" && !strings.EqualFold(to.Host, h.name) && !strings.EqualFold(to.Host, h.addr) {
		h.addr = to.Host
		h.basic = false // what the first port asked for is for that one
		for _, g := range h.grants {
			g.forget()
		}
	}
	return true
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
		var e *Error
		return errors.As(err, &e) && e.alert
	}
	if resp.StatusCode != http.StatusBadRequest {
		return false
	}
	text := string(response.Buffer(resp))
	return resp.Request.Method == http.MethodHead || strings.Contains(text, "HTTP request to an HTTPS server") ||
		strings.Contains(text, "HTTP request was sent to HTTPS port")
}

// speaksPlain reports whether an error says that a server speaks plain HTTP.
func speaksPlain(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.plain
}

// requestError makes the error of a request that got no response.
func (c *Client) requestError(ctx context.Context, req *http.Request, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	e := &Error{Method: req.Method, URL: c.secrets.Hide(redact.URL(req.URL)), Detail: c.bareError(err), kind: ErrUnavailable, passing: true, cause: err}
	var refused *proxies.Error
	var led *reach.Error
	switch text := err.Error(); {
	case errors.As(err, &refused):
		e.proxy = refused.Proxy
		if refused.IsLasting() {
			e.kind = ErrDenied
			e.Hint = refused.Hint()
		}
	case strings.Contains(text, "socks connect") && strings.Contains(text, "authentication failed"):
		e.kind = ErrDenied
		e.proxy = "SOCKS"
		e.Hint = "the proxy rejected the user name and password in HTTPS_PROXY or HTTP_PROXY"
	case strings.Contains(text, "server gave HTTP response to HTTPS client"):
		e.Hint, e.kind, e.plain = "the registry speaks plain HTTP; allow it with -I", errInvalid, true
	case strings.Contains(text, `malformed HTTP response "\x15`):
		e.kind, e.alert = errInvalid, true
	case errors.As(err, &led):
		e.Detail, e.Hint, e.kind = led.Error(), led.Hint(), errInvalid
	case errors.Is(err, redirect.ErrRefused):
		e.kind = errInvalid
	case failure.IsLargeHeader(err):
		e.Detail, e.kind = fmt.Sprintf("response header larger than %d KiB", limits.HeaderBytes>>10), errInvalid
	case errors.Is(err, retrying.ErrHeldBack):
		e.kind = ErrQuota
		return e
	case failure.IsCertificate(err):
		e.Hint, e.kind = "trust its authority with --ca-cert FILE", errInvalid
	case retry.CertificateRefused(err):
		e.Hint, e.kind = "the server requires a TLS client certificate that it trusts; use --cert and --key", ErrDenied
	}
	e.passing = e.passing && errors.Is(e.kind, ErrUnavailable) && retry.Error(err)
	return e
}
