package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"drayage/engine/reference"
	"drayage/engine/transfer"

	"github.com/opencontainers/go-digest"
)

// Blobs are the blobs of one repository.
type Blobs struct {
	client *Client
	ref    reference.Image
}

// Blobs is where the blobs of an image can be fetched.
func (c *Client) Blobs(ref reference.Image) Blobs { return Blobs{client: c, ref: ref} }

// Host is the registry that is asked, which is not always the host that sends.
func (b Blobs) Host() string { return b.ref.Host() }

// Open begins to fetch the bytes of a blob from offset from up to, and without,
// offset to; a blob is fetched whole by 0 and its size. The caller closes the
// body. The bytes are as the registry has them, and not verified; there may be
// fewer or more of them than asked for, when the blob is not what its
// descriptor says. The error wraps
// transfer.ErrRange when the server can't begin there.
func (b Blobs) Open(ctx context.Context, d digest.Digest, from, to int64) (io.ReadCloser, error) {
	header := http.Header{"Accept-Encoding": {"identity"}} // the digest is over the bytes as stored (G21)
	if from > 0 {
		// Closed, and within the blob: some refuse or miscount others (G13, G14).
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, to-1))
	}
	resp, err := b.send(ctx, d, header)
	if err != nil {
		return nil, err
	}
	skip := from // a 200 is the whole blob, range or not (G11)
	if resp.StatusCode == http.StatusPartialContent {
		start, ok := rangeStart(resp.Header.Get("Content-Range"))
		if !ok || start > from {
			resp.Body.Close()
			return nil, fmt.Errorf("%w: asked for bytes from %d, it answers %q", transfer.ErrRange, from, oneLine(resp.Header.Get("Content-Range")))
		}
		skip = from - start
	}
	if skip > 0 {
		return &skipping{ReadCloser: resp.Body, left: skip}, nil
	}
	return resp.Body, nil
}

// skipping reads over the first bytes of a body. If there are not so many, it
// ends with transfer.ErrRange.
type skipping struct {
	io.ReadCloser
	left int64
}

func (s *skipping) Read(p []byte) (int, error) {
	if s.left > 0 {
		n, err := io.CopyN(io.Discard, s.ReadCloser, s.left)
		s.left -= n
		if errors.Is(err, io.EOF) {
			return 0, fmt.Errorf("%w: it is %d bytes shorter", transfer.ErrRange, s.left)
		}
		if err != nil {
			return 0, err
		}
	}
	return s.ReadCloser.Read(p)
}

// send asks the registry for a blob. Where the host that the registry
// redirects to refuses, the signed URL may have been stale: the registry is
// asked for another, once (G5).
func (b Blobs) send(ctx context.Context, d digest.Digest, header http.Header) (*http.Response, error) {
	for again := false; ; again = true {
		resp, err := b.client.send(ctx, http.MethodGet, b.ref, "/blobs/"+d.String(), header, http.StatusOK, http.StatusPartialContent)
		var e *Error
		if err == nil || again || !errors.As(err, &e) || strings.Contains(e.URL, "//"+b.ref.Host()+"/") {
			return resp, err
		}
		switch e.Status {
		case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusGone:
		default:
			return resp, err
		}
	}
}

// rangeStart is where the part of a 206 begins, by its Content-Range (RFC
// 9110, section 14.4). A missing unit is let pass (G17).
func rangeStart(s string) (int64, bool) {
	s = strings.TrimSpace(s)
	if rest, ok := strings.CutPrefix(strings.ToLower(s), "bytes"); ok {
		s = strings.TrimLeft(rest, " \t=:")
	}
	first, rest, ok := strings.Cut(s, "-")
	if !ok {
		return 0, false
	}
	last, _, ok := strings.Cut(rest, "/")
	if !ok {
		return 0, false
	}
	start, err := strconv.ParseInt(strings.TrimSpace(first), 10, 64)
	end, errEnd := strconv.ParseInt(strings.TrimSpace(last), 10, 64)
	return start, err == nil && errEnd == nil && start >= 0 && end >= start
}
