package mirror

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"drayage/blobstore"
	"drayage/engine/internal/limits"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// catalog lists the repositories that a user may see, page by page.
func (h *Handler) catalog(w http.ResponseWriter, r *http.Request, user string) error {
	v, err := h.views.get()
	if err != nil {
		return err
	}
	names := v.names
	if !h.o.Private.Everything(user) {
		names = nil
		for _, name := range v.names {
			if of := v.repos[name]; h.o.Private.May(user, of.registry, of.name) {
				names = append(names, name)
			}
		}
	}
	if names, err = page(w, r, names); err != nil {
		return err
	}
	return sendJSON(w, map[string]any{"repositories": names})
}

// tags lists the tags of a repository, page by page ("Listing Tags"): those that upstream has
// or, where that isn't asked or can't be, those of the images in the store.
func (h *Handler) tags(w http.ResponseWriter, r *http.Request, a *asked, rest string) error {
	if rest != "list" {
		return errPath
	}
	ref, err := h.image(a, "latest")
	if err != nil {
		return err
	}
	tags, err := h.listTags(w, r, a, ref)
	if errors.Is(err, errNoName) {
		other, found, errOther := h.elsewhere(a, "latest")
		switch {
		case errOther != nil:
			err = errOther
		case found && other != ref:
			tags, err = h.listTags(w, r, a, other)
		}
	}
	if err != nil {
		return err
	}
	if tags, err = page(w, r, tags); err != nil {
		return err
	}
	return sendJSON(w, map[string]any{"name": a.path, "tags": tags})
}

// listTags are the tags of a repository, sorted.
func (h *Handler) listTags(w http.ResponseWriter, r *http.Request, a *asked, ref reference.Image) ([]string, error) {
	if !h.may(a.user, ref) {
		h.refuse(a, ref)
		return nil, errNoName
	}
	var fault error
	if h.through(a.user, ref) {
		tags, err := h.o.Upstream.Tags(r.Context(), ref)
		if err == nil && !slices.IsSorted(tags) {
			tags = slices.Sorted(slices.Values(tags))
		}
		if err == nil {
			return tags, nil
		}
		fault = fromUpstream(err, errNoName)
		if errors.Is(err, ErrUnknown) {
			return nil, fault
		}
	}
	v, err := h.views.get()
	if err != nil {
		return nil, err
	}
	of, ok := v.repos[displayed(ref, h.o.Registry)]
	switch {
	case ok && fault != nil:
		w.Header().Set("Warning", `299 - "upstream unavailable: tags from the store"`)
	case ok:
	case fault != nil:
		return nil, fault
	default:
		return nil, errNoName
	}
	return of.tags, nil
}

// page is the part of a sorted list that a request asks for, and says where the next one is.
func page(w http.ResponseWriter, r *http.Request, all []string) ([]string, error) {
	q := r.URL.Query()
	if last := q.Get("last"); last != "" {
		i, found := slices.BinarySearch(all, last)
		if found {
			i++
		}
		all = all[i:]
	}
	n, err := entries(q)
	if err != nil {
		return nil, err
	}
	if n < len(all) {
		if all = all[:n]; n > 0 {
			follow(w, r, q, n, all[n-1])
		}
	}
	return append([]string{}, all...), nil
}

// entries is how many a page is to have.
func entries(q url.Values) (int, error) {
	text := q.Get("n")
	if text == "" {
		return limits.PageEntries, nil
	}
	n, err := strconv.Atoi(text)
	if n < 0 || err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, &fault{status: http.StatusBadRequest, code: "PAGINATION_NUMBER_INVALID", message: fmt.Sprintf("invalid page size n=%.20q: must be a number, 0 or more", text)}
	}
	return min(n, limits.PageEntries), nil
}

// follow says where the next page is.
func follow(w http.ResponseWriter, r *http.Request, q url.Values, n int, last string) {
	next := url.Values{"n": {strconv.Itoa(n)}, "last": {last}}
	for _, k := range []string{"ns", "artifactType"} {
		if v := q.Get(k); v != "" {
			next.Set(k, v)
		}
	}
	w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, r.URL.EscapedPath(), next.Encode()))
}

