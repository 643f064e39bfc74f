package mirror

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"drayage/blobstore"
	"drayage/engine/internal/limits"

	"github.com/opencontainers/go-digest"
)

// blob serves a blob or a range of it ("Pulling blobs"; RFC 9110, section 14).
func (h *Handler) blob(w http.ResponseWriter, r *http.Request, a *asked, text string) error {
	d := digest.Digest(text)
	if d.Validate() != nil {
		return errDigest
	}
	body, from, err := h.findBlob(w, r, a, d)
	if err != nil || body == nil {
		return err
	}
	defer body.Close()
	head := w.Header()
	head.Set("Content-Type", "application/octet-stream")
	head.Set("Docker-Content-Digest", d.String())
	head.Set("Etag", `"`+d.String()+`"`)
	head.Set("Cache-Control", "max-age=31536000, immutable")
	ranges, bad := readableRange(r.Header.Get("Range"))
	if tag := r.Header.Get("If-Range"); tag != "" && tag != head.Get("Etag") {
		ranges, bad = "", nil // the whole is wanted when it is another
	}
	if bad != nil { // http.ServeContent doesn't tell the size then
		size, err := body.Seek(0, io.SeekEnd)
		if err != nil {
			return errBroken
		}
		head.Set("Content-Range", fmt.Sprintf("bytes */%d", size))
		return bad
	}
	if size, err := body.Seek(0, io.SeekEnd); err == nil && size == 0 {
		ranges = "" // http.ServeContent would send the last bytes of nothing, from 0 to -1
	}
	h.o.Served("blob", from)
	r = r.Clone(r.Context())
	if r.Header.Del("Range"); ranges != "" {
		r.Header.Set("Range", ranges)
	}
	http.ServeContent(w, r, "", time.Time{}, body)
	return nil
}

// findBlob finds a blob in the store or upstream; nil when the request was answered.
func (h *Handler) findBlob(w http.ResponseWriter, r *http.Request, a *asked, d digest.Digest) (Blob, Hit, error) {
	shown := true
	var v *view
	if h.o.Private != nil {
		var err error
		if v, err = h.views.get(); err != nil {
			return nil, "", err
		}
		shown = v.shows(h.o.Private, a.user, d)
	}
	if shown {
		f, err := h.o.Store.OpenSound(d)
		if err == nil {
			return f, FromStore, nil
		}
		if !errors.Is(err, blobstore.ErrNotFound) {
			return nil, "", errBroken
		}
	}
	ref, err := h.image(a, d.String()) // whose it is matters now
	if err != nil {
		return nil, "", err
	}
	if !h.through(a.user, ref) {
		if h.o.Private != nil && !shown {
			h.refuseDigest(a, ref, d)
		}
		return nil, "", errNoBlob
	}
	if v != nil && !v.open(h.o.Private, ref, d) { // what another's image has, or is being fetched for it, is no part of this one
		if err := h.o.Upstream.Holds(r.Context(), ref, d, false); err != nil {
			if !shown {
				h.refuseDigest(a, ref, d)
			}
			return nil, "", fromUpstream(err, errNoBlob)
		}
	}
	if r.Method == http.MethodHead { // nothing is fetched for it
		size, err := h.o.Upstream.Size(r.Context(), ref, d)
		if err != nil {
			return nil, "", fromUpstream(err, errNoBlob)
		}
		head := w.Header()
		head.Set("Content-Type", "application/octet-stream")
		head.Set("Docker-Content-Digest", d.String())
		head.Set("Accept-Ranges", "bytes")
		head.Set("Content-Length", strconv.FormatInt(size, 10))
		return nil, "", nil
	}
	body, err := h.o.Upstream.Blob(r.Context(), ref, d)
	if err != nil {
		return nil, "", fromUpstream(err, errNoBlob)
	}
	return body, viaUpstream, nil
}

// readableRange is a Range header as http.ServeContent reads it, "" for one in another unit, which
// is as if it weren't there (RFC 9110, section 14.2). One that no blob can satisfy is a fault.
func readableRange(header string) (ranges string, err *fault) {
	list, isBytes := strings.CutPrefix(header, "bytes=")
	if !isBytes {
		if header == "" || strings.Contains(header, "=") {
			return "", nil
		}
		return "", errRange
	}
	var out []string
	for _, r := range strings.Split(list, ",") {
		if r = strings.TrimSpace(r); r == "" {
			continue
		}
		first, last, ok := strings.Cut(r, "-")
		from, fromOK := position(first)
		to, toOK := position(last)
		switch {
		case !ok || !fromOK || !toOK || r == "-" || first != "" && last != "" && from > to:
			return "", errRange
		case from == math.MaxInt64 || first == "" && last != "" && to == 0:
			continue // no blob has those bytes; others of the list may be there
		case last != "" && to == math.MaxInt64: // beyond any end
			last = ""
		}
		if first == "" && last == "" { // of more bytes than there are: all
			first = "0"
		}
		if len(out) == limits.Ranges {
			return "", errRanges // each is an answer of its own (RFC 9110, section 14.2)
		}
		out = append(out, strings.TrimSpace(first)+"-"+strings.TrimSpace(last))
	}
	if len(out) == 0 {
		return "", errRange
	}
	return "bytes=" + strings.Join(out, ","), nil
}

// position reads a number of bytes; one that is too large for a number is the largest.
func position(s string) (n int64, ok bool) {
	s = strings.TrimSpace(s)
	if strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' }) {
		return 0, false
	}
	if s == "" {
		return 0, true
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return math.MaxInt64, true
	}
	return n, true
}
