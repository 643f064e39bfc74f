package registrytest

import (
	"net/http"
	"net/http/httptest"
	"strings"

	"drayage/engine/chaos/chaostest"
)

type fault struct {
	match func(*http.Request) bool
	times int
	do    chaostest.Fault
}

// Always is a number of times that doesn't end.
const Always = -1

// Break makes the next requests whose path contains part meet a fault, as many
// times as said. Of several faults the first that has times left is met.
func (s *Server) Break(part string, times int, f chaostest.Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &fault{
		match: func(r *http.Request) bool { return strings.Contains(r.URL.Path, part) },
		times: times, do: f,
	})
}

// NewStorage starts a server as registries redirect to for blobs: another
// port, a signed URL, and an error for whoever brings an Authorization, a
// cookie, or no signature. The server's blobs are those of s. It returns the
// location for Redirect, and the server, for the caller to close.
func (s *Server) NewStorage() (location string, storage *httptest.Server) {
	storage = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, h := range []string{"Authorization", "Cookie", "Referer"} {
			if r.Header.Get(h) != "" {
				http.Error(w, "InvalidArgument: "+h+" goes with a signed URL", http.StatusBadRequest)
				return
			}
		}
		if r.URL.Query().Get("X-Signature") != Signature || r.Method != http.MethodGet {
			http.Error(w, "AccessDenied", http.StatusForbidden)
			return
		}
		s.mu.Lock()
		var raw []byte
		for d, b := range s.blobs {
			if strings.HasSuffix(r.URL.Path, d.String()) {
				raw = b
			}
		}
		s.mu.Unlock()
		if raw == nil {
			http.NotFound(w, r)
			return
		}
		serveBlob(w, r, raw)
	}))
	return storage.URL + "/data/%s?X-Signature=" + Signature, storage
}

// Signature is the secret in NewStorage's URLs, which must not be seen
// anywhere else.
const Signature = "f00dfeedc0ffee"
