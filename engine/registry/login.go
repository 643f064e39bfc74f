package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"drayage/engine/reference"
)

// ParseName reads what people type for a registry: its name, or a URL of it.
func ParseName(s string) (string, error) {
	name := strings.TrimPrefix(strings.TrimPrefix(s, "https://"), "http://")
	name = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "/"), "/v2"), "/v1")
	if slices.Contains([]string{"docker.io", "index.docker.io", "registry-1.docker.io"}, name) {
		return "docker.io", nil
	}
	ref, err := reference.Parse(name + "/x")
	if err != nil || ref.Registry() != name {
		return "", fmt.Errorf("invalid registry name %q; examples: ghcr.io, registry.example:5000", s)
	}
	return name, nil
}

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
