package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"drayage/engine/printable"
	"drayage/engine/reference"
)

// Limits of a list of tags.
const (
	tagsPerPage  = 1000
	maxTagPages  = 10_000
	maxTags      = 1_000_000
	maxTagsBytes = 16 << 20 // of one page: some registries know no pages
)

// Tags lists the tags of a repository, from all pages of the list (OCI distribution spec,
// "Listing Tags"). A list that can't be read to its end is an error: the newest of half a list
// may be an old one.
func (c *Client) Tags(ctx context.Context, ref reference.Image) ([]string, error) {
	at := c.home(ref)
	path := fmt.Sprintf("/tags/list?n=%d", tagsPerPage)
	seen := map[string]bool{path: true}
	var out []string
	known := make(map[string]bool)
	for page := 1; ; page++ {
		resp, err := c.send(ctx, http.MethodGet, at, path, http.Header{"Accept": {"application/json"}}, http.StatusOK)
		var e *Error
		if page == 1 && errors.As(err, &e) && tooMany(e) {
			// Some have a smaller maximum, and say no more than that it was exceeded.
			path = "/tags/list"
			resp, err = c.send(ctx, http.MethodGet, at, path, http.Header{"Accept": {"application/json"}}, http.StatusOK)
		}
		if err != nil {
			return nil, err
		}
		tags, err := readTags(resp)
		resp.Body.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		fault := func(why string) error {
			return &Error{Method: http.MethodGet, URL: bareURL(resp.Request.URL), Detail: "the list of tags " + why, kind: ErrInvalid}
		}
		if err != nil {
			return nil, fault("can't be read: " + c.bareError(err))
		}
		before := len(out)
		for _, tag := range tags {
			if !known[tag] {
				known[tag] = true
				out = append(out, tag)
			}
		}
		next, more, err := nextPage(resp)
		switch {
		case err != nil:
			return nil, fault("can't be read to its end: " + c.bareError(err))
		case !more:
			return out, nil
		case seen["/tags/list"+next]:
			return nil, fault("leads back to a page that was read")
		case page > 1 && len(out) == before:
			return nil, fault("can't be read to its end: a page leads on that has no new tags")
		case page == maxTagPages:
			return nil, fault(fmt.Sprintf("has more than %d pages", maxTagPages))
		case len(out) > maxTags:
			return nil, fault(fmt.Sprintf("has more than %d tags", maxTags))
		}
		path = "/tags/list" + next
		seen[path] = true
	}
}

// tooMany reports whether an error may be for the number of tags that a page was asked to have.
func tooMany(e *Error) bool {
	return !errors.Is(e, ErrQuota) && e.Status/100 == 4 &&
		(e.Status == http.StatusBadRequest || e.Status == http.StatusUnprocessableEntity || slices.Contains(e.codes, "PAGINATION_NUMBER_INVALID"))
}

// readTags reads one page. Tags that are null are passed over, as Nexus has them.
func readTags(resp *http.Response) ([]string, error) {
	body, err := plainBody(resp, maxTagsBytes+1)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	if len(raw) > maxTagsBytes {
		return nil, fmt.Errorf("a page of more than %d MiB", maxTagsBytes>>20)
	}
	var page map[string]json.RawMessage
	if err := json.Unmarshal(raw, &page); err != nil {
		return nil, errors.New("it is not JSON")
	}
	var tags []*string
	list, ok := page["tags"]
	if !ok {
		return nil, fmt.Errorf("it has no tags: %s", printable.Line(string(raw)))
	}
	if err := json.Unmarshal(list, &tags); err != nil {
		return nil, errors.New("its tags are not a list of names")
	}
	out := make([]string, 0, len(tags))
	for _, t := range tags {
		if t != nil {
			out = append(out, *t)
		}
	}
	return out, nil
}
