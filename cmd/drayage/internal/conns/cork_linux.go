package conns

import (
	"net"

	"golang.org/x/sys/unix"
)

// cork has the system send full segments alone until uncork is called, which sends
// the rest at once. Files go a third faster so: without it the end of every buffer's
// worth is a segment of its own (tcp(7), TCP_CORK).
func cork(c net.Conn) (uncork func()) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return func() {}
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return func() {}
	}
	set := func(on int) {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_CORK, on) // without it, it is as right
		}) // fails when the connection is closed, and then it is of no matter
	}
	set(1)
	return func() { set(0) }
}
