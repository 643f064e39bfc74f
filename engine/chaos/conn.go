package chaos

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"

	"drayage/engine/chaos/internal/wire"

	"golang.org/x/time/rate"
)

// listener wraps connections with the faults of a bad link.
type listener struct {
	net.Listener
	p *Proxy
}

// Listen returns a listener whose connections have the faults of the link, for servers that are not
// behind the proxy.
func (p *Proxy) Listen(l net.Listener) net.Listener { return listener{l, p} }

// Accept implements net.Listener.
func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.p.wrap(c), nil
}

// wrap draws the faults of a connection.
func (p *Proxy) wrap(c net.Conn) *conn {
	nth := p.stats.Connections.Add(1)
	p.stats.Open.Add(1)
	o := p.opts
	random := rand.New(rand.NewPCG(o.Seed, uint64(nth)))
	about := func(n int64) int64 { // from half to one and a half times
		if n <= 0 {
			return -1
		}
		return n/2 + random.Int64N(n+1)
	}
	out := &conn{Conn: c, p: p, resetIn: about(o.ResetAfter), closeIn: about(o.CloseAfter), stallIn: about(o.StallAfter), total: p.rate}
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetWriteBuffer(sendBuffer) // bytes that are counted as sent should nearly have arrived
	}
	perConn := o.RatePerConnection
	if random.Float64() < o.Slow {
		perConn = o.SlowRate
		p.stats.Slow.Add(1)
	}
	out.own = limiter(perConn)
	out.ctx, out.cancel = context.WithCancel(context.Background())
	return out
}

const (
	sendBuffer = 64 << 10
	writeSize  = 16 << 10 // bytes that are written at a time
)

// limiter is a token bucket of so many bytes per second; nil for no limit.
func limiter(perSecond int64) *rate.Limiter {
	if perSecond <= 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(perSecond), int(max(writeSize, perSecond/50)))
}

// conn is a connection of a bad link. Faults occur after numbers of bytes sent to the client.
type conn struct {
	net.Conn
	p          *Proxy
	ctx        context.Context // ends with Close
	cancel     context.CancelFunc
	own, total *rate.Limiter
	closing    sync.Once
	met        bool // its first request has arrived

	resetIn, closeIn, stallIn int64 // bytes until it happens; negative for never
}

// Read implements net.Conn. What the client sends is delayed by a round trip, and on a new connection
// by another one, for the handshake.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.p.stats.Received.Add(int64(n))
	var timeout net.Error
	if err != nil && (!errors.As(err, &timeout) || !timeout.Timeout()) {
		c.cancel() // the client disconnected: nobody waits for what is delayed
	}
	if late := c.p.opts.Latency; n > 0 && late > 0 {
		if !c.met {
			c.met = true
			late *= 2
		}
		t := time.NewTimer(late)
		defer t.Stop()
		select {
		case <-t.C:
		case <-c.ctx.Done():
		}
	}
	return n, err
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (n int, err error) {
	for n < len(b) {
		p := b[n:min(len(b), n+writeSize)]
		for _, l := range []*rate.Limiter{c.own, c.total} {
			if l != nil {
				if err := l.WaitN(c.ctx, len(p)); err != nil {
					return n, net.ErrClosed
				}
			}
		}
		m, err := c.send(p)
		n += m
		c.p.stats.Sent.Add(int64(m))
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// send sends some bytes, up to the fault of the connection.
func (c *conn) send(p []byte) (int, error) {
	size := int64(len(p))
	upTo := func(left *int64) (int64, bool) {
		if *left < 0 {
			return size, false
		}
		if *left > size {
			*left -= size
			return size, false
		}
		n := *left
		*left = -1
		return n, true
	}
	if n, now := upTo(&c.resetIn); now {
		m, _ := c.Conn.Write(p[:n])
		wire.Drain(c.Conn)
		c.p.stats.Resets.Add(1)
		c.reset()
		return m, net.ErrClosed
	}
	if n, now := upTo(&c.closeIn); now {
		m, _ := c.Conn.Write(p[:n])
		c.p.stats.Closes.Add(1)
		_ = c.Close() // a client that was disconnected does not see the error
		return m, net.ErrClosed
	}
	if n, now := upTo(&c.stallIn); now {
		m, err := c.Conn.Write(p[:n])
		if err != nil {
			return m, err
		}
		c.p.stats.Stalls.Add(1)
		c.stall()
		more, err := c.Conn.Write(p[n:])
		return m + more, err
	}
	return c.Conn.Write(p)
}

// stall waits in silence for StallFor, or until the connection ends.
func (c *conn) stall() {
	var after <-chan time.Time
	if d := c.p.opts.StallFor; d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		after = t.C
	}
	select {
	case <-after:
	case <-c.ctx.Done():
	}
}

// reset closes the connection with a TCP reset.
func (c *conn) reset() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// SetLinger lets a fault reset the connection.
func (c *conn) SetLinger(sec int) error {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		return tcp.SetLinger(sec)
	}
	return nil
}

// SyscallConn lets wire.Drain see the connection below.
func (c *conn) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := c.Conn.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.closing.Do(func() {
		c.cancel()
		c.p.stats.Open.Add(-1)
	})
	return c.Conn.Close()
}
