// Package blobstoretest makes stores fail on purpose: a disk that forgets at a
// power cut what was not synced, and one at whose calls a process may die.
package blobstoretest

import (
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"

	"drayage/blobstore/durable"
)

// Forgetful is a disk that knows what would be left of it if the power went
// now. It works on real files, and remembers of each what was synced, and what
// was written since.
type Forgetful struct {
	durable.OS

	mu    sync.Mutex
	names map[string]*inode // as they are now
	saved map[string]*inode // as of the last sync of their folder
}

// inode is a file, whatever its name.
type inode struct {
	synced  []byte // the content at the last sync
	unsaved []write
}

type write struct {
	off  int64 // -1 for a truncation
	data []byte
	size int64
}

// NewForgetful makes a disk. Files that are there count as synced.
func NewForgetful() *Forgetful {
	return &Forgetful{names: make(map[string]*inode), saved: make(map[string]*inode)}
}

// Open implements durable.Disk.
func (d *Forgetful) Open(path string) (durable.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	raw, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	existed := err == nil
	f, err := d.OS.Open(path)
	if err != nil {
		return nil, err
	}
	n := d.names[path]
	switch {
	case n != nil && existed:
	case existed: // from before
		n = &inode{synced: raw}
		d.names[path], d.saved[path] = n, n
	default:
		n = &inode{}
		d.names[path] = n
	}
	return &forgetfulFile{File: f, disk: d, node: n}, nil
}

// Rename implements durable.Disk.
func (d *Forgetful) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.OS.Rename(from, to); err != nil {
		return err
	}
	d.names[to] = d.names[from]
	delete(d.names, from)
	return nil
}

// SyncFolder implements durable.Disk.
func (d *Forgetful) SyncFolder(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name := range d.saved {
		if filepath.Dir(name) == path && d.names[name] == nil {
			delete(d.saved, name)
		}
	}
	for name, n := range d.names {
		if filepath.Dir(name) == path {
			d.saved[name] = n
		}
	}
	return d.OS.SyncFolder(path)
}

// forgetfulFile remembers what was written since the last sync.
type forgetfulFile struct {
	durable.File
	disk *Forgetful
	node *inode
}

func (f *forgetfulFile) WriteAt(p []byte, off int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.node.unsaved = append(f.node.unsaved, write{off: off, data: append([]byte(nil), p...)})
	return f.File.WriteAt(p, off)
}

func (f *forgetfulFile) Truncate(size int64) error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.node.unsaved = append(f.node.unsaved, write{off: -1, size: size})
	return f.File.Truncate(size)
}

// SyncData saves what was written before it was called.
func (f *forgetfulFile) SyncData() error {
	f.disk.mu.Lock()
	begun := len(f.node.unsaved)
	f.disk.mu.Unlock()
	err := f.File.SyncData()
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if err == nil {
		for _, w := range f.node.unsaved[:begun] {
			f.node.synced = w.apply(f.node.synced)
		}
		f.node.unsaved = f.node.unsaved[begun:]
	}
	return err
}

func (w write) apply(content []byte) []byte {
	end := w.off + int64(len(w.data))
	if w.off < 0 {
		end = w.size
	}
	if grow := end - int64(len(content)); grow > 0 {
		content = append(content, make([]byte, grow)...)
	}
	if w.off < 0 {
		return content[:end]
	}
	copy(content[w.off:], w.data)
	return content
}

// Cut copies what is left of the files below dir after a power cut into
// another folder. Of what was not synced some is there and some isn't, drawn
// from r: writes in any order, torn at the blocks of the disk, and names old or
// new. Files that did not go through the disk are as they were.
func (d *Forgetful) Cut(dir, into string, r *rand.Rand) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(into, path[len(dir):])
		if e.IsDir() {
			if err := os.MkdirAll(to, 0o755); err != nil {
				return err
			}
			return d.cutFolder(path, to, r)
		}
		if d.names[path] != nil {
			return nil // cutFolder's
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(to, raw, 0o600)
	})
}

// cutFolder writes the files of a folder that went through the disk.
func (d *Forgetful) cutFolder(path, to string, r *rand.Rand) error {
	left := make(map[string]*inode)
	for name, n := range d.saved {
		if filepath.Dir(name) == path && (d.names[name] == n || r.IntN(2) == 0) {
			left[name] = n
		}
	}
	for name, n := range d.names {
		if filepath.Dir(name) == path && d.saved[name] != n && r.IntN(2) == 0 {
			left[name] = n
		}
	}
	for name, n := range left {
		if err := os.WriteFile(filepath.Join(to, filepath.Base(name)), n.after(r), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// after is a file's content after a power cut.
func (n *inode) after(r *rand.Rand) []byte {
	const block = 4096
	content := append([]byte(nil), n.synced...)
	share := r.Float64()
	for _, w := range n.unsaved {
		if w.off < 0 {
			if r.Float64() < share {
				content = w.apply(content)
			}
			continue
		}
		for at := 0; at < len(w.data); {
			size := min(block-int((w.off+int64(at))%block), len(w.data)-at)
			if r.Float64() < share {
				content = write{off: w.off + int64(at), data: w.data[at : at+size]}.apply(content)
			}
			at += size
		}
	}
	return content
}
