// Package origin compares where URLs lead: their scheme, host and port, written or not.
package origin

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// Same reports whether two URLs have the same scheme, host and port.
func Same(a, b *url.URL) bool {
	return strings.EqualFold(a.Scheme, b.Scheme) && strings.EqualFold(a.Hostname(), b.Hostname()) && Port(a) == Port(b)
}

// Port is the port of a URL, or the one that its scheme has when it names none.
func Port(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case strings.EqualFold(u.Scheme, "https"):
		return "443"
	}
	return "80"
}

// IsLoopback reports whether a registry is on this machine: localhost,
// 127.0.0.0/8 or ::1, as Docker has it.
func IsLoopback(hostport string) bool {
	name := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		name = h
	}
	name = strings.Trim(name, "[]")
	if name == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(name)
	return err == nil && addr.IsLoopback()
}

// IsNowhere reports whether a URL has no host, or a port that is none.
func IsNowhere(u *url.URL) bool {
	p := u.Port()
	if p == "" {
		return u.Hostname() == "" || strings.HasSuffix(u.Host, ":")
	}
	n, err := strconv.ParseUint(p, 10, 16)
	return err != nil || n == 0 || u.Hostname() == ""
}

// Hostname is a host without its port.
func Hostname(hostport string) string {
	return (&url.URL{Host: hostport}).Hostname()
}
