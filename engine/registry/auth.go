package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"drayage/engine/credential"
	"drayage/engine/event"
	"drayage/engine/internal/limits"
	"drayage/engine/printable"
	"drayage/engine/registry/internal/bearer"
	"drayage/engine/registry/internal/failure"
	"drayage/engine/registry/internal/origin"
	"drayage/engine/registry/internal/reach"
	"drayage/engine/registry/internal/redact"
	"drayage/engine/registry/internal/redirect"
	"drayage/engine/registry/internal/response"
	"drayage/engine/registry/internal/retrying"
	"drayage/engine/registry/internal/wire"
)

// grant is what one repository of a host is asked with: nothing, until the host wants
// something; then a name and password, or a token. Tokens are filed by the repository that
// they were fetched for and not by their scope, since the scope of a challenge is often wider
// than what was asked, or another.
type grant struct {
	host   *host
	repo   string
	stored bool // credentials are used

	turn chan struct{} // holds one, for who gets a token

	mu        sync.Mutex
	header    string // Authorization, "" for none
	bearer    wire.Challenge
	renew     time.Time // when the token should be replaced; zero for never
	end       time.Time // when it runs out
	faults    []*credential.Error
	withCreds bool // header was had with credentials
}

// grant is the one of a repository, with stored credentials or without any.
func (h *host) grant(repo string, stored bool) *grant {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := grantKey{repo, stored}
	g := h.grants[key]
	if g == nil {
		g = &grant{host: h, repo: repo, stored: stored, turn: make(chan struct{}, 1)}
		g.turn <- struct{}{}
		h.grants[key] = g
	}
	return g
}

type grantKey struct {
	repo   string
	stored bool
}

// authorization is what to send now; it is renewed before it runs out.
func (c *Client) authorization(ctx context.Context, g *grant) (string, error) {
	g.mu.Lock()
	header, bearer, due := g.header, g.bearer, !g.renew.IsZero() && !time.Now().Before(g.renew)
	g.mu.Unlock()
	switch {
	case due:
		renewed, err := c.obtain(ctx, g, header, bearer)
		if err != nil && ctx.Err() == nil && g.extend() {
			return header, nil
		}
		return renewed, err
	case header == "" && g.host.wantsBasic():
		return c.obtain(ctx, g, "", wire.Challenge{Scheme: "basic"})
	}
	return header, nil
}

// wantsBasic reports whether a host has asked for a name and password: then it does so for
// its other repositories as well.
func (h *host) wantsBasic() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.basic
}

// obtain gets what answers a challenge, once for all who ask meanwhile. refused is what the
// host did not take.
func (c *Client) obtain(ctx context.Context, g *grant, refused string, ch wire.Challenge) (string, error) {
	select {
	case <-g.turn:
		defer func() { g.turn <- struct{}{} }()
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	g.mu.Lock()
	header := g.header
	g.mu.Unlock()
	if header != refused { // another has just got it
		return header, nil
	}
	var cred credential.Credential
	if g.stored {
		var faults []*credential.Error
		var err error
		if cred, faults, err = c.opts.Credentials.Get(ctx, g.host.registry, g.host.under(g.repo), c.secrets.Add); err != nil {
			return "", err
		}
		g.mu.Lock()
		g.faults = faults
		g.mu.Unlock()
	}
	g.mu.Lock()
	g.withCreds = cred != (credential.Credential{})
	g.mu.Unlock()
	var renew, end time.Time
	switch ch.Scheme {
	case "basic":
		if cred.Password == "" {
			return "", nil
		}
		header = "Basic " + base64.StdEncoding.EncodeToString([]byte(cred.User+":"+cred.Password))
	default:
		token, life, err := c.token(ctx, g, ch, cred)
		if err != nil {
			return "", err
		}
		header = "Bearer " + token
		if life > 0 {
			now := time.Now()
			renew, end = now.Add(bearer.RenewAfter(life)), now.Add(life)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.header, g.bearer, g.renew, g.end = header, ch, renew, end
	return header, nil
}

// extend puts the renewal of a token off, if that is good for a while yet: its server may be
// back by then.
func (g *grant) extend() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	left := time.Until(g.end)
	if left <= 0 {
		return false
	}
	g.renew = time.Now().Add(left / 2)
	return true
}

// forget drops what a grant has.
func (g *grant) forget() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.header, g.renew = "", time.Time{}
}

// usedCredentials reports whether what was sent was had with credentials.
func (g *grant) usedCredentials() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.withCreds
}

