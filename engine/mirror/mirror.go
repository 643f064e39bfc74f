// Package mirror serves a store as a registry that can only be read, by the OCI
// distribution spec. What the store doesn't have may come from an upstream, and is given
// to the client while it arrives.
//
// A request is for an image of some registry. Which one stands in the parameter ns, as
// containerd sends it to mirrors; or is the first part of the repository, as in
// mirror.example/registry.example/app; or is the default, as Docker's mirrors have it.
package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"drayage/blobstore"
	"drayage/engine/image"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
)

// Upstream brings what the store doesn't have. Its methods may be called from several
// goroutines.
type Upstream interface {
	// Manifest finds what a reference stands for now. Stale says that upstream couldn't
	// be asked, and that this is what it was earlier.
	Manifest(ctx context.Context, ref reference.Image) (m Manifest, err error)
	// Size is how many bytes a blob has.
	Size(ctx context.Context, ref reference.Image, d digest.Digest) (int64, error)
	// Blob begins to read a blob, which may be on its way still: Blob waits until something
	// can be read, and reading until what is read has come, or ctx is done.
	Blob(ctx context.Context, ref reference.Image, d digest.Digest) (Blob, error)
}

// Manifest is a manifest or an index as it is sent.
type Manifest struct {
	Digest    digest.Digest
	MediaType string
	Raw       []byte
	Stale     bool
	Here      bool // it was in the store
}

// Blob is a blob that is read. Seeking to its end tells its size.
type Blob interface {
	io.ReadSeeker
	io.Closer
}

// Errors that an Upstream's wrap. Others tell of a fault upstream.
var (
	ErrUnknown = errors.New("not upstream either")
	ErrDenied  = errors.New("upstream refuses it")
	ErrBusy    = errors.New("upstream wants to be left alone")
)

// Hit says where the answer to a request came from.
type Hit string

// Where answers come from.
const (
	FromStore    Hit = "store"
	FromUpstream Hit = "upstream"
	Stale        Hit = "stale"
)

// Options say how to serve.
type Options struct {
	Store *blobstore.Store
	// Registry is the one that images are of when a request doesn't say: docker.io if "".
	Registry string
	// Upstream, if not nil, is asked for images of the registries that Allowed reports.
	Upstream Upstream
	Allowed  func(registry string) bool
	// Served, if not nil, is told of each manifest and blob that is served.
	Served func(kind string, from Hit)
}

// Handler serves. It is a http.Handler for all below /v2/.
type Handler struct {
	o     Options
	types typeCache
	used  useNotes
}

// New makes a Handler.
func New(o Options) *Handler {
	if o.Registry == "" {
		o.Registry = "docker.io"
	}
	if o.Served == nil {
		o.Served = func(string, Hit) {}
	}
	return &Handler{o: o, used: useNotes{store: o.Store, noted: make(map[string]time.Time)}}
}

