package web

import (
	"context"
	"net/netip"
)

// source is where a client is. One that has no IP address, as over a Unix socket, is the zero
// value, and is held to no bound of one address: it is a proxy, most often.
type source struct {
	host    netip.Prefix // its address
	network netip.Prefix // what one owner may have all addresses of: the address itself or, in IPv6, its /64
}

// sourceOf reads an address with a port, as net.Conn and http.Request have it.
func sourceOf(remote string) source {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return source{}
	}
	a := at.Addr().Unmap().WithZone("")
	host := netip.PrefixFrom(a, a.BitLen())
	if a.Is4() {
		return source{host, host}
	}
	const subnet = 64 // bits that a site has to give away (RFC 6177)
	return source{host, netip.PrefixFrom(a, subnet).Masked()}
}

func (s source) known() bool { return s.host.IsValid() }

// shared reports whether others may have addresses of the same network.
func (s source) shared() bool { return s.host != s.network }

// crowd is how many times the share of one address all of an IPv6 network have.
const crowd = 16

// visit is what is known of a request beside itself.
type visit struct {
	from source
	conn *conn // nil where the listener isn't one of Places
	// why it was refused, a word of metrics; "" when it wasn't
	why string
}

type visitKey struct{}

// visitOf is the visit that a request's context has, or an empty one.
func visitOf(ctx context.Context) *visit {
	if v, ok := ctx.Value(visitKey{}).(*visit); ok {
		return v
	}
	return new(visit)
}