// referrers lists what refers to a manifest ("Listing Referrers"): what upstream has or, where
// that isn't asked or can't be, what is in the store.
func (h *Handler) referrers(w http.ResponseWriter, r *http.Request, a *asked, text string) error {
	subject := digest.Digest(text)
	if subject.Validate() != nil {
		return errDigest
	}
	ref, err := h.image(a, text)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	list, fault := h.upstreamReferrers(r.Context(), a, ref, subject)
	if fault != nil || list == nil {
		if list, err = h.storedReferrers(a.user, subject, q); err != nil {
			return err
		}
		if fault != nil && len(list) == 0 {
			return fault
		}
		if fault != nil {
			w.Header().Set("Warning", `299 - "upstream unavailable: referrers from the store"`)
		}
	}
	if want := q.Get("artifactType"); want != "" {
		list = slices.DeleteFunc(list, func(d ocispec.Descriptor) bool { return d.ArtifactType != want })
		w.Header().Set("Oci-Filters-Applied", "artifactType")
	}
	slices.SortFunc(list, func(a, b ocispec.Descriptor) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	index.Manifests = descriptorPage(w, r, q, list)
	return sendJSONAs(w, ocispec.MediaTypeImageIndex, index)
}

// descriptorPage is the part of a sorted list that a page may have, which clients follow by the link.
func descriptorPage(w http.ResponseWriter, r *http.Request, q url.Values, list []ocispec.Descriptor) []ocispec.Descriptor {
	out := []ocispec.Descriptor{}
	last, bytes := digest.Digest(q.Get("last")), 0
	for _, d := range list {
		if d.Digest <= last {
			continue
		}
		if bytes += sizeOf(d); len(out) == limits.PageEntries || len(out) > 0 && bytes > limits.PageBytes {
			follow(w, r, q, limits.PageEntries, out[len(out)-1].Digest.String())
			break
		}
		out = append(out, d)
	}
	return out
}

// upstreamReferrers lists what upstream has; nil when it is not to be asked.
func (h *Handler) upstreamReferrers(ctx context.Context, a *asked, ref reference.Image, subject digest.Digest) ([]ocispec.Descriptor, error) {
	if !h.through(a.user, ref) {
		return nil, nil
	}
	list, err := h.o.Upstream.Referrers(ctx, ref, subject)
	if err != nil {
		return nil, fromUpstream(err, errNoName)
	}
	return append([]ocispec.Descriptor{}, list...), nil
}

// storedReferrers lists what the store has beside images that a user may see, of what a page is
// to have, and not much more than one may.
func (h *Handler) storedReferrers(user string, subject digest.Digest, q url.Values) ([]ocispec.Descriptor, error) {
	v, err := h.views.get()
	if err != nil {
		return nil, err
	}
	all, err := v.referrers(&h.known, subject)
	if err != nil {
		return nil, err
	}
	var out []ocispec.Descriptor
	last, want, bytes := digest.Digest(q.Get("last")), q.Get("artifactType"), 0
	for _, r := range all {
		if len(out) > limits.PageEntries || bytes > limits.PageBytes {
			break // the next page has it
		}
		if r.digest <= last || !slices.ContainsFunc(r.images, func(i int) bool { return v.mayImage(h.o.Private, user, i) }) {
			continue
		}
		known, err := h.known.get(r.digest)
		if errors.Is(err, blobstore.ErrNotFound) || errors.Is(err, blobstore.ErrDamaged) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if want == "" || known.desc.ArtifactType == want {
			out = append(out, known.desc)
			bytes += sizeOf(known.desc)
		}
	}
	return out, nil
}

func sendJSONAs(w http.ResponseWriter, kind string, v any) error {
	return sendJSON(typed{w, kind}, v)
}

// typed sets a content type that who writes would set otherwise.
type typed struct {
	http.ResponseWriter
	kind string
}

func (t typed) Write(p []byte) (int, error) {
	t.Header().Set("Content-Type", t.kind)
	return t.ResponseWriter.Write(p)
}

// typeCache remembers the media types of manifests.
type typeCache struct {
	mu    sync.Mutex
	kinds map[digest.Digest]string
	bytes int
}

func (c *typeCache) get(d digest.Digest) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.kinds[d]
	return k, ok
}

func (c *typeCache) put(d digest.Digest, kind string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	size := entryBytes + len(d) + len(kind)
	if c.kinds == nil || c.bytes+size > cacheBytes {
		c.kinds, c.bytes = make(map[digest.Digest]string), 0
	}
	c.kinds[d] = kind
	c.bytes += size
}

// How much a cache of small things may take before all are forgotten, and about how much each takes
// besides its text, in bytes.
const (
	cacheBytes = 4 << 20
	entryBytes = 64
)

// useNotes notes the use of images in the store, each once in a while.
type useNotes struct {
	store *blobstore.Store
	mu    sync.Mutex
	noted map[string]time.Time
	bytes int
}

func (u *useNotes) note(name string) {
	if u.due(name) {
		_ = u.store.Use(name) // one that can't be noted is used all the same
	}
}

// noteDigest notes the use of the images that a manifest is of.
func (h *Handler) noteDigest(d digest.Digest) {
	if !h.used.due(d.String()) {
		return
	}
	v, err := h.views.get()
	if err != nil {
		return
	}
	for _, i := range v.listed()[d] {
		h.used.note(v.images.Roots[i].Name)
	}
}

// due reports whether the use of something wasn't noted for a while, and notes that it is
// now.
func (u *useNotes) due(what string) bool {
	const often = time.Minute
	now := time.Now()
	u.mu.Lock()
	defer u.mu.Unlock()
	at, known := u.noted[what]
	if known && now.Sub(at) < often {
		return false
	}
	if size := entryBytes + len(what); !known {
		if u.noted == nil || u.bytes+size > cacheBytes {
			u.noted, u.bytes = make(map[string]time.Time), 0
		}
		u.bytes += size
	}
	u.noted[what] = now
	return true
}
