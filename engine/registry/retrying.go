package registry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"drayage/engine/event"
	"drayage/engine/internal/retry"
	"drayage/engine/registry/internal/latency"
	"drayage/engine/registry/internal/reach"
	"drayage/engine/registry/internal/redact"
	"drayage/engine/registry/internal/redirect"
	"drayage/engine/registry/internal/response"
	"drayage/engine/registry/internal/wire"

	"github.com/hashicorp/go-retryablehttp"
)

// retrying establishes requests: it tries again as the policy says, and when a
// host wants to be left alone, it holds every request to that host back, not
// just the one that was told.
type retrying struct {
	next     http.RoundTripper
	policy   retry.Policy
	activity *retry.Activity
	observer event.Observer
	client   *Client

	mu    sync.Mutex
	hosts map[string]*hostState
}

type hostState struct {
	reached   bool      // it has answered
	notBefore time.Time // no request is sent to it before then
}

func newRetrying(c *Client) *retrying {
	return &retrying{
		client: c,
		next: &tracing{
			client: c,
			next:   &latency.Transport{Next: c.base, History: c.latencies}, observer: c.opts.Observer, headers: c.opts.TraceHeaders,
			watch: response.Watch{Stall: c.opts.Stall, Limit: c.opts.Limit, Grace: c.opts.Grace},
		},
		policy:   c.opts.Retry,
		activity: c.activity,
		observer: c.opts.Observer,
		hosts:    make(map[string]*hostState),
	}
}

// tries say what a request's tries are drawn from. They go with the request's
// context, since the auth library and net/http stand between who knows and who
// tries.
type tries struct {
	budget *retry.Budget
	host   string // the source, which may redirect to others
	once   bool   // the caller has other sources to try
	// redirected says that the host is one that the registry has redirected to. When it
	// can't be reached the registry may know another.
	redirected bool
	// unsure says that the host may not speak the scheme at all: without an answer it isn't
	// tried again.
	unsure bool
}

type triesKey struct{}

func withTries(ctx context.Context, t tries) context.Context {
	return context.WithValue(ctx, triesKey{}, t)
}

func triesOf(ctx context.Context) tries {
	given, _ := ctx.Value(triesKey{}).(tries)
	return given
}

// unsurely marks a request to a host that may not speak the scheme at all.
func unsurely(ctx context.Context) context.Context {
	given := triesOf(ctx)
	given.unsure = true
	return withTries(ctx, given)
}

func (t *retrying) triesOf(ctx context.Context) tries {
	given := triesOf(ctx)
	if given.budget == nil {
		given.budget = retry.NewBudget(t.policy, t.activity, nil)
	}
	return given
}

