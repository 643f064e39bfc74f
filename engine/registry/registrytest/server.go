// Package registrytest is a read-only registry in the caller's own process,
// over real sockets, with images made on the spot and faults on request.
package registrytest

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"drayage/engine/image"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Server is a registry on a port of the loopback interface. Its methods may be
// called while it serves.
type Server struct {
	http *httptest.Server

	mu        sync.Mutex
	manifests map[string]content       // by repository + "@" + digest
	tags      map[string]digest.Digest // by repository + ":" + tag
	blobs     map[digest.Digest][]byte // in any repository
	linked    map[string]bool          // repository + "@" + digest of a blob
	faults    []*fault
	log       []Request
	auth      authority
	noDigest  bool
	referrers bool
	now, most int // blob and manifest requests under way
	sent      int64
}

type content struct {
	mediaType string
	raw       []byte
}

// Request is what the server was asked.
type Request struct {
	Method        string
	Path          string
	Authorization string
	Header        http.Header
}

// New starts a registry that speaks plain HTTP.
func New() *Server { return start((*httptest.Server).Start) }

// NewTLS starts a registry that speaks HTTPS with a certificate of its own
// authority; see Roots.
func NewTLS() *Server { return start((*httptest.Server).StartTLS) }

// NewTLS2 is NewTLS with HTTP/2.
func NewTLS2() *Server {
	return start(func(s *httptest.Server) {
		s.EnableHTTP2 = true
		s.StartTLS()
	})
}

func start(run func(*httptest.Server)) *Server {
	s := &Server{
		manifests: make(map[string]content),
		tags:      make(map[string]digest.Digest),
		blobs:     make(map[digest.Digest][]byte),
		linked:    make(map[string]bool),
	}
	s.http = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.http.Config.ErrorLog = log.New(io.Discard, "", 0)
	run(s.http)
	return s
}

// Close stops the server and breaks what connections it has.
func (s *Server) Close() {
	s.http.CloseClientConnections()
	s.http.Close()
}

// Host is the server's address and port, as it stands in an image's name.
func (s *Server) Host() string { return s.http.Listener.Addr().String() }

// Roots is the authority of a TLS server's certificate.
func (s *Server) Roots() *x509.CertPool {
	roots := x509.NewCertPool()
	if cert := s.http.Certificate(); cert != nil {
		roots.AddCert(cert)
	}
	return roots
}

// TLS is the configuration of a TLS server.
func (s *Server) TLS() *tls.Config { return s.http.TLS }

// Push adds an image to a repository under a tag, which may be empty, and
// returns its name with the tag or the digest.
func (s *Server) Push(repo, tag string, img Image) string {
	for _, b := range img.Blobs {
		s.PushBlob(repo, b)
	}
	return s.PushManifest(repo, tag, img.Descriptor.MediaType, img.Manifest)
}

// PushIndex adds images and an index of them.
func (s *Server) PushIndex(repo, tag, mediaType string, images ...Image) string {
	var children []ocispec.Descriptor
	for _, img := range images {
		s.Push(repo, "", img)
		children = append(children, img.Descriptor)
	}
	return s.PushManifest(repo, tag, mediaType, Index(mediaType, children...))
}

// PushManifest adds bytes as a manifest, whatever they are.
func (s *Server) PushManifest(repo, tag, mediaType string, raw []byte) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := digest.FromBytes(image.Payload(raw))
	s.manifests[repo+"@"+d.String()] = content{mediaType, raw}
	if tag == "" {
		return s.Host() + "/" + repo + "@" + d.String()
	}
	s.tags[repo+":"+tag] = d
	return s.Host() + "/" + repo + ":" + tag
}

// PushBlob adds a blob to a repository.
func (s *Server) PushBlob(repo string, raw []byte) digest.Digest {
	d := digest.FromBytes(raw)
	s.SetBlob(repo, d, raw)
	return d
}

// SetBlob makes the server give raw for a digest, whether it matches or not.
func (s *Server) SetBlob(repo string, d digest.Digest, raw []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blobs[d] = raw
	s.linked[repo+"@"+d.String()] = true
}

// DropBlob makes a repository forget a blob.
func (s *Server) DropBlob(repo string, d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.linked, repo+"@"+d.String())
}

// OmitDigestHeader makes the server leave out Docker-Content-Digest, as some
// registries do.
func (s *Server) OmitDigestHeader() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noDigest = true
}

// HaveReferrers makes the server answer which manifests refer to another, two a
// page, as registries do since version 1.1 of the distribution spec.
func (s *Server) HaveReferrers() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.referrers = true
}

// Requests lists what the server was asked so far, in order.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Request(nil), s.log...)
}

// Count is the number of requests so far whose path contains part.
func (s *Server) Count(part string) int {
	n := 0
	for _, r := range s.Requests() {
		if strings.Contains(r.Path, part) {
			n++
		}
	}
	return n
}

// Forget empties the list of requests and the counters.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log, s.most, s.sent = nil, 0, 0
}

// MostAtOnce is the largest number of requests for blobs and manifests that
// were under way at one time.
func (s *Server) MostAtOnce() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.most
}

// Sent is the number of body bytes of blobs and manifests sent so far.
func (s *Server) Sent() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.log = append(s.log, Request{r.Method, r.URL.Path, r.Header.Get("Authorization"), r.Header.Clone()})
	s.now++
	s.most = max(s.most, s.now)
	next := http.Handler(http.HandlerFunc(s.api))
	for _, f := range s.faults {
		if f.match(r) && f.times != 0 {
			f.times-- // below zero: for ever
			next = f.do(next)
			break
		}
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.now--
		s.mu.Unlock()
	}()
	next.ServeHTTP(&counting{ResponseWriter: w, server: s}, r)
}

