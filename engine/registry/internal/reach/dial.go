package reach

import (
	"context"
	"net"
	"syscall"
	"time"
)

// dialer makes connections that take in no more ahead than their round trip
// needs: what lies in a socket's buffer when the process or the connection dies
// is fetched again. A network, if given, is used in place of what is asked for. control, if
// given, may refuse an address.
func dialer(timeout time.Duration, only string, control func(ctx context.Context, network, address string, c syscall.RawConn) error) func(ctx context.Context, network, address string) (net.Conn, error) {
	d := &net.Dialer{Timeout: timeout, KeepAlive: 30 * time.Second, ControlContext: control}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if only != "" {
			network = only
		}
		c, err := d.DialContext(ctx, network, address)
		if err == nil {
			limitWindow(c)
		}
		return c, err
	}
}
