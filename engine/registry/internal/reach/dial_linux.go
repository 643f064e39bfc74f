package reach

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// limitWindow bounds the receive window of a connection whose round trip is
// short. Left alone, the kernel lets it grow to several MiB when the reader is
// slower than the link, though at a millisecond 1 MiB is a GB/s already.
func limitWindow(c net.Conn) {
	const (
		short  = 2 * time.Millisecond
		window = 256 << 10
		rate   = 1 << 30 // bytes a second that the window should allow
	)
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	// What fails here leaves the kernel's own choice.
	_ = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return
		}
		trip := time.Duration(info.Rtt) * time.Microsecond
		if trip > short {
			return
		}
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_WINDOW_CLAMP, max(window, int(trip.Seconds()*rate*2)))
	})
}
