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
	"drayage/engine/image"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// repositories are the names of images in the store, each with its tags, as a request
// for one would have it: without the registry when that is the default.
func (h *Handler) repositories() (map[string][]string, error) {
	roots, err := h.o.Store.Roots()
	if err != nil {
		return nil, err
	}
	out := make(map[string][]string)
	for _, r := range roots {
		ref, err := reference.Parse(r.Name)
		if err != nil || ref.Tagged() != r.Name {
			continue // it has no tag
		}
		name := ref.Repository()
		if ref.Registry() != h.o.Registry {
			name = ref.Registry() + "/" + name
		}
		out[name] = append(out[name], ref.Tag())
	}
	return out, nil
}

// catalog lists the repositories, page by page.
func (h *Handler) catalog(w http.ResponseWriter, r *http.Request) error {
	repos, err := h.repositories()
	if err != nil {
		return err
	}
	names := make([]string, 0, len(repos))
	for name := range repos {
		names = append(names, name)
	}
	names, err = page(w, r, names)
	if err != nil {
		return err
	}
	return sendJSON(w, map[string]any{"repositories": names})
}

// tags lists the tags of a repository, page by page ("Listing Tags"): those that upstream has
// or, where that isn't asked or can't be, those of the images in the store.
func (h *Handler) tags(w http.ResponseWriter, r *http.Request, a asked, rest string) error {
	if rest != "list" {
		return errPath
	}
	ref, err := h.image(a, "latest")
	if err != nil {
		return err
	}
	tags, err := h.listTags(w, r, ref)
	if errors.Is(err, errNoName) {
		other, found, errOther := h.elsewhere(a, "latest")
		switch {
		case errOther != nil:
			err = errOther
		case found && other != ref:
			tags, err = h.listTags(w, r, other)
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

func (h *Handler) listTags(w http.ResponseWriter, r *http.Request, ref reference.Image) ([]string, error) {
	var fault error
	if h.through(ref) {
		tags, err := h.o.Upstream.Tags(r.Context(), ref)
		if err == nil {
			return slices.Clone(tags), nil
		}
		fault = fromUpstream(err, errNoName)
		if errors.Is(err, ErrUnknown) {
			return nil, fault
		}
	}
	repos, err := h.repositories()
	if err != nil {
		return nil, err
	}
	name := ref.Repository()
	if ref.Registry() != h.o.Registry {
		name = ref.Registry() + "/" + name
	}
	tags, ok := repos[name]
	switch {
	case ok && fault != nil:
		w.Header().Set("Warning", `299 - "upstream can't be asked: these are the tags that are in the store"`)
	case ok:
	case fault != nil:
		return nil, fault
	default:
		return nil, errNoName
	}
	return tags, nil
}

// page is the part of a list that a request asks for, in order, and says where the next
// one is.
func page(w http.ResponseWriter, r *http.Request, all []string) ([]string, error) {
	slices.Sort(all)
	q := r.URL.Query()
	if last := q.Get("last"); last != "" {
		i, found := slices.BinarySearch(all, last)
		if found {
			i++
		}
		all = all[i:]
	}
	if text := q.Get("n"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return nil, errPage
		}
		if n < len(all) {
			all = all[:n]
			if n > 0 {
				next := url.Values{"n": {text}, "last": {all[n-1]}}
				if ns := q.Get("ns"); ns != "" {
					next.Set("ns", ns)
				}
				w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, r.URL.EscapedPath(), next.Encode()))
			}
		}
	}
	return append([]string{}, all...), nil
}

