package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"drayage/engine/event"
	"drayage/engine/internal/retry"
	"drayage/engine/internal/transfer"
	"drayage/engine/printable"
	"drayage/engine/reference"
	"drayage/engine/registry/internal/bearer"
	"drayage/engine/registry/internal/lease"
	"drayage/engine/registry/internal/origin"
	"drayage/engine/registry/internal/reach"
	"drayage/engine/registry/internal/redact"
	"drayage/engine/registry/internal/redirect"
	"drayage/engine/registry/internal/response"
	"drayage/engine/registry/internal/retrying"
	"drayage/engine/registry/internal/wire"

	"github.com/opencontainers/go-digest"
)

// Ask is a range of a blob that is asked for.
type Ask = transfer.Ask

// ErrRange is wrapped when a registry can give a blob from its start, but not
// from where it was asked to begin.
var ErrRange = transfer.ErrRange

// Blob is one blob of a repository, as a source of a transfer. Where the
// registry redirects to another host for it, that is asked once: the URL is
// shared by all who read the blob, until it is about to expire or stops
// working.
type Blob struct {
	client *Client
	at     site
	digest digest.Digest
	url    *url.URL // of another place than a registry, which has the blob too
	by     []*host  // the registries that have named it

	lease lease.Shared

	mu  sync.Mutex
	met bool // who has named the url was asked where it is
}

// Blob is where a blob of an image's repository can be fetched.
func (c *Client) Blob(ref reference.Image, d digest.Digest) *Blob {
	return &Blob{client: c, at: c.home(ref), digest: d}
}

// Blobs are all places where a blob of an image's repository can be fetched:
// mirrors first.
func (c *Client) Blobs(ref reference.Image, d digest.Digest) []*Blob {
	var out []*Blob
	for _, s := range c.sites(ref) {
		out = append(out, &Blob{client: c, at: s, digest: d})
	}
	return out
}

// Where tells places apart.
func (b *Blob) Where() string {
	if b.url != nil {
		return b.url.String()
	}
	return b.at.host.name + b.at.path("", b.at.ns)
}

// Foreign is a place outside of any registry where a blob can be fetched, as the descriptors of
// layers name some that may not be redistributed (OCI image spec, "Descriptors", urls). It is
// asked without credentials. refs are images whose manifests name it: it has to be a URL of
// HTTPS, or of HTTP where all of their registries speak nothing better, and no closer than any of
// them.
func (c *Client) Foreign(place string, d digest.Digest, refs ...reference.Image) (*Blob, error) {
	u, err := url.Parse(place)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || origin.IsNowhere(u) {
		return nil, fmt.Errorf("%w: invalid layer URL %q", errInvalid, printable.Line(place))
	}
	b := &Blob{client: c, digest: d, url: u}
	for _, ref := range refs {
		b.by = append(b.by, c.home(ref).host)
	}
	for _, h := range b.by {
		if u.Scheme != "https" && h.spoken() == "https" {
			return nil, plainURL(u)
		}
	}
	u.User = nil
	return b, nil
}

func plainURL(u *url.URL) error {
	return fmt.Errorf("%w: the layer URL at %s is plain HTTP, and the registry speaks HTTPS", errInvalid, printable.Line(u.Host))
}

// meet asks the registries that have named a foreign layer's URL where they are, if they haven't
// answered anything yet: what they say may come out of the store, in a pull that goes on. It
// reports whether some were asked, which is done once.
func (b *Blob) meet(ctx context.Context) bool {
	b.mu.Lock()
	again := b.met
	b.met = true
	b.mu.Unlock()
	asked := false
	for _, h := range b.by {
		if again || h.location.HasAnswered() {
			continue
		}
		asked = true
		// What it answers is no matter. One that doesn't is nowhere, and leads nowhere.
		ctx := retrying.WithTries(ctx, retrying.Tries{Host: h.name, Once: true})
		if resp, err := b.client.over(ctx, h, h.grant("", false), http.MethodGet, h.base+"/", nil); err == nil {
			closeBody(resp)
		}
	}
	return asked
}

