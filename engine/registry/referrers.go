package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"drayage/engine/image"
	"drayage/engine/limits"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Referrers lists the manifests that name another as their subject, by the OCI
// distribution spec, section "Listing Referrers"; where a registry doesn't have
// that, by the tag that the spec's section "Referrers Tag Schema" gives them.
func (c *Client) Referrers(ctx context.Context, ref reference.Image, subject digest.Digest) ([]ocispec.Descriptor, error) {
	at := c.home(ref) // a mirror may not know all of them, and not say so
	var out []ocispec.Descriptor
	path := "/referrers/" + subject.String()
	header := http.Header{"Accept": {ocispec.MediaTypeImageIndex}}
	seen := make(map[string]bool)
	for pages := 0; ; pages++ {
		if pages >= limits.ReferrerPages {
			return nil, fmt.Errorf("referrers of %s: %w: more than %d pages", subject, image.ErrInvalid, limits.ReferrerPages)
		}
		resp, err := c.send(ctx, http.MethodGet, at, path, header, http.StatusOK)
		var e *Error
		if len(out) == 0 && (errors.Is(err, ErrNotFound) || errors.As(err, &e) && (e.Status == http.StatusBadRequest || e.Status == http.StatusMethodNotAllowed)) {
			return c.taggedReferrers(ctx, ref, subject)
		}
		if err != nil {
			return nil, err
		}
		raw, err := readManifest(resp)
		if err != nil {
			return nil, fmt.Errorf("referrers of %s: %w", subject, err)
		}
		var page []ocispec.Descriptor
		c.opts.Work.Do(func() { page, err = readReferrers(raw) })
		if errors.Is(err, image.ErrInvalid) && !ownWords(resp) {
			return nil, fmt.Errorf("referrers of %s: %w: %s did not send a list", subject, image.ErrInvalid, resp.Request.URL.Host)
		}
		if errors.Is(err, image.ErrInvalid) {
			return nil, fmt.Errorf("referrers of %s: %w", subject, err)
		}
		if err != nil || page == nil && resp.Header.Get("Content-Type") != ocispec.MediaTypeImageIndex {
			return c.taggedReferrers(ctx, ref, subject) // a page for people, where others answer 404
		}
		out = append(out, page...)
		if len(out) > limits.Referrers {
			return nil, tooManyReferrers(subject)
		}
		next, more, err := nextPage(resp)
		if err == nil && more && seen[next] {
			err = errors.New("pagination loop")
		}
		if err == nil && more && len(page) == 0 {
			err = errors.New("an empty page links to another")
		}
		if err != nil {
			return nil, fmt.Errorf("referrers of %s: %w: the list is incomplete: %s", subject, image.ErrInvalid, c.bareError(err))
		}
		if !more {
			break
		}
		seen[next] = true
		path = "/referrers/" + subject.String() + next
	}
	return out, checked(out)
}

func tooManyReferrers(subject digest.Digest) error {
	return fmt.Errorf("referrers of %s: %w: more than %d manifests", subject, image.ErrInvalid, limits.Referrers)
}

// readReferrers reads the descriptors of a page, which are nil when there is no list of them. What
// has too many, or more than an index may have, is an image.ErrInvalid.
func readReferrers(raw []byte) (page []ocispec.Descriptor, err error) {
	if err := limits.CheckJSON(raw, ocispec.Index{}); err != nil {
		return nil, fmt.Errorf("%w: %w", image.ErrInvalid, err)
	}
	err = eachField(json.NewDecoder(bytes.NewReader(raw)), func(key string, d *json.Decoder) error {
		if !strings.EqualFold(key, "manifests") {
			return skipValue(d)
		}
		token, err := d.Token()
		if err != nil || token == nil {
			return err
		}
		if token != json.Delim('[') {
			return errNotObject
		}
		page = []ocispec.Descriptor{}
		for d.More() {
			if len(page) == limits.Referrers {
				return fmt.Errorf("%w: more than %d manifests", image.ErrInvalid, limits.Referrers)
			}
			var one ocispec.Descriptor
			if err := d.Decode(&one); err != nil {
				return err
			}
			page = append(page, one)
		}
		_, err = d.Token()
		return err
	})
	return page, err
}

