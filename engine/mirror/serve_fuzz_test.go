package mirror_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"drayage/blobstore"
	"drayage/engine/mirror"
	"drayage/engine/registry/registrytest"

	"github.com/opencontainers/go-digest"
)

// fuzzed is a mirror of a store with an image by two names and some blobs, beside which there is
// something that nobody is to get.
func fuzzed(f *testing.F) (h http.Handler, top string, img registrytest.Image, blobs map[digest.Digest][]byte) {
	f.Helper()
	top = f.TempDir()
	if err := os.WriteFile(filepath.Join(top, "outside"), []byte("nobody's"), 0o600); err != nil {
		f.Fatal(err)
	}
	store, err := blobstore.OpenWith(filepath.Join(top, "store"), blobstore.Options{NoSync: true})
	if err != nil {
		f.Fatal(err)
	}
	lease, err := store.Lease()
	if err != nil {
		f.Fatal(err)
	}
	defer lease.Close()
	img = registrytest.Build("linux/amd64", registrytest.Random(1, 1000), []byte("x"), nil)
	blobs = map[digest.Digest][]byte{img.Descriptor.Digest: img.Manifest}
	for d, raw := range img.Blobs {
		blobs[d] = raw
	}
	var all []digest.Digest
	for d, raw := range blobs {
		if err := lease.Put(f.Context(), registrytest.Describe("", raw), raw); err != nil {
			f.Fatal(err)
		}
		all = append(all, d)
	}
	for _, name := range []string{"docker.io/library/app:1", "r.example:5000/team/app:2"} {
		if err := lease.Pin(blobstore.Root{Name: name, Target: img.Descriptor, Blobs: all}); err != nil {
			f.Fatal(err)
		}
	}
	return mirror.New(mirror.Options{Store: store}), top, img, blobs
}

// isField reports whether a server would let a header's value pass (RFC 9110, section 5.5).
func isField(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) && strings.TrimSpace(s) == s
}

