package tarwriter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"drayage/blobstore/durable"
)

var (
	// ErrExists is wrapped when an output is there already.
	ErrExists = errors.New("exists already")
	// ErrBusy is wrapped when another process is writing the same output.
	ErrBusy = errors.New("another process is writing it")
)

// partSuffix ends the name under which an archive is written.
const partSuffix = ".drayage-part"

// File is an archive on its way to the disk. It appears under its name when it
// is complete and synced, or not at all.
type File struct {
	path    string
	part    *os.File
	special bool // a device or pipe, which is written to directly
	force   bool
	done    bool
}

// CreateFile begins an archive that will be called path. One that exists is
// refused with ErrExists unless force says to replace it. Bytes go to a file
// beside it, named with .drayage-part at the end, which a later try takes over if this
// process dies. The caller must call Close.
func CreateFile(path string, force bool) (*File, error) {
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return nil, &fs.PathError{Op: "writing to", Path: path, Err: syscall.EISDIR}
	case err == nil && !info.Mode().IsRegular():
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return nil, fmt.Errorf("output: %w", err)
		}
		return &File{path: path, part: f, special: true}, nil
	case err == nil && !force:
		return nil, fmt.Errorf("output %s: %w", path, ErrExists)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("output: %w", err)
	}
	part, err := lockPart(path + partSuffix)
	if err != nil {
		return nil, fmt.Errorf("output %s: %w", path, err)
	}
	f := &File{path: path, part: part, force: force}
	if err := part.Truncate(0); err != nil {
		return nil, errors.Join(fmt.Errorf("output: %w", err), f.Close())
	}
	return f, nil
}

// lockPart opens the file that the archive is written to, for this process
// alone. One that was removed between opening and locking is another's.
func lockPart(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
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
			return nil, ErrBusy
		}
	}
}

// Write writes the archive, syncs it and gives it its name.
func (f *File) Write(ctx context.Context, members []Member, blobs Blobs, progress func(n int64)) error {
	if err := Write(ctx, f.part, members, blobs, progress); err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	if f.special {
		return nil
	}
	if err := f.part.Sync(); err != nil {
		return fmt.Errorf("syncing %s: %w", f.path, err)
	}
	if err := f.name(); err != nil {
		return fmt.Errorf("naming the archive: %w", err)
	}
	f.done = true
	if err := durable.SyncFolder(filepath.Dir(f.path)); err != nil {
		return fmt.Errorf("syncing the folder of %s: %w", f.path, err)
	}
	return nil
}

// name gives the archive its name. Without force it takes none that another
// has meanwhile: a link refuses that, where there are links.
func (f *File) name() error {
	part := f.part.Name()
	if f.force {
		return os.Rename(part, f.path)
	}
	switch err := os.Link(part, f.path); {
	case err == nil:
		return os.Remove(part)
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%s: %w", f.path, ErrExists)
	}
	if _, err := os.Lstat(f.path); err == nil {
		return fmt.Errorf("%s: %w", f.path, ErrExists)
	}
	return os.Rename(part, f.path)
}

// Close ends the writing. What has not got its name is removed.
func (f *File) Close() error {
	var err error
	if !f.special && !f.done {
		err = os.Remove(f.part.Name())
	}
	return errors.Join(err, f.part.Close())
}

// Dir is an archive's members as files of a folder.
type Dir struct {
	path    string
	made    bool
	written []string
	done    bool
}

// CreateDir begins a folder. One that is not empty is refused with ErrExists
// unless force says to write into it. The caller must call Close.
func CreateDir(path string, force bool) (*Dir, error) {
	entries, err := os.ReadDir(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(path, 0o755); err != nil {
			return nil, fmt.Errorf("output: %w", err)
		}
		return &Dir{path: path, made: true}, nil
	case err != nil:
		return nil, fmt.Errorf("output: %w", err)
	case len(entries) > 0 && !force:
		return nil, fmt.Errorf("output folder %s: %w, and is not empty", path, ErrExists)
	}
	return &Dir{path: path}, nil
}

// Write writes the members. Those that tell what is there, such as index.json,
// come after those that they tell of, so that a reader never sees a name
// without its content.
func (d *Dir) Write(ctx context.Context, members []Member, blobs Blobs, progress func(n int64)) error {
	if progress == nil {
		progress = func(int64) {}
	}
	for _, told := range []bool{true, false} { // first blobs, then what names them
		for _, m := range members {
			if (m.Blob != "") != told {
				continue
			}
			if err := d.writeMember(ctx, m, blobs, progress); err != nil {
				return fmt.Errorf("%s: %w", d.path, err)
			}
		}
	}
	d.done = true
	return nil
}

func (d *Dir) writeMember(ctx context.Context, m Member, blobs Blobs, progress func(int64)) (err error) {
	path := filepath.Join(d.path, filepath.FromSlash(m.Name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	part, err := os.OpenFile(path+partSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(part.Name())
		}
	}()
	err = writeContent(ctx, part, m, blobs, progress)
	if err == nil {
		err = part.Sync()
	}
	if err = errors.Join(err, part.Close()); err != nil {
		return err
	}
	_, before := os.Lstat(path)
	if err := os.Rename(part.Name(), path); err != nil {
		return err
	}
	if before != nil { // what was there stays, also when the rest fails
		d.written = append(d.written, path)
	}
	return nil
}

// Close ends the writing. When it was not completed, what it made is removed.
func (d *Dir) Close() error {
	if d.done {
		return nil
	}
	for _, path := range d.written {
		os.Remove(path)
		for dir := filepath.Dir(path); dir != d.path && len(dir) > len(d.path); dir = filepath.Dir(dir) {
			os.Remove(dir) // refused, as it should be, while something is in it
		}
	}
	if d.made {
		for _, sub := range []string{"blobs/sha256", "blobs"} {
			os.Remove(filepath.Join(d.path, sub))
		}
		os.Remove(d.path)
	}
	return nil
}
