package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"drayage/engine/reference"
)

// Tags lists the tags of a repository, from all pages of the list (OCI distribution spec,
// "Listing Tags").
func (c *Client) Tags(ctx context.Context, ref reference.Image) ([]string, error) {
	const perPage, mostPages, mostTags = 1000, 10_000, 1_000_000
	at := c.home(ref)
	path := fmt.Sprintf("/tags/list?n=%d", perPage)
	var out []string
	for range mostPages {
		resp, err := c.send(ctx, http.MethodGet, at, path, http.Header{"Accept": {"application/json"}}, http.StatusOK)
		if err != nil {
			return nil, err
		}
		const most = 64 << 20 // bytes of a page
		var page struct {
			Tags []string `json:"tags"`
		}
		err = json.NewDecoder(io.LimitReader(resp.Body, most)).Decode(&page)
		resp.Body.Close()
		if err != nil {
			return nil, &Error{Method: http.MethodGet, URL: bareURL(resp.Request.URL), Detail: "the list of tags can't be read", kind: ErrInvalid}
		}
		out = append(out, page.Tags...)
		next := nextPage(resp, at.path(""))
		if next == "" || next == path || len(out) > mostTags {
			return out, nil
		}
		path = next
	}
	return out, nil
}
