package reach

import (
	"errors"
	"net"
	"strings"
)

// IsUnreachable reports whether an error says that no connection could be made.
func IsUnreachable(err error) bool {
	var op *net.OpError
	return !IsRefused(err) && (errors.As(err, &op) && (op.Op == "dial" || op.Op == "proxyconnect") || errors.As(err, new(*net.DNSError)) ||
		strings.Contains(err.Error(), "TLS handshake timeout"))
}
