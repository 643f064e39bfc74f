// Package retry says whether a failed request is worth another try, and when.
//
// It is the one place that decides so; it knows HTTP and sockets and nothing
// of images.
package retry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrLasting is wrapped by errors that another try won't mend, whatever they look like.
var ErrLasting = errors.New("another try does not help")

// statusClosed is what nginx logs, and some proxies answer, when a client seemed to have
// gone.
const statusClosed = 499

// Status reports whether a response of this status may turn out better when
// asked for again: 408, 425, 429, 499, and every 5xx, those of CDNs such as 520 to 530
// included, but for those that tell of what the server can't or won't do.
func Status(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests, statusClosed:
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported, http.StatusNetworkAuthenticationRequired:
		return false
	}
	return code >= 500 && code <= 599
}

// Error reports whether an error of a connection may be gone at the next try.
// Cancellation is not, nor a certificate that either side does not take, nor a host name
// that does not exist, nor what wraps ErrLasting; resets, timeouts, early ends and
// refusals are.
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

// CertificateRefused reports whether a server ended the TLS handshake because of the
// certificate that it got from us, or got none (RFC 8446, section 6.2).
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

// Backoff is how long to wait between tries: it doubles from Min to Max, and
// half of each wait is drawn at random so that many clients don't come back
// together. The zero value waits 500 ms to 30 s.
type Backoff struct {
	Min time.Duration // before the second try; 0 means 500 ms
	Max time.Duration // never longer than this; 0 means 30 s
}

// Delay is the wait after the given number of failed tries in a row, which
// counts from 1.
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

// Policy bounds how often and how long something is tried. The zero value
// gives what its fields' comments say.
type Policy struct {
	Backoff  Backoff
	Tries    int           // of a host that refuses connections and never took one; 0 means 5
	Patience time.Duration // without a byte arriving from anywhere; 0 means 2 minutes
}

// Failure is what is known of something that failed.
type Failure struct {
	Host       string        // that the work is from, if the budget's owner wants to know
	Tries      int           // so far, all of which failed
	Since      time.Duration // since the first of them began, or the last byte came
	Err        error         // of the connection, or nil when there was an answer
	Status     int           // of the answer
	Throttled  bool          // the answer says, by its status or its body, that it is too many requests
	Spent      bool          // the answer says that a quota is used up, which a short wait won't change
	RetryAfter string        // the answer's header
	Reached    bool          // the host has answered something before
}

// Congested reports whether the failure tells of a host or link that would do
// better with fewer connections.
func (f Failure) Congested() bool {
	return f.Throttled || f.Status == http.StatusServiceUnavailable
}

// Next says whether to try again, and after what wait.
//
// What may pass is tried until patience ends: that is what a bad link looks
// like, and a server in trouble. A host that asks to be left alone for a while
// gets that while, if patience lasts so long. Only a host that refuses
// connections, and never took one, is believed sooner.
func (p Policy) Next(f Failure, now time.Time) (wait time.Duration, again bool) {
	tries, patience := p.Tries, p.PatienceOrDefault()
	if tries <= 0 {
		tries = 5
	}
	wait = min(p.Backoff.Delay(f.Tries), max(patience/4, time.Millisecond)) // several tries, however little patience
	if f.Err != nil {
		if !Error(f.Err) || !f.Reached && errors.Is(f.Err, syscall.ECONNREFUSED) && f.Tries >= tries {
			return 0, false
		}
		return wait, f.Since+wait <= patience
	}
	if !f.Throttled && !Status(f.Status) {
		return 0, false
	}
	if f.Spent && f.Tries > 1 {
		return 0, false // whatever it tells: some say a minute and mean six hours (G35)
	}
	if told, ok := After(f.RetryAfter, now); ok {
		return told, told <= patience-f.Since // this way round: a date may be far away
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

// After reads a Retry-After header: seconds or a date (RFC 9110, section
// 10.2.3), and the durations such as 1.16ms that some registries send. The
// wait is at least one second, since some send zero or less and mean "later".
func After(header string, now time.Time) (time.Duration, bool) {
	header = strings.TrimSpace(header)
	if header == "" {
		return 0, false
	}
	var d time.Duration
	if secs, err := strconv.ParseFloat(header, 64); err == nil {
		// Also refuses NaN and what would overflow a Duration.
		if !(secs >= 0 && secs < 1e9) {
			return 0, false
		}
		d = time.Duration(secs * float64(time.Second))
	} else if at, err := http.ParseTime(header); err == nil {
		d = at.Sub(now)
	} else if dur, err := time.ParseDuration(header); err == nil && dur >= 0 {
		d = dur
	} else {
		return 0, false
	}
	return max(d, time.Second), true
}

// Sleep waits for d or until ctx is done, whichever comes first, and returns
// ctx's error in the second case.
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
