package durable_test

import (
	"os"
	"path/filepath"
	"testing"

	"drayage/blobstore/durable"

	"golang.org/x/sync/errgroup"
)

// A folder is made while others make and remove the same one.
func TestFolderThatOthersRemove(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b")
	var group errgroup.Group
	for range 4 {
		group.Go(func() error {
			for range 3000 {
				if err := durable.Folder(path); err != nil {
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
	if err := durable.Folder(path); err == nil {
		t.Error("a file is taken for a folder")
	}
	if err := durable.Folder(filepath.Join(path, "below")); err == nil {
		t.Error("a folder below a file is said to be made")
	}
}

// Network shares, FUSE and such have no sync of folders (S1). Linux' /proc is one that is there
// everywhere.
func TestWorldS1FoldersThatCannotBeSynced(t *testing.T) {
	d, err := os.Open("/proc")
	if err != nil {
		t.Skip("there is no /proc")
	}
	defer d.Close()
	if d.Sync() == nil {
		t.Skip("/proc can be synced")
	}
	if err := durable.SyncFolder("/proc"); err != nil {
		t.Errorf("a file system without sync of folders: %v", err)
	}
	if err := durable.SyncFolder(filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Error("a folder that isn't there is synced")
	}
}
