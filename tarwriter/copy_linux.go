package tarwriter

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// sendFile lets the kernel move up to n bytes from a file into a pipe or
// socket. handled is false when this pair of files can't do that; then nothing
// was moved.
func sendFile(out, in *os.File, n int64) (done int64, handled bool, err error) {
	dst, err := out.SyscallConn()
	if err != nil {
		return 0, false, nil
	}
	src := int(in.Fd())
	var moved int
	var fault error
	err = dst.Write(func(fd uintptr) bool {
		for {
			moved, fault = unix.Sendfile(int(fd), src, nil, int(n))
			if !errors.Is(fault, unix.EINTR) {
				return !errors.Is(fault, unix.EAGAIN)
			}
		}
	})
	if err != nil {
		return 0, true, err
	}
	if fault != nil {
		refused := errors.Is(fault, unix.EINVAL) || errors.Is(fault, unix.ENOSYS) || errors.Is(fault, unix.EOPNOTSUPP)
		return 0, !refused, os.NewSyscallError("sendfile", fault)
	}
	return int64(moved), true, nil
}
