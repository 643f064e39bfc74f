package reach

import (
	"net/netip"
	"net/url"
	"testing"
)

func TestWhereAddressesAre(t *testing.T) {
	for text, want := range map[string]Level{
		"8.8.8.8": Anywhere, "2606:4700::1111": Anywhere, "64:ff9b::808:808": Anywhere, "2002:808:808::1": Anywhere, "172.32.0.1": Anywhere, "100.128.0.1": Anywhere,
		"10.0.0.1": private, "172.16.0.1": private, "172.31.255.255": private, "192.168.1.1": private, "100.64.0.1": private, "100.127.255.255": private,
		"fd12::1": private, "fc00::1": private, "fec0::1": private, "198.18.0.1": private, "240.0.0.1": private,
		"::ffff:10.0.0.1": private, "64:ff9b::a00:1": private, "2002:a00:1::": private, "::10.0.0.1": private, "64:ff9b:1::808:808": private,
		"2001:0:4136:e378:8000:63bf:f5ff:fffe": private, // Teredo, of 10.0.0.1
		"127.0.0.1":                            loopback, "127.255.255.255": loopback, "::1": loopback, "::ffff:127.0.0.1": loopback, "64:ff9b::7f00:1": loopback, "2002:7f00:1::": loopback, "::127.0.0.1": loopback,
		"0.0.0.0": never, "0.1.2.3": never, "::": never, "::ffff:0.0.0.0": never, "169.254.169.254": never, "::ffff:169.254.169.254": never, "64:ff9b::a9fe:a9fe": never,
		"64:ff9b:1::a9fe:a9fe": never, "2002:a9fe:a9fe::": never, "::169.254.169.254": never, "fe80::1": never, "fe80::1%eth0": never, "febf::1": never,
		"fd00:ec2::254": never, "fd20:ce::254": never, "100.100.100.200": never, "168.63.129.16": never, "224.0.0.1": never, "239.255.255.255": never, "ff02::1": never, "255.255.255.255": never,
	} {
		if got := blockOf(netip.MustParseAddr(text)).level; got != want {
			t.Errorf("%s is %v, want %v", text, got, want)
		}
	}
}

func TestWhoMayLeadWhere(t *testing.T) {
	allowed := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("0.0.0.0/0")}
	for _, c := range []struct {
		addr    string
		may     Level
		allowed bool
		ok      bool
	}{
		{"8.8.8.8", Anywhere, false, true}, {"10.1.2.3", Anywhere, false, false}, {"10.1.2.3", private, false, true}, {"10.1.2.3", loopback, false, true},
		{"127.0.0.1", private, false, false}, {"127.0.0.1", loopback, false, true}, {"169.254.169.254", loopback, false, false},
		{"10.1.2.3", Anywhere, true, true}, {"::ffff:10.1.2.3", Anywhere, true, true}, {"64:ff9b::a01:203", Anywhere, true, true}, {"127.0.0.1", Anywhere, true, true},
		{"169.254.169.254", Anywhere, true, false}, {"fd12::1", Anywhere, true, false},
	} {
		var list []netip.Prefix
		if c.allowed {
			list = allowed
		}
		if err := check(c.addr, netip.MustParseAddr(c.addr), c.may, list); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestAddressesInPlaceOfNames: what resolvers and proxies take for an address.
func TestAddressesInPlaceOfNames(t *testing.T) {
	for host, want := range map[string]string{
		"127.0.0.1": "127.0.0.1", "127.1": "127.0.0.1", "2130706433": "127.0.0.1", "0x7f000001": "127.0.0.1", "0177.0.0.1": "127.0.0.1", "0x7f.1": "127.0.0.1",
		"10.1": "10.0.0.1", "LOCALHOST": "127.0.0.1", "localhost.": "127.0.0.1", "a.localhost": "127.0.0.1", "127.0.0.1.": "127.0.0.1", "[::1]": "::1",
		"1.2.3.4.5": "bad", "300.1.1.1": "bad", "4294967296": "bad", "a.1": "bad",
		"registry.example": "", "1.example": "", "localhost.example": "", "x": "",
	} {
		addr, known, bad := literal(&url.URL{Host: host})
		got := ""
		if known {
			got = addr.String()
		}
		if bad {
			got = "bad"
		}
		if got != want {
			t.Errorf("%s is %q, want %q", host, got, want)
		}
	}
}

func TestParseAllowed(t *testing.T) {
	for text, want := range map[string]string{
		"10.1.2.3/16": "10.1.0.0/16", "10.1.2.3": "10.1.2.3/32", "fd12::/16": "fd12::/16", "0.0.0.0/0": "0.0.0.0/0", "127.0.0.0/8": "127.0.0.0/8",
		"169.254.0.0/16": "", "169.254.169.254": "", "fe80::/64": "", "100.100.100.200/32": "", "": "", "x": "", "10.0.0.0/33": "", "::ffff:10.0.0.1": "", "fe80::1%eth0": "",
	} {
		p, err := ParseAllowed(text)
		if got := p.String(); (err == nil) != (want != "") || err == nil && got != want {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
}
