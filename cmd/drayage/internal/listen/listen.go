// Package listen opens the sockets of servers: those of clients, with certificates that are read again
// when they change, and that of profiles.
package listen

import (
	"context"
	"drayage/cmd/drayage/internal/status"
	"drayage/engine/fault"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
)

// Open returns the sockets that systemd passes, or listens on an address, the value of --listen.
func Open(ctx context.Context, address string) ([]net.Listener, error) {
	given, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("using the sockets of systemd: %w", err)
	}
	given = slices.DeleteFunc(given, func(l net.Listener) bool { return l == nil })
	if len(given) > 0 {
		return given, nil
	}
	if _, port, err := net.SplitHostPort(address); err != nil || !validPort(port) {
		return nil, status.Misuse(fmt.Errorf("--listen %q: must be HOST:PORT, e.g. :5000", address))
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, Explain("--listen", address, err)
	}
	return []net.Listener{l}, nil
}

// Explain reports why a flag's address can't be listened on: a local fault.
func Explain(flag, address string, err error) error {
	var reason syscall.Errno
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		err = fmt.Errorf("%s %s: address already in use; choose another one", flag, address)
	case errors.As(err, &reason):
		err = fmt.Errorf("%s %s: %w", flag, address, reason)
	default:
		err = fmt.Errorf("%s: %w", flag, err)
	}
	return fault.As(fault.Local, err)
}

// validPort reports whether a text is a port's number.
func validPort(text string) bool {
	_, err := strconv.ParseUint(text, 10, 16)
	return err == nil
}

// IsLoopback reports whether only this machine can connect to an address. A Unix socket is none:
// what connects to it is a proxy, which has its own names.
func IsLoopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// Close closes all listeners.
func Close(ls []net.Listener) error {
	var err error
	for _, l := range ls {
		err = errors.Join(err, l.Close())
	}
	return err
}
