package tarwriter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"drayage/blobstore/durable"
	"drayage/engine/fault"
	"drayage/tarwriter/squeeze"
)

var (
	// ErrExists is wrapped when an output is there already.
	ErrExists = fault.WithHint(fault.Local, "exists already", "--force overwrites it")
	// ErrBusy is wrapped when another process is writing the same output.
	ErrBusy = fault.New(fault.Local, "another process is writing it")
)

// partSuffix ends the name under which an archive is written.
const partSuffix = ".drayage-part"

// FileOptions say how an archive is written to a file.
type FileOptions struct {
	Force    bool           // replace one that exists
	Compress squeeze.Format // the archive as a whole
	// Split, if not 0, cuts the archive into volumes of at most so many bytes,
	// rounded down to a multiple of VolumeUnit.
	Split int64
	// NoSync doesn't wait for the disk: the archive may not outlast a power cut.
	NoSync bool
}

// Report says what became of an archive.
type Report struct {
	Size int64 // bytes written, after compression
	Moved
}

// File is an archive on its way to the disk. It appears under its name when it
// is complete and synced, or not at all.
type File struct {
	path    string
	opts    FileOptions
	part    *os.File
	mode    fs.FileMode // of the archive; the part is this user's alone
	vols    *volumes
	special bool // a device or pipe, which is written to directly
	done    bool
}

// CreateFile begins an archive that will be called path. One that exists is
// refused with ErrExists unless it is to be replaced; a symbolic link is replaced, and not
// followed. Bytes go to a file beside it, named with .drayage-part at the end, which a later try
// takes away if this process dies, and which only this user may read. What else has that name
// may have been put there by another user of the folder, and is an error. The caller must call
// Close.
//
// Volumes are called path.001, path.002 and so on; beside them is path.sha256, in the
// form that sha256sum -c reads, and it appears last.
func CreateFile(path string, o FileOptions) (*File, error) {
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return nil, &fs.PathError{Op: "writing to", Path: path, Err: syscall.EISDIR}
	case err == nil && !info.Mode().IsRegular() && o.Split > 0:
		return nil, fmt.Errorf("output %s: %w, and is no file: it can't be volumes", path, ErrExists)
	case err == nil && !info.Mode().IsRegular():
		if durable.Planted(path) { // who reads from it isn't who was meant to
			return nil, fmt.Errorf("output: %w", &fs.PathError{Op: "writing to", Path: path, Err: durable.ErrForeign})
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return nil, fmt.Errorf("output: %w", err)
		}
		return &File{path: path, part: f, special: true, opts: o}, nil
	case err == nil && !o.Force && o.Split == 0:
		return nil, fmt.Errorf("output %s: %w", path, ErrExists)
	case errors.Is(err, fs.ErrNotExist) && !o.Force && isThere(path): // a link that leads nowhere
		return nil, fmt.Errorf("output %s: %w", path, ErrExists)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("output: %w", err)
	}
	if o.Split > 0 {
		old, err := findVolumes(path)
		if err != nil {
			return nil, fmt.Errorf("output: %w", err)
		}
		_, dead := os.Lstat(path + sumsSuffix + partSuffix) // written before the first has its name
		_, whole := os.Lstat(path + sumsSuffix)
		if dead == nil && whole != nil { // a process died while it gave volumes their names
			o.Force = true
		}
		if len(old) > 0 && !o.Force {
			return nil, fmt.Errorf("output %s: %w", old[0], ErrExists)
		}
	}
	part, err := lockPart(path)
	if err != nil {
		return nil, fmt.Errorf("output %s: %w", path, err)
	}
	f := &File{path: path, part: part, opts: o}
	f.mode, err = keepPrivate(part)
	if err == nil && o.Split > 0 {
		err = removeParts(path) // of a process that died: this one has the lock
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("output: %w", err), f.Close())
	}
	return f, nil
}

