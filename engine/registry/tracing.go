package registry

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"drayage/engine/event"
	"drayage/engine/registry/internal/latency"
	"drayage/engine/registry/internal/reach"
	"drayage/engine/registry/internal/redact"
	"drayage/engine/registry/internal/response"
	"drayage/engine/registry/internal/retrying"
	"drayage/engine/registry/internal/wire"
)

// transport is what requests go through, outermost first: repeated, observed and watched, given up
// when no response begins in time, and sent only where they may go.
func (c *Client) transport() http.RoundTripper {
	observed := &tracing{
		client: c,
		next:   &latency.Transport{Next: c.base, History: c.latencies}, observer: c.opts.Observer, headers: c.opts.TraceHeaders,
		watch: response.Watch{Stall: c.opts.Stall, Limit: c.opts.Limit, Grace: c.opts.Grace},
	}
	return retrying.New(observed, retrying.Options{
		Policy: c.opts.Retry, Activity: c.activity, NeverWait: c.opts.NeverWait,
		Retried: func(req *http.Request, resp *http.Response, err error, try int, delay time.Duration) {
			c.opts.Observer.Observe(event.Retrying{What: req.Method + " " + c.secrets.Hide(redact.URL(req.URL)), Why: c.why(resp, err), Try: try, Delay: delay})
		},
	})
}

func (c *Client) why(resp *http.Response, err error) string {
	if err != nil {
		return c.bareError(err)
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
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
