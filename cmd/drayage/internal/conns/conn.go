package conns

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"drayage/cmd/drayage/internal/client"
	"drayage/cmd/drayage/internal/refusal"
)

// What a client has to take while an answer is being written, or it is cut off: less than any
// line that people use. One that takes less than slowly gives way when all places are taken.
const (
	ticks  = 60       // looks at what it has taken, in Timeouts.Write
	least  = 32 << 10 // bytes in Timeouts.Write
	slowly = 16 << 10 // bytes in a tick
)

// Conn is a connection that has a place.
type Conn struct {
	net.Conn
	places *places
	from   client.Address
	until  atomic.Int64 // when it ends at the latest, in nanoseconds since 1970; 0 is never
	pace   pace         // of what is being written
	linger atomic.Bool  // what it sends is read for a moment after the last answer
	gone   sync.Once    // its place was given back
	// handling says that a handler has a request of it. Before and after, there is nothing for which
	// it may wait without a deadline: http.Server itself reads some bodies, such as that of a request
	// with an unknown Expect header.
	handling atomic.Bool
	acked    func() (int64, bool)
	ended    atomic.Bool // by this server, which has noted why
	seen     traffic     // since it was idle last, to tell of requests that no handler gets
	// In HTTP/2.
	streams sync.Map     // of *stream: those under way
	took    atomic.Int64 // bytes of all answers that the client took
	resets  atomic.Int64 // of requests, less the answers that were taken whole

	// What it is doing, and since when; and why it has only a place of the reserve, "" when it has
	// one of all. places.mu guards them.
	state http.ConnState
	since time.Time
	spare string
	http2 bool // it may speak HTTP/2

	greeted bool // it was idle once; http.Server tells of states one after the other
}

// traffic is what a connection carried.
type traffic struct {
	read, wrote atomic.Int64 // bytes; those that are written while a handler has a request don't count
	late        atomic.Bool  // the client took longer than it may to send something
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.seen.read.Add(int64(n))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.seen.late.Store(true)
	}
	return n, err
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	c.pace.begin(c)
	defer c.pace.end()
	if !c.handling.Load() {
		c.seen.wrote.Add(int64(len(p)))
	}
	return c.Conn.Write(p)
}

// ReadFrom implements io.ReaderFrom, which has the kernel send files.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	from, ok := c.Conn.(io.ReaderFrom)
	if !ok {
		return io.Copy(struct{ io.Writer }{c}, r)
	}
	limited, ok := r.(*io.LimitedReader)
	if !ok {
		limited = &io.LimitedReader{R: r, N: 1<<63 - 1}
	}
	const chunk = 4 << 20 // where it can't be told what the client took, it has so much time for each
	var total int64
	for limited.N > 0 {
		part := &io.LimitedReader{R: limited.R, N: min(chunk, limited.N)} // of the file itself, which the kernel sends
		want := part.N
		n, err := c.send(from, part)
		total += n
		limited.N -= n
		if err != nil || n < want {
			return total, err
		}
	}
	return total, nil
}

func (c *Conn) send(to io.ReaderFrom, part io.Reader) (int64, error) {
	c.pace.begin(c)
	defer c.pace.end()
	defer cork(c.Conn)()
	return to.ReadFrom(part)
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	if t.IsZero() && !c.handling.Load() {
		t = time.Now().Add(c.places.times.Header)
	}
	return c.Conn.SetReadDeadline(c.bounded(t))
}

// handle notes that a handler has a request.
func (c *Conn) handle() {
	if !c.handling.Swap(true) {
		_ = c.Conn.SetReadDeadline(c.bounded(time.Time{})) // a connection that can't have one has none
	}
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.Conn.SetWriteDeadline(c.bounded(t)) }

// bounded is a deadline that is not after the connection's own.
func (c *Conn) bounded(t time.Time) time.Time {
	until := c.until.Load()
	if end := time.Unix(0, until); until != 0 && (t.IsZero() || t.After(end)) {
		return end
	}
	return t
}

