package registry

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"drayage/engine/fault"
	"drayage/engine/internal/retry"
	"drayage/engine/internal/transfer"
	"drayage/engine/limits"
	"drayage/engine/printable"
	"drayage/engine/registry/internal/proxies"
	"drayage/engine/registry/internal/reach"
	"drayage/engine/registry/internal/redact"

	"github.com/klauspost/compress/gzip"
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
	ErrContent = fault.New(fault.Content, "content does not match its digest")
	// ErrInvalid: the answer is not one of a registry.
	ErrInvalid = errors.New("invalid response from the registry")
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

// spent holds an error response's body after it was read.
type spent struct {
	io.Reader
	text []byte
}

func (spent) Close() error { return nil }

// bufferError reads the body of an error response, so that both the retry
// policy and the error message can look at it, and frees the connection.
func bufferError(resp *http.Response) []byte {
	if s, ok := resp.Body.(spent); ok {
		return s.text
	}
	var text []byte
	if body, err := plainBody(resp, limits.ErrorBytes); err == nil {
		text, _ = io.ReadAll(body) // a part serves too
	}
	resp.Body.Close()
	resp.Body = spent{Reader: strings.NewReader(string(text)), text: text}
	return text
}

// plainBody is a body as it was meant: compression that nobody asked for, as proxies add it to
// manifests, tokens and lists, is undone (RFC 9110, section 8.4). It is not for blobs, whose
// digest is over their bytes as they are sent. No more is read than limit allows, on either side:
// compressed data can go on for ever and be nothing. What begins as JSON is taken as it is,
// whatever it is labelled: static stores label plain files with a character set, or with the
// encoding of their upload.
func plainBody(resp *http.Response, limit int64) (io.Reader, error) {
	encodings := strings.Split(strings.Join(resp.Header.Values("Content-Encoding"), ","), ",")
	const slack = 64 << 10 // of compression
	asWhole(resp.Body)
	beginning := bufio.NewReader(resp.Body)
	body := io.LimitReader(beginning, limit+slack)
	if isJSON(beginning) {
		return io.LimitReader(body, limit), nil
	}
	const most = 4 // one within the other
	if len(encodings) > most {
		return nil, fmt.Errorf("%w: encoded %d times", ErrInvalid, len(encodings))
	}
	for i := len(encodings) - 1; i >= 0; i-- { // the last one was applied last
		var err error
		switch strings.ToLower(strings.TrimSpace(encodings[i])) {
		case "", "identity":
		case "gzip", "x-gzip":
			body, err = gzip.NewReader(body)
		case "deflate":
			body, err = zlib.NewReader(body)
		default:
			err = fmt.Errorf("%w: unrequested Content-Encoding %q", ErrInvalid, printable.Line(encodings[i]))
		}
		if errors.Is(err, gzip.ErrHeader) || errors.Is(err, zlib.ErrHeader) {
			err = fmt.Errorf("%w: content does not match its Content-Encoding", ErrInvalid)
		}
		if err != nil {
			return nil, err
		}
	}
	return io.LimitReader(body, limit), nil
}

// isJSON reports whether a body begins as JSON, which nothing does that is compressed.
func isJSON(body *bufio.Reader) bool {
	const spaces = 16 // that may stand before it
	start, _ := body.Peek(spaces)
	return bytes.HasPrefix(bytes.TrimLeft(start, " \t\r\n"), []byte("{"))
}

// registryErrors is the error body of the OCI distribution spec, section
// "Error Codes".
type registryErrors struct {
	Errors []struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Detail  any    `json:"detail"`
	} `json:"errors"`
}

func parseErrors(body []byte) registryErrors {
	var e registryErrors
	_ = json.Unmarshal(body, &e) // other bodies are shown as text
	return e
}

// throttled reports whether an answer says "too many requests", by its status
// or by the codes that registries send with others (G37).
func throttled(status int, body []byte) bool {
	if status == http.StatusTooManyRequests {
		return true
	}
	if status != http.StatusForbidden && status != http.StatusServiceUnavailable && status != http.StatusBadRequest {
		return false
	}
	for _, e := range parseErrors(body).Errors {
		if strings.EqualFold(e.Code, "TOOMANYREQUESTS") {
			return true
		}
	}
	text := string(body[:min(len(body), 2048)])
	return strings.Contains(text, "SlowDown") || strings.Contains(text, "ThrottlingException")
}

// responseError makes the error of a response that is none of those wanted.
func (c *Client) responseError(resp *http.Response, registryHost string, until time.Time) *Error {
	body := bufferError(resp)
	e := &Error{Method: resp.Request.Method, URL: c.secrets.Hide(redact.URL(resp.Request.URL)), Status: resp.StatusCode}
	if ownWords(resp) {
		e.Detail = c.secrets.Line(describe(body))
	}
	for _, one := range parseErrors(body).Errors {
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
	case throttled(resp.StatusCode, body):
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
		e.kind = ErrInvalid
	}
	e.passing = errors.Is(e.kind, ErrQuota) || errors.Is(e.kind, ErrUnavailable) && retry.Status(resp.StatusCode)
	return e
}

// ownWords reports whether an answer is of the registry itself. What a host says that others have
// named is not told: who named it may not be able to ask it.
func ownWords(resp *http.Response) bool {
	return reach.TrailOf(resp.Request.Context()).IsOwn(resp.Request.URL)
}

// spentQuota reports whether a throttling answer tells that it is about a quota
// over hours, not about requests a second: what Docker Hub says (G35).
func spentQuota(resp *http.Response, body []byte) bool {
	left, _, _ := strings.Cut(resp.Header.Get("Ratelimit-Remaining"), ";")
	return strings.TrimSpace(left) == "0" || strings.Contains(strings.ToLower(string(body[:min(len(body), 2048)])), "pull rate limit")
}

// describe is the message of an error body, as it came.
func describe(body []byte) string {
	var parts []string
	for _, e := range parseErrors(body).Errors {
		switch {
		case e.Message != "":
			parts = append(parts, e.Message)
		case e.Code != "":
			parts = append(parts, e.Code)
		}
	}
	text := strings.Join(parts, "; ")
	if text == "" {
		text = string(body)
		if strings.HasPrefix(strings.TrimSpace(text), "<") {
			text = "" // a page for people says nothing in one line
		}
	}
	return text
}

// bareError names an error of net/http for a message, without what may be secret in it.
func (c *Client) bareError(err error) string { return c.secrets.Line(redact.Error(err)) }
