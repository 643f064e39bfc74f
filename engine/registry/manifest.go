package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"drayage/engine/event"
	"drayage/engine/image"
	"drayage/engine/internal/retry"
	"drayage/engine/reference"
	"drayage/engine/registry/internal/redact"
	"drayage/engine/registry/internal/response"
	"drayage/engine/registry/internal/retrying"

	"github.com/opencontainers/go-digest"
)

// Manifest fetches a manifest or an index of ref's repository, by tag or by
// digest. Asked for by digest, its content is verified; asked for by tag, it
// is held against the digest that the registry announced. One GET, no more,
// unless something is wrong.
func (c *Client) Manifest(ctx context.Context, ref reference.Image, tagOrDigest string) (doc image.Document, err error) {
	tag := digest.Digest(tagOrDigest).Validate() != nil
	err = c.anywhere(ctx, ref, tag, func(ctx context.Context, at site) error {
		doc, err = c.manifest(ctx, ref, at, tagOrDigest)
		return err
	})
	return doc, err
}

func (c *Client) manifest(ctx context.Context, ref reference.Image, at site, tagOrDigest string) (image.Document, error) {
	want := digest.Digest(tagOrDigest)
	if want.Validate() != nil {
		want = ""
	}
	got, err := c.getManifest(ctx, at, tagOrDigest)
	if err != nil {
		return image.Document{}, err
	}
	raw, announced := got.raw, got.announced
	if want == "" && announced != "" && !matches(announced, raw) {
		if at.mirror { // some write manifests anew; the registry decides what a tag is
			return image.Document{}, fmt.Errorf("manifest %s: %w: the registry announced %s but sent %s", tagOrDigest, errContent, announced, digest.FromBytes(raw))
		}
		// Either the body was damaged on the way or the header is wrong, as
		// caches have it (G42). Asking for the digest tells: if it has no
		// manifest, or the same bytes come, the header was wrong.
		again, err := c.getManifest(ctx, at, announced.String())
		if err == nil && matches(announced, again.raw) {
			raw = again.raw
		} else {
			c.opts.Observer.Observe(event.Warned{Message: fmt.Sprintf(
				"%s: the registry announces digest %s, but what it sends has %s; trusting the content", ref, announced, digest.FromBytes(raw))})
		}
	}
	if want != "" && !matches(want, raw) {
		if at.mirror {
			return image.Document{}, fmt.Errorf("manifest %s: %w: got %s", want, errContent, want.Algorithm().FromBytes(raw))
		}
		if got, err = c.getManifest(ctx, at, tagOrDigest); err != nil {
			return image.Document{}, err
		}
		raw = got.raw
		if !matches(want, raw) {
			return image.Document{}, fmt.Errorf("manifest %s: %w: got %s", want, errContent, want.Algorithm().FromBytes(raw))
		}
	}
	var doc image.Document
	c.opts.Work.Do(func() { doc, err = image.Decode(raw) })
	if err != nil && got.elsewhere != "" {
		return image.Document{}, fmt.Errorf("%w: what %s sends is none", image.ErrInvalid, got.elsewhere)
	}
	if err != nil {
		return image.Document{}, err
	}
	if want != "" {
		doc.Descriptor.Digest = want // which may be of another algorithm
	}
	return doc, nil
}

func matches(d digest.Digest, raw []byte) bool { return d.Algorithm().FromBytes(raw) == d }

// Head asks for the digest that a tag stands for now. It is "" when the registry doesn't tell,
// by an error of HEAD or no answer to it: that is a saving, and never an answer of its own, since
// registries of functions or static files and some proxies have no HEAD, or not behind their
// redirects (G4). Then only fetching the manifest tells.
func (c *Client) Head(ctx context.Context, ref reference.Image, tag string) (d digest.Digest, err error) {
	err = c.anywhere(ctx, ref, true, func(ctx context.Context, at site) error {
		d, err = c.head(ctx, at, tag)
		return err
	})
	return d, err
}

func (c *Client) head(ctx context.Context, at site, tag string) (digest.Digest, error) {
	resp, err := c.send(ctx, http.MethodHead, at, "/manifests/"+tag, accept(), http.StatusOK)
	var e *Error
	byHead := errors.As(err, &e) && e.Method == http.MethodHead && !errors.Is(err, ErrQuota)
	switch {
	case byHead && e.Status != 0:
		return "", nil
	case byHead && errors.Is(err, ErrUnavailable) && !at.mirror:
		return "", nil // some close the connection; whether it's the network shows by GET
	case err != nil:
		return "", err
	}
	resp.Body.Close()
	return announcedDigest(resp), nil
}

