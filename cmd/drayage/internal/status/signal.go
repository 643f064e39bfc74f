package status

import (
	"fmt"
	"syscall"
)

// SignalError is why a run was cancelled: a signal.
type SignalError struct{ Signal syscall.Signal }

// Error implements error.
func (e SignalError) Error() string {
	return fmt.Sprintf("interrupted by %s; what arrived is kept", signalNames[e.Signal])
}

var signalNames = map[syscall.Signal]string{syscall.SIGINT: "SIGINT", syscall.SIGTERM: "SIGTERM", syscall.SIGHUP: "SIGHUP"}
