// Package status decides what a command's error is to whoever ran it: the exit status, the hint
// about what to do, and the line or event that says so.
package status

import (
	"errors"
	"io/fs"
	"os/exec"
	"path/filepath"
	"syscall"

	"drayage/blobstore/durable"
	"drayage/engine/credential"
	"drayage/engine/fault"
)

// The exit statuses, which scripts rely on.
const (
	exitOK       = 0
	exitFailed   = 1 // in several of the ways below, or in none of them
	exitUsage    = 2
	exitDenied   = 3
	exitNotFound = 4
	exitNetwork  = 5
	exitContent  = 6
	exitLocal    = 7
	exitQuota    = 8
	exitWorse    = 9   // what was measured is worse than it was
	exitSignal   = 128 // plus the signal's number
)

// names are the statuses in a word each, for programs.
var names = map[int]string{
	exitFailed: "failed", exitUsage: "usage", exitDenied: "denied", exitNotFound: "not-found", exitNetwork: "network",
	exitContent: "content", exitLocal: "local", exitQuota: "quota", exitWorse: "worse",
}

// nameOf is a status in a word.
func nameOf(status int) string {
	if status > exitSignal {
		return "interrupted"
	}
	return names[status]
}

// UsageError is a command line that is wrong: see Misuse.
type UsageError struct{ err error }

// Misuse marks an error as one of the command line.
func Misuse(err error) UsageError { return UsageError{err} }

// Error implements error.
func (e UsageError) Error() string { return e.err.Error() }

// FaultKind is its kind: see fault.Of.
func (UsageError) FaultKind() fault.Kind { return fault.Usage }

// Unwrap is the error itself.
func (e UsageError) Unwrap() error { return e.err }

// Failures are the errors of several images or outputs.
type Failures []error

// Error implements error: a line for each.
func (f Failures) Error() string { return errors.Join(f...).Error() }

// Of is the exit status for an error: this is the only place that
// decides it.
func Of(err error) int {
	if err == nil {
		return exitOK
	}
	var sig SignalError
	if errors.As(err, &sig) {
		return exitSignal + int(sig.Signal)
	}
	var several Failures
	if errors.As(err, &several) {
		for _, e := range several {
			if errors.As(e, &sig) {
				return Of(sig) // whatever had failed before it
			}
		}
		status := exitOK
		for _, e := range several {
			s := Of(e)
			if status != exitOK && s != status {
				return exitFailed
			}
			status = s
		}
		return status
	}
	switch fault.Of(err) {
	case fault.Usage:
		return exitUsage
	case fault.Worse:
		return exitWorse
	case fault.Local:
		return exitLocal
	case fault.Content:
		return exitContent
	case fault.Quota:
		return exitQuota
	case fault.Denied:
		return exitDenied
	case fault.NotFound:
		return exitNotFound
	case fault.Network:
		return exitNetwork
	}
	return exitFailed
}

// IsUsage reports whether an error is of the command line as it was given.
func IsUsage(err error) bool { return Of(err) == exitUsage }

// As reports whether an error is, or wraps, one of a type.
func As[T error](err error) bool {
	var target T
	return errors.As(err, &target)
}

// MeasureError is a measurement without a result. There is nothing to go on with.
type MeasureError struct{ error }

// Unmeasured marks an error as that of a measurement.
func Unmeasured(err error) MeasureError { return MeasureError{err} }

// Unwrap is the error itself.
func (e MeasureError) Unwrap() error { return e.error }

// Hint is what the user can do about an error, or "".
func Hint(err error) string {
	if h := fault.HintOf(err); h != "" {
		return h
	}
	switch {
	case errors.Is(err, errQuota):
		return "disk quota exceeded: free some space, then rerun to resume; downloaded data is kept"
	case errors.Is(err, syscall.ENOSPC):
		var at *fs.PathError
		if errors.As(err, &at) && durable.FewInodes(filepath.Dir(at.Path)) {
			return "no inodes left on the file system: remove files there or use another --store, then rerun to resume; downloaded data is kept"
		}
		return "free some space, then rerun to resume; downloaded data is kept"
	case As[*credential.Error](err):
		return ""
	case errors.Is(err, exec.ErrNotFound):
		return "write to a file with -o and load it elsewhere"
	case Of(err) == exitNetwork && !As[MeasureError](err):
		return "downloaded data is kept; rerun to resume"
	}
	return ""
}
