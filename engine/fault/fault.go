// Package fault classifies errors: what kind of fault one is, what it is about,
// and what a user can do. Every package marks its errors with it, and the
// command line makes exit statuses and hints of it.
//
// An error is a tree of what it wraps. The kind of the whole is the first of the
// list of kinds that any error in the tree has: what was marked as a fault of
// this machine is not taken for one of the network because it happened while
// something was fetched. Errors of the operating system that nobody has marked
// are network or local faults by their type.
package fault

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"syscall"
)

// A Kind is what a caller can act on. The order is that of precedence.
type Kind int

// The kinds. docs/exit-status.md has what the command line makes of them.
const (
	Unknown  Kind = iota // nothing says what it is
	Usage                // what was asked for makes no sense
	Worse                // a measurement is worse than it was before
	Invalid              // input that is not what it should be, and nobody's content
	Local                // this machine: a disk, a file, a program
	Content              // content is not what its digest, size or type says
	Quota                // a registry's quota, or its rate limit
	Denied               // credentials are missing, wrong, or not enough
	NotFound             // there is no such image, blob or platform
	Network              // a host can't be reached, or doesn't answer as it should
	system               // errors of the operating system that are none of the network's
)

var names = [...]string{"unknown", "usage", "worse", "invalid", "local", "content", "quota", "denied", "not-found", "network", "local"}

// String is the kind in a word.
func (k Kind) String() string { return names[k] }

// marked is an error with what is known of it.
type marked struct {
	kind Kind   // Unknown: that of err
	name string // of what it is about, which its text begins with; or ""
	hint string // what a user can do, as an imperative: "free some space"; or ""
	err  error
}

func (e *marked) Error() string {
	if e.name == "" {
		return e.err.Error()
	}
	return e.name + ": " + e.err.Error()
}

func (e *marked) Unwrap() error     { return e.err }
func (e *marked) FaultKind() Kind   { return e.kind }
func (e *marked) FaultHint() string { return e.hint }

// New is an error of a kind, to be compared with errors.Is.
func New(k Kind, text string) error { return &marked{kind: k, err: errors.New(text)} }

// WithHint is an error of a kind with what a user can do.
func WithHint(k Kind, text, hint string) error {
	return &marked{kind: k, hint: hint, err: errors.New(text)}
}

// As marks an error as one of a kind. It is nil for nil.
func As(k Kind, err error) error {
	if err == nil {
		return nil
	}
	return &marked{kind: k, err: err}
}

// About puts the name of the image, blob or host that an error is about before its text. The name
// must be printable. It is nil for nil.
func About(name string, err error) error {
	if err == nil {
		return nil
	}
	return &marked{name: name, err: err}
}

// Bare is an error without the name that About has put before it.
func Bare(err error) error {
	if of, ok := err.(*marked); ok && of.name != "" { //nolint:errorlint // only the outermost
		return of.err
	}
	return err
}

// Other types of errors may know these, too.
type (
	classified interface{ FaultKind() Kind }
	hinted     interface{ FaultHint() string }
)

// Of is the kind of an error: the first in the order of kinds that the error, or
// one that it wraps, has. It is Unknown for nil.
func Of(err error) Kind {
	found := Unknown
	walk(err, func(e error) bool {
		k := systemKind(e)
		if c, ok := e.(classified); ok {
			k = c.FaultKind()
		}
		if k != Unknown && (found == Unknown || k < found) {
			found = k
		}
		return true
	})
	if found == system {
		return Local
	}
	return found
}

// systemKind is the kind of errors that are not ours.
func systemKind(err error) Kind {
	switch err.(type) { //nolint:errorlint // the walk unwraps
	case *net.OpError, *net.DNSError:
		return Network
	case *exec.ExitError:
		return Local
	case *fs.PathError, *os.LinkError, *os.SyscallError, syscall.Errno:
		return system
	}
	if err == io.ErrUnexpectedEOF { //nolint:errorlint // the walk unwraps
		return Network
	}
	if err == exec.ErrNotFound { //nolint:errorlint // the walk unwraps
		return Local
	}
	return Unknown
}

// HintOf is what a user can do about an error: the hint that is nearest to it,
// or "".
func HintOf(err error) (hint string) {
	walk(err, func(e error) bool {
		if h, ok := e.(hinted); ok {
			hint = h.FaultHint()
		}
		return hint == ""
	})
	return hint
}

// walk calls f with an error and all that it wraps, the outer ones first, until
// it says false.
func walk(err error, f func(error) bool) bool {
	if err == nil {
		return true
	}
	if !f(err) {
		return false
	}
	switch e := err.(type) { //nolint:errorlint // it unwraps
	case interface{ Unwrap() error }:
		return walk(e.Unwrap(), f)
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			if !walk(inner, f) {
				return false
			}
		}
	}
	return true
}
