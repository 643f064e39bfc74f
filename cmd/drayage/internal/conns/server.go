// Package conns takes connections and keeps none for good: each has a place and deadlines, and one
// whose client takes hardly anything gives way to others.
package conns

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"drayage/cmd/drayage/internal/limits"
	"drayage/cmd/drayage/internal/refusal"
)

// Timeouts bound how long a connection may wait for its client. A field that is 0 has its default.
type Timeouts struct {
	Header  time.Duration // for a request's header to come, and for a TLS handshake; default 10s
	Idle    time.Duration // between requests; default 2m
	Write   time.Duration // in which a client takes 32 KiB of an answer, or is cut off; default 1m
	Linger  time.Duration // in which what a client still sends is read after the last answer; default 500ms
	Reserve time.Duration // for a connection that has a place of the reserve, in all; default 3s
}

// OrDefaults is t with defaults for what is 0.
func (t Timeouts) OrDefaults() Timeouts {
	const (
		header  = 10 * time.Second
		idle    = 2 * time.Minute
		write   = time.Minute
		linger  = 500 * time.Millisecond
		reserve = 3 * time.Second
	)
	return Timeouts{
		Header: cmp.Or(t.Header, header), Idle: cmp.Or(t.Idle, idle), Write: cmp.Or(t.Write, write),
		Linger: cmp.Or(t.Linger, linger), Reserve: cmp.Or(t.Reserve, reserve),
	}
}

// Options say how a Server takes its clients.
type Options struct {
	Handler  http.Handler
	TLS      *tls.Config     // nil is plain HTTP
	Base     context.Context // of all requests
	Bounds   Bounds
	Timeouts Timeouts
	Refusals *refusal.Log // nil notes none
}

// Server is a http.Server whose connections have places and deadlines: whatever clients do or
// don't do, no connection is held for good.
type Server struct {
	*http.Server
	places *places
}

// New makes a Server. It serves what Serve is given.
func New(o Options) *Server {
	const (
		window = 64 << 10 // bytes of bodies, which nothing here has, that a client may send ahead
	)
	p := newPlaces(o.Bounds, o.Timeouts.OrDefaults(), o.Refusals)
	s := &http.Server{
		Handler: handled(o.Handler), ReadHeaderTimeout: p.times.Header, IdleTimeout: p.times.Idle, MaxHeaderBytes: limits.RequestHeaderBytes, TLSConfig: o.TLS,
		ErrorLog:                     slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // what clients do wrong
		DisableGeneralOptionsHandler: true,                                                    // which waits for a body
		WriteTimeout:                 p.times.Header,                                          // of what http.Server answers by itself
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: mostStreamsOfConn, MaxReceiveBufferPerConnection: 2 * window, MaxReceiveBufferPerStream: window,
			SendPingTimeout: p.times.Idle / 2, PingTimeout: p.times.Header,
			CountError: func(kind string) { o.Refusals.Note(refusal.Refusal{Why: refusal.WhyHTTP2, What: kind}) }, // of which connection isn't told
		},
		ConnState: p.changed,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, connOf(c))
		},
	}
	if o.Base != nil {
		s.BaseContext = func(net.Listener) context.Context { return o.Base }
	}
	if o.TLS != nil {
		plain := o.TLS.Clone()
		plain.NextProtos = []string{"http/1.1"}
		s.TLSConfig = o.TLS.Clone()
		s.TLSConfig.GetConfigForClient = p.offers(plain)
	} else {
		var protocols http.Protocols
		protocols.SetHTTP1(true)
		s.Protocols = &protocols
	}
	return &Server{s, p}
}

type connKey struct{}

// ConnOf is the connection of a request's context, nil where it isn't a Server's.
func ConnOf(ctx context.Context) *Conn {
	c, _ := ctx.Value(connKey{}).(*Conn)
	return c
}

// handled has connections know that h has their request.
func handled(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c := ConnOf(r.Context()); c != nil {
			c.handle()
		}
		_ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) // places and streams watch what handlers write
		h.ServeHTTP(w, r)
	})
}

// Serve serves the connections of a listener, as http.Server's does.
func (s *Server) Serve(l net.Listener) error {
	l = &listener{l, s.places}
	if s.TLSConfig != nil {
		return s.ServeTLS(l, "", "")
	}
	return s.Server.Serve(l)
}

// Close ends all connections at once.
func (s *Server) Close() error {
	s.places.closing.Store(true)
	return s.Server.Close()
}

// Connections is how many places are taken.
func (s *Server) Connections() int { return s.places.count() }

// NoBodies answers requests that have a body where none belongs without waiting for it, and ends
// their connection: those by GET and HEAD with status 400, others as h does.
func NoBodies(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if RefuseBody(w, r) {
			http.Error(w, BodyText(r), http.StatusBadRequest)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// BodyText says why a request that has a body is refused.
func BodyText(r *http.Request) string { return "a request by " + r.Method + " has no body here" }

// RefuseBody has a connection end after the answer when the request has a body, without that. It
// reports whether the request is one that may have none (RFC 9110, sections 9.3.1 and 9.3.2): who
// sends one all the same may be about to smuggle the next request past a proxy.
func RefuseBody(w http.ResponseWriter, r *http.Request) bool {
	if r.ContentLength == 0 && r.Header.Get("Expect") == "" {
		return false
	}
	get := r.Method == http.MethodGet || r.Method == http.MethodHead
	out := http.NewResponseController(w)
	if get && r.ContentLength < 0 && r.Header.Get("Expect") == "" && isEmpty(out, r.Body) {
		return false
	}
	if c := ConnOf(r.Context()); c != nil {
		c.linger.Store(true)
	}
	w.Header().Set("Connection", "close")
	_ = out.SetReadDeadline(time.Unix(1, 0)) // else http.Server waits for the body
	r.Body = http.NoBody
	return get
}

// isEmpty reports whether a body of no known length ends before its first byte, and soon: some
// proxies send such ones.
func isEmpty(out *http.ResponseController, body io.Reader) bool {
	const soon = 500 * time.Millisecond
	if out.SetReadDeadline(time.Now().Add(soon)) != nil {
		return false
	}
	n, err := body.Read(make([]byte, 1))
	return n == 0 && errors.Is(err, io.EOF) && out.SetReadDeadline(time.Time{}) == nil
}
