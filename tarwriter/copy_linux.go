package tarwriter

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// cloneRange lets a file, at an offset, share the extents of n bytes of another file from offset off
// on; last is whether the other file ends there. done is 0 when it is not possible at these offsets;
// an error means that it never is for these two files.
func cloneRange(out *os.File, at int64, in *os.File, off, n int64, last bool) (done int64, err error) {
	const block = 4096 // file systems with larger ones refuse by themselves
	if !last {
		n -= n % block
	}
	if at%block != 0 || off%block != 0 || n < block {
		return 0, nil
	}
	from := unix.FileCloneRange{Src_fd: int64(in.Fd()), Src_offset: uint64(off), Src_length: uint64(n), Dest_offset: uint64(at)}
	err = unix.IoctlFileCloneRange(int(out.Fd()), &from)
	switch {
	case errors.Is(err, unix.EINVAL): // not at these offsets, or never; another attempt is cheap
		return 0, nil
	case err != nil:
		return 0, err
	}
	return n, nil
}

// copyRange lets the kernel copy up to n bytes between offsets of two files. handled is false when
// that is not possible for these two files; then nothing was copied.
func copyRange(out *os.File, at int64, in *os.File, off, n int64) (done int64, handled bool, err error) {
	for {
		moved, err := unix.CopyFileRange(int(in.Fd()), &off, int(out.Fd()), &at, int(n), 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, !refused(err), unlessRefused("copy_file_range", err)
		}
		// Some file systems report that nothing is left although there is.
		return int64(moved), moved > 0, nil
	}
}

// sendFile is copyRange into a pipe or a socket.
func sendFile(out, in *os.File, off, n int64) (done int64, handled bool, err error) {
	dst, err := out.SyscallConn()
	if err != nil {
		return 0, false, nil
	}
	src := int(in.Fd())
	var moved int
	var fault error
	err = dst.Write(func(fd uintptr) bool {
		for {
			moved, fault = unix.Sendfile(int(fd), src, &off, int(n))
			if !errors.Is(fault, unix.EINTR) {
				return !errors.Is(fault, unix.EAGAIN)
			}
		}
	})
	switch {
	case err != nil:
		return 0, true, err
	case fault != nil:
		return 0, !refused(fault), unlessRefused("sendfile", fault)
	}
	return int64(moved), moved > 0, nil
}

// refused reports whether a call was refused for these two files, as opposed to failed.
func refused(err error) bool {
	for _, refusal := range []error{unix.EINVAL, unix.ENOSYS, unix.EOPNOTSUPP, unix.EXDEV, unix.EPERM, unix.EBADF} {
		if errors.Is(err, refusal) {
			return true
		}
	}
	return false
}

// unlessRefused is the error of a system call that failed, and nil for one that was refused.
func unlessRefused(call string, err error) error {
	if refused(err) {
		return nil
	}
	return os.NewSyscallError(call, err)
}

// widen enlarges the buffer of a pipe to what any user may have, so that writer and reader switch less
// often. It leaves other files as they are.
func widen(f *os.File) {
	const most = 1 << 20 // /proc/sys/fs/pipe-max-size, unless it was changed
	if conn, err := f.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, most) })
	}
}
