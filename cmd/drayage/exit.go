package main

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"drayage/blobstore"
	"drayage/blobstore/durable"
	archives "drayage/engine/archive"
	"drayage/engine/compose"
	"drayage/engine/credential"
	"drayage/engine/image"
	"drayage/engine/plan"
	"drayage/engine/reference"
	"drayage/engine/registry"
	"drayage/engine/transfer"
	"drayage/tarwriter"
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
func (e usageError) Unwrap() error { return e.err }

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
	for _, k := range kinds {
		if k.is(err) {
			return k.status
		}
	}
	return exitFailed
}

// kinds are asked in order: what was marked as a local fault comes before the
// network, and what merely looks like one after it. (net.Error won't do for
// the network: the errors of files have its methods too.)
var kinds = []struct {
	status int
	is     func(error) bool
}{
	{exitUsage, or(as[usageError], is(reference.ErrInvalid, archives.ErrNotArchive))},
	{exitWorse, as[worseError]},
	{exitFailed, is(archives.ErrInvalid)},
	{exitLocal, or(as[*transfer.LocalError], as[*blobstore.SpaceError], as[*credential.Error], is(tarwriter.ErrExists, tarwriter.ErrBusy, blobstore.ErrNotStore, archives.ErrIncomplete, archives.ErrReplaces, archives.ErrVolume, exec.ErrNotFound), as[*exec.ExitError])},
	{exitContent, or(as[*transfer.MismatchError], as[*plan.SizeError], as[*blobstore.SizeError], as[*blobstore.MismatchError], as[*compose.DiffIDError], as[damagedError], is(registry.ErrContent, blobstore.ErrDamaged, archives.ErrMismatch, compose.ErrLayer))},
	{exitQuota, is(registry.ErrQuota)},
	{exitDenied, is(registry.ErrDenied)},
	{exitNotFound, or(is(registry.ErrNotFound, blobstore.ErrNotFound), as[*image.NoPlatformError], as[*image.NotImageError])},
	{exitNetwork, or(is(registry.ErrUnavailable, transfer.ErrGaveUp, transfer.ErrWasteful, io.ErrUnexpectedEOF), as[*net.OpError], as[*net.DNSError])},
	{exitLocal, or(as[*fs.PathError], as[*os.LinkError], as[*os.SyscallError], as[syscall.Errno])},
}

func as[T error](err error) bool {
	var target T
	return errors.As(err, &target)
}

func is(sentinels ...error) func(error) bool {
	return func(err error) bool {
		for _, s := range sentinels {
			if errors.Is(err, s) {
				return true
			}
		}
		return false
	}
}

func or(preds ...func(error) bool) func(error) bool {
	return func(err error) bool {
		for _, p := range preds {
			if p(err) {
				return true
			}
		}
		return false
	}
}

// measureError is a measurement without a result. There is nothing to go on with.
type measureError struct{ error }

func (e measureError) Unwrap() error { return e.error }

// hint is what the user can do about an error, or "".
func hint(err error) string {
	switch {
	case errors.Is(err, tarwriter.ErrExists):
		return "--force overwrites it"
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
	case errors.Is(err, tarwriter.ErrNotImage):
		return "--format oci"
	}
	if as[*transfer.MismatchError](err) {
		return "the registry, or something on the way to it, changes content"
	}
	if statusOf(err) == exitNetwork && !as[measureError](err) {
		return "run the same command again to go on: what arrived is kept"
	}
	return ""
}