// The grammar of repositories, tags and digests (OCI distribution spec, "Pulling
// manifests").
var (
	repositoryForm = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(:[0-9]+)?(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagForm        = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

// fault is an error as the spec has it ("Error Codes").
type fault struct {
	status        int
	code, message string
}

func (f *fault) Error() string { return f.message }

var (
	errMethod     = &fault{http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry can only be read"}
	errPath       = &fault{http.StatusNotFound, "UNSUPPORTED", "there is no such thing in this API"}
	errName       = &fault{http.StatusBadRequest, "NAME_INVALID", "the repository's name is malformed"}
	errTag        = &fault{http.StatusNotFound, "MANIFEST_UNKNOWN", "the tag or digest is malformed"}
	errDigest     = &fault{http.StatusBadRequest, "DIGEST_INVALID", "the digest is malformed"}
	errNoManifest = &fault{http.StatusNotFound, "MANIFEST_UNKNOWN", "no such manifest here"}
	errNoBlob     = &fault{http.StatusNotFound, "BLOB_UNKNOWN", "no such blob here"}
	errNoName     = &fault{http.StatusNotFound, "NAME_UNKNOWN", "no such repository here"}
	errPage       = &fault{http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "n is no number of entries"}
	errUpstream   = &fault{http.StatusBadGateway, "UNAVAILABLE", "upstream doesn't give it"}
	errDenied     = &fault{http.StatusForbidden, "DENIED", "upstream refuses it"}
	errBusy       = &fault{http.StatusTooManyRequests, "TOOMANYREQUESTS", "upstream wants to be left alone"}
	errBroken     = &fault{http.StatusInternalServerError, "UNKNOWN", "the store can't be read"}
)

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if err := h.serve(w, r); err != nil {
		Fail(w, err)
	}
}

// Fail answers with an error in the spec's JSON.
func Fail(w http.ResponseWriter, err error) {
	var f *fault
	if !errors.As(err, &f) {
		f = errBroken
	}
	for _, k := range []string{"Content-Length", "Content-Range", "Accept-Ranges", "Etag", "Docker-Content-Digest", "Cache-Control", "Last-Modified"} {
		w.Header().Del(k)
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(f.status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []map[string]string{{"code": f.code, "message": f.message}}}) // the client has gone, if not
}

// Refuse is an error of a status, a code and a message, for Fail.
func Refuse(status int, code, message string) error { return &fault{status, code, message} }

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return errMethod
	}
	// As it was sent: a digest or a repository has nothing in it that would be escaped.
	path := r.URL.EscapedPath()
	if path == "/v2/" || path == "/v2" {
		return sendJSON(w, struct{}{})
	}
	path, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return errPath
	}
	if path == "_catalog" {
		return h.catalog(w, r)
	}
	for _, route := range []struct {
		part  string
		serve func(http.ResponseWriter, *http.Request, string, string) error
	}{{"/manifests/", h.manifest}, {"/blobs/", h.blob}, {"/referrers/", h.referrers}, {"/tags/", h.tags}} {
		i := strings.LastIndex(path, route.part)
		if i < 0 {
			continue
		}
		repo, rest := path[:i], path[i+len(route.part):]
		if len(repo) > 255 || !repositoryForm.MatchString(repo) {
			return errName
		}
		return route.serve(w, r, repo, rest)
	}
	return errPath
}

// image is the image that a request is for.
func (h *Handler) image(r *http.Request, repo, tagOrDigest string) (reference.Image, error) {
	registry := r.URL.Query().Get("ns")
	if registry == "" {
		first, rest, more := strings.Cut(repo, "/")
		if more && (strings.ContainsAny(first, ".:") || first == "localhost") {
			registry, repo = first, rest
		} else {
			registry = h.o.Registry
		}
	}
	sep := ":"
	if digest.Digest(tagOrDigest).Validate() == nil {
		sep = "@"
	}
	ref, err := reference.Parse(registry + "/" + repo + sep + tagOrDigest)
	if err != nil {
		return reference.Image{}, errName
	}
	return ref, nil
}

// through reports whether upstream may be asked for an image.
func (h *Handler) through(ref reference.Image) bool {
	return h.o.Upstream != nil && h.o.Allowed != nil && h.o.Allowed(ref.Registry())
}

