package listen

import (
	"context"
	"net"
	"strings"
	"testing"

	"drayage/cmd/drayage/internal/status"
)

func TestOpenListensOnAnAddress(t *testing.T) {
	ls, err := Open(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if len(ls) != 1 || !IsLoopback(ls[0].Addr()) {
		t.Errorf("listening on %v", ls)
	}
	if _, err := Open(t.Context(), ls[0].Addr().String()); err == nil || status.Of(err) != 7 || !strings.Contains(err.Error(), "already in use") {
		t.Errorf("an address in use: %v", err)
	}
	if err := Close(ls); err != nil {
		t.Error(err)
	}
}

func TestOpenRejectsWhatIsNoAddress(t *testing.T) {
	for _, address := range []string{"", "5000", ":x", ":70000", "localhost"} {
		if ls, err := Open(t.Context(), address); !status.IsUsage(err) {
			t.Errorf("%q: %v, %v", address, ls, err)
		}
	}
}

func TestOnlyLoopbackAddressesAreLoopback(t *testing.T) {
	for address, want := range map[net.Addr]bool{
		&net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}: true, &net.TCPAddr{IP: net.IPv6loopback}: true,
		&net.TCPAddr{IP: net.IPv4zero}: false, &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1)}: false, &net.UnixAddr{Name: "/run/x", Net: "unix"}: false,
	} {
		if got := IsLoopback(address); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
}

func TestPprofIsOffWithoutAnAddress(t *testing.T) {
	if s, err := Pprof(context.Background(), "", nil); s != nil || err != nil {
		t.Errorf("%v, %v", s, err)
	}
}