// api answers as the OCI distribution spec says, for reading only.
func (s *Server) api(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == tokenPath {
		s.token(w, r)
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	if !ok {
		http.NotFound(w, r)
		return
	}
	if rest, ref, ok := cutLast(path, "/"); ok {
		repo, kind, _ := cutLast(rest, "/")
		answer := map[string]func(w http.ResponseWriter, r *http.Request, repo, ref string){
			"manifests": s.manifest, "blobs": s.blob, "referrers": s.listReferrers, "tags": s.listTags,
		}[kind]
		if answer != nil {
			if s.allowed(w, r, repo) {
				answer(w, r, repo, ref)
			}
			return
		}
	}
	if path == "" && s.allowed(w, r, "") {
		fmt.Fprint(w, "{}")
		return
	}
	fail(w, http.StatusNotFound, "NAME_UNKNOWN", "no such repository")
}

// listTags lists the tags of a repository, in pages of two: who reads one page alone is
// found out.
func (s *Server) listTags(w http.ResponseWriter, r *http.Request, repo, _ string) {
	s.mu.Lock()
	var tags []string
	for name := range s.tags {
		if tag, ok := strings.CutPrefix(name, repo+":"); ok {
			tags = append(tags, tag)
		}
	}
	s.mu.Unlock()
	if len(tags) == 0 {
		fail(w, http.StatusNotFound, "NAME_UNKNOWN", "no such repository")
		return
	}
	slices.Sort(tags)
	from, _ := slices.BinarySearch(tags, r.FormValue("last")+"\x00") // after the last one
	page := tags[from:]
	const most = 2
	if len(page) > most {
		page = page[:most]
		w.Header().Set("Link", fmt.Sprintf(`</v2/%s/tags/list?last=%s&n=%d>; rel="next"`, repo, page[most-1], most))
	}
	w.Write(mustJSON(map[string]any{"name": repo, "tags": page}))
}

func (s *Server) manifest(w http.ResponseWriter, r *http.Request, repo, ref string) {
	s.mu.Lock()
	d, tagged := s.tags[repo+":"+ref]
	if !tagged {
		d = digest.Digest(ref)
	}
	m, ok := s.manifests[repo+"@"+d.String()]
	noDigest := s.noDigest
	s.mu.Unlock()
	if !ok {
		fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
		return
	}
	if !strings.Contains(strings.Join(r.Header.Values("Accept"), ","), strings.TrimSpace(strings.Split(m.mediaType, ";")[0])) && m.mediaType != "" && strings.Contains(m.mediaType, "manifest") {
		fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "found, but the Accept header does not support it")
		return
	}
	if m.mediaType != "" {
		w.Header().Set("Content-Type", m.mediaType)
	} else {
		w.Header()["Content-Type"] = nil
	}
	if !noDigest {
		w.Header().Set("Docker-Content-Digest", d.String())
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(m.raw)))
	if r.Method != http.MethodHead {
		w.Write(m.raw)
	}
}

// listReferrers answers as the distribution spec's "Listing Referrers" says.
func (s *Server) listReferrers(w http.ResponseWriter, r *http.Request, repo, subject string) {
	all, ok := s.referring(repo, subject)
	if !ok {
		fail(w, http.StatusNotFound, "UNSUPPORTED", "no referrers here")
		return
	}
	const page = 2
	from, _ := strconv.Atoi(r.URL.Query().Get("from"))
	all = all[min(from, len(all)):]
	if len(all) > page {
		all = all[:page]
		w.Header().Set("Link", fmt.Sprintf(`<%s?from=%d>; rel="next"`, r.URL.Path, from+page))
	}
	if all == nil {
		all = []ocispec.Descriptor{}
	}
	w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	_, _ = w.Write(Index(ocispec.MediaTypeImageIndex, all...))
}

// referring lists the manifests that refer to another, if the server tells at all.
func (s *Server) referring(repo, subject string) (all []ocispec.Descriptor, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, m := range s.manifests {
		doc, err := image.Decode(m.raw)
		if err == nil && strings.HasPrefix(key, repo+"@") && doc.Manifest != nil && doc.Manifest.Subject != nil && doc.Manifest.Subject.Digest.String() == subject {
			doc.Descriptor.ArtifactType = doc.Manifest.ArtifactType
			all = append(all, doc.Descriptor)
		}
	}
	slices.SortFunc(all, func(a, b ocispec.Descriptor) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	return all, s.referrers
}

func (s *Server) blob(w http.ResponseWriter, r *http.Request, repo, ref string) {
	d := digest.Digest(ref)
	s.mu.Lock()
	raw, ok := s.blobs[d]
	ok = ok && s.linked[repo+"@"+d.String()]
	s.mu.Unlock()
	if !ok {
		fail(w, http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to registry")
		return
	}
	serveBlob(w, r, raw)
}

func serveBlob(w http.ResponseWriter, r *http.Request, raw []byte) {
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(raw))
}

// fail answers with an error as the distribution spec wants it.
func fail(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, message)
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+len(sep):], true
}

// counting counts body bytes, and lets faults reach the connection.
type counting struct {
	http.ResponseWriter
	server *Server
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.server.mu.Lock()
	c.server.sent += int64(n)
	c.server.mu.Unlock()
	return n, err
}

// Unwrap lets http.ResponseController find the connection.
func (c *counting) Unwrap() http.ResponseWriter { return c.ResponseWriter }
