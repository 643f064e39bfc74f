package registry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"drayage/engine/internal/retry"
	"drayage/engine/printable"
	"drayage/engine/registry/internal/origin"
	"drayage/engine/registry/internal/redirect"
)

// What a user names, registries and mirrors, may be anywhere. What those name in turn, by
// redirects, realms of tokens and the URLs of layers, is asked by whoever runs this program, from
// where that runs: a registry must not be able to have its network looked at. So each request
// goes with a trail of who has led to it, and the address is checked when it is dialled, after
// the name is resolved.

// reach is where an address is. The larger it is, the closer.
type reach int

const (
	anywhere reach = iota // on the Internet
	private               // a network of one's own
	loopback              // this machine
	never                 // the link, where clouds have their metadata, or nobody's
)

func (r reach) String() string {
	return [...]string{"anywhere", "a private network", "this machine", "the local link, a cloud's metadata, or nobody"}[r]
}

// block is a range of addresses.
type block struct {
	netip.Prefix
	reach reach
}

// blocks are the ranges that are not simply somewhere on the Internet; the first that an address
// is in counts (IANA's registries of special-purpose addresses, RFC 6890).
var blocks = func() []block {
	var out []block
	for _, of := range []struct {
		reach    reach
		prefixes string
	}{
		{never, "0.0.0.0/8 169.254.0.0/16 224.0.0.0/4 255.255.255.255/32 ::/128 fe80::/10 ff00::/8"},
		// Where clouds have their metadata besides 169.254.169.254: Alibaba, Azure, Oracle, and
		// Amazon, Google, Oracle and Scaleway by IPv6.
		{never, "100.100.100.200/32 168.63.129.16/32 192.0.0.192/32 fd00:ec2::254/128 fd20:ce::254/128 fd00:c1::a9fe:a9fe/128 fd00:42::42/128"},
		{loopback, "127.0.0.0/8 ::1/128"},
		{private, "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 192.0.0.0/24 198.18.0.0/15 240.0.0.0/4 fc00::/7 fec0::/10 64:ff9b:1::/48"},
	} {
		for p := range strings.FieldsSeq(of.prefixes) {
			out = append(out, block{netip.MustParsePrefix(p), of.reach})
		}
	}
	return out
}()

// blockOf is the range that an address is in. An IPv6 address that stands for one of IPv4, which
// a gateway or the kernel makes of it, is as close as that.
func blockOf(addr netip.Addr) block {
	addr = addr.Unmap().WithZone("")
	found := block{netip.PrefixFrom(addr, addr.BitLen()), anywhere}
	for _, b := range blocks {
		if b.Contains(addr) {
			found = b
			break
		}
	}
	if inner, ok := embedded(addr); ok && found.reach < loopback {
		if b := blockOf(inner); b.reach > found.reach {
			return b
		}
	}
	return found
}

// embedded is the IPv4 address in one of IPv6: of NAT64 (RFC 6052, RFC 8215), 6to4 (RFC 3056),
// Teredo (RFC 4380), or the oldest form (RFC 4291, section 2.5.5.1).
func embedded(addr netip.Addr) (netip.Addr, bool) {
	if !addr.Is6() {
		return netip.Addr{}, false
	}
	b := addr.As16()
	last := [4]byte(b[12:])
	switch {
	case within("64:ff9b::/96", addr), within("64:ff9b:1::/48", addr), within("::/96", addr) && last != [4]byte{} && last != [4]byte{0, 0, 0, 1}:
		return netip.AddrFrom4(last), true
	case within("2002::/16", addr):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	case within("2001::/32", addr):
		for i := range last {
			last[i] = ^last[i]
		}
		return netip.AddrFrom4(last), true
	}
	return netip.Addr{}, false
}

func within(prefix string, addr netip.Addr) bool { return netip.MustParsePrefix(prefix).Contains(addr) }