// RoundTrip implements http.RoundTripper.
func (t *retrying) RoundTrip(req *http.Request) (*http.Response, error) {
	tries := t.triesOf(req.Context())
	var wait time.Duration
	client := &retryablehttp.Client{
		HTTPClient: &http.Client{
			Transport:     holding{t, tries.once},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		RetryMax: 1 << 30, // the policy decides
		CheckRetry: func(ctx context.Context, resp *http.Response, err error) (bool, error) {
			if ctx.Err() != nil {
				return false, context.Cause(ctx)
			}
			f := retry.Failure{Err: err, Reached: t.reached(req.URL.Host)}
			if err != nil && (isProtocol(err) || errors.Is(err, redirect.ErrRefused) || tries.redirected && isUnreachable(err)) {
				return false, nil
			}
			if err != nil && !errors.Is(err, errHeldBack) && (tries.unsure || req.Method == http.MethodHead) {
				return false, nil // who asks tries something else: GET, for one
			}
			if resp != nil {
				f.Status = resp.StatusCode
				if resp.StatusCode < 400 {
					return false, nil
				}
				body := response.Buffer(resp)
				f.RetryAfter = resp.Header.Get("Retry-After")
				f.Throttled = response.IsThrottled(resp.StatusCode, body)
				f.Spent = f.Throttled && response.IsQuota(resp, body)
				if !f.Throttled && (!retry.Status(f.Status) || req.Method == http.MethodHead) {
					return false, nil // what HEAD doesn't tell GET does
				}
			}
			f.Host = tries.host
			const odd = 3 // answers that are no HTTP: one may be the line's fault
			if err != nil && isMalformed(err) && tries.budget.Tries() >= odd {
				return false, nil
			}
			if tries.once {
				tries.budget.Tell(f)
				told, ok := retry.After(f.RetryAfter, time.Now())
				if !ok {
					told = time.Second
				}
				if f.Congested() && told <= t.policy.PatienceOrDefault() {
					t.holdBack(req.URL.Host, told)
				}
				return false, nil
			}
			var again bool
			wait, again = tries.budget.Next(f)
			if again {
				if f.Congested() {
					t.holdBack(req.URL.Host, wait)
				}
				t.observer.Observe(event.Retrying{What: req.Method + " " + t.client.secrets.Hide(redact.URL(req.URL)), Why: t.client.why(resp, err), Try: tries.budget.Tries() + 1, Delay: wait})
			}
			return again, nil
		},
		Backoff:      func(_, _ time.Duration, _ int, _ *http.Response) time.Duration { return wait },
		ErrorHandler: retryablehttp.PassthroughErrorHandler,
	}
	retryable, err := retryablehttp.FromRequest(req)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(retryable)
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err // the client above wraps again
	}
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// isMalformed reports whether an error tells of an answer whose header can't be read.
func isMalformed(err error) bool {
	text := err.Error()
	return strings.Contains(text, "malformed MIME header") || strings.Contains(text, "malformed HTTP")
}

// isUnreachable reports whether an error says that no connection could be made.
func isUnreachable(err error) bool {
	var op *net.OpError
	return !reach.IsRefused(err) && (errors.As(err, &op) && (op.Op == "dial" || op.Op == "proxyconnect") || errors.As(err, new(*net.DNSError)) ||
		strings.Contains(err.Error(), "TLS handshake timeout"))
}

// isProtocol reports errors that come from speaking plain HTTP to a TLS server
// or the reverse, or from an answer that is none, which another try won't mend.
func isProtocol(err error) bool {
	text := err.Error()
	return strings.Contains(text, "malformed HTTP response") || strings.Contains(text, "server gave HTTP response to HTTPS client") || isLargeHeader(err)
}

// isLargeHeader reports whether an error says that an answer's header is larger than
// limits.HeaderBytes.
func isLargeHeader(err error) bool {
	return strings.Contains(err.Error(), "server response headers exceeded")
}

func (c *Client) why(resp *http.Response, err error) string {
	if err != nil {
		return c.bareError(err)
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
}

func (t *retrying) state(host string) *hostState {
	s := t.hosts[host]
	if s == nil {
		s = &hostState{}
		t.hosts[host] = s
	}
	return s
}

func (t *retrying) reached(host string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.state(host).reached
}

func (t *retrying) holdBack(host string, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if until := time.Now().Add(wait); until.After(t.state(host).notBefore) {
		t.state(host).notBefore = until
	}
}

// holding sends a request when its host may be asked again.
type holding struct {
	t    *retrying
	once bool
}

// errHeldBack ends a request to a host that wants to be left alone for a while,
// when others can be asked instead.
var errHeldBack = errors.New("rate limit exceeded: the host asked to wait")

func (h holding) RoundTrip(req *http.Request) (*http.Response, error) {
	for {
		h.t.mu.Lock()
		wait := time.Until(h.t.state(req.URL.Host).notBefore)
		h.t.mu.Unlock()
		if wait <= 0 || h.t.client.opts.NeverWait {
			break
		}
		if h.once && wait > time.Second {
			return nil, errHeldBack
		}
		if err := retry.Sleep(req.Context(), wait); err != nil {
			return nil, err
		}
	}
	resp, err := h.t.next.RoundTrip(req)
	if err == nil && resp.StatusCode/100 == 3 {
		// net/http would put a location that it can't read into its error,
		// signature and all.
		if _, bad := url.Parse(resp.Header.Get("Location")); bad != nil {
			resp.Body.Close()
			return nil, fmt.Errorf("%w: malformed Location header", redirect.ErrRefused)
		}
	}
	if err == nil {
		h.t.mu.Lock()
		h.t.state(req.URL.Host).reached = true
		h.t.mu.Unlock()
	}
	return resp, err
}

// tracing tells the observer of each exchange, and has the body watched.
type tracing struct {
	next     http.RoundTripper
	client   *Client
	observer event.Observer
	headers  bool
	watch    response.Watch
}

func (t *tracing) RoundTrip(req *http.Request) (*http.Response, error) {
	start := time.Now()
	resp, err := t.next.RoundTrip(req)
	e := event.Requested{Method: req.Method, URL: t.client.secrets.Hide(redact.URL(req.URL)), Took: time.Since(start)}
	if err != nil {
		e.Why = t.client.bareError(err)
	} else {
		e.Status = resp.StatusCode
		if reach.TrailOf(req.Context()).IsOwn(req.URL) {
			t.client.passOn(resp)
		}
		resp.Body = t.watch.Body(req.Context(), resp)
	}
	if t.headers {
		e.Request = redact.Header(req.Header, t.client.secrets)
		if err == nil {
			e.Response = redact.Header(resp.Header, t.client.secrets)
		}
	}
	t.observer.Observe(e)
	return resp, err
}

// passOn shows a registry's warnings to the user, as the distribution spec asks of clients
// ("Warnings"): each text once, of those with the code 299.
func (c *Client) passOn(resp *http.Response) {
	const most = 50 // of one answer
	n := 0
	for _, value := range resp.Header.Values("Warning") {
		for ; strings.Trim(value, " \t,") != "" && n < most; n++ {
			var code, text string
			code, text, value = wire.CutWarning(value)
			if text = c.secrets.Line(text); code == "299" && text != "" {
				c.passOnText(resp.Request.URL.Host, text)
			}
		}
	}
}

// passOnText shows one warning of a host, unless there were too many of it.
func (c *Client) passOnText(host, text string) {
	const most = 20 // different ones of a host, in a run
	message := fmt.Sprintf("message from %s: %s", host, text)
	c.mu.Lock()
	switch {
	case c.told[message]:
	case c.warnings[host] >= most:
		message = "further messages from " + host + " are not shown"
	default:
		c.warnings[host]++
	}
	c.mu.Unlock()
	c.warnOnce(message)
}