func accept() http.Header {
	// One header with a list: some registries read only the first (G43).
	return http.Header{"Accept": {strings.Join(image.MediaTypes(), ", ")}}
}

func announcedDigest(resp *http.Response) digest.Digest {
	d := digest.Digest(resp.Header.Get("Docker-Content-Digest"))
	if d.Validate() != nil {
		return ""
	}
	return d
}

// sent is a manifest as it was sent.
type sent struct {
	raw       []byte
	announced digest.Digest // by the header
	elsewhere string        // the host that sent it, when the registry led there
}

// getManifest gets a manifest's bytes, anew when they break off.
func (c *Client) getManifest(ctx context.Context, at site, tagOrDigest string) (sent, error) {
	start := time.Now()
	for tries := 1; ; tries++ {
		resp, err := c.send(ctx, http.MethodGet, at, "/manifests/"+tagOrDigest, accept(), http.StatusOK)
		if err != nil {
			return sent{}, err
		}
		raw, err := readManifest(resp)
		if err == nil {
			c.activity.Beat()
			out := sent{raw: raw, announced: announcedDigest(resp)}
			if !ownWords(resp) {
				out.elsewhere = resp.Request.URL.Host
			}
			return out, nil
		}
		if ctx.Err() != nil {
			return sent{}, context.Cause(ctx)
		}
		if errors.Is(err, image.ErrInvalid) {
			return sent{}, err
		}
		if errors.Is(err, errInvalid) {
			return sent{}, &Error{Method: "GET", URL: redact.URL(resp.Request.URL), Detail: c.bareError(err), kind: errInvalid}
		}
		what := "GET " + redact.URL(resp.Request.URL)
		wait, again := c.opts.Retry.Next(retry.Failure{Tries: tries, Since: time.Since(start), Err: err}, time.Now())
		if !again || retrying.TriesOf(ctx).Once {
			return sent{}, &Error{Method: "GET", URL: redact.URL(resp.Request.URL), Detail: c.bareError(err), kind: ErrUnavailable}
		}
		c.opts.Observer.Observe(event.Retrying{What: what, Why: c.bareError(err), Try: tries + 1, Delay: wait})
		if err := retry.Sleep(ctx, wait); err != nil {
			return sent{}, err
		}
	}
}

// readManifest reads a body of at most image.MaxSize bytes.
func readManifest(resp *http.Response) ([]byte, error) {
	defer resp.Body.Close()
	tooLarge := fmt.Errorf("%w: larger than %d MiB", image.ErrInvalid, image.MaxSize>>20)
	if resp.ContentLength > image.MaxSize {
		return nil, tooLarge
	}
	body, err := response.Plain(resp, image.MaxSize+1)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	if len(raw) > image.MaxSize {
		return nil, tooLarge
	}
	return image.Payload(raw), nil
}

// BlobSize asks for the size of a blob in bytes.
func (c *Client) BlobSize(ctx context.Context, ref reference.Image, d digest.Digest) (size int64, err error) {
	err = c.anywhere(ctx, ref, false, func(ctx context.Context, at site) error {
		size, err = c.blobSize(ctx, at, d)
		return err
	})
	return size, err
}

func (c *Client) blobSize(ctx context.Context, at site, d digest.Digest) (int64, error) {
	header := http.Header{"Accept-Encoding": {"identity"}}
	resp, err := c.send(ctx, http.MethodHead, at, "/blobs/"+d.String(), header, http.StatusOK)
	if err == nil {
		resp.Body.Close()
		if resp.ContentLength >= 0 {
			return resp.ContentLength, nil
		}
	} else if ctx.Err() != nil || errors.Is(err, ErrQuota) {
		return 0, err
	}
	// Some storage hosts refuse HEAD with a URL that was signed for GET (G4).
	if resp, err = c.send(ctx, http.MethodGet, at, "/blobs/"+d.String(), header, http.StatusOK); err != nil {
		return 0, err
	}
	resp.Body.Close()
	if resp.ContentLength < 0 {
		return 0, &Error{Method: http.MethodGet, URL: redact.URL(resp.Request.URL), Detail: "the registry did not report the blob's size", kind: errInvalid}
	}
	return resp.ContentLength, nil
}
