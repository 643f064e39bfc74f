package registry

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"drayage/engine/fault"
	"drayage/engine/internal/retry"
	"drayage/engine/internal/transfer"
	"drayage/engine/registry/internal/proxies"
	"drayage/engine/registry/internal/reach"
	"drayage/engine/registry/internal/redact"
	"drayage/engine/registry/internal/response"
)

// What a caller may act on. Every error of a Client that is not a local fault
// or the end of its context wraps one of these.
var (
	// ErrNotFound: the registry has no such repository, manifest or blob.
	ErrNotFound = fault.New(fault.NotFound, "not found")
	// ErrDenied: the registry refuses the credentials, or wants some.
	ErrDenied = fault.New(fault.Denied, "access denied")
	// ErrQuota: the registry wants fewer requests, for longer than we wait.
	ErrQuota = fault.New(fault.Quota, "rate limit exceeded")
	// ErrUnavailable: the network or the server failed, again and again.
	ErrUnavailable = fault.New(fault.Network, "unavailable")
	// ErrContent: what came is not what its digest says.
	errContent = fault.New(fault.Content, "content does not match its digest")
	// ErrInvalid: the answer is not one of a registry.
	errInvalid = response.ErrInvalid
)

// Error is a request that did not get what it was for. It holds no secret: the
// URL has no query, and foreign text is cut to one printable line.
type Error struct {
	Method string
	URL    string // scheme, host and path
	Status int    // 0 when no answer came
	Detail string // what the registry said, or what broke
	Hint   string // what the user may do about it
	Until  time.Time
	kind   error

	passing bool   // another try, or another source, may do better
	proxy   string // that refused, "" for none
	alert   bool   // plain HTTP was answered by a TLS alert
	plain   bool   // TLS was answered by plain HTTP

	codes      []string // of the distribution spec, that the answer has
	cause      error    // of net/http, nil when there was an answer; it may hold secrets
	redirected bool     // the host is one that the registry has redirected to, and can't be reached
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s: ", e.Method, e.URL)
	if e.Status != 0 {
		fmt.Fprintf(&b, "%d %s", e.Status, http.StatusText(e.Status))
	}
	if e.Detail != "" {
		if e.Status != 0 {
			b.WriteString(": ")
		}
		b.WriteString(e.Detail)
	}
	if !e.Until.IsZero() {
		fmt.Fprintf(&b, "; try again after %s", e.Until.Format(time.RFC3339))
	}
	if e.Hint != "" {
		b.WriteString(" (" + e.Hint + ")")
	}
	return b.String()
}

// Unwrap is the kind of the error: ErrNotFound and its like.
func (e *Error) Unwrap() error { return e.kind }

// Is makes an error that may pass a transfer.ErrPassing.
func (e *Error) Is(target error) bool { return e.passing && target == transfer.ErrPassing }

// responseError makes the error of a response that is none of those wanted.
func (c *Client) responseError(resp *http.Response, registryHost string, until time.Time) *Error {
	body := response.Buffer(resp)
	e := &Error{Method: resp.Request.Method, URL: c.secrets.Hide(redact.URL(resp.Request.URL)), Status: resp.StatusCode}
	if ownWords(resp) {
		e.Detail = c.secrets.Line(response.Message(body))
	}
	for _, one := range response.ParseErrors(body).Errors {
		e.codes = append(e.codes, one.Code)
	}
	switch {
	case resp.StatusCode == http.StatusProxyAuthRequired:
		e.kind, e.proxy = ErrDenied, "HTTP_PROXY"
		e.Hint = "proxy authentication required; set user name and password in HTTP_PROXY or HTTPS_PROXY"
		if proxy, err := http.ProxyFromEnvironment(resp.Request); err == nil && proxy != nil {
			e.proxy = proxy.Host
			e.Hint = "proxy " + proxy.Host + " requires authentication; check user name and password in HTTP_PROXY or HTTPS_PROXY"
		}
	case resp.StatusCode == http.StatusForbidden && proxies.Answers(resp) && proxies.Through(resp.Request) != "":
		e.kind, e.proxy = ErrDenied, proxies.Through(resp.Request)
		e.Hint = "proxy " + e.proxy + " does not allow " + resp.Request.URL.Host + "; bypass it with NO_PROXY"
	case resp.StatusCode == http.StatusPaymentRequired, resp.StatusCode == http.StatusUnavailableForLegalReasons:
		e.kind = ErrDenied
	case response.IsThrottled(resp.StatusCode, body):
		e.kind, e.Until = ErrQuota, until
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		e.kind = transfer.ErrRange
	case !strings.EqualFold(resp.Request.URL.Host, registryHost) && resp.StatusCode < 500:
		e.kind = ErrUnavailable
		e.Hint = "the registry redirected to that host"
	case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden:
		e.kind = ErrDenied
		e.Hint = "the repository does not exist, or requires other credentials"
	case resp.StatusCode == http.StatusNotFound, resp.StatusCode == http.StatusGone:
		e.kind = ErrNotFound
	case resp.StatusCode == http.StatusNetworkAuthenticationRequired:
		e.kind = ErrUnavailable
		e.Hint = "the network requires a login (captive portal)"
	case resp.StatusCode >= 500, retry.Status(resp.StatusCode):
		e.kind = ErrUnavailable
	default:
		e.kind = errInvalid
	}
	e.passing = errors.Is(e.kind, ErrQuota) || errors.Is(e.kind, ErrUnavailable) && retry.Status(resp.StatusCode)
	return e
}

// ownWords reports whether an answer is of the registry itself. What a host says that others have
// named is not told: who named it may not be able to ask it.
func ownWords(resp *http.Response) bool {
	return reach.TrailOf(resp.Request.Context()).IsOwn(resp.Request.URL)
}

// bareError names an error of net/http for a message, without what may be secret in it.
func (c *Client) bareError(err error) string { return c.secrets.Line(redact.Error(err)) }
