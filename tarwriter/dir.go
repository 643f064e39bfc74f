package tarwriter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"drayage/blobstore/durable"
)

// dir is an archive's members as files of a directory. Links in it that lead out of it are not
// followed. It is for one goroutine.
type dir struct {
	path    string
	root    *os.Root
	lock    *os.File // the file dirMark, locked while the directory is being written
	noSync  bool
	made    bool     // the directory did not exist before
	left    bool     // by a process that was killed
	written []string // new names, to be removed after a failure
	done    bool
}

// CreateDir begins to write an archive's members to the directory at path, which it creates if
// necessary. For one that is not empty the error is an ErrExists unless o.Force is set; then members
// replace files of the same names and others stay, and root may write into a directory of another
// user. If another process is writing to it, the error is an errBusy. Of the options, only Force and
// NoSync are used.
//
// While the directory is being written it contains the file .drayage-part. If this process is
// killed, the next CreateDir removes what it has left.
//
// The caller must call Output.Close, also after a successful Output.Write.
func CreateDir(path string, o Options) (Output, error) {
	if durable.Planted(path) && (!o.Force || os.Geteuid() != 0) { // its owner could change the content
		return nil, fmt.Errorf("output directory: %w", &fs.PathError{Op: "writing to", Path: path, Err: errForeignDir()})
	}
	entries, err := os.ReadDir(path)
	made := errors.Is(err, fs.ErrNotExist)
	if made {
		err = os.MkdirAll(path, 0o755)
	}
	if err != nil {
		return nil, fmt.Errorf("output: %w", err)
	}
	left := slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == dirMark })
	if len(entries) > 0 && !o.Force && !left {
		return nil, fmt.Errorf("output directory %s: %w and is not empty", path, ErrExists)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("output: %w", err)
	}
	d := &dir{path: path, root: root, made: made, left: left, noSync: o.NoSync}
	err = d.mark(len(entries) == 0)
	if err == nil && left {
		err = d.clear()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("output directory %s: %w", path, err), d.closeFiles())
	}
	return d, nil
}

// errForeignDir is durable.ErrForeign, for root with the option that allows it: root writes into
// directories of other users to hand files over.
func errForeignDir() error {
	if os.Geteuid() == 0 {
		return fmt.Errorf("%w; --force writes into it, and its owner can change what is there", durable.ErrForeign)
	}
	return durable.ErrForeign
}

// dirMark is a file in a directory that is being written, and stays when the process is killed. Its
// content is ownDir if the directory was empty before.
const (
	dirMark = ".drayage-part"
	ownDir  = "all here is of an archive that is being written\n"
)

// mark creates and locks dirMark; empty is whether the directory has nothing else in it. One that
// another user has created is refused: it must not decide what is removed.
func (d *dir) mark(empty bool) (err error) {
	d.lock, err = d.root.OpenFile(dirMark, os.O_RDWR|os.O_CREATE|os.O_EXCL, newMode)
	if errors.Is(err, fs.ErrExist) {
		if d.lock, err = durable.OpenPlainIn(d.root, dirMark, os.O_RDWR, 0); err == nil {
			err = durable.CheckOwn(d.lock)
		}
	}
	if err != nil {
		return err
	}
	won, err := durable.TryLock(d.lock)
	if err == nil && !won {
		err = errBusy
	}
	if err == nil && !durable.StillNamed(d.lock, d.lock.Name()) { // its writer has just completed it
		err = errBusy
	}
	if err == nil && empty {
		_, err = d.lock.WriteString(ownDir)
	}
	return err
}

// closeFiles closes the directory and its mark.
func (d *dir) closeFiles() error {
	err := d.root.Close()
	if d.lock != nil {
		err = errors.Join(err, d.lock.Close())
	}
	return err
}

// clear removes what a process has left that was killed: everything if the directory was empty
// before, otherwise parts of files.
func (d *dir) clear() error {
	mark, err := io.ReadAll(io.LimitReader(d.lock, int64(len(ownDir))))
	if err != nil {
		return err
	}
	if string(mark) == ownDir {
		entries, err := os.ReadDir(d.path)
		for _, e := range entries {
			if e.Name() != dirMark {
				err = errors.Join(err, d.root.RemoveAll(e.Name()))
			}
		}
		return err
	}
	return d.clearParts()
}

