package registrytest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
)

// Fault changes how the server answers a request.
type Fault func(next http.Handler) http.Handler

type fault struct {
	match func(*http.Request) bool
	times int
	do    Fault
}

// Always is a number of times that doesn't end.
const Always = -1

// Break makes the next requests whose path contains part meet a fault, as many
// times as said. Of several faults the first that has times left is met.
func (s *Server) Break(part string, times int, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &fault{
		match: func(r *http.Request) bool { return strings.Contains(r.URL.Path, part) },
		times: times, do: f,
	})
}

// Status answers with a status, an error body, and headers given in pairs.
func Status(code int, headers ...string) Fault {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i+1 < len(headers); i += 2 {
				w.Header().Set(headers[i], headers[i+1])
			}
			fail(w, code, errorCode(code), http.StatusText(code))
		})
	}
}

func errorCode(status int) string {
	switch status {
	case http.StatusTooManyRequests:
		return "TOOMANYREQUESTS"
	case http.StatusForbidden:
		return "DENIED"
	case http.StatusUnauthorized:
		return "UNAUTHORIZED"
	}
	return "UNKNOWN"
}

// Body answers 200 with other content.
func Body(contentType string, raw []byte) Fault {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.Write(raw)
		})
	}
}

// ResetAfter sends n bytes of the body and then resets the connection.
func ResetAfter(n int64) Fault {
	return wrap(func(w http.ResponseWriter, _ *http.Request) http.ResponseWriter {
		return &cut{ResponseWriter: w, left: n, end: reset}
	})
}

// CloseAfter sends n bytes of the body and then closes the connection, without
// having sent the length that was announced.
func CloseAfter(n int64) Fault {
	return wrap(func(w http.ResponseWriter, _ *http.Request) http.ResponseWriter {
		return &cut{ResponseWriter: w, left: n, end: func(w http.ResponseWriter) {
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}}
	})
}

// StallAfter sends n bytes of the body and then nothing, until the client
// hangs up.
func StallAfter(n int64) Fault {
	return wrap(func(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
		return &cut{ResponseWriter: w, left: n, end: func(w http.ResponseWriter) {
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		}}
	})
}

// Flip changes one byte of the body.
func Flip(at int64) Fault {
	return wrap(func(w http.ResponseWriter, _ *http.Request) http.ResponseWriter {
		return &flip{ResponseWriter: w, at: at}
	})
}

// IgnoreRange answers as if no Range had been asked for.
func IgnoreRange() Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r = r.Clone(r.Context())
			r.Header.Del("Range")
			next.ServeHTTP(w, r)
		})
	}
}

// Hold keeps a request waiting until release is closed or the client hangs up.
func Hold(release <-chan struct{}) Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-release:
				next.ServeHTTP(w, r)
			case <-r.Context().Done():
			}
		})
	}
}

// Redirect answers 307 with a location, which may have %s for the last part of
// the path.
func Redirect(location string) Fault {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			to := location
			if strings.Contains(to, "%s") {
				to = fmt.Sprintf(location, r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:])
			}
			w.Header().Set("Set-Cookie", "session=secret; Path=/")
			http.Redirect(w, r, to, http.StatusTemporaryRedirect)
		})
	}
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

func wrap(f func(http.ResponseWriter, *http.Request) http.ResponseWriter) Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(f(w, r), r) })
	}
}

// cut ends a response after some bytes of its body.
type cut struct {
	http.ResponseWriter
	left int64
	end  func(http.ResponseWriter)
	over bool
}

func (c *cut) Write(p []byte) (int, error) {
	if c.over {
		return 0, http.ErrHandlerTimeout
	}
	if int64(len(p)) < c.left {
		c.left -= int64(len(p))
		return c.ResponseWriter.Write(p)
	}
	n, err := c.ResponseWriter.Write(p[:c.left])
	c.over = true
	c.end(c.ResponseWriter)
	if err == nil {
		err = http.ErrHandlerTimeout
	}
	return n, err
}

// flip changes one byte of a body.
type flip struct {
	http.ResponseWriter
	at int64
}

func (f *flip) Write(p []byte) (int, error) {
	if f.at >= 0 && f.at < int64(len(p)) {
		p = append([]byte(nil), p...)
		p[f.at] ^= 1
	}
	f.at -= int64(len(p))
	return f.ResponseWriter.Write(p)
}
