package conns

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"drayage/cmd/drayage/internal/client"
	"drayage/cmd/drayage/internal/refusal"
)

// connect has a client connect. The connection is nil when there is no place for it; closed reports
// whether the server has ended it.
func connect(t *testing.T, p *places, address string) (c *Conn, closed func() bool) {
	t.Helper()
	here, there := net.Pipe()
	t.Cleanup(func() { here.Close(); there.Close() })
	c = p.enter(here, from(address))
	return c, func() bool {
		if err := there.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
			return true
		}
		_, err := there.Read(make([]byte, 1))
		return !errors.Is(err, os.ErrDeadlineExceeded)
	}
}

// When all places are taken, a connection that waits for its client gives way, of the address that has
// most; not one that has just connected, nor one with a request under way.
func TestIdleConnectionsGiveWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlaces(Bounds{All: 4}, Timeouts{}.OrDefaults(), nil)
		active, activeClosed := connect(t, p, "10.0.0.1")
		active.state = http.StateActive
		_, manyClosed := connect(t, p, "10.0.0.1")
		_, fewClosed := connect(t, p, "10.0.0.2")
		time.Sleep(p.times.Reserve)
		_, newClosed := connect(t, p, "10.0.0.3")
		c, _ := connect(t, p, "10.0.0.4")
		if c == nil || c.Reserve() != "" {
			t.Error("there is no place for a new connection")
		}
		if !manyClosed() || activeClosed() || fewClosed() || newClosed() {
			t.Errorf("ended: of the address with most %v, active %v, of one with few %v, new %v", manyClosed(), activeClosed(), fewClosed(), newClosed())
		}
		if n := p.count(); n != 4 {
			t.Errorf("%d places of 4 are taken", n)
		}
	})
}

// A connection for which there is no place has one of the reserve until one of all is free, and for
// some seconds.
func TestTheReserveWaitsForAPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlaces(Bounds{All: 1}, Timeouts{}.OrDefaults(), nil)
		first, _ := connect(t, p, "10.0.0.1")
		first.state = http.StateActive
		second, _ := connect(t, p, "10.0.0.2")
		if second == nil || second.Reserve() != refusal.WhyFull {
			t.Fatalf("%+v", second)
		}
		if second.Promote(t.Context()) {
			t.Error("a place was found though all are taken")
		}
		third, _ := connect(t, p, "10.0.0.3")
		go func() {
			time.Sleep(time.Second)
			first.Close()
		}()
		if !third.Promote(t.Context()) || third.Reserve() != "" {
			t.Error("no place was found though one became free")
		}
		if n := p.count(); n != 1 {
			t.Errorf("%d places are taken", n)
		}
		if d := third.bounded(time.Time{}); !d.IsZero() {
			t.Errorf("it ends at %v, although it has a place", d)
		}
	})
}

// An address has no more than its share, of the reserve neither.
func TestAnAddressHasItsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlaces(Bounds{All: 100, PerClient: 2}, Timeouts{}.OrDefaults(), nil)
		all, ofOne := p.bounds.spares()
		taken, spare, none := 0, 0, 0
		for range 2 + all {
			switch c, _ := connect(t, p, "10.0.0.1"); {
			case c == nil:
				none++
			case c.Reserve() == refusal.WhyFullOfOne:
				c.state = http.StateActive
				spare++
			default:
				c.state = http.StateActive
				taken++
			}
		}
		if taken != 2 || spare != ofOne || none != all-ofOne {
			t.Errorf("%d places, %d of the reserve and %d without, want 2, %d and %d", taken, spare, none, ofOne, all-ofOne)
		}
		if c, _ := connect(t, p, "10.0.0.2"); c == nil || c.Reserve() != "" {
			t.Error("another address has none")
		}
	})
}

// A client that asks in order to reset is cut off; answers that it takes count for it.
func TestResetsAreCounted(t *testing.T) {
	p := newPlaces(Bounds{}, Timeouts{}.OrDefaults(), nil)
	c, closed := connect(t, p, "10.0.0.1")
	for range 3 * mostResets {
		c.Over(true)
		c.Over(false)
	}
	for range mostResets {
		c.Over(true)
	}
	if closed() {
		t.Error("it was cut off though it took answers")
	}
	c.Over(true)
	if !closed() {
		t.Error("it was not cut off")
	}
}

// Requests in HTTP/2: an address that has as many as it may has one give way whose client takes
// nothing, and else no more.
func TestStreamsOfAnAddressAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &StreamLimits{most: 100, mostOfOne: 2, of: make(map[netip.Prefix]map[*Stream]struct{})}
		begin := func(address string) (x *Stream, over *bool, ok bool) {
			over = new(bool)
			x = NewStream(from(address), nil, time.Minute, func() { *over = true })
			return x, over, s.Enter(x)
		}
		stuck, stuckOver, _ := begin("10.0.0.1")
		_, _, second := begin("10.0.0.1")
		if _, _, third := begin("10.0.0.1"); !second || third {
			t.Errorf("the second has a place: %v, the third: %v", second, third)
		}
		stuck.Begin() // its client takes nothing from here on
		time.Sleep(30 * time.Second)
		x, _, ok := begin("10.0.0.1")
		if !ok || !*stuckOver {
			t.Errorf("a place: %v, and the one that is stuck is over: %v", ok, *stuckOver)
		}
		stuck.End(0)
		s.Leave(x)
		if _, _, ok := begin("10.0.0.1"); !ok {
			t.Error("who left has left no place")
		}
		if s.all != len(s.of[from("10.0.0.1").Network]) {
			t.Errorf("%d in all", s.all)
		}
	})
}

// An HTTP/2 connection has a place among those, and gives it back.
func TestPlacesForHTTP2(t *testing.T) {
	p := newPlaces(Bounds{}, Timeouts{}.OrDefaults(), nil)
	p.http2 = client.NewCounts(2, 1)
	var all []*Conn
	for i := range 3 {
		c, _ := connect(t, p, fmt.Sprintf("10.0.0.%d", i+1))
		all = append(all, c)
	}
	same, _ := connect(t, p, "10.0.0.1")
	if !p.mayHTTP2(all[0]) || p.mayHTTP2(same) || !p.mayHTTP2(all[1]) || p.mayHTTP2(all[2]) {
		t.Error("not two of different addresses may")
	}
	if !p.mayHTTP2(all[0]) || !p.mayHTTP2(all[1]) {
		t.Error("one that may is counted again")
	}
	if err := all[0].Close(); err != nil {
		t.Fatal(err)
	}
	if p.mayHTTP2(all[0]) || !p.mayHTTP2(all[2]) {
		t.Error("a connection that was closed keeps its place")
	}
}
