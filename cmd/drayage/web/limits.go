package web

import (
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// clients are the rates that each address has left.
type clients struct {
	limits Limits

	mu    sync.Mutex
	known map[string]*client
}

type client struct {
	requests, bytes *rate.Limiter // nil is none
	seen            time.Time
}

func newClients(l Limits) *clients { return &clients{limits: l, known: make(map[string]*client)} }

// of is a client's state. Those that weren't seen for long are forgotten.
func (c *clients) of(address string) *client {
	const many, long = 10_000, 10 * time.Minute
	now := time.Now()
	if len(c.known) > many {
		for a, k := range c.known {
			if now.Sub(k.seen) > long {
				delete(c.known, a)
			}
		}
	}
	k := c.known[address]
	if k == nil {
		k = new(client)
		if c.limits.Requests > 0 {
			k.requests = rate.NewLimiter(c.limits.Requests, max(1, int(c.limits.Requests)))
		}
		if c.limits.Bytes > 0 {
			const burst = 64 << 10
			k.bytes = rate.NewLimiter(c.limits.Bytes, max(burst, int(c.limits.Bytes)/10))
		}
		c.known[address] = k
	}
	k.seen = now
	return k
}

// request takes one request of a client's rate, and returns how long it would have to
// wait for it: 0 when it needn't.
func (c *clients) request(address string) time.Duration {
	if c.limits.Requests <= 0 {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.of(address)
	if k.requests.Allow() {
		return 0
	}
	return time.Duration(float64(time.Second) / float64(c.limits.Requests))
}

// bytes is what holds back the bytes to a client, or nil.
func (c *clients) bytes(address string) *rate.Limiter {
	if c.limits.Bytes <= 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.of(address).bytes
}

// Listener bounds the connections of a listener: in all, beyond which new ones wait, and
// of one address, beyond which they are closed. 0 is no bound.
func Listener(l net.Listener, all, perClient int) net.Listener {
	out := &listener{Listener: l, perClient: perClient, open: make(map[string]int)}
	if all > 0 {
		out.places = make(chan struct{}, all)
	}
	out.closed = make(chan struct{})
	return out
}

type listener struct {
	net.Listener
	perClient int
	places    chan struct{} // nil is no bound
	closed    chan struct{}
	once      sync.Once

	mu   sync.Mutex
	open map[string]int
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		if l.places != nil {
			select {
			case l.places <- struct{}{}:
			case <-l.closed:
				return nil, net.ErrClosed
			}
		}
		c, err := l.Listener.Accept()
		if err != nil {
			l.release()
			return nil, err
		}
		address := c.RemoteAddr().String()
		if host, _, err := net.SplitHostPort(address); err == nil {
			address = host
		}
		if !l.enter(address) {
			c.Close()
			l.release()
			continue
		}
		return &conn{Conn: c, listener: l, address: address}, nil
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

func (l *listener) release() {
	if l.places != nil {
		<-l.places
	}
}

func (l *listener) enter(address string) bool {
	if l.perClient <= 0 {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[address] >= l.perClient {
		return false
	}
	l.open[address]++
	return true
}

func (l *listener) leave(address string) {
	l.release()
	if l.perClient <= 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[address]--; l.open[address] <= 0 {
		delete(l.open, address)
	}
}

// conn gives its place back when it is closed.
type conn struct {
	net.Conn
	listener *listener
	address  string
	once     sync.Once
}

// Close implements net.Conn.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { c.listener.leave(c.address) })
	return err
}

// ReadFrom implements io.ReaderFrom, which has the kernel send files.
func (c *conn) ReadFrom(r io.Reader) (int64, error) {
	if from, ok := c.Conn.(io.ReaderFrom); ok {
		defer cork(c.Conn)()
		return from.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{c.Conn}, r)
}