func isThere(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// keepPrivate makes a new file one that only this user may read, and returns the mode that it had
// by the umask and its folder, for when it has its name.
func keepPrivate(f *os.File) (fs.FileMode, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	const private = 0o600
	_ = f.Chmod(private) // some file systems have no modes
	return info.Mode().Perm(), nil
}

// newMode is that of files that are written, by the umask.
const newMode = 0o644

// lockPart makes the file that the archive at path is written to, for this process alone. What a
// process that died has left of one goes: nothing of it is used. One that was removed between
// opening and locking is another's. One that has the archive's name too was left by a process
// that died while it gave it that name: then only this name is taken away.
func lockPart(path string) (*os.File, error) {
	archive := path
	path += partSuffix
	for {
		if sameFile(archive, path) {
			if err := os.Remove(path); err != nil {
				return nil, err
			}
		}
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, newMode)
		if errors.Is(err, fs.ErrExist) {
			if err = clearPart(path); err == nil {
				continue
			}
		}
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

// clearPart removes a part that this user's process has left that died.
func clearPart(path string) error {
	f, err := durable.OpenPlain(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if errors.Is(err, fs.ErrPermission) { // say why
		if info, errStat := os.Lstat(path); errStat == nil {
			if uid, ok := durable.Owner(info); ok && uid != os.Geteuid() {
				return &fs.PathError{Op: "open", Path: path, Err: fmt.Errorf("%w (user id %d)", durable.ErrForeign, uid)}
			}
		}
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := durable.CheckOwn(f); err != nil {
		if !durable.StillNamed(f, path) { // its writer is done just now
			return nil
		}
		return err
	}
	won, err := durable.TryLock(f)
	switch {
	case err != nil:
		return err
	case !won:
		return ErrBusy
	case !durable.StillNamed(f, path):
		return nil
	}
	if removesOpen {
		return os.Remove(path)
	}
	return errors.Join(f.Close(), os.Remove(path))
}

// removesOpen is whether a file can be removed while it is open.
const removesOpen = runtime.GOOS != "windows"

// removeFile removes what a process that died has left under a name, if that is no folder.
func removeFile(path string) error {
	info, err := os.Lstat(path)
	if err != nil || info.IsDir() {
		return nil // it will be told when the name is used
	}
	return os.Remove(path)
}

// sameFile reports whether two names are of one file.
func sameFile(a, b string) bool {
	x, errA := os.Lstat(a)
	y, errB := os.Lstat(b)
	return errA == nil && errB == nil && os.SameFile(x, y)
}

// Write writes the archive, syncs it and gives it its name.
func (f *File) Write(ctx context.Context, members []Member, blobs Blobs, progress func(n int64)) (Report, error) {
	size, err := Size(members)
	if err != nil {
		return Report{}, err
	}
	var w io.Writer = f.part
	if f.opts.Split > 0 {
		const slack = 1 << 20 // of what compression may add to what doesn't compress
		f.vols = newVolumes(f.path, max(VolumeUnit, f.opts.Split/VolumeUnit*VolumeUnit), size+size/1000+slack)
		f.vols.lazy = f.opts.NoSync
		w = f.vols
	}
	var moved Moved
	if f.vols == nil && !f.special && f.opts.Compress == squeeze.None {
		moved, err = scatter(ctx, f.part, members, blobs, progress)
	} else {
		moved, err = writeSqueezed(ctx, w, f.opts.Compress, members, blobs, progress)
	}
	if err != nil {
		return Report{}, fmt.Errorf("%s: %w", f.path, err)
	}
	r := Report{Size: size, Moved: moved}
	switch {
	case f.vols != nil:
		r.Size = f.vols.total()
	case f.opts.Compress != squeeze.None && !f.special:
		if r.Size, err = f.part.Seek(0, io.SeekCurrent); err != nil {
			return Report{}, fmt.Errorf("%s: %w", f.path, err)
		}
	}
	return r, f.publish(ctx)
}

// writeSqueezed is Write through a compression.
func writeSqueezed(ctx context.Context, w io.Writer, c squeeze.Format, members []Member, blobs Blobs, progress func(n int64)) (Moved, error) {
	if c == squeeze.None {
		return Write(ctx, w, members, blobs, progress)
	}
	z := squeeze.NewWriter(w, c)
	moved, err := Write(ctx, z, members, blobs, progress)
	if closed := z.Close(); err == nil { // else it is the same error again
		err = closed
	}
	return moved, err
}

// publish syncs what was written and gives it its name.
func (f *File) publish(ctx context.Context) error {
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
	if err := giveName(f.part, f.path, f.opts.Force); err != nil {
		return fmt.Errorf("naming the archive: %w", err)
	}
	f.done = true
	if f.opts.NoSync {
		return nil
	}
	if err := durable.SyncFolder(filepath.Dir(f.path)); err != nil {
		return fmt.Errorf("syncing the folder of %s: %w", f.path, err)
	}
	return nil
}

// giveName gives an open file its name, which nobody who may change the folder has given to
// another meanwhile.
func giveName(f *os.File, path string, force bool) error {
	if err := nameFile(f.Name(), path, force); err != nil {
		return err
	}
	if !durable.StillNamed(f, path) {
		return &fs.PathError{Op: "naming", Path: path, Err: errors.New("another process put something else in its place")}
	}
	return nil
}

// nameFile gives a file its name. Without force it takes none that another
// has meanwhile: a link refuses that, where there are links.
func nameFile(part, path string, force bool) error {
	if force {
		return os.Rename(part, path)
	}
	switch err := os.Link(part, path); {
	case err == nil:
		return os.Remove(part)
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%s: %w", path, ErrExists)
	}
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s: %w", path, ErrExists)
	}
	return os.Rename(part, path)
}

// Close ends the writing. What has not got its name is removed.
func (f *File) Close() error {
	var errs []error
	if f.vols != nil {
		errs = append(errs, f.vols.close())
	}
	if !f.special && !f.done && durable.StillNamed(f.part, f.part.Name()) {
		errs = append(errs, os.Remove(f.part.Name()))
	}
	return errors.Join(append(errs, f.part.Close())...)
}

// Stream is an archive to a pipe or a program, which begins at once.
type Stream struct {
	Out      *os.File
	Compress squeeze.Format
}

// Write writes the archive.
func (s Stream) Write(ctx context.Context, members []Member, blobs Blobs, progress func(n int64)) (Report, error) {
	size, err := Size(members)
	if err != nil {
		return Report{}, err
	}
	widen(s.Out)
	count := &counter{w: s.Out}
	if s.Compress == squeeze.None {
		moved, err := Write(ctx, s.Out, members, blobs, progress)
		return Report{Size: size, Moved: moved}, err
	}
	moved, err := writeSqueezed(ctx, count, s.Compress, members, blobs, progress)
	return Report{Size: count.n, Moved: moved}, err
}

// Close does nothing: Out is the caller's.
func (Stream) Close() error { return nil }

// counter counts what is written.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// Dir is an archive's members as files of a folder. Links in it that lead out of it are not
// followed.
type Dir struct {
	path    string
	root    *os.Root
	lock    *os.File // marks the folder as one that is being written, and is locked while it is
	lazy    bool     // the disk isn't waited for
	made    bool
	left    bool // by a run that was killed: it was there before this one
	written []string
	done    bool
}

// CreateDir begins a folder. One that is not empty is refused with ErrExists
// unless it is to be written into. Of the options Force and NoSync count. The caller
// must call Close.
func CreateDir(path string, o FileOptions) (*Dir, error) {
	if durable.Planted(path) && (!o.Force || os.Geteuid() != 0) { // whose it is could change what is in it
		return nil, fmt.Errorf("output folder: %w", &fs.PathError{Op: "writing to", Path: path, Err: errForeignFolder()})
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
		return nil, fmt.Errorf("output folder %s: %w, and is not empty", path, ErrExists)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("output: %w", err)
	}
	d := &Dir{path: path, root: root, made: made, left: left, lazy: o.NoSync}
	err = d.mark(len(entries) == 0)
	if err == nil && left {
		err = d.clear()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("output folder %s: %w", path, err), d.closeFiles())
	}
	return d, nil
}

// errForeignFolder is durable.ErrForeign, and says how root may have it nevertheless: who gives
// files to other users writes into their folders.
func errForeignFolder() error {
	if os.Geteuid() == 0 {
		return fmt.Errorf("%w; --force writes into it, and its owner can change what is there", durable.ErrForeign)
	}
	return durable.ErrForeign
}

// dirMark is a file in a folder that is being written. What a run left that was killed has it,
// and is taken over. It has ownFolder in it where nothing else was there before.
const (
	dirMark   = ".drayage-part"
	ownFolder = "all here is of an archive that is being written\n"
)

// mark marks the folder as one that is being written, by this process alone, and that had
// nothing in it before when it is empty. A mark that another user has made says nothing of what
// may be removed.
func (d *Dir) mark(empty bool) (err error) {
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
		err = ErrBusy
	}
	if err == nil && !durable.StillNamed(d.lock, d.lock.Name()) { // whoever wrote it is done just now
		err = ErrBusy
	}
	if err == nil && empty {
		_, err = d.lock.WriteString(ownFolder)
	}
	return err
}

// closeFiles closes what is open of the folder.
func (d *Dir) closeFiles() error {
	err := d.root.Close()
	if d.lock != nil {
		err = errors.Join(err, d.lock.Close())
	}
	return err
}

// clear removes what a run left that was killed: all of it in a folder of its own, else the parts
// of files.
func (d *Dir) clear() error {
	mark, err := io.ReadAll(io.LimitReader(d.lock, int64(len(ownFolder))))
	if err != nil {
		return err
	}
	if string(mark) == ownFolder {
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

// clearParts removes parts of files.
func (d *Dir) clearParts() error {
	return fs.WalkDir(d.root.FS(), ".", func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && strings.HasSuffix(path, partSuffix) && e.Name() != dirMark {
			err = d.removePart(path, e)
		}
		return err
	})
}

// removePart removes part of a file, unless another process is writing it.
func (d *Dir) removePart(path string, e fs.DirEntry) error {
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

// unmark ends the writing of a folder.
func (d *Dir) unmark() error {
	if d.lock == nil {
		return nil
	}
	err := errors.Join(d.root.Remove(dirMark), d.lock.Close())
	d.lock = nil
	return err
}

// Write writes the members. Those that tell what is there, such as index.json,
// come after those that they tell of, so that a reader never sees a name
// without its content.
func (d *Dir) Write(ctx context.Context, members []Member, blobs Blobs, progress func(n int64)) (Report, error) {
	var r Report
	if progress == nil {
		progress = func(int64) {}
	}
	for _, told := range []bool{true, false} { // first blobs, then what names them
		for _, m := range members {
			if (m.Blob != "" || m.Link != "") != told {
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
	if err := d.syncFolders(); err != nil {
		return r, fmt.Errorf("%s: %w", d.path, err)
	}
	d.done = true
	return r, nil
}

// syncFolders makes the names of what was written outlast a power cut.
func (d *Dir) syncFolders() error {
	if d.lazy {
		return nil
	}
	return filepath.WalkDir(d.path, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return err
		}
		return durable.SyncFolder(path)
	})
}

func (d *Dir) writeMember(ctx context.Context, m Member, blobs Blobs, progress func(int64)) (moved Moved, err error) {
	path := filepath.FromSlash(m.Name)
	if err := d.root.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return moved, err
	}
	part := path + partSuffix
	if info, err := d.root.Lstat(part); err == nil && !info.IsDir() { // of a run that died
		if err := d.root.Remove(part); err != nil {
			return moved, err
		}
	}
	defer func() {
		if err != nil {
			_ = d.root.Remove(part) // the error is told
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
	if before != nil { // what was there stays, also when the rest fails
		d.written = append(d.written, path)
	}
	return moved, nil
}

// writeFile writes a member's content to a file, and syncs it.
func (d *Dir) writeFile(ctx context.Context, path string, m Member, blobs Blobs, progress func(int64)) (Moved, error) {
	f, err := d.root.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, newMode)
	if err != nil {
		return Moved{}, err
	}
	out := mover{w: f}
	err = writeContent(ctx, &out, m, blobs, progress)
	if err == nil && !d.lazy {
		err = f.Sync()
	}
	return out.moved, errors.Join(err, f.Close())
}

// Close ends the writing. When it was not completed, what it made is removed; in a folder that
// a run left that was killed all stays as it is, for the next one to take over.
func (d *Dir) Close() error {
	if d.done || d.left {
		return d.closeFiles()
	}
	err := d.unmark()
	for _, path := range d.written {
		_ = d.root.Remove(path)
		for dir := filepath.Dir(path); dir != "."; dir = filepath.Dir(dir) {
			_ = d.root.Remove(dir) // refused, as it should be, while something is in it
		}
	}
	if d.made {
		for _, sub := range []string{"blobs/sha256", "blobs"} { // of OCI layouts; others have the folders of what they wrote
			_ = d.root.Remove(sub)
		}
		os.Remove(d.path)
	}
	return errors.Join(err, d.closeFiles())
}