// FuzzServe asks for anything. What is answered is what the store has under that digest, a list,
// or an error of the spec; never a fault of the server's own, and nothing from elsewhere.
func FuzzServe(f *testing.F) {
	h, top, img, blobs := fuzzed(f)
	layer, etag := img.Layers[0].Digest.String(), `"`+img.Layers[0].Digest.String()+`"`
	for _, target := range []string{
		"/v2/", "/v2", "/v2/_catalog?n=1&last=a", "/v2/app/manifests/1", "/v2/library/app/tags/list?n=0", "/r.example:5000/v2/team/app/manifests/2", "/v2/r.example:5000/team/app/tags/list",
		"/v2/app/blobs/" + layer, "/v2/app/manifests/" + img.Descriptor.Digest.String() + "?ns=docker.io", "/v2/team/app/referrers/" + img.Descriptor.Digest.String() + "?artifactType=x",
		"/v2/app/blobs/sha256:..%2f..%2foutside", "/v2/../../outside/blobs/" + layer, "/v2/app/manifests/1?ns=../../x", "//v2/app/manifests/1", "/localhost/v2/app/blobs/" + layer, "/v2/app/blobs/sha512:" + strings.Repeat("0", 128),
		"/v2/app/manifests/1?ns=%00", "/v2/app/manifests/1?ns=[::1]:99999", "/v2/%2e%2e/manifests/%2e%2e", "/v2/_catalog?n=99999999999999999999", "/v2/app/manifests/..;x", "/a.b/v2/v2/manifests/manifests",
	} {
		f.Add("GET", target, "", "", "")
	}
	f.Add("HEAD", "/v2/app/blobs/"+layer, "bytes=0-5", "", etag)
	f.Add("GET", "/v2/app/blobs/"+layer, "bytes=0-5,7-9", etag, `W/"x", *`)
	f.Add("PUT", "/v2/app/manifests/1", "", "", "")
	f.Fuzz(func(t *testing.T, method, target, ranges, ifRange, ifNone string) {
		u, err := url.ParseRequestURI(target)
		if err != nil || !isField(ranges) || !isField(ifRange) || !isField(ifNone) {
			return // the server answers itself
		}
		r := (&http.Request{Method: method, URL: u, Host: "mirror.example", RequestURI: target, Header: http.Header{}}).WithContext(t.Context())
		for name, value := range map[string]string{"Range": ranges, "If-Range": ifRange, "If-None-Match": ifNone} {
			if value != "" {
				r.Header.Set(name, value)
			}
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		resp := w.Result()
		body := w.Body.Bytes()
		switch resp.StatusCode {
		case 200, 206, 304, 400, 404, 405, 416:
		default:
			t.Errorf("%s %q: %d %s", method, target, resp.StatusCode, body)
		}
		if method != http.MethodGet {
			return
		}
		d := digest.Digest(resp.Header.Get("Docker-Content-Digest"))
		switch {
		case resp.StatusCode == 206, resp.StatusCode == 304, resp.StatusCode == 416: // FuzzRange looks closer
			if blobs[d] == nil && resp.StatusCode != 416 && d != digest.FromBytes(nil) {
				t.Errorf("%q: %d of %q", target, resp.StatusCode, d)
			}
		case d != "":
			if resp.StatusCode != 200 || digest.FromBytes(body) != d || !bytes.Equal(body, blobs[d]) {
				t.Errorf("%q: %d with %d bytes that are not %s", target, resp.StatusCode, len(body), d)
			}
		case !json.Valid(body):
			t.Errorf("%q: %d %q", target, resp.StatusCode, body)
		}
		if link := resp.Header.Get("Link"); link != "" {
			if next, err := url.Parse(strings.TrimPrefix(link[:max(0, strings.IndexByte(link, '>'))], "<")); err != nil || next.Host != "" || next.EscapedPath() != u.EscapedPath() {
				t.Errorf("%q leads on to %q", target, link)
			}
		}
		for name, values := range resp.Header {
			if slices.ContainsFunc(values, func(v string) bool { return !isField(v) }) {
				t.Errorf("%q: the header %s is %q", target, name, values)
			}
		}
		if entries, err := os.ReadDir(top); err != nil || len(entries) != 2 {
			t.Errorf("%q: beside the store there is %v, %v", target, entries, err)
		}
	})
}

// span is a part of a blob: the bytes from first up to and without end.
type span struct{ first, end int64 }

// satisfiable are the parts of a blob of some size that a Range header asks for, by RFC 9110,
// section 14.1. valid is false for a header that is malformed, other for one in another unit.
func satisfiable(header string, size int64) (spans []span, specs int, valid, other bool) {
	unit, list, ok := strings.Cut(header, "=")
	if !ok {
		return nil, 0, false, false
	}
	if unit != "bytes" {
		return nil, 0, false, true // which may be the same in capitals, and may be passed over then
	}
	number := func(s string) (int64, bool) {
		if s == "" || strings.Trim(s, "0123456789") != "" {
			return 0, false
		}
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return math.MaxInt64 - 1, true
		}
		return min(n, math.MaxInt64-1), true
	}
	for part := range strings.SplitSeq(list, ",") {
		if part = strings.Trim(part, " \t"); part == "" {
			continue
		}
		specs++
		from, to, ok := strings.Cut(part, "-")
		first, okFirst := number(from)
		last, okLast := number(to)
		switch {
		case !ok, from != "" && !okFirst, to != "" && !okLast, from == "" && to == "", okFirst && okLast && first > last:
			return nil, specs, false, false
		case from == "":
			if last > 0 && size > 0 {
				spans = append(spans, span{max(0, size-last), size})
			}
		case first < size:
			end := size
			if okLast {
				end = min(last+1, size)
			}
			spans = append(spans, span{first, end})
		}
	}
	return spans, specs, specs > 0, false
}

