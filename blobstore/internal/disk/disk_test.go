package disk_test

import (
	"os"
	"path/filepath"
	"testing"

	"drayage/blobstore/internal/disk"

	"golang.org/x/sync/errgroup"
)

// A folder is made while others make and remove the same one.
func TestFolderThatOthersRemove(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b")
	var group errgroup.Group
	for range 4 {
		group.Go(func() error {
			for range 3000 {
				if err := disk.Folder(path); err != nil {
					return err
				}
				os.Remove(path)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

// What is in the way stays in the way.
func TestFolderWhereAFileIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := disk.Folder(path); err == nil {
		t.Error("a file is taken for a folder")
	}
	if err := disk.Folder(filepath.Join(path, "below")); err == nil {
		t.Error("a folder below a file is said to be made")
	}
}
