// Package mirror serves a store as a read-only registry, by the OCI
// distribution spec. What the store doesn't have may come from an upstream, and is given
// to the client while it arrives.
//
// A request is for an image of some registry. Which one stands in the parameter ns, as
// containerd sends it to mirrors; or is the first part of the repository, as in
// mirror.example/v2/registry.example/app; or stands before /v2, as in
// mirror.example/registry.example/v2/app; or is the default, as Docker's mirrors have it. What the
// default registry doesn't have is found where only one other registry in the store has it.
package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"drayage/blobstore"
	"drayage/engine/image"
	"drayage/engine/internal/limits"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Upstream brings what the store doesn't have. Its methods may be called from several
// goroutines.
type Upstream interface {
	// Manifest finds what a reference stands for now. Stale says that upstream couldn't
	// be asked, and that this is what it was earlier.
	Manifest(ctx context.Context, ref reference.Image) (m Manifest, err error)
	// Size is how many bytes a blob has.
	Size(ctx context.Context, ref reference.Image, d digest.Digest) (int64, error)
	// Tags lists the tags of a repository, and Referrers what refers to a manifest of it.
	Tags(ctx context.Context, ref reference.Image) ([]string, error)
	Referrers(ctx context.Context, ref reference.Image, subject digest.Digest) ([]ocispec.Descriptor, error)
	// Holds finds out whether a repository has a manifest or a blob: by asking its registry, and
	// not by what the store has or manifests say. It is an error where it hasn't.
	Holds(ctx context.Context, ref reference.Image, d digest.Digest, manifest bool) error
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
	ErrUnknown = errors.New("not found upstream")
	ErrDenied  = errors.New("upstream denied access")
	ErrBusy    = errors.New("upstream rate limit exceeded")
	// ErrLocal: the store can't take what upstream gives.
	ErrLocal = errors.New("store not writable")
)

// Hit says where the answer to a request came from.
type Hit string

// Where answers come from.
const (
	FromStore   Hit = "store"
	viaUpstream Hit = "upstream"
	Stale       Hit = "stale"
)

// Options say how to serve.
type Options struct {
	Store *blobstore.Store
	// Registry is the one that images are of when a request doesn't say: docker.io if "".
	Registry string
	// Upstream, if not nil, is asked for images of the registries that Allowed reports.
	Upstream Upstream
	Allowed  func(registry string) bool
	// Private says who may see what. To others it is as if it weren't there.
	Private *Private
	// Refused, if not nil, is told once of each request that is refused: its context, the user, ""
	// for nobody, why, one of the words below, and what was asked for. What just isn't there is none.
	Refused func(ctx context.Context, user, why, what string)
	// Served, if not nil, is told of each manifest and blob that is served.
	Served func(kind string, from Hit)
}

// Why requests are refused.
const (
	WhyPrivate = "private" // Private keeps it from the user: the answer is that of something unknown
	whyMethod  = "method"  // another one than GET and HEAD
	whyQuery   = "query"   // parameters that are too long
	WhyRanges  = "ranges"  // too many ranges of a blob
	whyDenied  = "denied"  // by upstream
	whyBusy    = "busy"    // upstream's rate limit
	whyNoRoom  = "no-room" // the store can't take it
)

// Handler serves. It is a http.Handler for all below /v2/.
type Handler struct {
	o     Options
	views views
	known knownReferrers
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
	if o.Refused == nil {
		o.Refused = func(context.Context, string, string, string) {}
	}
	return &Handler{o: o, views: views{store: o.Store, registry: o.Registry}, known: knownReferrers{store: o.Store}, used: useNotes{store: o.Store}}
}

// Withheld reports whether what the store has of a digest is no part of any image that all may see
// who may see a repository. It becomes part of that repository's images when its own registry has it there.
func (h *Handler) Withheld(ref reference.Image, d digest.Digest) bool {
	if h.o.Private == nil {
		return false
	}
	v, err := h.views.get()
	return err != nil || !v.open(h.o.Private, ref, d)
}