// referrers lists what refers to a manifest ("Listing Referrers"): what upstream has or, where
// that isn't asked or can't be, what is in the store.
func (h *Handler) referrers(w http.ResponseWriter, r *http.Request, a asked, text string) error {
	subject := digest.Digest(text)
	if subject.Validate() != nil {
		return errDigest
	}
	ref, err := h.image(a, text)
	if err != nil {
		return err
	}
	list, fault := h.upstreamReferrers(r.Context(), ref, subject)
	if fault != nil || list == nil {
		if list, err = h.storedReferrers(subject); err != nil {
			return err
		}
		if fault != nil && len(list) == 0 {
			return fault
		}
		if fault != nil {
			w.Header().Set("Warning", `299 - "upstream can't be asked: this is what the store has"`)
		}
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	want := r.URL.Query().Get("artifactType")
	for _, d := range list {
		if want == "" || d.ArtifactType == want {
			index.Manifests = append(index.Manifests, d)
		}
	}
	if want != "" {
		w.Header().Set("Oci-Filters-Applied", "artifactType")
	}
	slices.SortFunc(index.Manifests, func(a, b ocispec.Descriptor) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	if err := sendJSONAs(w, ocispec.MediaTypeImageIndex, index); err != nil {
		return err
	}
	return nil
}

// upstreamReferrers lists what upstream has; nil when it is not to be asked.
func (h *Handler) upstreamReferrers(ctx context.Context, ref reference.Image, subject digest.Digest) ([]ocispec.Descriptor, error) {
	if !h.through(ref) {
		return nil, nil
	}
	list, err := h.o.Upstream.Referrers(ctx, ref, subject)
	if err != nil {
		return nil, fromUpstream(err, errNoName)
	}
	return append([]ocispec.Descriptor{}, list...), nil
}

// storedReferrers lists what the store has.
func (h *Handler) storedReferrers(subject digest.Digest) ([]ocispec.Descriptor, error) {
	roots, err := h.o.Store.Roots()
	if err != nil {
		return nil, err
	}
	var out []ocispec.Descriptor
	seen := make(map[digest.Digest]bool)
	for _, root := range roots {
		for _, b := range root.Beside {
			if seen[b.Digest] {
				continue
			}
			seen[b.Digest] = true
			d, ok, err := h.referrer(b, subject)
			if err != nil {
				return nil, err
			}
			if ok {
				out = append(out, d)
			}
		}
	}
	return out, nil
}

// referrer is a manifest's descriptor as a list of referrers has it, if it refers to a
// subject.
func (h *Handler) referrer(b ocispec.Descriptor, subject digest.Digest) (ocispec.Descriptor, bool, error) {
	raw, err := h.o.Store.Read(b.Digest, image.MaxSize)
	if errors.Is(err, blobstore.ErrNotFound) {
		return b, false, nil
	}
	if err != nil {
		return b, false, err
	}
	doc, err := image.DecodeVerified(raw, b.Digest)
	if err != nil {
		return b, false, nil // what can't be read refers to nothing
	}
	d := ocispec.Descriptor{MediaType: doc.Descriptor.MediaType, Digest: b.Digest, Size: int64(len(raw))}
	var of *ocispec.Descriptor
	switch {
	case doc.Manifest != nil:
		of, d.Annotations, d.ArtifactType = doc.Manifest.Subject, doc.Manifest.Annotations, doc.Manifest.ArtifactType
		if d.ArtifactType == "" {
			d.ArtifactType = doc.Manifest.Config.MediaType
		}
	case doc.Index != nil:
		of, d.Annotations, d.ArtifactType = doc.Index.Subject, doc.Index.Annotations, doc.Index.ArtifactType
	}
	return d, of != nil && of.Digest == subject, nil
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
}

func (c *typeCache) get(d digest.Digest) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.kinds[d]
	return k, ok
}

func (c *typeCache) put(d digest.Digest, kind string) {
	const most = 10000 // then all are forgotten
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kinds == nil || len(c.kinds) >= most {
		c.kinds = make(map[digest.Digest]string)
	}
	c.kinds[d] = kind
}

// useNotes notes the use of images in the store, each once in a while.
type useNotes struct {
	store *blobstore.Store
	mu    sync.Mutex
	noted map[string]time.Time
}

func (u *useNotes) note(name string) {
	if u.due(name) {
		_ = u.store.Use(name) // one that can't be noted is used all the same
	}
}

// noteDigest notes the use of the images that a manifest is of.
func (u *useNotes) noteDigest(d digest.Digest) {
	if !u.due(d.String()) {
		return
	}
	roots, err := u.store.Roots()
	if err != nil {
		return
	}
	for _, r := range roots {
		if r.Target.Digest == d || slices.Contains(r.Blobs, d) {
			u.note(r.Name)
		}
	}
}

// due reports whether the use of something wasn't noted for a while, and notes that it is
// now.
func (u *useNotes) due(what string) bool {
	const often, most = time.Minute, 100_000
	now := time.Now()
	u.mu.Lock()
	defer u.mu.Unlock()
	if now.Sub(u.noted[what]) < often {
		return false
	}
	if len(u.noted) >= most {
		clear(u.noted)
	}
	u.noted[what] = now
	return true
}
