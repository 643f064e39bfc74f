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
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"drayage/blobstore"
	"drayage/cmd/drayage/internal/client"
	"drayage/cmd/drayage/internal/conns"
	"drayage/cmd/drayage/internal/password"
	"drayage/cmd/drayage/internal/refusal"
	"drayage/engine/mirror"
	"drayage/engine/printable"

	"github.com/prometheus/client_golang/prometheus"
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
	Passwords *password.Passwords
	// Hosts, if not nil, are the names by which clients may ask for anything but the health checks.
	Hosts    *Hosts
	Limits   client.RateLimits
	Timeouts conns.Timeouts // of streams in HTTP/2; those of connections are a Server's
	Log      *slog.Logger   // of requests; nil is none
	// Refusals, if not nil, note what is refused.
	Refusals *refusal.Log
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

// Handler makes the handler of all of it.
func Handler(o Options) http.Handler {
	o.Timeouts = o.Timeouts.OrDefaults()
	s := &site{o: o, clients: client.NewRates(o.Limits), shown: client.NewCounts(mostEvents, mostEventsOfOne), streams: conns.NewStreamLimits(o.Refusals), looks: newLooks(o)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.page)
	mux.HandleFunc("GET /page.js", script)
	mux.HandleFunc("GET /events", s.boundEvents)
	mux.HandleFunc("GET /warm/{group}", s.warm)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry(), promhttp.HandlerOpts{MaxRequestsInFlight: scrapes}))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		mirror.Fail(w, mirror.Refuse(http.StatusNotFound, "UNSUPPORTED", "there is no such thing here"))
	})
	s.mux = mux
	return http.HandlerFunc(s.serve)
}

// scrapes is how many readings of the metrics there may be at once.
const scrapes = 4

type site struct {
	o       Options
	mux     *http.ServeMux
	clients *client.Rates
	shown   *client.Counts      // transfers on pages
	streams *conns.StreamLimits // of HTTP/2
	looks   looks
}

// registry has the counters, and what the site itself knows.
func (s *site) registry() *prometheus.Registry {
	r := s.o.Metrics.registry(s.looks.usage)
	if s.o.Refusals != nil {
		r.MustRegister(s.o.Refusals.Collector())
	}
	if s.o.Passwords != nil {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "drayage_serve_password_file_ok", Help: "1 when the password file can be used, 0 when it can't, and nobody is let in.",
		}, func() float64 {
			if s.o.Passwords.Fault() != nil {
				return 0
			}
			return 1
		}))
	}
	return r
}

// call is a request that is being answered.
type call struct {
	site  *site
	w     *watched
	r     *http.Request
	visit *refusal.Visit
	conn  *conns.Conn // nil where the listener isn't one of places
	user  string      // who has been let in
	began time.Time
}

// serve is on the way of every request.
func (s *site) serve(plain http.ResponseWriter, r *http.Request) {
	c := &call{site: s, conn: conns.ConnOf(r.Context()), visit: &refusal.Visit{From: client.AddressOf(r.RemoteAddr)}, began: time.Now()}
	c.r = r.WithContext(refusal.WithVisit(r.Context(), c.visit))
	c.w = &watched{ResponseWriter: plain, ctx: c.r.Context()}
	s.o.Metrics.begin()
	defer c.end()
	c.w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.ProtoMajor > 1 && !c.enterStream(plain) {
		s.turnAway(c.w, c.visit, c.conn)
		return
	}
	if c.admitted() {
		c.answer()
	}
}

// enterStream has a request in HTTP/2 take one of their places, and reports whether there was one.
func (c *call) enterStream(plain http.ResponseWriter) bool {
	x := conns.NewStream(c.visit.From, c.conn, c.site.o.Timeouts.Write, func() {
		_ = http.NewResponseController(plain).SetWriteDeadline(time.Unix(1, 0)) // where it can't be, it isn't
	})
	if !c.site.streams.Enter(x) {
		return false
	}
	c.w.stream = x
	return true
}

// admitted reports whether the request is let in. If not, it has been answered.
func (c *call) admitted() bool {
	var err error
	c.user, err = c.site.admit(c.w, c.r, c.visit, c.conn)
	if err == nil {
		return true
	}
	noPassword := c.visit.Why == "password" || c.visit.Why == refusal.WhyNoLogin
	if c.r.URL.Path == "/metrics" && noPassword && c.site.o.Passwords.Fault() != nil {
		// Nobody has a password now, and whoever watches is to know: /readyz says no less.
		c.w.Header().Del("WWW-Authenticate")
		answer(c.w, http.StatusOK, "drayage_serve_password_file_ok 0\n")
		return false
	}
	mirror.Fail(c.w, err)
	return false
}

