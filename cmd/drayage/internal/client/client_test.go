package client

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"drayage/engine/limitstest"
)

func from(address string) Address { return AddressOf(net.JoinHostPort(address, "1")) }

// Nobody gets a new allowance by coming from many addresses, and what is known of them is bounded.
func TestBucketsAreBounded(t *testing.T) {
	now := time.Unix(1e9, 0)
	b := NewBuckets(1, 5, 100)
	key := func(i int) netip.Prefix { return from(fmt.Sprintf("10.%d.%d.1", i/256, i%256)).Network }
	spend := func(i int) (n int) {
		for n < 1000 && b.Take(key(i), now) == 0 {
			n++
		}
		return n
	}
	if n := spend(0); n != 5 {
		t.Fatalf("one has %d", n)
	}
	total := 0
	for i := 1; i < 5000; i++ {
		total += spend(i)
	}
	if most := 99*5 + Share*5; total != most || len(b.known) > 100 {
		t.Errorf("others have %d, want %d; %d are known", total, most, len(b.known))
	}
	if n := spend(0); n != 0 {
		t.Errorf("the first has %d again", n)
	}
	now = now.Add(2 * time.Second)
	if n := spend(0); n != 2 {
		t.Errorf("after two seconds it has %d", n)
	}
	now = now.Add(time.Hour)
	if n := spend(9999); n != 5 || len(b.known) > 100 {
		t.Errorf("a new one has %d after an hour, and %d are known", n, len(b.known))
	}
	b.Spend(key(9999), now) // though there is none
	if short, long := b.Until(key(9999), 1, now), b.Until(key(9999), 3, now); short != 2*time.Second || long != 4*time.Second {
		t.Errorf("there will be one in %s and three in %s", short, long)
	}
	if wait := b.Until(key(8888), 5, now); wait != 0 || len(b.known) > 100 {
		t.Errorf("who has taken none has to wait for %s", wait)
	}
}

func TestMemoryOfAddressesIsBounded(t *testing.T) {
	const most = 64 << 20
	limitstest.Within(t, most, func() {
		c := NewRates(RateLimits{Requests: 5, Bytes: 1 << 20})
		now := time.Now()
		for i := range 300_000 {
			s := AddressOf(fmt.Sprintf("[2001:db8:%x:%x::1]:1", i/65536, i%65536))
			c.Request(s, false, now)
			c.Request(s, true, now)
			c.Bytes(s)
		}
	})
}

func TestSourcesOfRequests(t *testing.T) {
	for remote, want := range map[string]Address{
		"10.1.2.3:80":               {netip.MustParsePrefix("10.1.2.3/32"), netip.MustParsePrefix("10.1.2.3/32")},
		"[::ffff:10.1.2.3]:80":      {netip.MustParsePrefix("10.1.2.3/32"), netip.MustParsePrefix("10.1.2.3/32")},
		"[2001:db8::1]:80":          {netip.MustParsePrefix("2001:db8::1/128"), netip.MustParsePrefix("2001:db8::/64")},
		"[fe80::1%eth0]:80":         {netip.MustParsePrefix("fe80::1/128"), netip.MustParsePrefix("fe80::/64")},
		"@":                         {},
		"":                          {},
		"[2001:db8:0:1:ffff::2]:80": {netip.MustParsePrefix("2001:db8:0:1:ffff::2/128"), netip.MustParsePrefix("2001:db8:0:1::/64")},
	} {
		if got := AddressOf(remote); got != want {
			t.Errorf("%s: %v, want %v", remote, got, want)
		}
	}
}

func TestDefaultRateIsNotForThisMachine(t *testing.T) {
	now := time.Unix(1e9, 0)
	c := NewRates(RateLimits{Requests: 200, Burst: 2000, FreeLoopback: true})
	for address, want := range map[string]int{"127.0.0.1": 5000, "127.1.2.3": 5000, "::1": 5000, "10.0.0.1": 2000, "2001:db8::1": 2000} {
		n := 0
		for range 5000 {
			if c.Request(from(address), false, now) == 0 {
				n++
			}
		}
		if n != want {
			t.Errorf("%s has %d requests at once, want %d", address, n, want)
		}
	}
}

// All addresses of an IPv6 network together may not have everything.
func TestNetworkIsNoWayRoundBounds(t *testing.T) {
	now := time.Unix(1e9, 0)
	c := NewRates(RateLimits{Requests: 10})
	n := 0
	for i := range 10_000 {
		if c.Request(from(fmt.Sprintf("2001:db8::%x", i+1)), false, now) == 0 {
			n++
		}
	}
	if n != Share*10 {
		t.Errorf("a network has %d requests a second", n)
	}
	if c.Request(from("2001:db8:1::1"), false, now) != 0 || c.Request(from("10.0.0.1"), false, now) != 0 {
		t.Error("others have none")
	}
}