// foreign asks the URL of a foreign layer.
func (b *Blob) foreign(ctx context.Context, header http.Header) (*http.Response, error) {
	if b.url.Scheme != "https" {
		b.meet(ctx)
		for _, h := range b.by {
			if h.spoken() != "http" {
				return nil, plainURL(b.url)
			}
		}
	}
	resp, err := b.fromStorage(reach.WithTrail(ctx, b.foreignTrail()), b.url, header)
	if causedBy(err, reach.IsRefused) && b.meet(ctx) {
		return b.fromStorage(reach.WithTrail(ctx, b.foreignTrail()), b.url, header)
	}
	return resp, err
}

// foreignTrail is the trail to the URL of a foreign layer.
func (b *Blob) foreignTrail() *reach.Trail {
	out := reach.NewTrail(nil)
	for _, h := range b.by {
		out.Over(h.location.Where(), h.location.IsProxied())
	}
	if len(b.by) == 0 {
		out.Over(reach.Anywhere, false)
	}
	return out
}

// Host is the registry that is asked, which is not always the host that sends.
func (b *Blob) Host() string {
	if b.url != nil {
		return b.url.Host
	}
	return b.at.host.name
}

// Open implements transfer.Source. The bytes are as the registry has them, and
// not verified; there may be fewer or more of them than asked for, when the
// blob is not what its descriptor says.
func (b *Blob) Open(ctx context.Context, a transfer.Ask) (*transfer.Body, error) {
	ctx = retrying.WithTries(ctx, retrying.Tries{Budget: a.Budget, Host: b.Host(), Once: a.Once})
	header := http.Header{"Accept-Encoding": {"identity"}} // the digest is over the bytes as stored (G21)
	ranged := a.From > 0 || a.To < a.Size
	if ranged {
		// Closed, and within the blob: some refuse or miscount others (G13, G14).
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", a.From, a.To-1))
	}
	resp, err := b.get(ctx, a, header, ranged)
	if err != nil {
		if b.at.mirror && ctx.Err() == nil {
			b.client.mirrorFailed(b.at.host, err)
		}
		return nil, err
	}
	if response.IsPage(resp, a.Size) {
		title := ""
		if page := response.Buffer(resp); ownWords(resp) {
			title = b.client.secrets.Hide(response.PageTitle(page))
		}
		return nil, fmt.Errorf("%w: %s returned a web page%s", transfer.ErrOdd, resp.Request.URL.Host, title)
	}
	if resp.StatusCode != http.StatusPartialContent {
		return &transfer.Body{ReadCloser: resp.Body}, nil // the whole blob, range or not (G11)
	}
	text := resp.Header.Get("Content-Range")
	r, ok := wire.ParseContentRange(text)
	if ok && r.Total >= 0 && r.Total != a.Size {
		resp.Body.Close()
		return nil, fmt.Errorf("%w: %w", transfer.ErrRange, &transfer.TotalError{Total: r.Total})
	}
	if !ok || r.First > a.From || r.Last < a.From {
		resp.Body.Close()
		if !ownWords(resp) {
			text = "another range"
		}
		return nil, fmt.Errorf("%w: requested bytes from %d, got Content-Range %q", transfer.ErrRange, a.From, b.client.secrets.Line(text))
	}
	return &transfer.Body{ReadCloser: resp.Body, From: r.First, Ranged: ranged}, nil
}

