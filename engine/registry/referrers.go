package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"drayage/engine/image"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxReferrers is how many manifests that refer to one are listed at most.
const maxReferrers = 1000

// maxPages is how many pages that list is read from.
const maxPages = 100

// Referrers lists the manifests that name another as their subject, by the OCI
// distribution spec, section "Listing Referrers"; where a registry doesn't have
// that, by the tag that the spec's section "Referrers Tag Schema" gives them.
func (c *Client) Referrers(ctx context.Context, ref reference.Image, subject digest.Digest) ([]ocispec.Descriptor, error) {
	at := c.home(ref) // a mirror may not know all of them, and not say so
	var out []ocispec.Descriptor
	path := "/referrers/" + subject.String()
	header := http.Header{"Accept": {ocispec.MediaTypeImageIndex}}
	for pages := 0; path != ""; pages++ {
		if pages >= maxPages {
			return nil, fmt.Errorf("what refers to %s: %w: more than %d pages", subject, image.ErrInvalid, maxPages)
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
			return nil, fmt.Errorf("what refers to %s: %w", subject, err)
		}
		var page ocispec.Index
		if err := json.Unmarshal(raw, &page); err != nil || page.Manifests == nil && resp.Header.Get("Content-Type") != ocispec.MediaTypeImageIndex {
			return c.taggedReferrers(ctx, ref, subject) // a page for people, where others answer 404
		}
		out = append(out, page.Manifests...)
		if len(out) > maxReferrers {
			return nil, fmt.Errorf("what refers to %s: %w: more than %d manifests", subject, image.ErrInvalid, maxReferrers)
		}
		path = nextPage(resp, at.path(""))
	}
	return out, checked(out)
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
			return fmt.Errorf("%w: it lists a malformed digest or size", image.ErrInvalid)
		}
	}
	return nil
}

// nextPage is the path below the repository that a Link header leads on to (RFC
// 8288), or "".
func nextPage(resp *http.Response, repo string) string {
	for _, link := range resp.Header.Values("Link") {
		target, params, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(link), "<"), ">")
		if !ok || !strings.Contains(strings.ReplaceAll(params, `"`, ""), "rel=next") {
			continue
		}
		u, err := url.Parse(target)
		if err != nil {
			return ""
		}
		u = resp.Request.URL.ResolveReference(u)
		rest, ours := strings.CutPrefix(u.EscapedPath(), repo)
		if !ours || u.Host != resp.Request.URL.Host {
			return "" // nobody else is asked
		}
		return rest + "?" + u.RawQuery
	}
	return ""
}
