package conns

import (
	"net"

	"golang.org/x/sys/unix"
)

// acked is how many bytes the other end of a connection has taken so far (tcp(7), TCP_INFO). What
// the system has taken to send says little: it takes megabytes of which nobody reads any.
func acked(c net.Conn) (n int64, ok bool) {
	tcp, isTCP := c.(*net.TCPConn)
	if !isTCP {
		return 0, false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0, false
	}
	err = raw.Control(func(fd uintptr) {
		info, e := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if e == nil {
			n, ok = int64(info.Bytes_acked), true
		}
	})
	return n, ok && err == nil
}
