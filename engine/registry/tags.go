package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"drayage/engine/internal/limits"
	"drayage/engine/reference"
	"drayage/engine/registry/internal/listing"
	"drayage/engine/registry/internal/redact"
	"drayage/engine/registry/internal/wire"
)

// tagsPerPage is how many tags a page is asked to have.
const tagsPerPage = 1000

// Tags lists the tags of a repository, from all pages of the list (OCI distribution spec,
// "Listing Tags"). A list that can't be read to its end is an error: the newest of half a list
// may be an old one.
func (c *Client) Tags(ctx context.Context, ref reference.Image) ([]string, error) {
	at := c.home(ref)
	path := fmt.Sprintf("/tags/list?n=%d", tagsPerPage)
	seen := map[string]bool{path: true}
	list := listing.NewTags(c.opts.Work)
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
		next, more, linkErr := wire.NextPage(resp)
		before := len(list.Names)
		err = list.Read(resp, more, ownWords(resp))
		resp.Body.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		fault := func(why string) error {
			return &Error{Method: http.MethodGet, URL: redact.URL(resp.Request.URL), Detail: "the list of tags " + why, kind: errInvalid}
		}
		switch {
		case err != nil:
			return nil, fault("is invalid: " + c.bareError(err))
		case linkErr != nil:
			return nil, fault("is incomplete: " + c.bareError(linkErr))
		case !more:
			return list.Names, nil
		case seen["/tags/list"+next]:
			return nil, fault("has a pagination loop")
		case len(list.Names) == before:
			return nil, fault("is incomplete: a page with no new tags links to another")
		case page == limits.Pages:
			return nil, fault(fmt.Sprintf("has more than %d pages", limits.Pages))
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
