package durable

import (
	"errors"
	"io/fs"
	"os"
)

// errNotRegular is wrapped where a file is to be read, and a pipe, a socket or a device has its
// name.
var errNotRegular = errors.New("not a regular file but a pipe, a socket or a device")

// OpenNamed opens for reading what a user has named: a file, a device, or a pipe, whose writer it
// waits for. Links are followed. A device or pipe that another user may have put there, or a link
// that leads to one, is ErrForeign.
func OpenNamed(path string) (*os.File, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrPermission): // which the kernel says of links that it doesn't follow
		if _, planted := Follow(path); errors.Is(planted, ErrForeign) {
			return nil, planted
		}
		return nil, err
	case err != nil:
		return nil, err
	case info.Mode().IsRegular() || info.IsDir():
		return OpenRegular(path)
	}
	to, err := Follow(path)
	if err != nil {
		return nil, err
	}
	if _, open := Descriptor(to); open || isProc(to) {
		return os.Open(to)
	}
	return openOdd(to, os.O_RDONLY, info)
}

// OpenRegular opens for reading a file that has its place, such as a configuration. Links are
// followed, and nothing makes anybody wait: what is neither a regular file nor a folder, nor
// os.DevNull, nor what a process has open is errNotRegular.
func OpenRegular(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if mayStand(path, info) {
		return os.Open(path)
	}
	notRegular := &fs.PathError{Op: "open", Path: path, Err: errNotRegular}
	if !info.Mode().IsRegular() && !info.IsDir() {
		return nil, notRegular
	}
	f, err := os.OpenFile(path, os.O_RDONLY|noWait, 0)
	if wouldWait(err) { // for whom has a lease on it
		f, err = os.Open(path)
	}
	if err != nil {
		return nil, err
	}
	is, err := f.Stat()
	if err == nil && !is.Mode().IsRegular() && !is.IsDir() { // it was replaced meanwhile
		err = notRegular
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// mayStand reports whether a path is of os.DevNull, which stands for an empty file, or of what a
// process has open, as the shell's <(…) is.
func mayStand(path string, info fs.FileInfo) bool {
	if info.Mode().IsRegular() {
		return false
	}
	if null, err := os.Stat(os.DevNull); err == nil && os.SameFile(null, info) {
		return true
	}
	to, err := Follow(path)
	if err != nil {
		return false
	}
	_, open := Descriptor(to)
	return open || isProc(to)
}
