package durable

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

var (
	// ErrNotPlain is wrapped where a regular file is wanted, and something else has its name.
	ErrNotPlain = errors.New("not a regular file but a link, a pipe or a device; remove it, or choose another path")
	// ErrForeign is wrapped where a file or link is another user's, who may have put it there to
	// have the work of this one.
	ErrForeign = errors.New("it belongs to another user; remove it, or choose another path")
	// errLinked is wrapped where a file has a second name, under which it may be something else.
	errLinked = errors.New("it has another hard link; remove it, or choose another path")
)

// OpenPlain is os.OpenFile for a regular file: what a folder's other users may have put in its
// place is refused with ErrNotPlain. A symbolic link is not followed, and a pipe makes nobody
// wait.
func OpenPlain(path string, flag int, mode fs.FileMode) (*os.File, error) {
	if plainByName { // where opening can't tell
		if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
			return nil, &fs.PathError{Op: "open", Path: path, Err: ErrNotPlain}
		}
	}
	f, err := os.OpenFile(path, flag|noFollow, mode)
	if wouldWait(err) && isRegular(os.Lstat(path)) {
		f, err = os.OpenFile(path, flag|noLinks, mode)
	}
	return plain(f, path, err)
}

// OpenPlainIn is OpenPlain below a folder.
func OpenPlainIn(root *os.Root, name string, flag int, mode fs.FileMode) (*os.File, error) {
	if info, err := root.Lstat(name); err == nil && !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: filepath.Join(root.Name(), name), Err: ErrNotPlain}
	}
	f, err := root.OpenFile(name, flag|noFollow, mode)
	if wouldWait(err) && isRegular(root.Lstat(name)) {
		f, err = root.OpenFile(name, flag|noLinks, mode)
	}
	return plain(f, filepath.Join(root.Name(), name), err)
}

func isRegular(info fs.FileInfo, err error) bool { return err == nil && info.Mode().IsRegular() }

func plain(f *os.File, path string, err error) (*os.File, error) {
	if notPlain(err) {
		return nil, &fs.PathError{Op: "open", Path: path, Err: ErrNotPlain}
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		return f, nil // what is wanted of it will be refused as it always is
	}
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: path, Err: ErrNotPlain}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// CheckOwn reports an open file that this user can't have made: ErrForeign for one that is
// another's, errLinked for one with a second name.
func CheckOwn(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	uid, links, ok := ownership(info)
	switch {
	case !ok:
		return nil
	case links > 1:
		return &fs.PathError{Op: "open", Path: f.Name(), Err: errLinked}
	case uid == os.Geteuid() || uid == ownerOfNew(filepath.Dir(f.Name())):
		return nil
	}
	return &fs.PathError{Op: "open", Path: f.Name(), Err: fmt.Errorf("%w (user id %d)", ErrForeign, uid)}
}

// ownerOfNew is who a file belongs to that this process makes in a folder, or -1: file systems of
// networks and of other systems have owners of their own.
func ownerOfNew(folder string) int {
	f, err := createBeside(filepath.Join(folder, "owner"), 0o600)
	if err != nil {
		return -1
	}
	defer os.Remove(f.Name())
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return -1
	}
	uid, _, ok := ownership(info)
	if !ok {
		return -1
	}
	return uid
}

// Planted reports that what has a name may have been put there by another user: it stands in a
// folder where everybody may make names, as /tmp, and belongs neither to this user, nor to the
// folder's owner, nor to root. It is the rule by which Linux follows links and opens pipes in such
// folders (protected_symlinks, protected_fifos; proc(5)), for whatever has the name, and also where
// the folder isn't sticky.
func Planted(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && plantedIn(filepath.Dir(path), info)
}

// plantedIn is Planted for what stands in a folder.
func plantedIn(folder string, info fs.FileInfo) bool {
	in, err := os.Stat(folder)
	const everybody = 0o002
	if err != nil || in.Mode()&everybody == 0 {
		return false
	}
	uid, _, ok := ownership(info)
	owner, _, okFolder := ownership(in)
	return ok && okFolder && uid != 0 && uid != os.Geteuid() && uid != owner
}

// checkLink reports with ErrForeign a symbolic link that may have been planted.
func checkLink(path string, link fs.FileInfo) error {
	if uid, ok := Owner(link); ok && plantedIn(filepath.Dir(path), link) {
		return &fs.PathError{Op: "following", Path: path, Err: fmt.Errorf("%w (user id %d)", ErrForeign, uid)}
	}
	return nil
}

// mostLinks is how many are followed, as the kernel has it.
const mostLinks = 40

var errManyLinks = errors.New("too many symbolic links")

// CheckLinks reports with ErrForeign that a link on the way to a folder may have been put there by
// another user, and may lead elsewhere at any moment.
func CheckLinks(folder string) error {
	path, err := filepath.Abs(folder)
	if err != nil {
		return err
	}
	for range mostLinks {
		link, err := firstLink(path)
		if err != nil || link == "" {
			return err
		}
		to, err := os.Readlink(link)
		if err != nil {
			return err
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(link), to)
		}
		rest, err := filepath.Rel(link, path)
		if err != nil {
			return err
		}
		path = filepath.Join(to, rest)
	}
	return &fs.PathError{Op: "open", Path: folder, Err: errManyLinks}
}

// firstLink is the first part of an absolute path that is a symbolic link, or "".
func firstLink(path string) (string, error) {
	parent := filepath.Dir(path)
	if parent == path {
		return "", nil
	}
	if link, err := firstLink(parent); link != "" || err != nil {
		return link, err
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&fs.ModeSymlink == 0 {
		return "", nil // it is to be made, or it is told when it is used
	}
	return path, checkLink(path, info)
}

// createBeside makes a file that nobody has, in the folder of another and named after it.
func createBeside(path string, mode fs.FileMode) (*os.File, error) {
	const most = 200 // of the 255 bytes that a name may have
	folder, name := filepath.Split(path)
	name = name[:min(len(name), most)]
	for {
		f, err := os.OpenFile(filepath.Join(folder, "."+name+"-"+rand.Text()), os.O_RDWR|os.O_CREATE|os.O_EXCL, mode)
		if !errors.Is(err, fs.ErrExist) {
			return f, err
		}
	}
}

// replace puts a new file in the place of what has a name, which is not followed when it is a
// link: after a crash it is the old one or the new one. Its mode is as os.OpenFile would have it.
func replace(path string, mode fs.FileMode, write func(io.Writer) error) error {
	beside, err := createBeside(path, mode)
	if err != nil {
		return err
	}
	err = write(beside)
	if err == nil {
		err = beside.Sync()
	}
	if err = errors.Join(err, beside.Close()); err == nil {
		err = os.Rename(beside.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(beside.Name()))
	}
	return SyncFolder(filepath.Dir(path))
}
