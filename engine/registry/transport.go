package registry

import (
	"fmt"
	"net/http"
	"time"

	"drayage/engine/event"
	"drayage/engine/registry/internal/latency"
	"drayage/engine/registry/internal/redact"
	"drayage/engine/registry/internal/response"
	"drayage/engine/registry/internal/retrying"
	"drayage/engine/registry/internal/tracing"
)

// transport is what requests go through, outermost first: repeated, observed and watched, given up
// when no response begins in time, and sent only where they may go.
func (c *Client) transport() http.RoundTripper {
	observed := &tracing.Transport{
		Next:     &latency.Transport{Next: c.base, History: c.latencies},
		Observer: c.opts.Observer, Secrets: c.secrets, Headers: c.opts.TraceHeaders, Own: c.notices.PassOn,
		Watch: response.Watch{Stall: c.opts.Stall, Limit: c.opts.Limit, Grace: c.opts.Grace},
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