// clearParts removes all parts of files.
func (d *dir) clearParts() error {
	return fs.WalkDir(d.root.FS(), ".", func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && strings.HasSuffix(path, partSuffix) && e.Name() != dirMark {
			err = d.removePart(path, e)
		}
		return err
	})
}

// removePart removes a part of a file, unless another process is writing it.
func (d *dir) removePart(path string, e fs.DirEntry) error {
	if e.Type().IsRegular() {
		f, err := durable.OpenPlainIn(d.root, path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		if won, err := durable.TryLock(f); err != nil || !won {
			return err
		}
	}
	return d.root.Remove(path)
}

// unmark removes dirMark.
func (d *dir) unmark() error {
	if d.lock == nil {
		return nil
	}
	err := errors.Join(d.root.Remove(dirMark), d.lock.Close())
	d.lock = nil
	return err
}

// Write writes the members and waits until they are on disk. It is called once. Blobs are written
// before the members that refer to them, such as index.json, so that a reader never finds a name
// without its content. progress is as for the function Write. When ctx is done, the error is its
// cause.
func (d *dir) Write(ctx context.Context, members []Member, blobs Blobs, progress func(n int64)) (Result, error) {
	var r Result
	if progress == nil {
		progress = func(int64) {}
	}
	for _, first := range []bool{true, false} { // blobs, then what refers to them
		for _, m := range members {
			if (m.Blob != "" || m.Link != "") != first {
				continue
			}
			moved, err := d.writeMember(ctx, m, blobs, progress)
			if err != nil {
				return r, fmt.Errorf("%s: %w", d.path, err)
			}
			r.Size += m.Size
			r.add(moved)
		}
	}
	if err := d.unmark(); err != nil {
		return r, fmt.Errorf("%s: %w", d.path, err)
	}
	if err := d.syncDirs(); err != nil {
		return r, fmt.Errorf("%s: %w", d.path, err)
	}
	d.done = true
	return r, nil
}

// syncDirs makes the names of files durable.
func (d *dir) syncDirs() error {
	if d.noSync {
		return nil
	}
	return filepath.WalkDir(d.path, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return err
		}
		return durable.SyncFolder(path)
	})
}

// writeMember writes a member to a part, and renames that to the member's name.
func (d *dir) writeMember(ctx context.Context, m Member, blobs Blobs, progress func(int64)) (moved Moved, err error) {
	path := filepath.FromSlash(m.Name)
	if err := d.root.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return moved, err
	}
	part := path + partSuffix
	if info, err := d.root.Lstat(part); err == nil && !info.IsDir() { // of a process that was killed
		if err := d.root.Remove(part); err != nil {
			return moved, err
		}
	}
	defer func() {
		if err != nil {
			_ = d.root.Remove(part) // the first error is returned
		}
	}()
	if m.Link != "" {
		if err := d.root.Symlink(filepath.FromSlash(m.Link), part); err != nil {
			return moved, err
		}
	} else if moved, err = d.writeFile(ctx, part, m, blobs, progress); err != nil {
		return moved, err
	}
	_, before := d.root.Lstat(path)
	if err := d.root.Rename(part, path); err != nil {
		return moved, err
	}
	if before != nil { // a file that was replaced stays also when the rest fails
		d.written = append(d.written, path)
	}
	return moved, nil
}

// writeFile writes a member's content to a new file, and syncs it.
func (d *dir) writeFile(ctx context.Context, path string, m Member, blobs Blobs, progress func(int64)) (Moved, error) {
	f, err := d.root.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, newMode)
	if err != nil {
		return Moved{}, err
	}
	out := copier{w: f}
	err = writeContent(ctx, &out, m, blobs, progress)
	if err == nil && !d.noSync {
		err = f.Sync()
	}
	return out.moved, errors.Join(err, f.Close())
}

// Close releases the lock. If Write has not completed, it removes what was created, and the
// directory if that is new; a directory that a killed process has left stays as it is, for the next
// CreateDir to clear.
func (d *dir) Close() error {
	if d.done || d.left {
		return d.closeFiles()
	}
	err := d.unmark()
	for _, path := range d.written {
		_ = d.root.Remove(path)
		for dir := filepath.Dir(path); dir != "."; dir = filepath.Dir(dir) {
			_ = d.root.Remove(dir) // fails while something is in it
		}
	}
	if d.made {
		for _, sub := range []string{"blobs/sha256", "blobs"} { // of OCI layouts
			_ = d.root.Remove(sub)
		}
		os.Remove(d.path)
	}
	return errors.Join(err, d.closeFiles())
}
