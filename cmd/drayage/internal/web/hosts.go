package web

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Hosts are the names by which clients may ask for a server, as the Host header has them. Nil are
// all names. A page in a browser may have its own name stand for this machine's address, and would
// read what is served to this machine alone: the Host header tells (DNS rebinding).
type Hosts struct {
	names    map[string]bool
	loopback bool
}

// NewHosts makes one of names, * for any. loopback adds localhost and the addresses of this
// machine's loopback network.
func NewHosts(names []string, loopback bool) (*Hosts, error) {
	h := &Hosts{names: make(map[string]bool), loopback: loopback}
	any := false
	for _, name := range names {
		if name == "*" {
			any = true
			continue
		}
		host, ok := hostOf(name)
		if !ok || strings.ContainsAny(name, "/ @*") {
			return nil, fmt.Errorf("invalid host name %q; example: mirror.example, or * for any", name)
		}
		h.names[host] = true
	}
	if any || !loopback && len(h.names) == 0 {
		return nil, nil
	}
	return h, nil
}

// Allows reports whether a Host header names the server.
func (h *Hosts) Allows(header string) bool {
	if h == nil {
		return true
	}
	host, ok := hostOf(header)
	if !ok {
		return false
	}
	if h.names[host] {
		return true
	}
	if !h.loopback {
		return false
	}
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

// hostOf is the name or address of a Host header, as it is compared: without its port, in lower
// case, without the dot of the root.
func hostOf(header string) (host string, ok bool) {
	host = header
	if h, port, err := net.SplitHostPort(header); err == nil {
		if strings.Trim(port, "0123456789") != "" {
			return "", false
		}
		host = h
	} else if inner, bracketed := strings.CutPrefix(header, "["); bracketed {
		if host, bracketed = strings.CutSuffix(inner, "]"); !bracketed {
			return "", false
		}
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return a.String(), true
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host, host != "" && !strings.Contains(host, ":")
}
