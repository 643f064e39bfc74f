// Package wire has what a bad link does to responses and connections, for the proxy and for tests.
package wire

import (
	"fmt"
	"net/http"
)

// Status answers with a status, the body of an error as registries send it, and headers, given as pairs
// of name and value.
func Status(code int, headers ...string) func(http.Handler) http.Handler {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			for i := 0; i+1 < len(headers); i += 2 {
				w.Header().Set(headers[i], headers[i+1])
			}
			w.WriteHeader(code)
			fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, errorCode(code), http.StatusText(code))
		})
	}
}

// errorCode is the code of an error of the OCI distribution specification.
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

// IgnoreRange answers as if the request had no Range.
func IgnoreRange(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = r.Clone(r.Context())
		r.Header.Del("Range")
		next.ServeHTTP(w, r)
	})
}

// WrongRange answers a range request with a Content-Range that is shifted from the bytes that are sent.
func WrongRange(next http.Handler, shift int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(&shifted{ResponseWriter: w, by: shift}, r)
	})
}

// shifted has a wrong Content-Range.
type shifted struct {
	http.ResponseWriter
	by int64
}

func (s *shifted) WriteHeader(status int) {
	var first, last, total int64
	text := s.Header().Get("Content-Range")
	if n, err := fmt.Sscanf(text, "bytes %d-%d/%d", &first, &last, &total); n == 3 && err == nil {
		s.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", max(0, first+s.by), last, total))
	}
	s.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (s *shifted) Unwrap() http.ResponseWriter { return s.ResponseWriter }
