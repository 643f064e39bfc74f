package reach

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"syscall"
	"time"

	"drayage/engine/internal/retry"
	"drayage/engine/printable"
	"drayage/engine/registry/internal/redirect"
)

// Transports are the connections to all hosts: to those that the user has named, of which some
// have a TLS configuration of their own, and to those that others have named. The latter never
// get client certificates, and are apart by how close who named them may lead: a connection that
// one registry may have is not there for another.
type Transports struct {
	base    *http.Transport
	own     map[string]*http.Transport // by host
	led     [never]*http.Transport     // by how close they may go
	proxied *http.Transport            // through a proxy, which dials
	allowed []netip.Prefix
	connect time.Duration
	network string
}

// Options say how connections are made.
type Options struct {
	Connect time.Duration          // how long one may take to be made
	Network string                 // tcp4 or tcp6; "" is both
	Allowed []netip.Prefix         // where registries may lead that are elsewhere themselves
	Own     map[string]*tls.Config // of named hosts that have a TLS configuration of their own, by host
}

// New makes transports after a base, which it changes and which the named hosts use.
func New(o Options, base *http.Transport) *Transports {
	t := &Transports{base: base, own: make(map[string]*http.Transport), allowed: o.Allowed, connect: o.Connect, network: o.Network}
	base.DialContext = t.DialAny
	for host, config := range o.Own {
		t.own[host] = base.Clone()
		t.own[host].TLSClientConfig = resuming(config)
	}
	bare := func() *http.Transport {
		out := base.Clone()
		if out.TLSClientConfig != nil {
			out.TLSClientConfig.Certificates, out.TLSClientConfig.GetClientCertificate = nil, nil
		}
		out.TLSClientConfig = resuming(out.TLSClientConfig)
		return out
	}
	t.proxied = bare()
	for i := range t.led {
		t.led[i] = bare()
		t.led[i].Proxy = nil
		may := Level(i)
		t.led[i].DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			return t.Dial(ctx, may, network, address)
		}
	}
	base.TLSClientConfig = resuming(base.TLSClientConfig)
	return t
}

// resuming is a TLS configuration by which connections go on with the sessions of earlier ones, which
// costs less than a handshake of their own. Each transport has sessions of its own: they stand for the
// client certificate that they began with, which other hosts must not get.
func resuming(config *tls.Config) *tls.Config {
	const hosts = 64
	out := new(tls.Config)
	if config != nil {
		out = config.Clone()
	}
	out.ClientSessionCache = tls.NewLRUClientSessionCache(hosts)
	return out
}

// RoundTrip implements http.RoundTripper.
func (t *Transports) RoundTrip(req *http.Request) (*http.Response, error) {
	way := TrailOf(req.Context())
	proxy, err := t.base.Proxy(req)
	if err != nil {
		closeRequest(req)
		return nil, err
	}
	next := t.base
	switch mine := way.IsOwn(req.URL); {
	case mine && t.own[req.URL.Host] != nil:
		next = t.own[req.URL.Host]
	case mine:
	case proxy != nil:
		next = t.proxied
		addr, known, bad := literal(req.URL)
		if bad {
			err = fmt.Errorf("%w: %s is neither a name nor an address", redirect.ErrRefused, printable.Line(req.URL.Hostname()))
		} else if known {
			err = check(req.URL.Hostname(), addr, way.May(), t.allowed)
		}
		if err != nil {
			closeRequest(req)
			return nil, t.refused(err, way)
		}
	default:
		next = t.led[way.May()]
	}
	var conn net.Addr
	resp, err := next.RoundTrip(req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) { conn = i.Conn.RemoteAddr() },
	})))
	if err != nil {
		return nil, t.refused(err, way)
	}
	at, hidden := Anywhere, proxy != nil
	if addr, known, _ := literal(req.URL); proxy != nil && known {
		at, hidden = blockOf(addr).level, false
	} else if tcp, ok := conn.(*net.TCPAddr); proxy == nil && ok {
		at = blockOf(tcp.AddrPort().Addr()).level
	}
	if at == never { // where a user has one
		at = private
	}
	if way.IsOwn(req.URL) {
		way.named.Location().Note(at, hidden)
	} else {
		way.Over(at, hidden)
	}
	return resp, nil
}

// refused adds to an error that refuses an address whether a proxy hides who has led there.
func (t *Transports) refused(err error, way *Trail) error {
	var led *Error
	if !errors.As(err, &led) || !way.IsProxied() {
		return err
	}
	return &Error{host: led.host, block: led.block, proxied: true}
}

// closeRequest closes the body of a request that isn't sent, as an http.RoundTripper must.
func closeRequest(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close() // it is in memory
	}
}

// CloseIdleConnections closes those of all.
func (t *Transports) CloseIdleConnections() {
	t.base.CloseIdleConnections()
	t.proxied.CloseIdleConnections()
	for _, led := range t.led {
		led.CloseIdleConnections()
	}
	for _, own := range t.own {
		own.CloseIdleConnections()
	}
}

// DialAny connects to a host that the user has named, wherever it is.
func (t *Transports) DialAny(ctx context.Context, network, address string) (net.Conn, error) {
	return dialer(t.connect, t.network, nil)(ctx, network, address)
}

// Dial connects to a host that others have named, which may lead as close as may. An address that
// is closer is an Error.
func (t *Transports) Dial(ctx context.Context, may Level, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	return dialer(t.connect, t.network, func(_ context.Context, _, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("%w: %s is not an address", retry.ErrLasting, address)
		}
		return check(host, at.Addr(), may, t.allowed)
	})(ctx, network, address)
}