// manifest serves a manifest by its tag or digest ("Pulling manifests").
func (h *Handler) manifest(w http.ResponseWriter, r *http.Request, repo, tagOrDigest string) error {
	if digest.Digest(tagOrDigest).Validate() != nil && !tagForm.MatchString(tagOrDigest) {
		return errTag
	}
	ref, err := h.image(r, repo, tagOrDigest)
	if err != nil {
		return err
	}
	m, from, err := h.findManifest(r.Context(), ref)
	if err != nil {
		return err
	}
	h.o.Served("manifest", from)
	head := w.Header()
	head.Set("Content-Type", m.MediaType)
	head.Set("Docker-Content-Digest", m.Digest.String())
	head.Set("Content-Length", strconv.Itoa(len(m.Raw)))
	etag := `"` + m.Digest.String() + `"`
	head.Set("Etag", etag)
	if m.Stale {
		head.Set("Warning", `110 - "Response is Stale"`) // RFC 7234, section 5.5.1
		head.Set("Drayage-Stale", "true")
	}
	if r.Header.Get("If-None-Match") == etag {
		head.Del("Content-Length")
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	if r.Method == http.MethodGet {
		_, _ = w.Write(m.Raw) // the client has gone, if not
	}
	return nil
}

// findManifest finds one in the store or upstream.
func (h *Handler) findManifest(ctx context.Context, ref reference.Image) (Manifest, Hit, error) {
	if !h.through(ref) {
		m, err := h.stored(ref)
		return m, FromStore, err
	}
	m, err := h.o.Upstream.Manifest(ctx, ref)
	switch {
	case err != nil:
		return Manifest{}, "", fromUpstream(err, errNoManifest)
	case m.Stale:
		return m, Stale, nil
	case m.Here:
		return m, FromStore, nil
	}
	return m, FromUpstream, nil
}

// fromUpstream is what a client is told of a fault upstream: nothing about it that it
// needn't know.
func fromUpstream(err error, unknown *fault) error {
	switch {
	case errors.Is(err, ErrUnknown):
		return unknown
	case errors.Is(err, ErrDenied):
		return errDenied
	case errors.Is(err, ErrBusy):
		return errBusy
	case errors.Is(err, fs.ErrPermission):
		return errBroken
	}
	return errUpstream
}

// stored finds what a reference stands for in the store alone.
func (h *Handler) stored(ref reference.Image) (Manifest, error) {
	if ref.Digest() != "" {
		m, err := h.read(ref.Digest())
		if err != nil {
			return Manifest{}, errNoManifest
		}
		h.used.noteDigest(ref.Digest())
		return m, nil
	}
	root, err := h.o.Store.Root(ref.Tagged())
	if err != nil {
		return Manifest{}, errNoManifest
	}
	m, err := h.read(root.Target.Digest)
	if err != nil {
		return Manifest{}, errNoManifest
	}
	h.used.note(root.Name)
	return m, nil
}

// read reads a manifest from the store. What is none is as if absent.
func (h *Handler) read(d digest.Digest) (Manifest, error) {
	raw, err := h.o.Store.Read(d, image.MaxSize)
	if err != nil {
		return Manifest{}, err
	}
	kind, ok := h.types.get(d)
	if !ok {
		doc, err := image.DecodeVerified(raw, d)
		if err != nil {
			return Manifest{}, err
		}
		kind = doc.Descriptor.MediaType
		h.types.put(d, kind)
	}
	return Manifest{Digest: d, MediaType: kind, Raw: raw}, nil
}

// blob serves a blob or a range of it ("Pulling blobs"; RFC 9110, section 14).
func (h *Handler) blob(w http.ResponseWriter, r *http.Request, repo, text string) error {
	d := digest.Digest(text)
	if d.Validate() != nil {
		return errDigest
	}
	ref, err := h.image(r, repo, text)
	if err != nil {
		return err
	}
	var body Blob
	from := FromStore
	f, err := h.o.Store.Open(d)
	switch {
	case err == nil:
		body = f
	case !errors.Is(err, blobstore.ErrNotFound):
		return errBroken
	case !h.through(ref):
		return errNoBlob
	case r.Method == http.MethodHead: // nothing is fetched for it
		size, err := h.o.Upstream.Size(r.Context(), ref, d)
		if err != nil {
			return fromUpstream(err, errNoBlob)
		}
		head := w.Header()
		head.Set("Content-Type", "application/octet-stream")
		head.Set("Docker-Content-Digest", d.String())
		head.Set("Accept-Ranges", "bytes")
		head.Set("Content-Length", strconv.FormatInt(size, 10))
		return nil
	default:
		from = FromUpstream
		if body, err = h.o.Upstream.Blob(r.Context(), ref, d); err != nil {
			return fromUpstream(err, errNoBlob)
		}
	}
	defer body.Close()
	h.o.Served("blob", from)
	head := w.Header()
	head.Set("Content-Type", "application/octet-stream")
	head.Set("Docker-Content-Digest", d.String())
	head.Set("Etag", `"`+d.String()+`"`)
	head.Set("Cache-Control", "max-age=31536000, immutable")
	http.ServeContent(w, r, "", time.Time{}, body)
	return nil
}

func sendJSON(w http.ResponseWriter, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
	_, _ = w.Write(raw) // the client has gone, if not
	return nil
}
