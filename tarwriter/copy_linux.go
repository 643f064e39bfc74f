package tarwriter

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// cloneRange lets a file, at its offset, share the extents of the next n bytes of
// another, from off on; last says that the other ends there. Both files' offsets
// move on. done is 0 when these offsets are not fit for it; the error says
// that this pair of files never is.
func cloneRange(out, in *os.File, off, n int64, last bool) (done int64, err error) {
	const block = 4096 // file systems with larger ones refuse by themselves
	at, err := out.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	if !last {
		n -= n % block
	}
	if at%block != 0 || off%block != 0 || n < block {
		return 0, nil
	}
	from := unix.FileCloneRange{Src_fd: int64(in.Fd()), Src_offset: uint64(off), Src_length: uint64(n), Dest_offset: uint64(at)}
	err = unix.IoctlFileCloneRange(int(out.Fd()), &from)
	switch {
	case errors.Is(err, unix.EINVAL): // not at these offsets, or not at all; asking again is cheap
		return 0, nil
	case err != nil:
		return 0, err
	}
	if _, err := in.Seek(n, io.SeekCurrent); err != nil {
		return 0, err
	}
	_, err = out.Seek(n, io.SeekCurrent)
	return n, err
}

// kernelCopy lets the kernel copy up to n bytes between two files' offsets,
// where the target may be a pipe or a socket. handled is false when this pair
// of files can't do that; then nothing was copied.
func kernelCopy(out, in *os.File, n int64) (done int64, handled bool, err error) {
	info, err := out.Stat()
	if err != nil {
		return 0, false, nil
	}
	call := func(to, from int) (int, error) { return unix.Sendfile(to, from, nil, int(n)) }
	name := "sendfile"
	if info.Mode().IsRegular() {
		call = func(to, from int) (int, error) { return unix.CopyFileRange(from, nil, to, nil, int(n), 0) }
		name = "copy_file_range"
	}
	dst, err := out.SyscallConn()
	if err != nil {
		return 0, false, nil
	}
	src := int(in.Fd())
	var moved int
	var fault error
	err = dst.Write(func(fd uintptr) bool {
		for {
			moved, fault = call(int(fd), src)
			if !errors.Is(fault, unix.EINTR) {
				return !errors.Is(fault, unix.EAGAIN)
			}
		}
	})
	if err != nil {
		return 0, true, err
	}
	if fault != nil {
		for _, refusal := range []error{unix.EINVAL, unix.ENOSYS, unix.EOPNOTSUPP, unix.EXDEV, unix.EPERM, unix.EBADF} {
			if errors.Is(fault, refusal) {
				return 0, false, nil
			}
		}
		return 0, true, os.NewSyscallError(name, fault)
	}
	// Some file systems say that nothing is left where there is.
	return int64(moved), moved > 0, nil
}

// widen makes a pipe hold as much as anybody may: fewer turns between writer
// and reader. What is no pipe is left.
func widen(f *os.File) {
	const most = 1 << 20 // /proc/sys/fs/pipe-max-size, unless it was changed
	if conn, err := f.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, most) })
	}
}
