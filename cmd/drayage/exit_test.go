package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"testing"

	"drayage/engine"
	"drayage/engine/fault"
	"drayage/engine/reference"
	"drayage/engine/registry"
)

func TestStatusOf(t *testing.T) {
	reset := &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
	missing := &engine.ImageError{Err: fmt.Errorf("manifest: %w", registry.ErrNotFound)}
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("anything"), 1},
		{usageError{errors.New("x")}, 2},
		{fmt.Errorf("x: %w", reference.ErrInvalid), 2},
		{registry.ErrDenied, 3},
		{missing, 4},
		{reset, 5},
		{fault.As(fault.Local, &fs.PathError{Err: syscall.ENOSPC}), 7},
		{&fs.PathError{Op: "write", Err: syscall.ENOSPC}, 7},
		{fault.New(fault.Content, "x"), 6},
		{registry.ErrQuota, 8},
		{signalError{syscall.SIGINT}, 130},
		{fmt.Errorf("x: %w", signalError{syscall.SIGTERM}), 143},
		{failures{missing, missing}, 4},
		{failures{missing, reset}, 1},
		{failures{missing, signalError{syscall.SIGINT}}, 130},
		{reported{failures{missing}}, 4},
	} {
		if got := statusOf(c.err); got != c.want {
			t.Errorf("statusOf(%v) = %d, want %d", c.err, got, c.want)
		}
	}
}