// Close implements net.Conn.
func (c *Conn) Close() error {
	if c.linger.Load() && !c.places.closing.Load() {
		c.drain()
	}
	err := c.Conn.Close()
	c.places.leave(c)
	return err
}

// drain reads what the client still sends, for a moment. What is unread when a connection is
// closed resets it, and the client would lose the answer (RFC 9112, section 9.6).
func (c *Conn) drain() {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	const most = 1 << 20
	_ = c.Conn.SetReadDeadline(time.Now().Add(c.places.times.Linger)) // else nothing is read
	_, _ = io.CopyN(io.Discard, c.Conn, most)
}

// Cut ends a connection at once, and notes why. What the system was to send goes, too.
func (c *Conn) Cut(why refusal.Refusal) {
	if !c.ended.Swap(true) {
		why.From = c.from
		c.places.refusals.Note(why)
	}
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // else the system keeps it for some minutes
	}
	_ = c.Conn.Close() // whoever writes finds out
}

var (
	tooSlow = refusal.Refusal{Why: "slow"}     // of what is cut
	gaveWay = refusal.Refusal{Why: "gave-way"} // as above
)

// GiveWay ends a connection at once for another.
func (c *Conn) GiveWay() { c.Cut(gaveWay) }

// Reserve is why a connection has a place of the reserve alone, "" when it has one of all.
func (c *Conn) Reserve() string { return c.places.spareWhy(c) }

// Promote waits until a connection of the reserve can have one of all places, and reports whether it
// has it.
func (c *Conn) Promote(ctx context.Context) bool { return c.places.promote(ctx, c) }

// Slow reports whether the client takes hardly anything of what is written for it.
func (c *Conn) Slow(now time.Time) bool {
	slow := c.pace.slow.Load()
	c.streams.Range(func(x, _ any) bool {
		if s, ok := x.(*Stream); ok && !slow {
			_, slow = s.stalled(now)
		}
		return !slow
	})
	return slow
}

// Over notes that a request of HTTP/2 is over, whether it was answered or its client reset it. A
// client that asks in order to reset is cut off: each request is work before that.
func (c *Conn) Over(reset bool) {
	switch {
	case !reset && c.resets.Load() > 0:
		c.resets.Add(-1)
	case reset && c.resets.Add(1) > mostResets:
		c.Cut(refusal.Refusal{Why: refusal.WhyHTTP2, What: "too many requests are reset"})
	}
}

// pace watches how fast a client takes what one write gives it. It costs a timer a write, so that
// the ordinary write, which ends at once, is as fast as ever.
type pace struct {
	slow atomic.Bool

	mu      sync.Mutex
	timer   *time.Timer
	writing bool
	first   bool // the next look is the first
	looks   int  // since base
	last    int64
	base    int64
}

func (p *pace) begin(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writing, p.first, p.looks = true, true, 0
	if tick := c.places.times.Write / ticks; p.timer == nil {
		p.timer = time.AfterFunc(tick, func() { p.look(c) })
	} else {
		p.timer.Reset(tick)
	}
}

func (p *pace) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writing = false
	p.timer.Stop()
	p.slow.Store(false)
}

// look looks at what the client has taken since the last look.
func (p *pace) look(c *Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.writing {
		return
	}
	n, ok := c.acked()
	p.looks++
	switch {
	case !ok: // its time is that for a chunk
		const longer = 10
		if p.looks >= longer*ticks {
			c.Cut(tooSlow)
			return
		}
	case p.first:
		p.first, p.looks, p.last, p.base = false, 0, n, n
	default:
		p.slow.Store(n-p.last < slowly)
		p.last = n
		if p.looks >= ticks {
			if n-p.base < least {
				c.Cut(tooSlow)
				return
			}
			p.looks, p.base = 0, n
		}
	}
	p.timer.Reset(c.places.times.Write / ticks)
}
