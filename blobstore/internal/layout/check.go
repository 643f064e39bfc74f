package layout

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"drayage/blobstore/internal/disk"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// MarkText is what the file says that tells a store from other folders, and its version.
const MarkText = `{"drayage":{"store":1}}` + "\n"

const lostFile = "lost+found" // what an empty ext file system holds

// Problem is why a folder is no store and can't become one.
type Problem string

func (p Problem) Error() string { return string(p) }

// Check reports whether the folder is a store. The error is fs.ErrNotExist when it is none but may
// become one, and a Problem when it can't.
func (d Dir) Check() error {
	got, err := os.ReadFile(d.Mark())
	switch {
	case err == nil && string(got) == MarkText:
		return nil
	case err == nil:
		return Problem(fmt.Sprintf(" of this version: %s says %.60q; a newer drayage may have made it", d.Mark(), got))
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return err // fs.ErrNotExist: to be made
	}
	// A store in the making has nothing but what create makes, the lock first.
	// Its maker may be at work now, or have died.
	ours := []string{ocispec.ImageLayoutFile, ocispec.ImageIndexFile, ocispec.ImageBlobsDir}
	for _, path := range []string{d.Mark(), d.Ingests(), d.Roots(), d.Leases(), d.Hosts(), d.Deriveds(), d.Quarantines(), d.Gate(), d.States(), d.Verified(), d.Stamps()} {
		ours = append(ours, filepath.Base(path))
	}
	foreign := ""
	for _, e := range entries {
		switch name := strings.TrimSuffix(e.Name(), disk.TempSuffix); {
		case slices.Contains(ours, name):
			foreign = e.Name()
		case name == filepath.Base(d.Lock()) || name == lostFile:
		default:
			return Problem(fmt.Sprintf(": it contains %q; choose a directory that is empty or does not exist", e.Name()))
		}
	}
	if _, err := os.Stat(d.Lock()); foreign != "" && err != nil {
		return Problem(fmt.Sprintf(": it contains %q, which is not part of a store; choose a directory that is empty or does not exist", foreign))
	}
	return fs.ErrNotExist
}