// FuzzRange holds the answers to requests for parts of blobs against RFC 9110, section 14.
func FuzzRange(f *testing.F) {
	h, _, img, blobs := fuzzed(f)
	var all []digest.Digest
	for _, l := range img.Layers {
		all = append(all, l.Digest)
	}
	for _, s := range []string{
		"", "bytes=0-0", "bytes=0-", "bytes=-1", "bytes=-0", "bytes=999-", "bytes=1000-", "bytes=0-99999999999999999999", "bytes=99999999999999999999-", "bytes=-99999999999999999999", "bytes=5-1", "bytes=", "bytes=,", "bytes=0-1,5-6",
		"bytes=0-1, ,2000-,-3", "bytes=+0-1", "Bytes=0-1", "lines=0-1", "nonsense", "bytes=-", "bytes=-0,-1", "bytes=0-1-2", "bytes=0x1-2", "bytes=0-999,0-999,0-999", "bytes=9223372036854775807-", "bytes=0-9223372036854775807", "bytes=--1",
	} {
		for blob := range all {
			f.Add(uint8(blob), s, uint8(0))
		}
		f.Add(uint8(0), s, uint8(1))
		f.Add(uint8(0), s, uint8(2))
	}
	f.Fuzz(func(t *testing.T, blob uint8, header string, condition uint8) {
		if !isField(header) || strings.ContainsAny(strings.ReplaceAll(header, ", ", ","), " \t") {
			return // spaces within a range may be taken for none
		}
		d := all[int(blob)%len(all)]
		content := blobs[d]
		size := int64(len(content))
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v2/app/blobs/"+d.String(), nil)
		if header != "" {
			r.Header.Set("Range", header)
		}
		// With the tag that the blob has the range counts, with another one the whole is wanted, and
		// a weak one is as another (section 13.1.5).
		tags := []string{"", `"` + d.String() + `"`, `"another"`, `W/"` + d.String() + `"`}
		tag := int(condition) % len(tags)
		if tags[tag] != "" {
			r.Header.Set("If-Range", tags[tag])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		resp := w.Result()
		body := w.Body.Bytes()
		fail := func(want string) {
			t.Helper()
			t.Errorf("%q, If-Range %q, of %d bytes: %d %q with %d bytes, want %s", header, tags[tag], size, resp.StatusCode, resp.Header.Get("Content-Range"), len(body), want)
		}
		whole := resp.StatusCode == http.StatusOK && bytes.Equal(body, content) && resp.Header.Get("Content-Range") == ""
		none := resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && resp.Header.Get("Content-Range") == fmt.Sprintf("bytes */%d", size)
		spans, specs, valid, other := satisfiable(header, size)
		switch {
		case header == "" || other || tag > 1:
			if !whole {
				fail("the whole")
			}
		case !valid || size == 0:
			if !whole && !none {
				fail("the whole or 416")
			}
		case len(spans) == 0:
			if !none {
				fail("416")
			}
		case specs == 1:
			s := spans[0]
			if !whole || s.end-s.first < size {
				if resp.StatusCode != http.StatusPartialContent || !bytes.Equal(body, content[s.first:s.end]) ||
					resp.Header.Get("Content-Range") != fmt.Sprintf("bytes %d-%d/%d", s.first, s.end-1, size) || resp.Header.Get("Content-Length") != strconv.FormatInt(s.end-s.first, 10) {
					fail("that part")
				}
			}
		case !whole:
			if got, ok := parts(resp, body, content); !ok || !slices.Equal(got, spans) {
				fail(fmt.Sprintf("the parts %v, and not %v", spans, got))
			}
		}
	})
}

// parts are the parts of a blob that an answer has. ok is false when one is not what it says.
func parts(resp *http.Response, body, content []byte) (out []span, ok bool) {
	if resp.StatusCode != http.StatusPartialContent {
		return nil, false
	}
	take := func(contentRange string, text []byte) bool {
		var s span
		var size int64
		if n, err := fmt.Sscanf(contentRange, "bytes %d-%d/%d", &s.first, &s.end, &size); n != 3 || err != nil {
			return false
		}
		s.end++
		if size != int64(len(content)) || s.first < 0 || s.first >= s.end || s.end > size || !bytes.Equal(text, content[s.first:s.end]) {
			return false
		}
		out = append(out, s)
		return true
	}
	kind, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/byteranges" {
		return out, take(resp.Header.Get("Content-Range"), body)
	}
	for r := multipart.NewReader(bytes.NewReader(body), params["boundary"]); ; {
		p, err := r.NextPart()
		if errors.Is(err, io.EOF) {
			return out, true
		}
		if err != nil {
			return out, false
		}
		text, err := io.ReadAll(p)
		if err != nil || !take(p.Header.Get("Content-Range"), text) {
			return out, false
		}
	}
}