// get asks for the blob, at the URL that was found earlier or at the registry.
// Where the host that the registry redirects to refuses, the signed URL may
// have been stale: the registry is asked for another, once (G5). Where that host can't be
// reached, the registry may know another: it is asked at once, and then again and again, as
// long as patience lasts.
func (b *Blob) get(ctx context.Context, a transfer.Ask, header http.Header, ranged bool) (*http.Response, error) {
	renewed, unreachable := false, 0
	for again := false; ; again = true {
		l, found, err := b.located(ctx)
		if err != nil {
			return nil, err
		}
		var resp *http.Response
		if b.url != nil {
			resp, err = b.foreign(ctx, header)
		} else if l != nil {
			resp, err = b.fromStorage(reach.WithTrail(ctx, l.By), l.URL, header)
		} else {
			resp, l, err = b.fromRegistry(ctx, header, again)
		}
		found(l, err)
		var e *Error
		if errors.As(err, &e) && e.redirected && b.url == nil {
			b.lease.Forget(l)
			if unreachable++; unreachable == 1 {
				continue
			}
			if a.Once || a.Budget == nil {
				return nil, err
			}
			wait, more := a.Budget.Next(retry.Failure{Host: b.Host(), Err: e.cause, Reached: true})
			if !more {
				return nil, err
			}
			b.client.opts.Observer.Observe(event.Retrying{What: e.Method + " " + e.URL, Why: e.Detail, Try: a.Budget.Tries() + 1, Delay: wait})
			if err := retry.Sleep(ctx, wait); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent {
			return resp, nil
		}
		if l != nil && b.url == nil && stale(resp.StatusCode) && !response.IsThrottled(resp.StatusCode, response.Buffer(resp)) {
			b.lease.Forget(l)
			if !renewed {
				renewed = true
				continue
			}
		}
		if e = b.refusal(resp); l != nil && ranged && resp.StatusCode == http.StatusBadRequest {
			e.kind = transfer.ErrRange // some refuse ranges so (G19)
		}
		if resp.StatusCode == http.StatusRequestedRangeNotSatisfiable {
			if r, ok := wire.ParseContentRange(resp.Header.Get("Content-Range")); ok && r.Total >= 0 {
				return nil, fmt.Errorf("%w: %w", e, &transfer.TotalError{Total: r.Total})
			}
		}
		return nil, e
	}
}

// refusal makes the error of an answer that is not the blob.
func (b *Blob) refusal(resp *http.Response) *Error {
	if b.url != nil {
		return b.client.responseError(resp, b.url.Host, quotaUntil(resp))
	}
	return b.client.refusal(resp, b.at, "/blobs/")
}

// stale reports whether a status is what hosts answer to a signed URL whose
// time is over.
func stale(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusGone:
		return true
	}
	return false
}

// located is where the blob is, nil for the registry, and a function that must be called with what
// was found there. While one finds out, the others wait.
func (b *Blob) located(ctx context.Context) (*lease.URL, func(*lease.URL, error), error) {
	if b.url != nil {
		return &lease.URL{URL: b.url}, func(*lease.URL, error) {}, nil
	}
	return b.lease.Get(ctx)
}

// fromRegistry asks the registry, and follows where it sends us. The lease is
// nil when that is nowhere else.
func (b *Blob) fromRegistry(ctx context.Context, header http.Header, again bool) (*http.Response, *lease.URL, error) {
	if again {
		header = header.Clone()
		header.Set("Cache-Control", "no-cache")
	}
	path := "/blobs/" + b.digest.String()
	resp, err := b.client.ask(redirect.KeepingBlobs(ctx), http.MethodGet, b.at, path, header)
	if err != nil || !redirect.Is(resp) {
		return resp, nil, err
	}
	target := b.expired(resp)
	if target && !again { // a cache has kept it (G7)
		resp.Body.Close()
		header = header.Clone()
		header.Set("Cache-Control", "no-cache")
		resp, err = b.client.ask(redirect.KeepingBlobs(ctx), http.MethodGet, b.at, path+"?drayage="+strconv.FormatInt(time.Now().UnixNano(), 36), header)
		if err != nil || !redirect.Is(resp) {
			return resp, nil, err
		}
		b.client.opts.Observer.Observe(event.Warned{Message: fmt.Sprintf(
			"%s redirects to a URL that has expired already: a proxy caches redirects, or this machine's clock is wrong", b.at.host.name)})
	}
	got, now := time.Now(), b.client.dated(resp)
	resp, left, err := b.follow(ctx, resp, header)
	if err != nil || !left {
		return resp, nil, err
	}
	l := &lease.URL{URL: resp.Request.URL, By: reach.TrailOf(resp.Request.Context()).Fork()}
	if until := wire.Expiry(l.URL); until.After(now) {
		const share = 0.8 // of its life
		l.Renew = got.Add(time.Duration(share * float64(until.Sub(now))))
	}
	return resp, l, nil
}

