package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"drayage/engine/image"
	"drayage/engine/limits"
	"drayage/engine/reference"
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