// taggedReferrers lists what the tag of a subject lists.
func (c *Client) taggedReferrers(ctx context.Context, ref reference.Image, subject digest.Digest) ([]ocispec.Descriptor, error) {
	doc, err := c.Manifest(ctx, ref, subject.Algorithm().String()+"-"+subject.Encoded())
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if doc.Index == nil {
		return nil, nil
	}
	return doc.Index.Manifests, nil
}

// checked refuses descriptors that could not be fetched.
func checked(descs []ocispec.Descriptor) error {
	for _, d := range descs {
		if d.Digest.Validate() != nil || d.Size < 0 {
			return fmt.Errorf("%w: malformed digest or size in the list", image.ErrInvalid)
		}
	}
	return nil
}

// nextPage is the query of the next page that a Link header leads on to (RFC 8288), with its
// question mark. Where the page is is known: registries behind proxies name inside hosts, ports
// and paths. more is false when this is the last page.
func nextPage(resp *http.Response) (query string, more bool, err error) {
	unnamed := make(map[string]bool)
	for _, value := range resp.Header.Values("Link") {
		for value != "" {
			var target string
			var params map[string]string
			var ok bool
			rest := value
			if target, params, value, ok = cutLink(rest); !ok {
				if strings.Contains(strings.ToLower(rest), "next") || strings.Contains(rest, "last=") {
					return "", false, errors.New("malformed Link header")
				}
				break
			}
			rel := params["rel"]
			if rel == "" {
				rel = params["rel*"]
				rel = rel[strings.LastIndexByte(rel, '\'')+1:] // behind the character set
			}
			if u, err := url.Parse(target); rel == "" && err == nil && leadsOn(u, resp.Request.URL) {
				unnamed["?"+u.RawQuery] = true
			}
			if !slices.ContainsFunc(strings.Fields(rel), func(r string) bool { return strings.EqualFold(r, "next") }) {
				continue
			}
			u, err := url.Parse(target)
			if err != nil {
				return "", false, errors.New("the Link header is not a valid URL")
			}
			if u.RawQuery == "" {
				return "", false, errors.New("the Link header has no query")
			}
			return "?" + u.RawQuery, true, nil
		}
	}
	if len(unnamed) > 1 {
		return "", false, errors.New("the Link header does not say which page is next")
	}
	for query = range unnamed {
		more = true
	}
	return query, more, nil
}

// leadsOn reports whether a link that doesn't say what it is leads to another page of a list.
func leadsOn(to, from *url.URL) bool {
	q := to.Query()
	return q.Has("last") || q.Has("n") && to.RawQuery != from.RawQuery
}

// cutLink cuts one link off a Link header: <target>; name=value; name="value", and then a comma
// or the end.
func cutLink(s string) (target string, params map[string]string, rest string, ok bool) {
	s = strings.TrimLeft(s, " \t,")
	if s == "" {
		return "", nil, "", true
	}
	if s[0] != '<' {
		return "", nil, "", false
	}
	target, s, ok = strings.Cut(s[1:], ">")
	if !ok {
		return "", nil, "", false
	}
	params = make(map[string]string)
	for {
		s = strings.TrimLeft(s, " \t")
		if s == "" || s[0] == ',' {
			return target, params, strings.TrimPrefix(s, ","), true
		}
		if s[0] != ';' {
			return "", nil, "", false
		}
		name, after := cutToken(strings.TrimLeft(s[1:], " \t"))
		s = strings.TrimLeft(after, " \t")
		if !strings.HasPrefix(s, "=") {
			if name == "" && s != "" && s[0] != ',' && s[0] != ';' {
				return "", nil, "", false
			}
			continue
		}
		value, after, ok := cutParam(strings.TrimLeft(s[1:], " \t"))
		if !ok {
			return "", nil, "", false
		}
		if name = strings.ToLower(name); params[name] == "" { // the first rel counts
			params[name] = value
		}
		s = after
	}
}

// cutParam cuts a parameter's value off the front: a quoted string, in single quotes too, as
// some write it, or anything up to what ends a parameter.
func cutParam(s string) (value, rest string, ok bool) {
	if strings.HasPrefix(s, "'") {
		return strings.Cut(s[1:], "'")
	}
	if strings.HasPrefix(s, `"`) {
		return cutValue(s)
	}
	i := strings.IndexAny(s, " \t,;")
	if i < 0 {
		i = len(s)
	}
	return s[:i], s[i:], i > 0
}
