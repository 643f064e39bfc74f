package reach

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"drayage/engine/internal/retry"
	"drayage/engine/printable"
)

// Level is how close an address is. The larger it is, the closer.
type Level int

// The levels, from far to close.
const (
	Anywhere Level = iota // on the Internet
	private               // a network of one's own
	loopback              // this machine
	never                 // the link, where clouds have their metadata, or nobody's
)

// String is the level in words, as in errors.
func (r Level) String() string {
	return [...]string{"anywhere", "a private network", "this machine", "the local link, a cloud's metadata, or nobody"}[r]
}

// block is a range of addresses.
type block struct {
	netip.Prefix
	level Level
}

// blocks are the ranges that are not simply somewhere on the Internet; the first that an address
// is in counts (IANA's registries of special-purpose addresses, RFC 6890).
var blocks = func() []block {
	var out []block
	for _, of := range []struct {
		level    Level
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
			out = append(out, block{netip.MustParsePrefix(p), of.level})
		}
	}
	return out
}()

// blockOf is the range that an address is in. An IPv6 address that stands for one of IPv4, which
// a gateway or the kernel makes of it, is as close as that.
func blockOf(addr netip.Addr) block {
	addr = addr.Unmap().WithZone("")
	found := block{netip.PrefixFrom(addr, addr.BitLen()), Anywhere}
	for _, b := range blocks {
		if b.Contains(addr) {
			found = b
			break
		}
	}
	if inner, ok := embedded(addr); ok && found.level < loopback {
		if b := blockOf(inner); b.level > found.level {
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
		if b.level == never && b.Bits() <= p.Bits() && b.Contains(p.Addr()) {
			return p, fmt.Errorf("%s is %s: no registry may lead there", s, b.level)
		}
	}
	return p.Masked(), nil
}

// Error refuses to go where a registry leads to.
type Error struct {
	host    string // as it was named
	block   block
	proxied bool // who leads there was asked through a proxy
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("refusing to connect to %s: its address is one of %s (%s)", e.host, e.block.level, e.block.Prefix)
}

// Is makes it a retry.ErrLasting.
func (e *Error) Is(target error) bool { return target == retry.ErrLasting }

// Hint is what a user may do about it.
// Hint is what a user may do about it.
func (e *Error) Hint() string {
	permit := "; use --allow-address " + e.block.String() + " to permit it"
	switch {
	case e.block.level == never:
		return "no registry may lead there"
	case e.proxied:
		return "the registry that leads there was reached through a proxy, which counts as being anywhere" + permit
	}
	return "a registry may lead no closer than it is itself" + permit
}

// check refuses an address for who may lead as close as that, unless it is allowed to all.
func check(host string, addr netip.Addr, may Level, allowed []netip.Prefix) error {
	b := blockOf(addr)
	if b.level == Anywhere || b.level <= may && b.level != never {
		return nil
	}
	addr = addr.Unmap().WithZone("")
	inner, _ := embedded(addr)
	for _, p := range allowed {
		if b.level != never && (p.Contains(addr) || p.Contains(inner)) {
			return nil
		}
	}
	return &Error{host: printable.Line(host), block: b}
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

// IsRefused reports whether an error is that a host leads where it may not.
func IsRefused(err error) bool { return errors.As(err, new(*Error)) }
