package wire

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Drain waits until what was sent has arrived, or for a moment: a reset throws
// away what hasn't, and "after N bytes" should mean what the client got.
func Drain(c net.Conn) {
	const moment, step = 200 * time.Millisecond, time.Millisecond
	sc, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	for range moment / step {
		left := 0
		if err := raw.Control(func(fd uintptr) { left, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); err != nil || left == 0 {
			return
		}
		time.Sleep(step)
	}
}
