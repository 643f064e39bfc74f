package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"drayage/engine/image"
	"drayage/engine/internal/limits"
	"drayage/engine/reference"
	"drayage/engine/registry/internal/listing"
	"drayage/engine/registry/internal/wire"

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
		c.opts.Work.Do(func() { page, err = listing.ReadReferrers(raw) })
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
		next, more, err := wire.NextPage(resp)
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
	return out, listing.CheckReferrers(out)
}

func tooManyReferrers(subject digest.Digest) error {
	return fmt.Errorf("referrers of %s: %w: more than %d manifests", subject, image.ErrInvalid, limits.Referrers)
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