// ParseAllowed reads a range of addresses that registries elsewhere may lead to: 10.1.0.0/16, or
// one address. Those that nobody may lead to can't be allowed.
func ParseAllowed(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if addr, errAddr := netip.ParseAddr(s); err != nil && errAddr == nil {
		p, err = netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	if err != nil || p.Addr().Zone() != "" || p.Addr().Is4In6() {
		return p, fmt.Errorf("invalid address range %q; example: 10.1.0.0/16", printable.Line(s))
	}
	for _, b := range blocks {
		if b.reach == never && b.Bits() <= p.Bits() && b.Contains(p.Addr()) {
			return p, fmt.Errorf("%s is %s: no registry may lead there", s, b.reach)
		}
	}
	return p.Masked(), nil
}

// addressError refuses to go where a registry leads to.
type addressError struct {
	host    string // as it was named
	block   block
	proxied bool // who leads there was asked through a proxy
}

func (e *addressError) Error() string {
	return fmt.Sprintf("refusing to connect to %s: its address is one of %s (%s)", e.host, e.block.reach, e.block.Prefix)
}

// Is makes it a retry.ErrLasting.
func (e *addressError) Is(target error) bool { return target == retry.ErrLasting }

func (e *addressError) hint() string {
	permit := "; use --allow-address " + e.block.String() + " to permit it"
	switch {
	case e.block.reach == never:
		return "no registry may lead there"
	case e.proxied:
		return "the registry that leads there was reached through a proxy, which counts as being anywhere" + permit
	}
	return "a registry may lead no closer than it is itself" + permit
}

// check refuses an address for who may lead as close as that, unless it is allowed to all.
func check(host string, addr netip.Addr, may reach, allowed []netip.Prefix) error {
	b := blockOf(addr)
	if b.reach == anywhere || b.reach <= may && b.reach != never {
		return nil
	}
	addr = addr.Unmap().WithZone("")
	inner, _ := embedded(addr)
	for _, p := range allowed {
		if b.reach != never && (p.Contains(addr) || p.Contains(inner)) {
			return nil
		}
	}
	return &addressError{host: printable.Line(host), block: b}
}

// literal is the address that a URL has in place of a name: in any form that a resolver of names
// or a proxy may take for one, such as 127.1, 0x7f000001 or localhost. known is false for a name,
// and bad says that it ends with a number and is no address.
func literal(u *url.URL) (addr netip.Addr, known, bad bool) {
	name := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), true, false
	}
	if addr, err := netip.ParseAddr(name); err == nil {
		return addr, true, false
	}
	parts := strings.Split(name, ".")
	if last := parts[len(parts)-1]; last == "" || last[0] < '0' || last[0] > '9' {
		return netip.Addr{}, false, false
	}
	const most = 4 // numbers, of which the last one fills what is left (inet_aton)
	if len(parts) > most {
		return netip.Addr{}, false, true
	}
	sum := uint64(0)
	for i, part := range parts {
		bits, shift := 8, 24-8*i
		if i == len(parts)-1 {
			bits, shift = 32-8*i, 0
		}
		n, err := strconv.ParseUint(part, 0, bits)
		if err != nil {
			return netip.Addr{}, false, true
		}
		sum |= n << shift
	}
	return netip.AddrFrom4([4]byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)}), true, false
}

// trail is who has led to a request: a registry that the user has named, and hosts that others
// have named. The zero value may lead anywhere on the Internet.
type trail struct {
	host *host // the registry or mirror, nil for none

	mu      sync.Mutex
	most    reach // as close as the hosts may lead that it went over
	proxied bool  // one of them was reached through a proxy
}

// newTrail begins at a registry.
func newTrail(h *host) *trail { return &trail{host: h, most: loopback} }

// may is how close the next request may go: no registry may lead closer than it is itself.
func (t *trail) may() reach {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.host == nil {
		return t.most
	}
	return min(t.most, t.host.where())
}

// over notes an answer of a host that others have named, and whether it came through a proxy.
func (t *trail) over(at reach, proxied bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.most, t.proxied = min(t.most, at), t.proxied || proxied
}

// isProxied reports whether a proxy hides where one of those is who have led here.
func (t *trail) isProxied() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.proxied || t.host != nil && t.host.isProxied()
}

// fork is the trail so far. What comes after that is its own.
func (t *trail) fork() *trail {
	t.mu.Lock()
	defer t.mu.Unlock()
	return &trail{host: t.host, most: t.most, proxied: t.proxied}
}

// isOwn reports whether a URL is one of the host that the user has named.
func (t *trail) isOwn(u *url.URL) bool { return t.host != nil && t.host.has(u) }

// has is is, whether a URL says its scheme's port or not.
func (h *host) has(u *url.URL) bool {
	if h.is(u) {
		return true
	}
	named := &url.URL{Scheme: u.Scheme, Host: h.name}
	return strings.EqualFold(named.Hostname(), u.Hostname()) && origin.Port(named) == origin.Port(u)
}

// where is where the host was when it last answered: anywhere, until it has.
func (h *host) where() reach {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.near
}

// isNear notes where the host was when it answered: through a proxy, that is anywhere.
func (h *host) isNear(at reach, proxied bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.near, h.proxied, h.answered = at, proxied, true
}

func (h *host) isProxied() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.proxied
}

func (h *host) hasAnswered() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.answered
}

type trailKey struct{}

func withTrail(ctx context.Context, t *trail) context.Context {
	return context.WithValue(ctx, trailKey{}, t)
}