// explain adds to an error that tells of missing rights why there were no credentials.
func (g *grant) explain(e *Error) {
	unverified := g.host.isUnverified()
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !errors.Is(e, ErrDenied) || g.withCreds:
	case unverified && g.host.credentials:
		e.Hint = "its HTTPS certificate can't be verified, and no password is sent by plain HTTP while that is so; trust its authority with --ca-cert FILE"
	case len(g.faults) > 0:
		e.Hint = g.faults[0].Error()
	}
}

// once sends one request with what authorization it takes: when the answer is a challenge,
// the request is sent again with an answer to that.
func (c *Client) once(ctx context.Context, g *grant, method, place string, header http.Header) (*http.Response, error) {
	ctx = reach.WithTrail(ctx, reach.NewTrail(g.host))
	sent, err := c.authorization(ctx, g)
	if err != nil {
		return nil, err
	}
	const most = 2 // challenges that are answered: the second may want a wider scope
	for answered := 0; ; answered++ {
		resp, err := c.bare(ctx, method, place, header, sent)
		if err != nil || resp.StatusCode != http.StatusUnauthorized {
			return resp, err
		}
		ch, ok := wire.PickChallenge(resp.Header)
		if !ok || answered == most {
			return resp, nil
		}
		ch.By = resp.Request.URL.Scheme
		if !g.host.is(resp.Request.URL) {
			return c.abroad(ctx, resp, ch, header)
		}
		if sent != "" && answered > 0 && (ch.Scheme == "basic" || ch.Get("scope") == g.scope()) {
			return resp, nil // the same would come again
		}
		if ch.Scheme == "basic" {
			if sent != "" {
				return resp, nil // they are wrong
			}
			g.host.mu.Lock()
			g.host.basic = true
			g.host.mu.Unlock()
		}
		response.Buffer(resp)
		again, err := c.obtain(ctx, g, sent, ch)
		if err != nil {
			return nil, err
		}
		if again == "" {
			e := &Error{Method: method, URL: redact.URL(resp.Request.URL), Status: resp.StatusCode, kind: ErrDenied,
				Detail: "login required", Hint: "run `drayage login " + g.host.registry + "`, or use -a"}
			g.explain(e)
			return nil, e
		}
		sent = again
	}
}

func (g *grant) scope() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.bearer.Get("scope")
}

// bare sends one request with a given Authorization, and follows redirects.
func (c *Client) bare(ctx context.Context, method, place string, header http.Header, authorization string) (*http.Response, error) {
	ctx = reach.WithTrail(ctx, reach.TrailOf(ctx).Fork())
	req, err := http.NewRequestWithContext(ctx, method, place, nil)
	if err != nil {
		return nil, &Error{Method: method, URL: c.secrets.Line(place), Detail: c.bareError(err), kind: errInvalid}
	}
	for k, v := range header {
		req.Header[k] = v
	}
	if req.Header.Get("Accept-Encoding") == "" {
		req.Header.Set("Accept-Encoding", "identity") // a digest is over the bytes as they are
	}
	req.Header.Set("User-Agent", c.opts.UserAgent)
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
		if strings.HasPrefix(authorization, "Basic ") {
			c.inPlain(req.URL)
		}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.requestError(ctx, req, err)
	}
	return resp, nil
}

// inPlain warns, once a host, of a password that anybody on the way can read.
func (c *Client) inPlain(u *url.URL) {
	if u.Scheme == "http" && !origin.IsLoopback(u.Host) {
		c.notices.Once("the password for " + printable.Line(u.Host) + " is sent over the network unencrypted: the registry speaks plain HTTP")
	}
}

// abroad answers the challenge of a host that a registry has redirected to: with a token that
// anybody gets, for that host alone. The registry's credentials never go there.
func (c *Client) abroad(ctx context.Context, resp *http.Response, ch wire.Challenge, header http.Header) (*http.Response, error) {
	u, method := resp.Request.URL, resp.Request.Method
	ctx = reach.WithTrail(ctx, reach.TrailOf(resp.Request.Context()))
	sent := c.passFor(u) // for an earlier request: redirects go without
	if sent == "" {
		sent = resp.Request.Header.Get("Authorization")
	} else {
		response.Buffer(resp)
		again, err := c.bare(ctx, method, u.String(), redirect.Harmless(header), sent)
		if err != nil || again.StatusCode != http.StatusUnauthorized {
			return again, err
		}
		resp = again // it has run out
	}
	authorization, err := c.anonymous(ctx, u, sent, ch)
	if err != nil || authorization == "" {
		return resp, err
	}
	response.Buffer(resp)
	return c.bare(ctx, method, u.String(), redirect.Harmless(header), authorization)
}

