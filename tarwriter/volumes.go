package tarwriter

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"drayage/blobstore/durable"

	"golang.org/x/sync/errgroup"
)

// VolumeUnit is the number of bytes that sizes of volumes are rounded down to a multiple of: the
// alignment of large members, so that they stay aligned within each volume.
const VolumeUnit = 64 << 10

// sumsSuffix ends the name of the file with the volumes' checksums.
const sumsSuffix = ".sha256"

// volumes is an archive split into files of size bytes, the last one of at most that. It is an
// io.Writer.
type volumes struct {
	path   string
	size   int64
	digits int // of the numbers in names
	files  []*os.File
	at     int64       // bytes in the last of files
	mode   fs.FileMode // that they get with their names
	fresh  bool        // the next byte begins a file
	noSync bool
}

// newVolumes begins volumes for an archive of at most total bytes.
func newVolumes(path string, size, total int64) *volumes {
	n := total/size + 1
	// One digit more than necessary, so that all numbers begin with 0 and FILE.0* matches them.
	return &volumes{path: path, size: size, digits: max(3, len(fmt.Sprint(n))+1), fresh: true}
}

func (v *volumes) name(i int) string { return fmt.Sprintf("%s.%0*d", v.path, v.digits, i+1) }

// current is the file for the next bytes, and how many more it may have.
func (v *volumes) current() (*os.File, int64, error) {
	if v.fresh || v.at == v.size {
		f, err := os.OpenFile(v.name(len(v.files))+partSuffix, os.O_RDWR|os.O_CREATE|os.O_EXCL, newMode)
		if err != nil {
			return nil, 0, err
		}
		if v.mode, err = keepPrivate(f); err != nil {
			return nil, 0, errors.Join(err, f.Close())
		}
		v.files = append(v.files, f)
		v.at, v.fresh = 0, false
	}
	return v.files[len(v.files)-1], v.size - v.at, nil
}

// Write implements io.Writer.
func (v *volumes) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		f, left, err := v.current()
		if err != nil {
			return written, err
		}
		n, err := f.Write(p[:min(int64(len(p)), left)])
		v.at += int64(n)
		written += n
		p = p[n:]
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// total is the number of bytes in all volumes.
func (v *volumes) total() int64 {
	if len(v.files) == 0 {
		return 0
	}
	return int64(len(v.files)-1)*v.size + v.at
}

// publish syncs the volumes and renames them to their final names, and then the checksums: when these
// exist, everything does. When it fails, it removes what already had its name.
func (v *volumes) publish(ctx context.Context, force bool) (err error) {
	var named []string
	defer func() {
		if err != nil {
			for _, name := range named {
				os.Remove(name)
			}
		}
	}()
	sums, err := v.sums(ctx)
	if err != nil {
		return err
	}
	part := v.path + sumsSuffix + partSuffix
	if err := v.writeSums(part, sums); err != nil {
		return err
	}
	defer os.Remove(part) // renamed already, unless something failed
	old, err := findVolumes(v.path)
	if err != nil {
		return err
	}
	if force { // from here on the old archive is incomplete
		if err := os.Remove(v.path + sumsSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	for i, f := range v.files {
		_ = f.Chmod(v.mode) // some file systems have no modes
		if err := nameOpen(f, v.name(i), force); err != nil {
			return err
		}
		named = append(named, v.name(i))
	}
	if err := v.syncDir(); err != nil {
		return err
	}
	if err := nameFile(part, v.path+sumsSuffix, force); err != nil {
		return err
	}
	for _, name := range old { // surplus volumes of the old archive would be joined to the new one
		if force && !slices.Contains(named, name) && name != v.path+sumsSuffix {
			if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	return v.syncDir()
}

// syncDir makes the names of volumes durable.
func (v *volumes) syncDir() error {
	if v.noSync {
		return nil
	}
	return durable.SyncFolder(filepath.Dir(v.path))
}

// writeSums writes the checksums, or leaves no file.
func (v *volumes) writeSums(path, text string) error {
	if err := removeFile(path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, newMode)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err == nil && !v.noSync {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(path)
	}
	return err
}

// sums syncs and hashes each volume. It returns the checksums in the format of sha256sum -c.
func (v *volumes) sums(ctx context.Context) (string, error) {
	lines := make([]string, len(v.files))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, f := range v.files {
		group.Go(func() error {
			if !v.noSync {
				if err := f.Sync(); err != nil {
					return fmt.Errorf("syncing %s: %w", v.name(i), err)
				}
			}
			h, buf := sha256.New(), make([]byte, 1<<20)
			for at := int64(0); ; {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				n, err := f.ReadAt(buf, at)
				h.Write(buf[:n])
				at += int64(n)
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					return err
				}
			}
			lines[i] = fmt.Sprintf("%x  %s\n", h.Sum(nil), filepath.Base(v.name(i)))
			return nil
		})
	}
	err := group.Wait()
	return strings.Join(lines, ""), err
}

// close closes the volumes and removes those that have no name yet.
func (v *volumes) close() error {
	var errs []error
	for _, f := range v.files {
		os.Remove(f.Name()) // renamed already, unless something failed
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// mayReplaceVolumes is an ErrExists when there are volumes that are not to be replaced, and returns
// whether any are: also those that a process has left that was killed while it renamed volumes.
func mayReplaceVolumes(path string, force bool) (bool, error) {
	old, err := findVolumes(path)
	if err != nil {
		return false, fmt.Errorf("output: %w", err)
	}
	// The part of the checksums is written before the first volume has its name.
	force = force || isThere(path+sumsSuffix+partSuffix) && !isThere(path+sumsSuffix)
	if len(old) > 0 && !force {
		return false, fmt.Errorf("output %s: %w", old[0], ErrExists)
	}
	return force, nil
}

// findVolumes lists the files of an earlier archive of that name in volumes: the checksums, and
// volumes with consecutive numbers from the first on. Other files may end in a number, too.
func findVolumes(path string) ([]string, error) {
	var out []string
	exists := func(name string) (bool, error) {
		_, err := os.Lstat(name)
		if errors.Is(err, os.ErrNotExist) {
			return false, nil
		}
		if err == nil {
			out = append(out, name)
		}
		return err == nil, err
	}
	if _, err := exists(path + sumsSuffix); err != nil {
		return nil, err
	}
	const mostDigits = 9
	for v := (volumes{path: path, digits: 3}); v.digits <= mostDigits; v.digits++ {
		for i, more := 0, true; more; i++ {
			var err error
			if more, err = exists(v.name(i)); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// removeParts removes parts of volumes that a process has left that was killed.
func removeParts(path string) error {
	parts, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*"+partSuffix))
	if err != nil {
		return err
	}
	for _, name := range parts {
		number, ok := strings.CutPrefix(strings.TrimSuffix(filepath.Base(name), partSuffix), filepath.Base(path)+".")
		if ok && len(number) >= 3 && strings.Trim(number, "0123456789") == "" {
			if err := os.Remove(name); err != nil {
				return err
			}
		}
	}
	return nil
}