// answer answers a request that was let in.
func (c *call) answer() {
	s, w, r := c.site, c.w, c.r
	switch r.URL.Path {
	case "/healthz":
		answer(w, http.StatusOK, "ok\n")
		return
	case "/readyz":
		s.ready(w)
		return
	}
	if w.stream != nil && r.Context().Err() != nil {
		w.status = left
		return
	}
	if l := s.clients.Bytes(c.visit.From); l != nil {
		w.limit = l
	}
	if mirror.Concerns(r.URL.EscapedPath()) {
		s.o.Mirror.Serve(w, r, c.user)
		return
	}
	w.user = c.user
	s.mux.ServeHTTP(w, r)
}

// end notes how a request was answered. It is called by defer: a fault of this program ends the
// request, and not the program.
func (c *call) end() {
	s, w, r, v := c.site, c.w, c.r, c.visit
	kind := kindOf(r.URL.Path)
	p := recover()
	err, _ := p.(error)
	if p != nil && !errors.Is(err, http.ErrAbortHandler) {
		c.fault(p)
		p = nil
	}
	if w.stream != nil {
		if p == nil {
			_ = w.FlushError() // it waits for its client here, where it counts
		}
		s.streams.Leave(w.stream)
	}
	if r.ProtoMajor > 1 && c.conn != nil {
		c.conn.Over(r.Context().Err() != nil)
	}
	took := time.Since(c.began)
	s.o.Metrics.end(kind, w.code(), w.bytes, took)
	if why := reason(v, w.code()); why != "" {
		s.o.Refusals.Note(refusal.Refusal{Why: why, From: v.From, Status: w.code(), User: c.user, Method: r.Method, Host: r.Host, Path: r.URL.RequestURI(), Agent: r.UserAgent()})
	}
	if s.o.Log != nil && kind != "health" {
		s.o.Log.Info("request", "client", clientOf(r), "user", refusal.Short(c.user, refusal.MostUser), "method", refusal.Short(r.Method, refusal.MostMethod), "path", refusal.Short(r.URL.RequestURI(), refusal.MostPath), "status", w.code(), "bytes", w.bytes,
			"took", took.Round(time.Microsecond).String(), "agent", refusal.Short(r.UserAgent(), refusal.MostAgent))
	}
	if p != nil { // ends the connection
		panic(p)
	}
}

// fault answers a request that has ended in a fault of this program, where it wasn't answered yet.
func (c *call) fault(what any) {
	if c.w.status == 0 {
		mirror.Fail(c.w, errors.New("a fault of this program"))
		c.w.status = http.StatusInternalServerError // whoever has left
	}
	if c.site.o.Fault != nil {
		c.site.o.Fault(fmt.Sprintf("a fault of this program while it answered %s: %v", printable.Line(c.r.URL.Path), what))
	}
}

// turnAway refuses a request in HTTP/2 with a header alone, for which no client can have it wait by
// windows. What waits for the connection is bounded as well.
func (s *site) turnAway(w *watched, v *refusal.Visit, conn *conns.Conn) {
	_ = refuse(w, v, "streams", http.StatusServiceUnavailable, "UNAVAILABLE", "too many requests at once", time.Second)
	if conn != nil && conn.Slow(time.Now()) || !s.streams.EnterRefused(v.From) {
		w.status = http.StatusServiceUnavailable
		if conn != nil {
			conn.GiveWay()
		}
		panic(http.ErrAbortHandler)
	}
	defer s.streams.LeaveRefused(v.From)
	w.WriteHeader(http.StatusServiceUnavailable)
	_ = w.FlushError() // the client has gone, if not
}

