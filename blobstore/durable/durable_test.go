package durable_test

import (
	"os"
	"path/filepath"
	"testing"

	"drayage/blobstore/durable"
)

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
