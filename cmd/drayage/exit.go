package main

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

// statusNames are the statuses in a word each, for programs.
var statusNames = map[int]string{
	exitFailed: "failed", exitUsage: "usage", exitDenied: "denied", exitNotFound: "not-found", exitNetwork: "network",
	exitContent: "content", exitLocal: "local", exitQuota: "quota", exitWorse: "worse",
}

// statusName is a status in a word.
func statusName(status int) string {
	if status > exitSignal {
		return "interrupted"
	}
	return statusNames[status]
}

// usageError is a command line that is wrong.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }

// FaultKind is its kind: see fault.Of.
func (usageError) FaultKind() fault.Kind { return fault.Usage }
func (e usageError) Unwrap() error       { return e.err }

// failures are the errors of several images or outputs.
type failures []error

func (f failures) Error() string { return errors.Join(f...).Error() }

// statusOf is the exit status for an error: this is the only place that
// decides it.
func statusOf(err error) int {
	if err == nil {
		return exitOK
	}
	var sig signalError
	if errors.As(err, &sig) {
		return exitSignal + int(sig.sig)
	}
	var several failures
	if errors.As(err, &several) {
		for _, e := range several {
			if errors.As(e, &sig) {
				return statusOf(sig) // whatever had failed before it
			}
		}
		status := exitOK
		for _, e := range several {
			s := statusOf(e)
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

func as[T error](err error) bool {
	var target T
	return errors.As(err, &target)
}

// measureError is a measurement without a result. There is nothing to go on with.
type measureError struct{ error }

func (e measureError) Unwrap() error { return e.error }

// hint is what the user can do about an error, or "".
func hint(err error) string {
	if h := fault.HintOf(err); h != "" {
		return h
	}
	switch {
	case errors.Is(err, errQuota):
		return "the disk quota of this user is used up: free some of it and run the same command again; what arrived is kept"
	case errors.Is(err, syscall.ENOSPC):
		var at *fs.PathError
		if errors.As(err, &at) && durable.FewInodes(filepath.Dir(at.Path)) {
			return "the file system has no inodes left, whatever space it has: remove files there, or use another --store, and run the same command again; what arrived is kept"
		}
		return "free some space and run the same command again: what arrived is kept"
	case as[*credential.Error](err):
		return ""
	case errors.Is(err, exec.ErrNotFound):
		return "write to a file with -o and load it elsewhere"
	case statusOf(err) == exitNetwork && !as[measureError](err):
		return "run the same command again to go on: what arrived is kept"
	}
	return ""
}
