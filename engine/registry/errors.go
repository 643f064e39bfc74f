package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"drayage/engine/retry"
	"drayage/engine/transfer"
)

// What a caller may act on. Every error of a Client that is not a local fault
// or the end of its context wraps one of these.
var (
	// ErrNotFound: the registry has no such repository, manifest or blob.
	ErrNotFound = errors.New("not found")
	// ErrDenied: the registry refuses the credentials, or wants some.
	ErrDenied = errors.New("not allowed")
	// ErrQuota: the registry wants fewer requests, for longer than we wait.
	ErrQuota = errors.New("the registry's quota is used up")
	// ErrUnavailable: the network or the server failed, again and again.
	ErrUnavailable = errors.New("unavailable")
	// ErrContent: what came is not what its digest says.
	ErrContent = errors.New("content does not match its digest")
	// ErrInvalid: the answer is not one of a registry.
	ErrInvalid = errors.New("not a registry's answer")
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

	passing bool // another try, or another source, may do better
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

// errorBodyLimit bounds what is read of an error's body.
const errorBodyLimit = 64 << 10

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
	text, _ := io.ReadAll(io.LimitReader(resp.Body, errorBodyLimit)) // a part serves too
	resp.Body.Close()
	resp.Body = spent{Reader: strings.NewReader(string(text)), text: text}
	return text
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
func responseError(resp *http.Response, registryHost string, until time.Time) *Error {
	body := bufferError(resp)
	e := &Error{Method: resp.Request.Method, URL: bareURL(resp.Request.URL), Status: resp.StatusCode, Detail: describe(body)}
	switch {
	case throttled(resp.StatusCode, body):
		e.kind, e.Until = ErrQuota, until
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		e.kind = transfer.ErrRange
	case resp.Request.URL.Host != registryHost && resp.StatusCode < 500:
		e.kind = ErrUnavailable
		e.Hint = "the registry sent us to that host for the content"
	case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden:
		e.kind = ErrDenied
		e.Hint = "it is missing, or needs other credentials: the registry does not tell which"
	case resp.StatusCode == http.StatusNotFound, resp.StatusCode == http.StatusGone:
		e.kind = ErrNotFound
	case resp.StatusCode >= 500, resp.StatusCode == http.StatusRequestTimeout, resp.StatusCode == http.StatusTooEarly:
		e.kind = ErrUnavailable
	default:
		e.kind = ErrInvalid
	}
	e.passing = errors.Is(e.kind, ErrQuota) || errors.Is(e.kind, ErrUnavailable) && retry.Status(resp.StatusCode)
	return e
}

// spentQuota reports whether a throttling answer tells that it is about a quota
// over hours, not about requests a second: what Docker Hub says (G35).
func spentQuota(resp *http.Response, body []byte) bool {
	left, _, _ := strings.Cut(resp.Header.Get("Ratelimit-Remaining"), ";")
	return strings.TrimSpace(left) == "0" || strings.Contains(strings.ToLower(string(body[:min(len(body), 2048)])), "pull rate limit")
}

// describe is the message of an error body, in one short line.
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
	return oneLine(text)
}

// oneLine makes foreign text fit to print: one line, no control characters,
// at most 200 bytes.
func oneLine(s string) string {
	const most = 200
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// bareURL is a URL without what may be secret in it: query, fragment, user.
func bareURL(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// bareError takes the URLs out of errors of net/http, which have their query
// and with it the signature, and names what is left.
func bareError(err error) string {
	for {
		var u *url.Error
		if !errors.As(err, &u) {
			return oneLine(err.Error())
		}
		err = u.Err
	}
}