func trailOf(ctx context.Context) *trail {
	if t, ok := ctx.Value(trailKey{}).(*trail); ok {
		return t
	}
	return new(trail)
}

// transports are the connections to all hosts: to those that the user has named, of which some
// have a TLS configuration of their own, and to those that others have named. The latter never
// get client certificates, and are apart by how close who named them may lead: a connection that
// one registry may have is not there for another.
type transports struct {
	base    *http.Transport
	own     map[string]*http.Transport // by host
	led     [never]*http.Transport     // by how close they may go
	proxied *http.Transport            // through a proxy, which dials
	allowed []netip.Prefix
	dial    func(may *reach, host string) func(ctx context.Context, network, address string) (net.Conn, error)
}

func newTransports(o Options, base *http.Transport) *transports {
	t := &transports{base: base, own: make(map[string]*http.Transport), allowed: o.Allowed}
	t.dial = func(may *reach, host string) func(ctx context.Context, network, address string) (net.Conn, error) {
		if may == nil {
			return dialer(o.Connect, o.Network, nil)
		}
		return dialer(o.Connect, o.Network, func(_ context.Context, _, address string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("%w: %s is not an address", retry.ErrLasting, address)
			}
			return check(host, at.Addr(), *may, t.allowed)
		})
	}
	base.DialContext = t.dial(nil, "")
	for _, m := range o.Mirrors {
		if m.TLS != nil && t.own[m.URL.Host] == nil {
			own := base.Clone()
			own.TLSClientConfig = m.TLS
			t.own[m.URL.Host] = own
		}
	}
	bare := func() *http.Transport {
		out := base.Clone()
		if out.TLSClientConfig != nil {
			out.TLSClientConfig.Certificates, out.TLSClientConfig.GetClientCertificate = nil, nil
		}
		return out
	}
	t.proxied = bare()
	for may := range t.led {
		t.led[may] = bare()
		t.led[may].Proxy = nil
		may := reach(may)
		t.led[may].DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			host, _, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			return t.dial(&may, host)(ctx, network, address)
		}
	}
	return t
}

// RoundTrip implements http.RoundTripper.
func (t *transports) RoundTrip(req *http.Request) (*http.Response, error) {
	way := trailOf(req.Context())
	proxy, err := t.base.Proxy(req)
	if err != nil {
		closeRequest(req)
		return nil, err
	}
	next := t.base
	switch mine := way.isOwn(req.URL); {
	case mine && t.own[req.URL.Host] != nil:
		next = t.own[req.URL.Host]
	case mine:
	case proxy != nil:
		next = t.proxied
		addr, known, bad := literal(req.URL)
		if bad {
			err = fmt.Errorf("%w: %s is neither a name nor an address", redirect.ErrRefused, printable.Line(req.URL.Hostname()))
		} else if known {
			err = check(req.URL.Hostname(), addr, way.may(), t.allowed)
		}
		if err != nil {
			closeRequest(req)
			return nil, t.refused(err, way)
		}
	default:
		next = t.led[way.may()]
	}
	var conn net.Addr
	resp, err := next.RoundTrip(req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) { conn = i.Conn.RemoteAddr() },
	})))
	if err != nil {
		return nil, t.refused(err, way)
	}
	at, hidden := anywhere, proxy != nil
	if addr, known, _ := literal(req.URL); proxy != nil && known {
		at, hidden = blockOf(addr).reach, false
	} else if tcp, ok := conn.(*net.TCPAddr); proxy == nil && ok {
		at = blockOf(tcp.AddrPort().Addr()).reach
	}
	if at == never { // where a user has one
		at = private
	}
	if way.isOwn(req.URL) {
		way.host.isNear(at, hidden)
	} else {
		way.over(at, hidden)
	}
	return resp, nil
}

// refused adds to an error that refuses an address whether a proxy hides who has led there.
func (t *transports) refused(err error, way *trail) error {
	var led *addressError
	if !errors.As(err, &led) || !way.isProxied() {
		return err
	}
	return &addressError{host: led.host, block: led.block, proxied: true}
}

// closeRequest closes the body of a request that isn't sent, as an http.RoundTripper must.
func closeRequest(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close() // it is in memory
	}
}

// CloseIdleConnections closes those of all.
func (t *transports) CloseIdleConnections() {
	t.base.CloseIdleConnections()
	t.proxied.CloseIdleConnections()
	for _, led := range t.led {
		led.CloseIdleConnections()
	}
	for _, own := range t.own {
		own.CloseIdleConnections()
	}
}

// isRefusedAddress reports whether an error is that a host leads where it may not.
func isRefusedAddress(err error) bool { return errors.As(err, new(*addressError)) }
