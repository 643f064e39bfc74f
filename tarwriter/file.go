package tarwriter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"drayage/blobstore/durable"
	"drayage/tarwriter/compress"
)

// Options are options of CreateFile and CreateDir. The zero value refuses to replace anything,
// writes one file, uncompressed, and waits until it is on disk.
type Options struct {
	Force    bool            // replace what exists
	Compress compress.Format // of the archive as a whole; default none
	// Split is the maximum size of a volume in bytes, rounded down to a multiple of VolumeUnit and
	// at least that. 0 does not split the archive.
	Split int64
	// NoSync does not wait for the disk: the archive may be lost in a power cut.
	NoSync bool
}

// file is an archive that is being written to a file. It appears under its name when it is complete
// and on disk, or not at all. It is for one goroutine.
type file struct {
	path    string
	opts    Options
	part    *os.File
	mode    fs.FileMode // of the archive; the part is readable for this user only
	vols    *volumes
	special bool // a device or pipe, which is written to directly
	done    bool
}

// CreateFile begins an archive at path. If path exists, the error is an ErrExists unless o.Force is
// set; then the archive replaces it when it is complete. A symbolic link is replaced, not followed.
// A device or pipe is written to directly. If another process is writing the same archive, the error
// is an errBusy.
//
// Until the archive is complete it is in path.drayage-part, which only this user may read. If this
// process is killed, the next CreateFile removes that file. Anything else of that name may have been
// put there by another user of the directory, and is an error.
//
// Volumes have the names path.001, path.002 and so on, with more digits if there are many; their
// checksums, in the format of sha256sum -c, are in path.sha256, which appears last.
//
// The caller must call Output.Close, also after a successful Output.Write.
func CreateFile(path string, o Options) (Output, error) {
	f, err := openSpecial(path, o)
	if err != nil {
		return nil, err
	}
	if f != nil {
		return f, nil
	}
	if o.Split > 0 {
		if o.Force, err = mayReplaceVolumes(path, o.Force); err != nil {
			return nil, err
		}
	}
	part, err := lockPart(path)
	if err != nil {
		return nil, fmt.Errorf("output %s: %w", path, err)
	}
	f = &file{path: path, part: part, opts: o}
	f.mode, err = keepPrivate(part)
	if err == nil && o.Split > 0 {
		err = removeParts(path) // of a process that was killed: this one has the lock
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("output: %w", err), f.Close())
	}
	return f, nil
}

// openSpecial opens a device or pipe, and is nil for a path where a regular file may be made.
func openSpecial(path string, o Options) (*file, error) {
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return nil, &fs.PathError{Op: "writing to", Path: path, Err: syscall.EISDIR}
	case err == nil && !info.Mode().IsRegular() && o.Split > 0:
		return nil, fmt.Errorf("output %s: %w and is not a regular file, which is required for volumes", path, ErrExists)
	case err == nil && !info.Mode().IsRegular():
		f, err := openDevice(path)
		if err != nil {
			return nil, fmt.Errorf("output: %w", err)
		}
		return &file{path: path, part: f, special: true, opts: o}, nil
	case err == nil && !o.Force && o.Split == 0:
		return nil, fmt.Errorf("output %s: %w", path, ErrExists)
	case errors.Is(err, fs.ErrNotExist) && !o.Force && isThere(path): // a dangling link
		return nil, fmt.Errorf("output %s: %w", path, ErrExists)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("output: %w", err)
	}
	return nil, nil
}

// openDevice opens a device or a pipe for writing, behind links.
func openDevice(path string) (*os.File, error) {
	to, err := durable.Follow(path)
	if err != nil {
		return nil, err
	}
	f, err := durable.OpenStanding(to)
	if err == nil && f == nil { // it was one just now
		err = &fs.PathError{Op: "writing to", Path: path, Err: durable.ErrNotPlain}
	}
	return f, err
}

// Write writes the archive, waits until it is on disk, and renames it to its final name. It is
// called once. Without compression and volumes, blobs are written in the order in which they can be
// opened. progress, if not nil, is called with numbers of bytes before compression, never from two
// goroutines at a time; their sum is Size of the members. When ctx is done, the error is its cause.
// After an error, nothing appears under the archive's name.
func (f *file) Write(ctx context.Context, members []Member, blobs Blobs, progress func(n int64)) (Result, error) {
	size, err := Size(members)
	if err != nil {
		return Result{}, err
	}
	var w io.Writer = f.part
	if f.opts.Split > 0 {
		const slack = 1 << 20 // for what compression adds to incompressible data
		f.vols = newVolumes(f.path, max(VolumeUnit, f.opts.Split/VolumeUnit*VolumeUnit), size+size/1000+slack)
		f.vols.noSync = f.opts.NoSync
		w = f.vols
	}
	var moved Moved
	if f.vols == nil && !f.special && f.opts.Compress == compress.None {
		moved, err = writeAnyOrder(ctx, f.part, members, blobs, progress)
	} else {
		moved, err = writeCompressed(ctx, w, f.opts.Compress, members, blobs, progress)
	}
	if err != nil {
		return Result{}, fmt.Errorf("%s: %w", f.path, err)
	}
	r := Result{Size: size, Moved: moved}
	switch {
	case f.vols != nil:
		r.Size = f.vols.total()
	case f.opts.Compress != compress.None && !f.special:
		if r.Size, err = f.part.Seek(0, io.SeekCurrent); err != nil {
			return Result{}, fmt.Errorf("%s: %w", f.path, err)
		}
	}
	return r, f.publish(ctx)
}

// publish syncs what was written and renames it to its final name.
func (f *file) publish(ctx context.Context) error {
	if f.special {
		return nil
	}
	if f.vols != nil {
		if err := f.vols.publish(ctx, f.opts.Force); err != nil {
			return fmt.Errorf("%s: %w", f.path, err)
		}
		return nil
	}
	if !f.opts.NoSync {
		if err := f.part.Sync(); err != nil {
			return fmt.Errorf("syncing %s: %w", f.path, err)
		}
	}
	_ = f.part.Chmod(f.mode) // some file systems have no modes
	if err := nameOpen(f.part, f.path, f.opts.Force); err != nil {
		return fmt.Errorf("naming the archive: %w", err)
	}
	f.done = true
	if f.opts.NoSync {
		return nil
	}
	if err := durable.SyncFolder(filepath.Dir(f.path)); err != nil {
		return fmt.Errorf("syncing the directory of %s: %w", f.path, err)
	}
	return nil
}

// Close releases the lock and removes what Write has not completed. Its error after a successful
// Write means that a file could not be closed; the archive is complete.
func (f *file) Close() error {
	var errs []error
	if f.vols != nil {
		errs = append(errs, f.vols.close())
	}
	if !f.special && !f.done && durable.StillNamed(f.part, f.part.Name()) {
		errs = append(errs, os.Remove(f.part.Name()))
	}
	return errors.Join(append(errs, f.part.Close())...)
}
