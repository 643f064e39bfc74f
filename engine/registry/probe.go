package registry

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"drayage/engine/reference"
)

// Ask sends one request for something of a reference's repository to its registry:
// below is /manifests/TAG, /blobs/DIGEST and the like. A GET of a blob is not
// followed where it is redirected. The caller judges the answer, and closes its
// body.
func (c *Client) Ask(ctx context.Context, method string, ref reference.Image, below string, header http.Header) (*http.Response, error) {
	at := c.home(ref)
	return c.ask(followingByHand(withTries(ctx, tries{host: at.host.name, once: true})), method, at, below, header)
}

// Elsewhere sends one request to a URL that a registry has redirected to, without
// credentials.
func (c *Client) Elsewhere(ctx context.Context, method string, u *url.URL, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(withTries(ctx, tries{host: u.Host, once: true}), method, u.String(), nil)
	if err != nil {
		return nil, &Error{Method: method, URL: bareURL(u), Detail: "the URL is malformed", kind: ErrInvalid}
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("User-Agent", c.opts.UserAgent)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, requestError(ctx, req, err)
	}
	return resp, nil
}

// Expiry is when a signed URL stops working, the zero time when it doesn't tell.
func Expiry(u *url.URL) time.Time { return expiry(u) }
