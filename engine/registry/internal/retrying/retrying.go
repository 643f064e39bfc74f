// Package retrying is the one layer in which requests are repeated: a http.RoundTripper over
// hashicorp/go-retryablehttp, which buffers bodies, repeats and drains, while a retry.Policy decides
// whether and when (docs/decisions/0006-retry-policy-over-retryablehttp.md). When a host asks to be
// left alone, every request to it waits, not just the one that was told.
//
// Begin at Transport. What a request's tries are drawn from, its Tries, goes with its context, since
// http.Client stands between who knows and who tries.
package retrying

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"drayage/engine/internal/retry"
	"drayage/engine/registry/internal/failure"
	"drayage/engine/registry/internal/reach"
	"drayage/engine/registry/internal/redirect"
	"drayage/engine/registry/internal/response"

	"github.com/hashicorp/go-retryablehttp"
)

// Options say how a Transport repeats. All but NeverWait are required.
type Options struct {
	Policy   retry.Policy
	Activity *retry.Activity // for budgets of requests that have none
	// Retried is called before a request waits to be sent again, for the try-th time, with the
	// response or the error that made it so.
	Retried func(req *http.Request, resp *http.Response, err error, try int, delay time.Duration)
	// NeverWait sends requests also to hosts that have asked to be left alone.
	NeverWait bool
}

// Transport repeats requests until they are established, as far as their Tries allow. It may be used
// from several goroutines.
type Transport struct {
	next http.RoundTripper
	opts Options

	mu    sync.Mutex
	hosts map[string]*hostState
}

type hostState struct {
	reached   bool      // it has answered
	notBefore time.Time // no request is sent to it before then
}

// New makes a Transport over another.
func New(next http.RoundTripper, opts Options) *Transport {
	return &Transport{next: next, opts: opts, hosts: make(map[string]*hostState)}
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	r := &request{t: t, Request: req, tries: TriesOf(req.Context())}
	if r.tries.Budget == nil {
		r.tries.Budget = retry.NewBudget(t.opts.Policy, t.opts.Activity, nil)
	}
	client := &retryablehttp.Client{
		HTTPClient: &http.Client{
			Transport:     holding{t, r.tries.Once},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		RetryMax:     1 << 30, // the policy decides
		CheckRetry:   r.check,
		Backoff:      func(_, _ time.Duration, _ int, _ *http.Response) time.Duration { return r.wait },
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

// request is one that is being established.
type request struct {
	*http.Request
	t     *Transport
	tries Tries
	wait  time.Duration // before the next try
}

// check is the retryablehttp.CheckRetry: it reports whether to send the request again, and sets when.
func (r *request) check(ctx context.Context, resp *http.Response, err error) (bool, error) {
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	if err != nil && r.isFinal(err) {
		return false, nil
	}
	f := retry.Failure{Err: err, Reached: r.t.reached(r.URL.Host)}
	if resp != nil {
		if f.Status = resp.StatusCode; f.Status < 400 {
			return false, nil
		}
		body := response.Buffer(resp)
		f.RetryAfter = resp.Header.Get("Retry-After")
		f.Throttled = response.IsThrottled(f.Status, body)
		f.Spent = f.Throttled && response.IsQuota(resp, body)
		if !f.Throttled && (!retry.Status(f.Status) || r.Method == http.MethodHead) {
			return false, nil // what HEAD doesn't tell GET does
		}
	}
	f.Host = r.tries.Host
	const odd = 3 // answers that are no HTTP: one may be the line's fault
	if err != nil && failure.IsMalformed(err) && r.tries.Budget.Tries() >= odd {
		return false, nil
	}
	if r.tries.Once {
		r.recordOnly(f)
		return false, nil
	}
	var again bool
	if r.wait, again = r.tries.Budget.Next(f); again {
		if f.Congested() {
			r.t.holdBack(r.URL.Host, r.wait)
		}
		r.t.opts.Retried(r.Request, resp, err, r.tries.Budget.Tries()+1, r.wait)
	}
	return again, nil
}

// isFinal reports whether an error ends a request that has it, whatever its budget.
func (r *request) isFinal(err error) bool {
	return failure.IsProtocol(err) || errors.Is(err, redirect.ErrRefused) || r.tries.Redirected && reach.IsUnreachable(err) ||
		!errors.Is(err, ErrHeldBack) && (r.tries.Unsure || r.Method == http.MethodHead) // who asks tries something else: GET, for one
}

// recordOnly records a failure of a request that is sent once, for other requests to its host.
func (r *request) recordOnly(f retry.Failure) {
	r.tries.Budget.Tell(f)
	wait, ok := retry.After(f.RetryAfter, time.Now())
	if !ok {
		wait = time.Second
	}
	if f.Congested() && wait <= r.t.opts.Policy.PatienceOrDefault() {
		r.t.holdBack(r.URL.Host, wait)
	}
}

func (t *Transport) state(host string) *hostState {
	s := t.hosts[host]
	if s == nil {
		s = &hostState{}
		t.hosts[host] = s
	}
	return s
}

func (t *Transport) reached(host string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.state(host).reached
}

func (t *Transport) holdBack(host string, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if until := time.Now().Add(wait); until.After(t.state(host).notBefore) {
		t.state(host).notBefore = until
	}
}

// holding sends a request when its host may be asked again.
type holding struct {
	t    *Transport
	once bool
}

// ErrHeldBack ends a request to a host that wants to be left alone for a while,
// when others can be asked instead.
var ErrHeldBack = errors.New("rate limit exceeded: the host asked to wait")

func (h holding) RoundTrip(req *http.Request) (*http.Response, error) {
	for {
		h.t.mu.Lock()
		wait := time.Until(h.t.state(req.URL.Host).notBefore)
		h.t.mu.Unlock()
		if wait <= 0 || h.t.opts.NeverWait {
			break
		}
		if h.once && wait > time.Second {
			return nil, ErrHeldBack
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
