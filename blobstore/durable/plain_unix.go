//go:build unix

package durable

import (
	"errors"
	"io/fs"
	"syscall"
)

// NoFollow are flags for opening a file: a symbolic link is an error, and a pipe without a reader
// or writer, too, in place of waiting for one.
const NoFollow = syscall.O_NOFOLLOW | syscall.O_NONBLOCK

// plainByName is whether it must be looked up beforehand what a name stands for.
const plainByName = false

// notPlain reports whether an error of opening with NoFollow says that there is a link, or a
// pipe or socket. FreeBSD says EMLINK of links, where others say ELOOP.
func notPlain(err error) bool {
	return errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.EMLINK) || errors.Is(err, syscall.ENXIO)
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
