package files

import (
	"sync"

	"drayage/blobstore/durable"
)

// FolderSync syncs one folder for many callers: a sync that begins after a
// rename covers it, so callers who come while one is running share the next. Its methods may be called from several goroutines.
type FolderSync struct {
	disk durable.Disk
	path string

	mu      sync.Mutex
	changed *sync.Cond
	begun   int // syncs begun so far
	done    int // the last one that ended
	failed  int // the last one that failed
	err     error
}

// NewFolderSync makes one for the folder at path, which is synced by disk.
func NewFolderSync(disk durable.Disk, path string) *FolderSync {
	f := &FolderSync{disk: disk, path: path}
	f.changed = sync.NewCond(&f.mu)
	return f
}

// Sync returns when a sync that began after the call has ended. A failure is everybody's who
// waits: what the kernel could not write it may have dropped, so that a later sync that
// succeeds says nothing about it. It is not that of later callers.
func (f *FolderSync) Sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	need := f.begun + 1
	for f.done < need {
		if f.begun > f.done { // one is running, too early for us
			f.changed.Wait()
			continue
		}
		f.begun++
		f.mu.Unlock()
		err := f.disk.SyncFolder(f.path)
		f.mu.Lock()
		f.done = f.begun
		if err != nil {
			f.failed, f.err = f.begun, err
		}
		f.changed.Broadcast()
	}
	if f.failed >= need {
		return f.err
	}
	return nil
}
