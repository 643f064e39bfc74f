package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"drayage/blobstore/durable"
)

// MakePrivate makes the folder of a store, which is its maker's alone: what is pulled may be for
// nobody else to read. A folder that is there already stays as who made it wants it.
func MakePrivate(path string) error {
	path = filepath.Clean(path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	const private = 0o700
	err := os.Mkdir(path, private)
	if errors.Is(err, fs.ErrExist) {
		return os.MkdirAll(path, private) // an error where it is no folder
	}
	return err
}

// OthersMay reports what users besides the owner may do in a folder by its mode: "change it", "read
// it", or "" for nothing.
func OthersMay(dir string) string {
	info, err := os.Stat(dir)
	if err != nil {
		return ""
	}
	if _, ok := durable.Owner(info); !ok { // there are no such modes
		return ""
	}
	const write, enter = 0o022, 0o011
	switch mode := info.Mode().Perm(); {
	case mode&write != 0:
		return "change it"
	case mode&enter != 0:
		return "read it"
	}
	return ""
}

// Whose says of an error of permissions whose the folder is.
func Whose(dir string, err error) error {
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	info, errStat := os.Stat(dir)
	if errStat != nil {
		return err
	}
	uid, ok := durable.Owner(info)
	if !ok || uid == os.Geteuid() {
		return err
	}
	return fmt.Errorf("it belongs to user id %d, and this is user id %d: run as that user, let this one in with chmod, or name another --store: %w", uid, os.Geteuid(), err)
}

// Existing is the closest folder of a path that exists.
func Existing(path string) string {
	for {
		if _, err := os.Stat(path); err == nil {
			return path
		}
		up := filepath.Dir(path)
		if up == path {
			return path
		}
		path = up
	}
}
