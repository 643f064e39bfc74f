package blobstore

import (
	"errors"
	"fmt"
	"syscall"

	"drayage/blobstore/internal/space"
	"drayage/engine/fault"

	"github.com/opencontainers/go-digest"
)

var (
	// ErrNotFound is wrapped when a blob or a root is not in the store.
	ErrNotFound = fault.New(fault.NotFound, "not in the store")
	// ErrDamaged is wrapped when a blob is no longer what was verified.
	ErrDamaged = fault.New(fault.Content, "damaged on disk")
	// errNotStore is wrapped when a folder is no store and can't become one.
	errNotStore = fault.New(fault.Local, "not a drayage store")
)

// SizeError says that a descriptor's size is not that of the verified blob of
// its digest: whoever wrote the descriptor lied or was lied to.
type SizeError struct {
	Digest     digest.Digest
	Want, Have int64 // bytes: what the descriptor says, what the blob has
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("%s: its descriptor says %d bytes, and the blob has %d", e.Digest, e.Want, e.Have)
}

// FaultKind is its kind: see fault.Of.
func (*SizeError) FaultKind() fault.Kind { return fault.Content }

// ErrExists is what Ingest returns for a blob that the store has already.
var ErrExists = errors.New("already in the store")

// ErrMismatch is wrapped for content that is not what its descriptor promised.
var ErrMismatch = fault.New(fault.Content, "content does not match its descriptor")

// SpaceError says that a disk has too little space. It is an ENOSPC.
type SpaceError struct {
	Where      string
	Need, Free int64 // bytes
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("no space in %s: %s are needed and %s are free, so %s are missing",
		e.Where, space.MiB(e.Need), space.MiB(e.Free), space.MiB(e.Need-e.Free))
}

// FaultKind is its kind: see fault.Of.
func (*SpaceError) FaultKind() fault.Kind { return fault.Local }

// Is makes it what the system says when a disk is full.
func (e *SpaceError) Is(target error) bool { return target == syscall.ENOSPC }