// dated is when an answer was given by the server's own clock, which is the one that its signed
// URLs are counted by. One that differs from this machine's is told of, once a host.
func (c *Client) dated(resp *http.Response) time.Time {
	const much = 2 * time.Minute
	now := time.Now()
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return now
	}
	ahead := date.Sub(now)
	if ahead.Abs() < much {
		return now // it has seconds alone, and was a while on its way
	}
	host := resp.Request.URL.Host
	which := "ahead of"
	if ahead < 0 {
		which = "behind"
	}
	c.notices.OnceFor("clock "+host, fmt.Sprintf("the clock of %s is %s %s this machine's", host, ahead.Abs().Round(time.Minute), which))
	return date
}

// expired reports whether a redirect leads to a URL whose time is over.
func (b *Blob) expired(resp *http.Response) bool {
	to, err := resp.Location()
	if err != nil {
		return false
	}
	until := wire.Expiry(to)
	return !until.IsZero() && until.Before(b.client.dated(resp))
}

// follow follows redirects. Authorization goes along as long as they stay at
// the registry, and not a hop further; left reports whether they left it.
func (b *Blob) follow(ctx context.Context, resp *http.Response, header http.Header) (_ *http.Response, left bool, err error) {
	home := resp.Request.URL
	for nth := 1; redirect.Is(resp); nth++ {
		from, way := resp.Request.URL, reach.TrailOf(resp.Request.Context())
		to, err := resp.Location()
		_, _ = io.CopyN(io.Discard, resp.Body, 4<<10) // a page for people, perhaps (G9)
		resp.Body.Close()
		if err != nil {
			err = fmt.Errorf("%w: malformed Location header", redirect.ErrRefused)
		} else {
			err = redirect.MayFollow(from, to, nth)
		}
		if err != nil {
			return nil, left, &Error{Method: http.MethodGet, URL: redact.URL(from), Detail: b.client.secrets.Line(err.Error()), kind: errInvalid}
		}
		left = left || !origin.Same(home, to)
		if left {
			resp, err = b.fromStorage(reach.WithTrail(ctx, way), to, header)
		} else {
			resp, err = b.client.askURL(redirect.KeepingBlobs(ctx), b.at, to.String(), header)
		}
		if err != nil {
			return nil, left, err
		}
	}
	return resp, left, nil
}

// fromStorage asks another host than the registry: without credentials. Where that host
// wants a token, it gets one that anybody gets.
func (b *Blob) fromStorage(ctx context.Context, u *url.URL, header http.Header) (*http.Response, error) {
	c := b.client
	given := retrying.TriesOf(ctx)
	given.Redirected = b.url == nil
	ctx = retrying.WithTries(ctx, given)
	header = redirect.Harmless(header)
	authorization := c.passFor(u)
	for tries := 0; ; tries++ {
		resp, err := c.bare(ctx, http.MethodGet, u.String(), header, authorization)
		var e *Error
		if errors.As(err, &e) && given.Redirected && e.cause != nil && reach.IsUnreachable(e.cause) {
			e.redirected = true
		}
		if err != nil || resp.StatusCode != http.StatusUnauthorized || tries > 0 {
			return resp, err
		}
		ch, ok := wire.PickChallenge(resp.Header)
		if !ok || !origin.Same(resp.Request.URL, u) {
			return resp, nil
		}
		if authorization, err = c.anonymous(reach.WithTrail(ctx, reach.TrailOf(resp.Request.Context())), u, authorization, ch); err != nil || authorization == "" {
			return resp, err
		}
		response.Buffer(resp)
	}
}

// passFor is the Authorization that anybody got for what another host has, "" when none was
// needed.
func (c *Client) passFor(u *url.URL) string {
	c.mu.Lock()
	h := c.strangers[u.Scheme+"://"+u.Host]
	c.mu.Unlock()
	if h == nil {
		return ""
	}
	h.mu.Lock()
	g := h.grants[grantKey{bearer.RepositoryOf(u.Path), false}]
	h.mu.Unlock()
	if g == nil {
		return ""
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.header
}
