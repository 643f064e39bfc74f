// Package chaostest has the faults of a bad link one by one: a Fault wraps the handler of a test's own
// server, so that a request is answered differently.
package chaostest

import (
	"fmt"
	"net/http"
	"strings"

	"drayage/engine/chaos/internal/wire"
)

// Fault wraps a handler so that a request is answered differently.
type Fault func(next http.Handler) http.Handler

// Status answers with a status, the body of an error as registries send it, and headers, given as pairs
// of name and value.
func Status(code int, headers ...string) Fault { return wire.Status(code, headers...) }

// IgnoreRange answers as if the request had no Range.
func IgnoreRange() Fault { return wire.IgnoreRange }

// WrongRange answers a range request with a Content-Range that is shifted from the bytes that are sent.
func WrongRange(shift int64) Fault {
	return func(next http.Handler) http.Handler { return wire.WrongRange(next, shift) }
}

// Body answers with status 200 and other content.
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

// CloseAfter sends n bytes of the body and then closes the connection, although the Content-Length is
// larger.
func CloseAfter(n int64) Fault {
	return wrap(func(w http.ResponseWriter, _ *http.Request) http.ResponseWriter {
		return &cut{ResponseWriter: w, left: n, end: func(w http.ResponseWriter) {
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}}
	})
}

// StallAfter sends n bytes of the body and then nothing until the client disconnects.
func StallAfter(n int64) Fault {
	return wrap(func(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
		return &cut{ResponseWriter: w, left: n, end: func(w http.ResponseWriter) {
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		}}
	})
}

// Flip changes one bit of the byte at an offset of the body.
func Flip(at int64) Fault {
	return wrap(func(w http.ResponseWriter, _ *http.Request) http.ResponseWriter {
		return &flip{ResponseWriter: w, at: at}
	})
}

// Hold delays a request until release is closed or the client disconnects.
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

// Redirect answers with status 307, a location, in which %s is the last part of the request's path, and
// a cookie.
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

// wrap is a Fault that replaces the ResponseWriter.
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

// Unwrap is for http.ResponseController.
func (c *cut) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// flip changes one bit of a body.
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

// Unwrap is for http.ResponseController.
func (f *flip) Unwrap() http.ResponseWriter { return f.ResponseWriter }

// reset ends the connection with a TCP reset.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	wire.Drain(conn)
	if l, ok := conn.(interface{ SetLinger(sec int) error }); ok {
		_ = l.SetLinger(0) // without it the client sees a clean close, which is a fault, too
	}
	conn.Close()
}