// anonymous is an Authorization that anybody gets for what another host than the registry has
// refused, with what it refused; "" when there is none.
func (c *Client) anonymous(ctx context.Context, u *url.URL, refused string, ch wire.Challenge) (string, error) {
	if ch.Scheme != "bearer" {
		return "", nil
	}
	ch.By = u.Scheme
	const most = 1000 // hosts, and repositories of each
	c.mu.Lock()
	h := c.strangers[u.Scheme+"://"+u.Host]
	if h == nil || len(h.grants) >= most {
		if len(c.strangers) >= most {
			clear(c.strangers)
		}
		h = &host{name: u.Host, registry: u.Host, base: "/v2", scheme: u.Scheme, grants: make(map[grantKey]*grant)}
		c.strangers[u.Scheme+"://"+u.Host] = h
	}
	c.mu.Unlock()
	g := h.grant(bearer.RepositoryOf(u.Path), false)
	return c.obtain(ctx, g, refused, ch)
}

// token gets one from the token server that a challenge names, by the distribution project's
// token specification or, for an identity token, its OAuth2 variant. life is 0 when the server
// doesn't say how long it is good for.
func (c *Client) token(ctx context.Context, g *grant, ch wire.Challenge, cred credential.Credential) (token string, life time.Duration, err error) {
	if cred.Token != "" {
		return cred.Token, 0, nil
	}
	secret := cred != (credential.Credential{})
	named, realms, err := c.realms(g, ch, secret)
	if err != nil {
		return "", 0, err
	}
	scope := ch.Get("scope")
	if scope == "" && g.repo != "" {
		scope = "repository:" + g.host.under(g.repo) + ":pull"
	}
	scopes := strings.Fields(scope)
	for i, realm := range realms {
		given := retrying.TriesOf(ctx)
		given.Unsure = realm.Scheme != named.Scheme && realm.Host != g.host.name
		token, life, err = c.tokenFrom(retrying.WithTries(ctx, given), realm, ch.Get("service"), scopes, cred)
		if err == nil || i == len(realms)-1 || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		if ctx.Err() == nil && named.Scheme == "http" && realms[0].Scheme == "https" && secret && unanswered(err) {
			return "", 0, c.inTheClear(g, ch, named)
		}
		return "", 0, notOfRegistry(err)
	}
	c.secrets.AddToken(token)
	if c.opts.Tokens != nil {
		c.opts.Tokens(Token{Host: realms[0].Host, Scopes: scopes, Granted: bearer.Granted(token), Life: life})
	}
	return token, life, nil
}

// unanswered reports whether nobody has answered, and not for the lack of a certificate.
func unanswered(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == 0 && e.proxy == "" && e.cause != nil && !failure.IsCertificate(e.cause)
}

// notOfRegistry takes from a token server's error what it says of the scheme that is spoken:
// the registry may speak another.
func notOfRegistry(err error) error {
	var e *Error
	if errors.As(err, &e) {
		e.plain, e.alert = false, false
	}
	return err
}

// inTheClear refuses to send a password without encryption.
func (c *Client) inTheClear(g *grant, ch wire.Challenge, realm *url.URL) *Error {
	return &Error{Method: http.MethodGet, URL: ch.By + "://" + g.host.name + "/v2/", kind: ErrDenied,
		Detail: fmt.Sprintf("it requires the password to be sent unencrypted to its token server %s", c.secrets.Line(redact.URL(realm))),
		Hint:   "the operator of " + g.host.name + " should set an https realm; -A pulls without credentials"}
}

// realms are the one that a challenge names, and the places where its tokens may be had.
// Credentials never go to one in the clear that a registry names which speaks TLS itself: behind
// a proxy that ends TLS registries often do so, and have the same by HTTPS.
func (c *Client) realms(g *grant, ch wire.Challenge, secret bool) (realm *url.URL, out []*url.URL, err error) {
	text := ch.Get("realm")
	realm, err = url.Parse(text)
	bad := &Error{Method: http.MethodGet, URL: ch.By + "://" + g.host.name + "/v2/", kind: errInvalid}
	if err != nil || realm.Scheme != "http" && realm.Scheme != "https" || realm.Host == "" || origin.IsNowhere(realm) {
		bad.Detail = fmt.Sprintf("the realm of its token server is not a valid URL: %q", c.secrets.Line(text))
		return nil, nil, bad
	}
	realm.User, realm.Fragment = nil, ""
	if realm.Scheme == "https" || ch.By != "https" {
		return realm, []*url.URL{realm}, nil
	}
	if strings.EqualFold(realm.Hostname(), origin.Hostname(g.host.name)) {
		safe := *realm
		safe.Scheme = "https"
		if p := realm.Port(); p == "" || p == "80" {
			safe.Host = g.host.name
		}
		out = append(out, &safe)
	}
	if !secret {
		return realm, append(out, realm), nil
	}
	if len(out) == 0 {
		return nil, nil, c.inTheClear(g, ch, realm)
	}
	return realm, out, nil
}

