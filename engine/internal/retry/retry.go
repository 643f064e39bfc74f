// Package retry decides whether to repeat a failed request, and when. It is the only place that does;
// it knows HTTP and sockets, and nothing of images.
//
// Policy.Next decides about one Failure. A Budget counts the failures of one piece of work, and a
// Activity records the last activity of a whole run: what may be temporary is retried for as long as
// bytes arrive from anywhere, and Policy.Patience longer.
package retry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrLasting is wrapped by errors that a retry cannot fix, whatever else they wrap.
var ErrLasting = errors.New("permanent failure")

// statusClosed is the status that nginx logs, and some proxies return, when the client seems to have
// disconnected.
const statusClosed = 499

// Status reports whether a retry may succeed after a response of this status: 408, 425, 429, 499, and
// every 5xx, including those of CDNs such as 520 to 530, except those by which a server refuses what
// it does not support (501, 505, 511).
func Status(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests, statusClosed:
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported, http.StatusNetworkAuthenticationRequired:
		return false
	}
	return code >= 500 && code <= 599
}

// Error reports whether a retry may succeed after an error of a connection: after resets, timeouts,
// early ends and refused connections, but not after cancellation, a certificate that either side
// rejects, a host name that does not exist, a local error such as a full disk, or an ErrLasting.
func Error(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, ErrLasting) || CertificateRefused(err) {
		return false
	}
	var (
		verify   *tls.CertificateVerificationError
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		invalid  x509.CertificateInvalidError
		dns      *net.DNSError
	)
	switch {
	case errors.As(err, &verify), errors.As(err, &unknown), errors.As(err, &hostname), errors.As(err, &invalid):
		return false
	case errors.As(err, &dns):
		return !dns.IsNotFound || dns.IsTemporary
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return false
	}
	return true
}

// CertificateRefused reports whether a server ended the TLS handshake because of the client
// certificate, or because there was none (RFC 8446, section 6.2).
func CertificateRefused(err error) bool {
	var op *net.OpError // crypto/tls has no type of its own for alerts
	if !errors.As(err, &op) || op.Op != "remote error" {
		return false
	}
	alert := strings.TrimPrefix(op.Err.Error(), "tls: ")
	for _, why := range []string{"bad certificate", "unsupported certificate", "revoked certificate", "expired certificate",
		"unknown certificate", "certificate required", "access denied"} {
		if strings.HasPrefix(alert, why) {
			return true
		}
	}
	return false
}

// Backoff is how long to wait between attempts: the time doubles from Min to Max, and half of it is
// random, so that many clients do not return at the same time. The zero value waits 500 ms to 30 s.
type Backoff struct {
	Min time.Duration // before the second attempt; 0 means 500 ms
	Max time.Duration // maximum; 0 means 30 s
}

// Delay is the wait after the given number of consecutive failures, at least 1.
func (b Backoff) Delay(failed int) time.Duration {
	low, high := b.Min, b.Max
	if low <= 0 {
		low = 500 * time.Millisecond
	}
	if high <= 0 {
		high = 30 * time.Second
	}
	d := low
	for i := 1; i < failed && d < high; i++ {
		d *= 2
	}
	d = min(d, high)
	return d/2 + rand.N(d/2+1)
}

// Policy limits how often and for how long something is attempted. In the zero value every field has
// its default.
type Policy struct {
	Backoff  Backoff
	Tries    int           // attempts at a host that refuses connections and never accepted one; 0 means 5
	Patience time.Duration // maximum time without a byte from any host; 0 means 2 minutes
}

// Failure describes a failed attempt.
type Failure struct {
	Host       string        // where it failed; not used here, for the Budget's owner
	Tries      int           // consecutive failures so far, this one included
	Since      time.Duration // since the first of these attempts began, or since the last byte arrived
	Err        error         // of the connection, or nil when there was a response
	Status     int           // of the response
	Throttled  bool          // the response reports, by its status or body, that there are too many requests
	Spent      bool          // the response reports that a quota is used up, which a short wait does not change
	RetryAfter string        // the response's header
	Reached    bool          // the host has sent a response before
}

// Congested reports whether the host is overloaded or limits the rate of requests, so that fewer
// connections would help.
func (f Failure) Congested() bool {
	return f.Throttled || f.Status == http.StatusServiceUnavailable
}

// Next reports whether to retry at the time now, and after what wait.
//
// What may be temporary is retried until patience ends: bad links and overloaded servers look like
// that. If the response has a Retry-After, that is the wait, unless it is longer than patience lasts.
// Only a host that refuses connections and never accepted one is given up after Tries attempts.
func (p Policy) Next(f Failure, now time.Time) (wait time.Duration, again bool) {
	attempts, patience := p.Tries, p.PatienceOrDefault()
	if attempts <= 0 {
		attempts = 5
	}
	wait = min(p.Backoff.Delay(f.Tries), max(patience/4, time.Millisecond)) // several attempts, however little patience
	if f.Err != nil {
		if !Error(f.Err) || !f.Reached && errors.Is(f.Err, syscall.ECONNREFUSED) && f.Tries >= attempts {
			return 0, false
		}
		return wait, f.Since+wait <= patience
	}
	if !f.Throttled && !Status(f.Status) {
		return 0, false
	}
	if f.Spent && f.Tries > 1 {
		return 0, false // whatever its Retry-After: some registries send a minute and mean six hours (G35)
	}
	if told, ok := After(f.RetryAfter, now); ok {
		return told, told <= patience-f.Since // subtracted, since adding could overflow: a date may be far away
	}
	if f.Throttled {
		wait = max(wait, time.Second)
	}
	return wait, f.Since+wait <= patience
}

// PatienceOrDefault is Patience, or what 0 means.
func (p Policy) PatienceOrDefault() time.Duration {
	if p.Patience <= 0 {
		return 2 * time.Minute
	}
	return p.Patience
}

// longest is the longest Duration, some 292 years.
const longest = time.Duration(math.MaxInt64)

// After parses a Retry-After header: seconds or a date (RFC 9110, section 10.2.3), or a duration such
// as 1.16ms, as some registries send. The wait is at least one second, since some send zero or less
// and mean "later"; more seconds than a Duration holds are the longest one. It reports false for
// anything else.
func After(header string, now time.Time) (time.Duration, bool) {
	header = strings.TrimSpace(header)
	if header == "" {
		return 0, false
	}
	var d time.Duration
	if secs, err := strconv.ParseFloat(header, 64); err == nil {
		if !(secs >= 0) || math.IsInf(secs, 0) { // rejects NaN, too
			return 0, false
		}
		d = longest
		if secs < longest.Seconds() {
			d = time.Duration(secs * float64(time.Second))
		}
	} else if errors.Is(err, strconv.ErrRange) && secs > 0 { // a number that no float64 holds
		d = longest
	} else if at, err := http.ParseTime(header); err == nil {
		d = at.Sub(now)
	} else if dur, err := time.ParseDuration(header); err == nil && dur >= 0 {
		d = dur
	} else {
		return 0, false
	}
	return max(d, time.Second), true
}

// Sleep waits for d or until ctx is done, whichever comes first, and returns the cause of ctx in the
// second case.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
