package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Users name files to write in many ways: a file, a link to one, a device, a pipe, or what the
// shell has opened for this process. WriteFile writes to all of them as the user means it, and to
// none that another user has put into a folder where everybody may make names.

// Descriptor is the number of the open file of this process that a path names, as /dev/stdout,
// /dev/fd/3 and /proc/self/fd/3 do. What it stands for may be a regular file, but such a name is
// no file's place: nothing may be renamed to it.
func Descriptor(path string) (fd int, ok bool) {
	if plainByName { // there are no such names
		return 0, false
	}
	path = filepath.Clean(path)
	switch path {
	case "/dev/stdout":
		return 1, true
	case "/dev/stderr":
		return 2, true
	}
	for _, folder := range []string{"/dev/fd/", "/proc/self/fd/", "/proc/thread-self/fd/", fmt.Sprintf("/proc/%d/fd/", os.Getpid())} {
		if number, found := strings.CutPrefix(path, folder); found {
			n, err := strconv.ParseUint(number, 10, 31)
			return int(n), err == nil
		}
	}
	return 0, false
}

// Follow is the path of what is to be written when a user names path: where the symbolic links
// lead that have the name, if that is no Descriptor. The file may not be there yet. A link that
// another user may have put there is ErrForeign.
func Follow(path string) (string, error) {
	for range mostLinks {
		if _, open := Descriptor(path); open {
			return path, nil
		}
		if real := withoutLinks(path); isProc(real) { // a Descriptor, or what another process has open
			return real, nil
		}
		info, err := os.Lstat(path)
		if err != nil || info.Mode()&fs.ModeSymlink == 0 {
			return path, nil // it is to be made, or it is told when it is used
		}
		if err := checkLink(path, info); err != nil {
			return "", err
		}
		to, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		if !filepath.IsAbs(to) {
			folder, _ := filepath.Split(path)
			to = folder + to
		}
		if _, open := Descriptor(to); !open {
			to = withoutLinks(to)
		}
		path = to
	}
	return "", &fs.PathError{Op: "following", Path: path, Err: errManyLinks}
}

// isProc reports whether a path is one of Linux' /proc, where links to what processes have open
// can be opened and not read.
func isProc(path string) bool {
	return !plainByName && strings.HasPrefix(filepath.Clean(path), "/proc/")
}

// withoutLinks is a path whose folder has no links: behind one, ".." leads elsewhere than the
// text says.
func withoutLinks(path string) string {
	folder, name := filepath.Split(path)
	if real, err := filepath.EvalSymlinks(folder); err == nil {
		return filepath.Join(real, name)
	}
	return filepath.Clean(path) // it isn't there yet
}

// WriteFile writes to what a user has named. A file appears complete or not at all, as by Rewrite,
// behind links that are followed as by Follow; a Descriptor, a device and a pipe are written to as
// they are. write may be called twice. Where something else has the name that another user may
// have put there, the error is ErrForeign.
func WriteFile(path string, mode fs.FileMode, write func(io.Writer) error) error {
	path, err := Follow(path)
	if err != nil {
		return err
	}
	f, err := OpenStanding(path)
	if err != nil {
		return err
	}
	if f == nil {
		return Rewrite(path, mode, write)
	}
	return errors.Join(write(f), f.Close())
}

// OpenStanding opens for writing what has a name, without links, and is no place for a file: a
// Descriptor, a device, or a pipe, whose reader it waits for. It is nil where a file is, or will be.
// What another user may have put there is ErrForeign.
func OpenStanding(path string) (*os.File, error) {
	if fd, ok := Descriptor(path); ok {
		return OpenDescriptor(fd, path)
	}
	info, err := os.Lstat(path)
	switch {
	case err == nil && isProc(path): // of another process, or of the kernel
		return os.OpenFile(path, os.O_WRONLY, 0)
	case err != nil || info.Mode().IsRegular() || info.Mode()&fs.ModeSymlink != 0:
		return nil, nil
	}
	return openOdd(path, os.O_WRONLY, info)
}

// OpenLog opens what a user has named for adding to its end, behind links that are followed as by
// Follow: a file, which is made if it isn't there, a Descriptor, a device or a pipe. What another
// user may have put there is ErrForeign.
func OpenLog(path string, mode fs.FileMode) (*os.File, error) {
	path, err := Follow(path)
	if err != nil {
		return nil, err
	}
	f, err := OpenStanding(path)
	if f != nil || err != nil {
		return f, err
	}
	f, err = OpenPlain(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, mode)
	if err != nil {
		return nil, err
	}
	return checked(f, path)
}

// checked is an open file that another user can't have put there.
func checked(f *os.File, path string) (*os.File, error) {
	info, err := f.Stat()
	if err == nil && plantedIn(filepath.Dir(path), info) {
		err = &fs.PathError{Op: "open", Path: path, Err: ErrForeign}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// openOdd opens what is no regular file, of which info was looked up, and then looks at what was
// opened: another user may have replaced it meanwhile.
func openOdd(path string, flag int, info fs.FileInfo) (*os.File, error) {
	if plantedIn(filepath.Dir(path), info) { // before a pipe makes anybody wait
		return nil, &fs.PathError{Op: "open", Path: path, Err: ErrForeign}
	}
	f, err := os.OpenFile(path, flag|noLinks, 0)
	if err != nil {
		return nil, err
	}
	if f, err = checked(f, path); err != nil {
		return nil, err
	}
	if is, err := f.Stat(); err != nil || !os.SameFile(is, info) {
		return nil, errors.Join(&fs.PathError{Op: "open", Path: path, Err: errReplaced}, f.Close())
	}
	return f, nil
}

var errReplaced = errors.New("another process has put something else in its place")

// OpenDescriptor is another File for a file that the process has open, to be closed by itself. It
// goes on where the first one is.
func OpenDescriptor(fd int, name string) (*os.File, error) {
	another, err := duplicate(fd)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(another), name), nil
}

// Rewrite is Replace where a file can be replaced; one that can't, since it is mounted or its
// folder is not this user's to change, is written over. write may be called twice.
func Rewrite(path string, mode fs.FileMode, write func(io.Writer) error) error {
	if _, open := Descriptor(path); open || isProc(path) {
		return &fs.PathError{Op: "writing to", Path: path, Err: ErrNotPlain}
	}
	err := replace(path, mode, write)
	if !staysInPlace(err) {
		return err
	}
	f, inPlace := openOver(path)
	if errors.Is(inPlace, fs.ErrNotExist) {
		return err
	}
	if inPlace != nil {
		return errors.Join(err, inPlace)
	}
	return errors.Join(write(f), f.Sync(), f.Close())
}

// staysInPlace reports whether an error says that a name in a folder can't be changed, though the
// file may be.
func staysInPlace(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EROFS)
}

// openOver opens a file to be written over.
func openOver(path string) (*os.File, error) {
	f, err := OpenPlain(path, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	if f, err = checked(f, path); err != nil {
		return nil, err
	}
	if err := f.Truncate(0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Withdraw removes a file that Rewrite has written. One that can't be removed, since it is mounted,
// is emptied.
func Withdraw(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if !staysInPlace(err) {
		return err
	}
	f, inPlace := openOver(path)
	if inPlace != nil {
		return errors.Join(err, inPlace)
	}
	return f.Close()
}
