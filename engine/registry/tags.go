package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"net/http"
	"slices"

	"drayage/engine/limits"
	"drayage/engine/printable"
	"drayage/engine/reference"
	"drayage/engine/registry/internal/redact"
	"drayage/engine/registry/internal/response"
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
	list := newTagList(c.opts.Work)
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
		before := len(list.tags)
		err = list.read(resp, more)
		resp.Body.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		fault := func(why string) error {
			return &Error{Method: http.MethodGet, URL: redact.URL(resp.Request.URL), Detail: "the list of tags " + why, kind: ErrInvalid}
		}
		switch {
		case err != nil:
			return nil, fault("is invalid: " + c.bareError(err))
		case linkErr != nil:
			return nil, fault("is incomplete: " + c.bareError(linkErr))
		case !more:
			return list.tags, nil
		case seen["/tags/list"+next]:
			return nil, fault("has a pagination loop")
		case len(list.tags) == before:
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

// tagList are the tags of a list, each once.
type tagList struct {
	tags  []string
	bytes int
	seed  maphash.Seed
	known map[uint64]struct{} // by their hashes: a million names would take twice the memory
	work  *limits.Work
}

func newTagList(work *limits.Work) *tagList {
	return &tagList{work: work, seed: maphash.MakeSeed(), known: make(map[uint64]struct{})}
}

// read adds a page, value by value: a page of nothing but small values would take many times its
// bytes as a whole. One that leads on has no reason to be large, while some registries know no
// pages. Tags that are null are passed over, as Nexus has them.
func (l *tagList) read(resp *http.Response, leadsOn bool) error {
	most := int64(limits.TagListBytes)
	if leadsOn {
		most = limits.PageBytes
	}
	body, err := response.Plain(resp, most+1)
	if err != nil {
		return err
	}
	start := &beginning{Reader: l.work.Reader(body)}
	counted := &counted{Reader: start}
	found := false
	l.work.Do(func() {
		err = eachField(json.NewDecoder(&tokens{Reader: counted, most: limits.NameBytes}), func(key string, d *json.Decoder) error {
			if key != "tags" {
				return skipValue(d)
			}
			if found {
				return fmt.Errorf("%w: the field occurs twice", errTags)
			}
			found = true
			return l.add(d)
		})
	})
	switch {
	case counted.n > most:
		return fmt.Errorf("a page of more than %d MiB", most>>20)
	case errors.Is(err, errTags), errors.Is(err, errTagsMost):
		return err
	case isSyntax(err):
		return errors.New("not valid JSON")
	case err != nil:
		return err
	case !found && !ownWords(resp):
		return errors.New("it has no tags")
	case !found:
		return fmt.Errorf("it has no tags: %s", printable.Line(string(start.text)))
	}
	return nil
}

var (
	errTags     = errors.New("tags are not a list of names")
	errTagsMost = fmt.Errorf("it has more than %d tags, or more than %d MiB of them", limits.Tags, limits.TagListBytes>>20)
)

// add adds the names of a JSON array, or of null.
func (l *tagList) add(d *json.Decoder) error {
	token, err := d.Token()
	if err != nil || token == nil {
		return err
	}
	if token != json.Delim('[') {
		return errTags
	}
	for n := 1; d.More(); n++ {
		token, err := d.Token()
		if err != nil {
			return err
		}
		tag, ok := token.(string)
		if !ok && token != nil {
			return errTags
		}
		if n > limits.Tags {
			return errTagsMost
		}
		key := maphash.String(l.seed, tag)
		if _, again := l.known[key]; again || !ok {
			continue
		}
		if l.bytes += len(tag); l.bytes > limits.TagListBytes || len(l.tags) == limits.Tags {
			return errTagsMost
		}
		l.known[key] = struct{}{}
		l.tags = append(l.tags, tag)
	}
	_, err = d.Token()
	return err
}
