package files

import (
	"errors"
	"os"

	"drayage/blobstore/durable"
)

// Temp is a temporary file that its process holds locked, so that others can tell whether it is dead. Write and Close
// must not run beside anything else; ReadAt may run beside ReadAt.
type Temp struct {
	sync bool
	path string
	lock *os.File
	data durable.File
	size int64
	done bool
}

// NewTemp makes one under a name that name invents. With sync, what is written is handed to the disk
// as it comes, and Sync waits for it.
func NewTemp(disk durable.Disk, sync bool, name func() string) (*Temp, error) {
	for {
		t := &Temp{sync: sync, path: name()}
		var err error
		if t.lock, err = os.OpenFile(t.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644); err != nil {
			return nil, err
		}
		won, err := durable.TryLock(t.lock)
		if err == nil && (!won || !durable.StillNamed(t.lock, t.path)) {
			// Before it was locked it looked like that of a process that died.
			if err = t.lock.Close(); err == nil {
				continue
			}
		}
		if err == nil {
			t.data, err = disk.Open(t.path)
		}
		if err != nil {
			return nil, errors.Join(err, t.Close())
		}
		return t, nil
	}
}

// Write implements io.Writer: it appends.
func (t *Temp) Write(p []byte) (int, error) {
	n, err := t.data.WriteAt(p, t.size)
	const batch = 8 << 20 // handed to the disk at once
	if t.sync && t.size/batch != (t.size+int64(n))/batch {
		end := (t.size + int64(n)) / batch * batch
		t.data.StartWriting(end-batch, batch)
	}
	t.size += int64(n)
	return n, err
}

// ReadAt implements io.ReaderAt, for what was written so far.
func (t *Temp) ReadAt(p []byte, at int64) (int, error) { return t.data.ReadAt(p, at) }

// Size is how many bytes were written so far.
func (t *Temp) Size() int64 { return t.size }

// Sync waits until what was written is on the disk, in a store that syncs.
func (t *Temp) Sync() error {
	if !t.sync {
		return nil
	}
	return t.data.SyncData()
}

// Close removes the file, unless Keep was called.
func (t *Temp) Close() error {
	var errs []error
	if !t.done {
		errs = append(errs, os.Remove(t.path))
	}
	if t.data != nil {
		errs = append(errs, t.data.Close())
	}
	return errors.Join(append(errs, t.lock.Close())...)
}

// Path is its name.
func (t *Temp) Path() string { return t.path }

// Keep has the file stay, or says that it was renamed.
func (t *Temp) Keep() { t.done = true }
