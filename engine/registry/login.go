package registry

import (
	"context"
	"errors"
	"net/http"

	"drayage/engine/reference"
)

// Ping asks a registry whether it lets us in, by the base request of the
// distribution spec ("Determining Support").
func (c *Client) Ping(ctx context.Context, registry string) error {
	ref, err := reference.Parse(registry + "/x")
	if err != nil {
		return err
	}
	h := c.host(ref)
	at := site{host: h}
	resp, err := c.over(ctx, h, h.grant("", h.credentials), http.MethodGet, "/v2/", nil)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		e := c.refusal(resp, at, "/v2/")
		if errors.Is(e, ErrDenied) {
			e.Hint = "incorrect user name or password"
		}
		return e
	}
	return resp.Body.Close()
}
