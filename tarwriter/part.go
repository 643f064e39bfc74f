package tarwriter

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"drayage/blobstore/durable"
)

// partSuffix ends the name of a file that is being written.
const partSuffix = ".drayage-part"

// keepPrivate makes a new file readable for this user only, and returns the mode that it had by the
// umask and its directory, which it gets with its name.
func keepPrivate(f *os.File) (fs.FileMode, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	const private = 0o600
	_ = f.Chmod(private) // some file systems have no modes
	return info.Mode().Perm(), nil
}

// newMode is the mode of new files, before the umask.
const newMode = 0o644

// lockPart creates and locks the file that the archive at path is written to. It removes one that a
// process has left that was killed, and uses nothing of it. One that was removed between opening and
// locking belongs to another process. One that is a link to the archive was left by a process that
// was killed between linking and removing it: only this name is removed.
func lockPart(path string) (*os.File, error) {
	archive := path
	path += partSuffix
	for {
		if sameFile(archive, path) {
			if err := os.Remove(path); err != nil {
				return nil, err
			}
		}
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, newMode)
		if errors.Is(err, fs.ErrExist) {
			if err = clearPart(path); err == nil {
				continue
			}
		}
		if err != nil {
			return nil, err
		}
		won, err := durable.TryLock(f)
		if err == nil && won && durable.StillNamed(f, path) {
			return f, nil
		}
		f.Close()
		if err != nil {
			return nil, err
		}
		if !won {
			return nil, errBusy
		}
	}
}

// clearPart removes a part that a process of this user has left that was killed.
func clearPart(path string) error {
	f, err := durable.OpenPlain(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if errors.Is(err, fs.ErrPermission) { // report why
		if info, errStat := os.Lstat(path); errStat == nil {
			if uid, ok := durable.Owner(info); ok && uid != os.Geteuid() {
				return &fs.PathError{Op: "open", Path: path, Err: fmt.Errorf("%w (user id %d)", durable.ErrForeign, uid)}
			}
		}
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := durable.CheckOwn(f); err != nil {
		if !durable.StillNamed(f, path) { // its writer has just completed it
			return nil
		}
		return err
	}
	won, err := durable.TryLock(f)
	switch {
	case err != nil:
		return err
	case !won:
		return errBusy
	case !durable.StillNamed(f, path):
		return nil
	}
	if removesOpen {
		return os.Remove(path)
	}
	return errors.Join(f.Close(), os.Remove(path))
}

// removesOpen is whether a file can be removed while it is open.
const removesOpen = runtime.GOOS != "windows"

// removeFile removes what a process that was killed has left under a name, unless it is a directory.
func removeFile(path string) error {
	info, err := os.Lstat(path)
	if err != nil || info.IsDir() {
		return nil // creating the file will fail
	}
	return os.Remove(path)
}

// sameFile reports whether two names are links to one file.
func sameFile(a, b string) bool {
	x, errA := os.Lstat(a)
	y, errB := os.Lstat(b)
	return errA == nil && errB == nil && os.SameFile(x, y)
}

// nameOpen renames an open part to its final name, and fails when somebody else who may write to
// the directory has replaced the file.
func nameOpen(f *os.File, path string, force bool) error {
	if err := nameFile(f.Name(), path, force); err != nil {
		return err
	}
	if !durable.StillNamed(f, path) {
		return &fs.PathError{Op: "naming", Path: path, Err: errors.New("replaced by another process")}
	}
	return nil
}

// nameFile renames a part to its final name. Without force it fails if that exists by now, which a
// hard link does atomically; where there are no links, the check is not atomic.
func nameFile(part, path string, force bool) error {
	if force {
		return os.Rename(part, path)
	}
	switch err := os.Link(part, path); {
	case err == nil:
		return os.Remove(part)
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%s: %w", path, ErrExists)
	}
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s: %w", path, ErrExists)
	}
	return os.Rename(part, path)
}

// isThere reports whether there is something of a name, dangling links included.
func isThere(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
