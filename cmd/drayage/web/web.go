// Package web is what stands before a mirror: passwords, limits, the log, metrics, health
// checks, and a page for people.
package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"drayage/blobstore"
	"drayage/engine/mirror"
	"drayage/engine/printable"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/time/rate"
)

// Options say what to serve, and to whom.
type Options struct {
	Store  *blobstore.Store
	Mirror Mirror
	// Private says who may see what, as Mirror has it.
	Private *mirror.Private
	// Passwords, if not nil, are wanted for everything but the health checks.
	Passwords *Passwords
	Limits    Limits
	Log       *slog.Logger // of requests; nil is none
	// Fault, if not nil, is told of faults of this program, which end a request.
	Fault     func(message string)
	Metrics   *Metrics
	Transfers *Transfers // that are under way, for the page; nil is none
	Budget    int64      // bytes that the store should take, for the page; 0 is no bound
	// Groups are the groups of images that are kept warm, for the page; nil is none.
	Groups func() []Group
	// Fresh is what is known of images' freshness, by name, for the page; nil is nothing.
	Fresh   func() map[string]Freshness
	Version string
	// Closing, if not nil, is closed when answers that would go on for ever should end.
	Closing <-chan struct{}
}

// Mirror answers what is asked of all below /v2/, by a user who has been let in; "" where nobody has a name.
type Mirror interface {
	Serve(w http.ResponseWriter, r *http.Request, user string)
}

// Limits bound what clients may take. A client is an address.
type Limits struct {
	Requests rate.Limit // a second of one client; 0 is no bound
	Bytes    rate.Limit // a second of one client; 0 is no bound
}

// Handler makes the handler of all of it.
func Handler(o Options) http.Handler {
	s := &site{o: o, clients: newClients(o.Limits), looks: newLooks(o)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.page)
	mux.HandleFunc("GET /page.js", script)
	mux.HandleFunc("GET /events", s.events)
	mux.HandleFunc("GET /warm/{group}", s.warm)
	mux.Handle("GET /metrics", promhttp.HandlerFor(o.Metrics.registry(s.looks.usage), promhttp.HandlerOpts{}))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		mirror.Fail(w, mirror.Refuse(http.StatusNotFound, "UNSUPPORTED", "there is no such thing here"))
	})
	s.mux = mux
	return http.HandlerFunc(s.serve)
}

type site struct {
	o       Options
	mux     *http.ServeMux
	clients *clients
	looks   looks
}

// serve is on the way of every request.
func (s *site) serve(plain http.ResponseWriter, r *http.Request) {
	began := time.Now()
	w := &watched{ResponseWriter: plain, ctx: r.Context()}
	client := clientOf(r)
	user := ""
	s.o.Metrics.begin()
	defer func() {
		kind := kindOf(r.URL.Path)
		p := recover()
		err, _ := p.(error)
		if p != nil && !errors.Is(err, http.ErrAbortHandler) {
			if w.status == 0 {
				mirror.Fail(w, errors.New("a fault of this program"))
			}
			if s.o.Fault != nil {
				s.o.Fault(fmt.Sprintf("a fault of this program while it answered %s: %v", printable.Line(r.URL.Path), p))
			}
			p = nil
		}
		w.done()
		took := time.Since(began)
		s.o.Metrics.end(kind, w.code(), w.bytes, took)
		if s.o.Log != nil && kind != "health" {
			s.o.Log.Info("request", "client", client, "user", user, "method", r.Method, "path", r.URL.RequestURI(), "status", w.code(), "bytes", w.bytes,
				"took", took.Round(time.Microsecond).String(), "agent", r.UserAgent())
		}
		if p != nil { // ends the connection
			panic(p)
		}
	}()
	w.Header().Set("X-Content-Type-Options", "nosniff")
	switch r.URL.Path {
	case "/healthz":
		answer(w, http.StatusOK, "ok\n")
		return
	case "/readyz":
		s.ready(w)
		return
	}
	if wait := s.clients.request(client); wait > 0 {
		w.Header().Set("Retry-After", "1")
		mirror.Fail(w, mirror.Refuse(http.StatusTooManyRequests, "TOOMANYREQUESTS", "too many requests from this address"))
		return
	}
	if s.o.Passwords != nil {
		var ok bool
		if user, ok = s.o.Passwords.Check(r); !ok {
			w.Header().Set("WWW-Authenticate", `Basic realm="drayage", charset="UTF-8"`)
			mirror.Fail(w, mirror.Refuse(http.StatusUnauthorized, "UNAUTHORIZED", "a user name and password are wanted"))
			return
		}
	}
	w.limit = s.clients.bytes(client)
	if mirror.Concerns(r.URL.EscapedPath()) {
		s.o.Mirror.Serve(w, r, user)
		return
	}
	w.user = user
	s.mux.ServeHTTP(w, r)
}

