package tarwriter

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"drayage/blobstore/durable"

	"golang.org/x/sync/errgroup"
)

// VolumeUnit is what sizes of volumes are rounded down to: the alignment of
// large members, so that they stay aligned within each volume.
const VolumeUnit = 64 << 10

// sumsSuffix ends the name of the file with the volumes' checksums.
const sumsSuffix = ".sha256"

// volumes is an archive cut into files of at most size bytes, which follow
// each other. It is an io.Writer.
type volumes struct {
	path  string
	size  int64
	width int // of the numbers
	files []*os.File
	at    int64 // written to the last of files
	fresh bool  // a file is to be begun
}

// newVolumes begins volumes for an archive of at most total bytes.
func newVolumes(path string, size, total int64) *volumes {
	n := total/size + 1
	return &volumes{path: path, size: size, width: max(3, len(fmt.Sprint(n))), fresh: true}
}

func (v *volumes) name(i int) string { return fmt.Sprintf("%s.%0*d", v.path, v.width, i+1) }

// current is the file for the next bytes, and how many it still takes.
func (v *volumes) current() (*os.File, int64, error) {
	if v.fresh || v.at == v.size {
		f, err := os.OpenFile(v.name(len(v.files))+partSuffix, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
		if err != nil {
			return nil, 0, err
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
		f, room, err := v.current()
		if err != nil {
			return written, err
		}
		n, err := f.Write(p[:min(int64(len(p)), room)])
		v.at += int64(n)
		written += n
		p = p[n:]
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// total is how many bytes all volumes have.
func (v *volumes) total() int64 {
	if len(v.files) == 0 {
		return 0
	}
	return int64(len(v.files)-1)*v.size + v.at
}

// publish syncs the volumes and gives them their names, and after them their
// checksums theirs, so that where those are all is.
func (v *volumes) publish(ctx context.Context, force bool) error {
	sums, err := v.sums(ctx)
	if err != nil {
		return err
	}
	if force {
		if err := removeVolumes(v.path); err != nil {
			return err
		}
	}
	for i, f := range v.files {
		if err := nameFile(f.Name(), v.name(i), force); err != nil {
			return err
		}
	}
	part := v.path + sumsSuffix + partSuffix
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(sums)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(part)
		return err
	}
	if err := nameFile(part, v.path+sumsSuffix, force); err != nil {
		os.Remove(part)
		return err
	}
	return durable.SyncFolder(filepath.Dir(v.path))
}

// sums syncs each volume and hashes it, as sha256sum -c reads it.
func (v *volumes) sums(ctx context.Context) (string, error) {
	lines := make([]string, len(v.files))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, f := range v.files {
		group.Go(func() error {
			if err := f.Sync(); err != nil {
				return fmt.Errorf("syncing %s: %w", v.name(i), err)
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

// close ends the writing. Parts that have not got their names are removed.
func (v *volumes) close() error {
	var errs []error
	for _, f := range v.files {
		os.Remove(f.Name()) // is there no more, where all went well
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// findVolumes lists what an earlier archive of that name in volumes has left.
func findVolumes(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), filepath.Base(path))
		number, dotted := strings.CutPrefix(rest, ".")
		if ok && (rest == sumsSuffix || dotted && len(number) >= 3 && strings.Trim(number, "0123456789") == "") {
			out = append(out, filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
	return out, nil
}

// removeVolumes removes an earlier archive: one with more volumes would leave
// some that don't belong to this one. The checksums go first.
func removeVolumes(path string) error {
	old, err := findVolumes(path)
	if err != nil {
		return err
	}
	if err := os.Remove(path + sumsSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, name := range old {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
