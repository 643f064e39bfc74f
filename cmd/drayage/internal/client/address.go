// Package client has what is known of clients by their addresses, and what each may take: requests and
// bytes in a time, and how much at once.
package client

import (
	"net/netip"
)

// Address is where a client is. One that has no IP address, as over a Unix socket, is the zero
// value, and is held to no bound of one address: it is a proxy, most often.
type Address struct {
	Host    netip.Prefix // its address
	Network netip.Prefix // what one owner may have all addresses of: the address itself or, in IPv6, its /64
}

// AddressOf reads an address with a port, as net.Conn and http.Request have it.
func AddressOf(remote string) Address {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return Address{}
	}
	a := at.Addr().Unmap().WithZone("")
	host := netip.PrefixFrom(a, a.BitLen())
	if a.Is4() {
		return Address{host, host}
	}
	const subnet = 64 // bits that a site has to give away (RFC 6177)
	return Address{host, netip.PrefixFrom(a, subnet).Masked()}
}

// Known reports whether the client has an IP address.
func (s Address) Known() bool { return s.Host.IsValid() }

// Shared reports whether others may have addresses of the same network.
func (s Address) Shared() bool { return s.Host != s.Network }

// Share is how many times the share of one address all of an IPv6 network have.
const Share = 16
