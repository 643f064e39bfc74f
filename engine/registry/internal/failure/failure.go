// Package failure tells errors of net/http and crypto/tls apart for which these have no types or
// sentinels. All of its functions are pure.
package failure

import (
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"slices"
	"strings"
)

// IsMalformed reports whether an error tells of an answer whose header can't be read.
func IsMalformed(err error) bool {
	text := err.Error()
	return strings.Contains(text, "malformed MIME header") || strings.Contains(text, "malformed HTTP")
}

// IsProtocol reports errors that come from speaking plain HTTP to a TLS server
// or the reverse, or from an answer that is none, which another try won't mend.
func IsProtocol(err error) bool {
	text := err.Error()
	return strings.Contains(text, "malformed HTTP response") || strings.Contains(text, "server gave HTTP response to HTTPS client") || IsLargeHeader(err)
}

// IsLargeHeader reports whether an error says that an answer's header is larger than
// limits.HeaderBytes.
func IsLargeHeader(err error) bool {
	return strings.Contains(err.Error(), "server response headers exceeded")
}

// IsAny reports whether an error wraps one of several.
func IsAny(err error, targets ...error) bool {
	return slices.ContainsFunc(targets, func(target error) bool { return errors.Is(err, target) })
}

// IsAlert reports whether a server has ended a TLS handshake, or a connection, by an alert.
func IsAlert(err error) bool {
	var op *net.OpError // crypto/tls has no type of its own for alerts
	return errors.As(err, &op) && op.Op == "remote error"
}

// IsHandshake reports whether what a server says is no TLS, or none that is spoken today.
func IsHandshake(err error) bool {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return errors.As(err, new(tls.RecordHeaderError)) || strings.HasPrefix(err.Error(), "tls: ") && !IsCertificate(err)
}

// IsCertificate reports whether a certificate could not be verified.
func IsCertificate(err error) bool {
	var verify *tls.CertificateVerificationError
	return errors.As(err, &verify)
}