// kindOf is what a request is for, in a word.
func kindOf(path string) string {
	for _, k := range []struct{ part, kind string }{
		{"/manifests/", "manifest"}, {"/blobs/", "blob"}, {"/tags/", "list"}, {"/referrers/", "list"}, {"/_catalog", "list"}, {"/healthz", "health"}, {"/readyz", "health"}, {"/v2", "api"},
	} {
		if strings.Contains(path, k.part) {
			return k.kind
		}
	}
	return "page"
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // the client has gone, if not
}

// ready tells whether the store can be read.
func (s *site) ready(w http.ResponseWriter) {
	if _, err := s.o.Store.Images(); err != nil {
		answer(w, http.StatusServiceUnavailable, "the store "+filepath.Base(s.o.Store.Dir())+" can't be read\n")
		return
	}
	if s.o.Passwords != nil && s.o.Passwords.Fault() != nil {
		answer(w, http.StatusServiceUnavailable, "the password file can't be read: nobody is let in\n")
		return
	}
	answer(w, http.StatusOK, "ready\n")
}

// warm tells whether a group of images is complete and fresh, as a gate for deployments.
func (s *site) warm(w http.ResponseWriter, r *http.Request) {
	for _, g := range s.groups(r.Context(), userOf(w)) {
		if g.Name != r.PathValue("group") {
			continue
		}
		if g.Ready {
			answer(w, http.StatusOK, "complete and fresh\n")
		} else {
			answer(w, http.StatusServiceUnavailable, "not complete and fresh: "+g.Problem+"\n")
		}
		return
	}
	answer(w, http.StatusNotFound, "there is no such group\n")
}

// clientOf is the address that a request is from.
func clientOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// watched counts what is answered, and holds it back to a rate.
type watched struct {
	http.ResponseWriter
	ctx    context.Context
	status int
	bytes  int64
	limit  *rate.Limiter // nil is none
	user   string        // who has been let in; "" where nobody has a name
}

// userOf is who an answer is for.
func userOf(w http.ResponseWriter) string {
	if w, ok := w.(*watched); ok {
		return w.user
	}
	return ""
}

func (w *watched) code() int {
	if w.status == 0 {
		return http.StatusOK
	}
	return w.status
}

// WriteHeader implements http.ResponseWriter.
func (w *watched) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// A client that takes less than a chunk in so long is let go: it would keep its connection
// for ever.
const (
	chunk    = 4 << 20
	patience = 10 * time.Minute
)

// hurry gives the client some time to take what comes next.
func (w *watched) hurry() {
	_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(patience)) // where it can't be, it isn't
}

// done takes that back: the connection may be kept for other requests.
func (w *watched) done() {
	_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Time{}) // as above
}

// Write implements io.Writer.
func (w *watched) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	w.hurry()
	total := 0
	for len(p) > 0 {
		part := p
		if w.limit != nil {
			part = p[:min(len(p), w.limit.Burst())]
			if err := w.limit.WaitN(w.ctx, len(part)); err != nil {
				return total, err
			}
		}
		n, err := w.ResponseWriter.Write(part)
		total += n
		w.bytes += int64(n)
		if err != nil {
			return total, err
		}
		p = p[n:]
	}
	return total, nil
}

// ReadFrom implements io.ReaderFrom: files go from the kernel to the network where
// nothing is to be held back.
func (w *watched) ReadFrom(src io.Reader) (int64, error) {
	from, ok := w.ResponseWriter.(io.ReaderFrom)
	if !ok || w.limit != nil {
		const buffer = 64 << 10
		return io.CopyBuffer(struct{ io.Writer }{w}, src, make([]byte, buffer))
	}
	if w.status == 0 {
		w.status = http.StatusOK
	}
	limited, ok := src.(*io.LimitedReader)
	if !ok {
		limited = &io.LimitedReader{R: src, N: math.MaxInt64}
	}
	var total int64
	for limited.N > 0 {
		w.hurry()
		part := &io.LimitedReader{R: limited.R, N: min(chunk, limited.N)} // of the file itself, which the kernel sends
		want := part.N
		n, err := from.ReadFrom(part)
		total += n
		w.bytes += n
		limited.N -= n
		if err != nil || n < want {
			return total, err
		}
	}
	return total, nil
}

// Unwrap lets http.ResponseController reach what is below.
func (w *watched) Unwrap() http.ResponseWriter { return w.ResponseWriter }