// admit reports who sends a request, or why it is refused: what costs least is looked at first.
// Health checks need neither a name of the server nor a password.
func (s *site) admit(w http.ResponseWriter, r *http.Request, v *refusal.Visit, conn *conns.Conn) (user string, err error) {
	health := r.URL.Path == "/healthz" || r.URL.Path == "/readyz"
	if conns.RefuseBody(w, r) {
		return "", refuse(w, v, "body", http.StatusBadRequest, "UNSUPPORTED", conns.BodyText(r), 0)
	}
	if conn != nil && conn.Reserve() != "" {
		free := health || r.URL.Path == "/metrics"
		if free || !conn.Promote(r.Context()) {
			w.Header().Set("Connection", "close")
		}
		switch why := conn.Reserve(); {
		case free:
		case why == refusal.WhyFullOfOne:
			return "", refuse(w, v, why, http.StatusTooManyRequests, "TOOMANYREQUESTS", "too many connections from this address", time.Second)
		case why == refusal.WhyFull:
			return "", refuse(w, v, why, http.StatusServiceUnavailable, "UNAVAILABLE", "too many connections", time.Second)
		}
	}
	if !health && !s.o.Hosts.Allows(r.Host) {
		w.Header().Set("Connection", "close")
		return "", refuse(w, v, "host", http.StatusMisdirectedRequest, "DENIED", "this server is not to be asked for by the name "+strconv.Quote(refusal.Short(r.Host, refusal.MostHost))+"; whoever runs it may allow it with --allow-host", 0)
	}
	if wait := s.clients.Request(v.From, health, time.Now()); wait > 0 {
		return "", refuse(w, v, "rate", http.StatusTooManyRequests, "TOOMANYREQUESTS", "too many requests from this address", wait)
	}
	if s.o.Passwords == nil || health {
		return "", nil
	}
	user, err = s.o.Passwords.Check(r)
	var later password.WaitError
	switch {
	case errors.As(err, &later) && errors.Is(err, password.ErrGuesses):
		return user, refuse(w, v, "guesses", http.StatusTooManyRequests, "TOOMANYREQUESTS", password.ErrGuesses.Error(), later.Wait)
	case errors.As(err, &later) && r.Context().Err() != nil:
		return user, err // to nobody
	case errors.As(err, &later):
		return user, refuse(w, v, "passwords-busy", http.StatusServiceUnavailable, "UNAVAILABLE", password.ErrBusy.Error(), later.Wait)
	case err != nil:
		why := "password"
		if errors.Is(err, password.ErrNoLogin) {
			why = refusal.WhyNoLogin
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="drayage", charset="UTF-8"`)
		return user, refuse(w, v, why, http.StatusUnauthorized, "UNAUTHORIZED", password.ErrPassword.Error(), 0)
	}
	return user, nil
}

// refuse is the error of a request that is refused. One that may be sent again has to wait.
func refuse(w http.ResponseWriter, v *refusal.Visit, why string, status int, code, message string, wait time.Duration) error {
	v.Why = why
	if wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
	}
	return mirror.Refuse(status, code, message)
}

// reason is why a request was refused, "" when it wasn't.
func reason(v *refusal.Visit, status int) string {
	if v.Why != "" {
		return v.Why
	}
	switch status {
	case http.StatusForbidden:
		return "denied"
	case http.StatusMethodNotAllowed:
		return "method"
	case http.StatusRequestURITooLong:
		return "query"
	case http.StatusInsufficientStorage:
		return "no-room"
	case http.StatusTooManyRequests:
		return "busy" // upstream's
	case http.StatusServiceUnavailable:
		return "unavailable"
	}
	return ""
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
	if _, err := s.looks.ready.get(context.Background()); err != nil {
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
			answer(w, http.StatusServiceUnavailable, "not complete and fresh: "+printable.Line(g.Problem)+"\n")
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
	stream *conns.Stream // nil in HTTP/1, where the connection itself watches how the client takes it
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

// left is the status of what failed when its client had left, which nobody gets: it is no fault.
const left = 499

// WriteHeader implements http.ResponseWriter.
func (w *watched) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
		if status >= http.StatusInternalServerError && w.ctx.Err() != nil {
			w.status = left
		}
	}
	const longest = 8 << 10 // bytes, beyond which clients refuse the answer
	head := w.Header()
	for k, all := range head {
		if slices.ContainsFunc(all, func(v string) bool { return len(v) > longest }) {
			head.Del(k)
		}
	}
	if status == http.StatusTooManyRequests && head.Get("Retry-After") == "" {
		head.Set("Retry-After", "1")
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (w *watched) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	total := 0
	for len(p) > 0 {
		part := p
		if w.stream != nil {
			part = part[:min(len(part), conns.Piece)]
		}
		if w.limit != nil {
			part = part[:min(len(part), w.limit.Burst())]
			if err := w.limit.WaitN(w.ctx, len(part)); err != nil {
				return total, err
			}
		}
		n, err := w.write(part)
		total += n
		w.bytes += int64(n)
		if err != nil {
			return total, err
		}
		p = p[n:]
	}
	return total, nil
}

func (w *watched) write(p []byte) (n int, err error) {
	if w.stream != nil {
		w.stream.Begin()
		defer func() { w.stream.End(n) }()
	}
	return w.ResponseWriter.Write(p)
}

// FlushError implements what http.ResponseController looks for.
func (w *watched) FlushError() error {
	if w.stream != nil {
		w.stream.Begin()
		defer w.stream.End(0)
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// pieces are what is copied by.
var pieces = sync.Pool{New: func() any { return new([conns.Piece]byte) }}

// ReadFrom implements io.ReaderFrom: files go from the kernel to the network where
// nothing is to be held back.
func (w *watched) ReadFrom(src io.Reader) (int64, error) {
	from, ok := w.ResponseWriter.(io.ReaderFrom)
	if !ok || w.limit != nil || w.stream != nil {
		buf, _ := pieces.Get().(*[conns.Piece]byte)
		defer pieces.Put(buf)
		return io.CopyBuffer(struct{ io.Writer }{w}, src, buf[:])
	}
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	n, err := from.ReadFrom(src)
	w.bytes += n
	return n, err
}

// Unwrap lets http.ResponseController reach what is below.
func (w *watched) Unwrap() http.ResponseWriter { return w.ResponseWriter }
