//go:build unix

package durable

import (
	"errors"
	"io/fs"
	"syscall"
)

// noFollow are flags for opening a file: a symbolic link is an error, and a pipe without a reader
// or writer, too, in place of waiting for one.
const noFollow = noLinks | noWait

const (
	noLinks = syscall.O_NOFOLLOW
	noWait  = syscall.O_NONBLOCK
)

// plainByName is whether it must be looked up beforehand what a name stands for.
const plainByName = false

// notPlain reports whether an error of opening with noFollow says that there is a link, or a
// pipe or socket. FreeBSD says EMLINK of links, where others say ELOOP.
func notPlain(err error) bool {
	return errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.EMLINK) || errors.Is(err, syscall.ENXIO)
}

// wouldWait reports whether an error of opening with noFollow says that another has a lease on the
// file, as Samba and NFS servers have for their clients: the kernel has asked for it back, and an
// opening that waits gets it (fcntl(2), "Leases").
func wouldWait(err error) bool { return errors.Is(err, syscall.EWOULDBLOCK) }

// duplicate is another number for an open file.
func duplicate(fd int) (int, error) {
	syscall.ForkLock.RLock() // no child that is started meanwhile is to get it
	defer syscall.ForkLock.RUnlock()
	another, err := syscall.Dup(fd)
	if err == nil {
		syscall.CloseOnExec(another)
	}
	return another, err
}

// ownership is who a file belongs to, and how many names it has.
func ownership(info fs.FileInfo) (uid int, links uint64, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, false
	}
	return int(st.Uid), uint64(st.Nlink), true
}

// Owner is the number of the user that a file belongs to, and whether that can be told.
func Owner(info fs.FileInfo) (uid int, ok bool) {
	uid, _, ok = ownership(info)
	return uid, ok
}
