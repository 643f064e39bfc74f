package conns

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"drayage/cmd/drayage/internal/client"
)

// All addresses of an IPv6 network together may not have all places.
func TestNetworkIsNoWayRoundPlaces(t *testing.T) {
	p := newPlaces(Bounds{All: 100, PerClient: 20}, Timeouts{}.OrDefaults(), nil)
	for i := range 100 {
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		if c := p.enter(a, from(fmt.Sprintf("2001:db8::%x", i+1))); c != nil {
			c.state = http.StateActive
		}
	}
	if n := p.count(); n != 50 {
		t.Errorf("a network has %d places of 100", n)
	}
}

// A client that takes what it gets, however slowly, gets all of it; one that takes next to nothing
// doesn't.
func TestSlowClientsAreWaitedFor(t *testing.T) {
	for name, c := range map[string]struct {
		bytes int // a second
		all   bool
	}{"a slow line": {1 << 10, true}, "a few bytes": {20, false}, "nothing": {0, false}} {
		synctest.Test(t, func(t *testing.T) {
			here, there := net.Pipe()
			p := newPlaces(Bounds{}, Timeouts{}.OrDefaults(), nil)
			conn := p.enter(here, client.Address{})
			var took atomic.Int64
			conn.acked = func() (int64, bool) { return took.Load(), true }
			reading := make(chan struct{})
			go func() {
				defer close(reading)
				for c.bytes > 0 {
					n, err := io.ReadFull(there, make([]byte, c.bytes))
					took.Add(int64(n))
					if err != nil {
						return
					}
					time.Sleep(time.Second)
				}
			}()
			const size = 3 << 20
			began := time.Now()
			n, err := conn.Write(make([]byte, size))
			if (err == nil && n == size) != c.all {
				t.Errorf("%s: %d bytes, %v", name, n, err)
			}
			if most := 3 * time.Minute; !c.all && time.Since(began) > most {
				t.Errorf("%s: held for %s", name, time.Since(began))
			}
			there.Close()
			conn.Close()
			<-reading
		})
	}
}

func from(address string) client.Address { return client.AddressOf(net.JoinHostPort(address, "1")) }
