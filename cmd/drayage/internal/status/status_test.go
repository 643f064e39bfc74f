package status

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
		{UsageError{errors.New("x")}, 2},
		{fmt.Errorf("x: %w", reference.ErrInvalid), 2},
		{registry.ErrDenied, 3},
		{missing, 4},
		{reset, 5},
		{fault.As(fault.Local, &fs.PathError{Err: syscall.ENOSPC}), 7},
		{&fs.PathError{Op: "write", Err: syscall.ENOSPC}, 7},
		{fault.New(fault.Content, "x"), 6},
		{registry.ErrQuota, 8},
		{SignalError{syscall.SIGINT}, 130},
		{fmt.Errorf("x: %w", SignalError{syscall.SIGTERM}), 143},
		{Failures{missing, missing}, 4},
		{Failures{missing, reset}, 1},
		{Failures{missing, SignalError{syscall.SIGINT}}, 130},
		{Reported{Failures{missing}}, 4},
	} {
		if got := Of(c.err); got != c.want {
			t.Errorf("statusOf(%v) = %d, want %d", c.err, got, c.want)
		}
	}
}