func (c *Client) tokenFrom(ctx context.Context, realm *url.URL, service string, scopes []string, cred credential.Credential) (token string, life time.Duration, err error) {
	ctx = reach.WithTrail(ctx, reach.TrailOf(ctx).Fork())
	req, err := bearer.NewRequest(redirect.FollowingUpgrades(ctx), realm, service, scopes, cred)
	if err != nil {
		return "", 0, &Error{Method: http.MethodGet, URL: redact.URL(realm), Detail: "the token server's URL is malformed", kind: errInvalid}
	}
	req.Header.Set("User-Agent", c.opts.UserAgent)
	if cred != (credential.Credential{}) {
		c.inPlain(realm)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return "", 0, c.requestError(ctx, req, err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", 0, c.tokenError(resp)
	}
	return c.readToken(ctx, resp)
}

// tokenError is the error of a token server that gives none.
func (c *Client) tokenError(resp *http.Response) error {
	e := c.responseError(resp, resp.Request.URL.Host, quotaUntil(resp))
	e.Detail = strings.TrimSuffix("no token: "+e.Detail, ": ")
	if !errors.Is(e.kind, ErrQuota) && resp.StatusCode < 500 {
		e.kind = ErrDenied
		e.Hint = "the credentials are wrong, or not for this repository"
	}
	return e
}

func (c *Client) readToken(ctx context.Context, resp *http.Response) (string, time.Duration, error) {
	body, err := response.Plain(resp, limits.TokenBytes+1)
	var raw []byte
	if err == nil {
		raw, err = io.ReadAll(body)
	}
	resp.Body.Close()
	e := &Error{Method: resp.Request.Method, URL: redact.URL(resp.Request.URL), Status: resp.StatusCode, kind: errInvalid}
	if err != nil {
		if ctx.Err() != nil {
			return "", 0, context.Cause(ctx)
		}
		e.Status, e.Detail, e.kind, e.passing = 0, "reading the token: "+c.bareError(err), ErrUnavailable, true
		return "", 0, e
	}
	token, life, err := bearer.Parse(raw)
	if err != nil {
		e.Detail = err.Error()
		return "", 0, e
	}
	return token, life, nil
}

// authorized sends a request with what authorization it takes. Credentials that are refused
// are asked for anew, since helpers hand out such as run out; stored ones are then left out
// once: a stale login should not stand in the way of a public image (G32).
func (c *Client) authorized(ctx context.Context, at site, method, below string, header http.Header) (*http.Response, error) {
	h := at.host
	stored := h.credentials && !h.worksWithout(at.repo)
	send := func(stored bool) (*http.Response, error) {
		resp, err := c.hinted(ctx, at, h.grant(at.repo, stored), method, below, header)
		var e *Error
		if errors.As(err, &e) {
			h.grant(at.repo, stored).explain(e)
		}
		return resp, err
	}
	resp, err := send(stored)
	if !stored || !h.refused(resp, err, c) || !h.grant(at.repo, true).usedCredentials() {
		return resp, err
	}
	if c.opts.Credentials.Refused(h.registry, h.under(at.repo)) {
		h.grant(at.repo, true).forget()
		closeBody(resp)
		if resp, err = send(true); !h.refused(resp, err, c) {
			return resp, err
		}
	}
	if !c.opts.Credentials.Stored() {
		return resp, err
	}
	again, errAgain := send(false)
	if errAgain != nil || h.refused(again, nil, c) {
		closeBody(again)
		return resp, err
	}
	closeBody(resp)
	h.mu.Lock()
	first := len(h.anonymously) == 0
	h.anonymously[at.repo] = true
	h.mu.Unlock()
	if first {
		c.opts.Observer.Observe(event.Warned{Message: fmt.Sprintf(
			"%s rejected the stored credentials for %s; continuing without them; run `drayage login` again, or use -A", h.name, at.repo)})
	}
	return again, nil
}

func closeBody(resp *http.Response) {
	if resp != nil {
		resp.Body.Close()
	}
}

// worksWithout reports whether a repository is asked without the stored credentials: it refuses
// them, and works without, or they may not go to its host.
func (h *host) worksWithout(repo string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.unverified || h.anonymously[repo]
}

// refused reports whether the registry itself, and not a host that it redirects to, refuses
// who asks, and not how often.
func (h *host) refused(resp *http.Response, err error, c *Client) bool {
	if err != nil {
		var e *Error
		return errors.As(err, &e) && errors.Is(err, ErrDenied) && e.proxy == ""
	}
	return (resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden) &&
		h.is(resp.Request.URL) && !response.IsThrottled(resp.StatusCode, response.Buffer(resp))
}