// The grammar of repositories, tags and digests (OCI distribution spec, "Pulling
// manifests").
var (
	repositoryForm = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagForm        = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

// fault is an error as the spec has it ("Error Codes").
type fault struct {
	status        int
	code, message string
	why           string // of a refusal; "" when it is none
}

func (f *fault) Error() string { return f.message }

var (
	errMethod     = &fault{http.StatusMethodNotAllowed, "UNSUPPORTED", "read-only registry: only GET and HEAD are supported", whyMethod}
	errPath       = &fault{http.StatusNotFound, "UNSUPPORTED", "no such API endpoint", ""}
	errName       = &fault{http.StatusBadRequest, "NAME_INVALID", "invalid repository name", ""}
	errTag        = &fault{http.StatusNotFound, "MANIFEST_UNKNOWN", "invalid tag or digest", ""}
	errDigest     = &fault{http.StatusBadRequest, "DIGEST_INVALID", "invalid digest", ""}
	errNoManifest = &fault{http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown", ""}
	errNoBlob     = &fault{http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown", ""}
	errNoName     = &fault{http.StatusNotFound, "NAME_UNKNOWN", "repository unknown", ""}
	errQuery      = &fault{http.StatusRequestURITooLong, "UNSUPPORTED", fmt.Sprintf("query string too long (maximum %d bytes)", limits.QueryBytes), whyQuery}
	errRange      = &fault{http.StatusRequestedRangeNotSatisfiable, "RANGE_INVALID", "range not satisfiable", ""}
	errRanges     = &fault{http.StatusRequestedRangeNotSatisfiable, "RANGE_INVALID", fmt.Sprintf("too many ranges (maximum %d)", limits.Ranges), WhyRanges}
	errUpstream   = &fault{http.StatusBadGateway, "UNAVAILABLE", "upstream unavailable", ""}
	errDenied     = &fault{http.StatusForbidden, "DENIED", "upstream denied access", whyDenied}
	errBusy       = &fault{http.StatusTooManyRequests, "TOOMANYREQUESTS", "upstream rate limit exceeded", whyBusy}
	errLocal      = &fault{http.StatusInsufficientStorage, "UNKNOWN", "store not writable: disk full, disk quota exceeded, or read-only", whyNoRoom}
	errBroken     = &fault{http.StatusInternalServerError, "UNKNOWN", "store not readable", ""}
	errGone       = &fault{statusGone, "UNKNOWN", "client closed the request", ""}
)

// statusGone is for logs and metrics alone, by nginx's number for it: nobody is there to read it.
const statusGone = 499

// ServeHTTP implements http.Handler, for nobody in particular.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.Serve(w, r, "") }

// Serve answers a request of a user, who has been let in; "" is nobody in particular.
func (h *Handler) Serve(w http.ResponseWriter, r *http.Request, user string) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	a := asked{user: user}
	err := h.serve(w, r, &a)
	if err == nil {
		return
	}
	if r.Context().Err() != nil { // whatever failed for it is no fault
		Fail(w, errGone)
		return
	}
	f := faultOf(err)
	why, what := f.why, r.URL.Path
	if a.hidden != "" && f.status == http.StatusNotFound {
		why, what = WhyPrivate, a.hidden
	}
	if why != "" {
		h.o.Refused(r.Context(), user, why, what)
	}
	Fail(w, f)
}

// faultOf is an error as clients are told of it.
func faultOf(err error) *fault {
	var f *fault
	if !errors.As(err, &f) {
		return errBroken
	}
	return f
}

// Concerns reports whether a path is of the API: /v2/… or, as Docker asks mirrors whose URL has
// a path, HOST[:PORT]/v2/….
func Concerns(path string) bool {
	registry, _, ok := cutRegistry(path)
	return ok || registry == "" && (path == "/v2" || strings.HasPrefix(path, "/v2/"))
}

// cutRegistry cuts the registry off a path that has it before /v2.
func cutRegistry(path string) (registry, rest string, ok bool) {
	if strings.HasPrefix(path, "/v2/") || path == "/v2" {
		return "", path, false
	}
	first, rest, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if !ok || rest != "v2" && !strings.HasPrefix(rest, "v2/") || !isRegistry(first) {
		return "", path, false
	}
	return first, "/" + rest, true
}

// isRegistry reports whether a part of a path is a registry's name, by Docker's rule: it has a
// dot or a port, or is localhost.
func isRegistry(s string) bool {
	if !strings.ContainsAny(s, ".:") && !strings.EqualFold(s, "localhost") {
		return false
	}
	ref, err := reference.Parse(s + "/x")
	return err == nil && (ref.Registry() == s || ref.Registry() == "docker.io")
}

// Fail answers with an error in the spec's JSON.
func Fail(w http.ResponseWriter, err error) {
	f := faultOf(err)
	if f.status != http.StatusRequestedRangeNotSatisfiable { // else it tells the size
		w.Header().Del("Content-Range")
	}
	for _, k := range []string{"Content-Length", "Accept-Ranges", "Etag", "Docker-Content-Digest", "Cache-Control", "Last-Modified"} {
		w.Header().Del(k)
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(f.status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []map[string]string{{"code": f.code, "message": f.message}}}) // the client has gone, if not
}

// Refuse is an error of a status, a code and a message, for Fail.
func Refuse(status int, code, message string) error {
	return &fault{status: status, code: code, message: message}
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request, a *asked) error {
	if len(r.URL.RawQuery) > limits.QueryBytes {
		return errQuery
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return errMethod
	}
	// As it was sent: a digest or a repository has nothing in it that would be escaped.
	registry, path, _ := cutRegistry(r.URL.EscapedPath())
	if path == "/v2/" || path == "/v2" {
		return sendJSON(w, struct{}{})
	}
	path, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return errPath
	}
	if path == "_catalog" {
		return h.catalog(w, r, a.user)
	}
	// The last two parts say what is asked for: the repository may have parts of any name.
	parts := strings.Split(path, "/")
	const fewest = 3
	if len(parts) < fewest {
		return errPath
	}
	kind, last := parts[len(parts)-2], parts[len(parts)-1]
	serve := map[string]func(http.ResponseWriter, *http.Request, *asked, string) error{
		"manifests": h.manifest, "blobs": h.blob, "referrers": h.referrers, "tags": h.tags,
	}[kind]
	if serve == nil {
		return errPath
	}
	a.path, a.registry = strings.Join(parts[:len(parts)-2], "/"), registry
	a.repo = a.path
	if ns := r.URL.Query().Get("ns"); ns != "" {
		a.registry = ns
	} else if first, rest, more := strings.Cut(a.repo, "/"); registry == "" && more && isRegistry(first) {
		a.registry, a.repo = first, rest
	}
	const longest = 255
	if len(a.repo) > longest || !repositoryForm.MatchString(a.repo) {
		return errName
	}
	return serve(w, r, a, last)
}

// asked is the repository that a request is for.
type asked struct {
	user     string
	path     string // as it stands in the request, between /v2/ and what is asked for
	registry string // "" when the request doesn't say
	repo     string
	hidden   string // what is kept from the user, if that is why there is no answer
}

// image is the image that a request is for. Where it doesn't say of which registry, that is the
// default one or, when that is not served and only one registry in the store has the
// repository, that one.
func (h *Handler) image(a *asked, tagOrDigest string) (reference.Image, error) {
	if a.registry != "" {
		registry, err := h.registryOf(a.registry)
		if err != nil {
			return reference.Image{}, err
		}
		return named(registry, a.repo, tagOrDigest)
	}
	ref, err := named(h.o.Registry, a.repo, tagOrDigest)
	if err != nil || h.through(a.user, ref) {
		return ref, err
	}
	if ref.Tag() != "" && h.may(a.user, ref) {
		if _, err := h.o.Store.Root(ref.Tagged()); err == nil {
			return ref, nil
		}
	}
	other, found, err := h.elsewhere(a, tagOrDigest)
	if err != nil || !found {
		return ref, err
	}
	return other, nil
}

// registryOf is the name that a registry goes by in the store, or upstream, of a name that a request
// has for it: hosts are compared without case, port 443 goes without saying, and Docker Hub has
// several names. One that is known as it stands is taken as it stands.
func (h *Handler) registryOf(name string) (string, error) {
	if h.o.Upstream != nil && h.o.Allowed != nil && h.o.Allowed(name) {
		return name, nil
	}
	v, err := h.views.get()
	if err != nil {
		return "", err
	}
	usual := usualName(name)
	known := v.registries[usual] // sorted
	switch {
	case slices.Contains(known, name):
		return name, nil
	case len(known) == 0 || slices.Contains(known, usual) || h.o.Allowed != nil && h.o.Allowed(usual):
		return usual, nil
	}
	return known[0], nil
}

// elsewhere is an image of another registry than the default one, if that has no such
// repository in the store and exactly one other registry has. Several are an error that lists
// them. What the user may not see isn't there.
func (h *Handler) elsewhere(a *asked, tagOrDigest string) (reference.Image, bool, error) {
	if a.registry != "" {
		return reference.Image{}, false, nil
	}
	v, err := h.views.get()
	if err != nil {
		return reference.Image{}, false, err
	}
	home, err := named(h.o.Registry, a.repo, "latest")
	if err != nil {
		return reference.Image{}, false, err
	}
	if h.may(a.user, home) && slices.Contains(v.homes[home.Repository()], home.Registry()) {
		return reference.Image{}, false, nil
	}
	var registries []string
	for _, name := range v.homes[a.repo] {
		if name != home.Registry() && h.o.Private.May(a.user, name, a.repo) {
			registries = append(registries, name)
		}
	}
	switch len(registries) {
	case 0:
		return reference.Image{}, false, nil
	case 1:
		ref, err := named(registries[0], a.repo, tagOrDigest)
		return ref, err == nil, err
	}
	const most = 10
	var list []string
	for _, name := range registries[:min(len(registries), most)] {
		list = append(list, name+"/"+a.repo)
	}
	return reference.Image{}, false, &fault{status: http.StatusNotFound, code: "NAME_UNKNOWN", message: "ambiguous repository: several registries have it; request one of " + strings.Join(list, ", ")}
}

// named makes a reference of its parts.
func named(registry, repo, tagOrDigest string) (reference.Image, error) {
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

// may reports whether a user may see an image.
func (h *Handler) may(user string, ref reference.Image) bool {
	return h.o.Private.May(user, ref.Registry(), ref.Repository())
}

// through reports whether upstream may be asked for an image, for a user.
func (h *Handler) through(user string, ref reference.Image) bool {
	return h.o.Upstream != nil && h.o.Allowed != nil && h.o.Allowed(ref.Registry()) && h.may(user, ref)
}

// refuse notes that something is kept from a user, if it is: an image that is another's.
func (h *Handler) refuse(a *asked, ref reference.Image) {
	if !h.may(a.user, ref) {
		a.hidden = ref.Name()
	}
}

// refuseDigest notes that something is kept from a user, if it is: what the store has for others.
func (h *Handler) refuseDigest(a *asked, ref reference.Image, d digest.Digest) {
	if _, err := h.o.Store.Stat(d); err == nil || !h.may(a.user, ref) {
		a.hidden = ref.Name()
	}
}

// manifest serves a manifest by its tag or digest ("Pulling manifests").
func (h *Handler) manifest(w http.ResponseWriter, r *http.Request, a *asked, tagOrDigest string) error {
	if digest.Digest(tagOrDigest).Validate() != nil && !tagForm.MatchString(tagOrDigest) {
		return errTag
	}
	ref, err := h.image(a, tagOrDigest)
	if err != nil {
		return err
	}
	m, from, err := h.findManifest(r.Context(), a, ref)
	if errors.Is(err, errNoManifest) { // the default registry doesn't have it, nor does its upstream
		other, found, errOther := h.elsewhere(a, tagOrDigest)
		switch {
		case errOther != nil:
			err = errOther
		case found && other != ref:
			m, from, err = h.findManifest(r.Context(), a, other)
		}
	}
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
func (h *Handler) findManifest(ctx context.Context, a *asked, ref reference.Image) (Manifest, Hit, error) {
	through, err := h.through(a.user, ref), error(nil)
	switch {
	case h.o.Private == nil:
	case ref.Digest() == "":
		if !h.may(a.user, ref) {
			h.refuse(a, ref)
			return Manifest{}, "", errNoManifest
		}
	default:
		if through, err = h.guardManifest(ctx, a, ref, through); err != nil {
			return Manifest{}, "", err
		}
	}
	if !through {
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
	return m, viaUpstream, nil
}

// guardManifest finds out whether a user may have a manifest by its digest, and whether upstream
// is to be asked. A digest alone opens nothing: an image that the user may see has to list it, or
// upstream to have it in the repository that is asked.
func (h *Handler) guardManifest(ctx context.Context, a *asked, ref reference.Image, through bool) (bool, error) {
	v, err := h.views.get()
	if err != nil {
		return false, err
	}
	switch d := ref.Digest(); {
	case through && v.open(h.o.Private, ref, d):
		return true, nil
	case v.shows(h.o.Private, a.user, d): // of another repository: it becomes no part of this one
		return false, nil
	case !through:
		h.refuseDigest(a, ref, d)
		return false, errNoManifest
	default:
		if err := h.o.Upstream.Holds(ctx, ref, d, true); err != nil {
			h.refuseDigest(a, ref, d)
			return false, fromUpstream(err, errNoManifest)
		}
		return true, nil
	}
}

// fromUpstream is what a client is told of a fault upstream: nothing about it that it
// needn't know.
func fromUpstream(err error, unknown *fault) error {
	var said *fault // by what stands before upstream, for clients
	switch {
	case errors.As(err, &said):
		return said
	case errors.Is(err, ErrUnknown):
		return unknown
	case errors.Is(err, ErrDenied):
		return errDenied
	case errors.Is(err, ErrLocal):
		return errLocal
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
		h.noteDigest(ref.Digest())
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
