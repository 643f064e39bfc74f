// Package volumes finds the volumes of an archive that was written in parts: NAME.001, NAME.002 and
// so on, with their checksums in NAME.sha256.
package volumes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"drayage/blobstore/durable"
	"drayage/engine/fault"
	"drayage/engine/internal/limits"

	"github.com/opencontainers/go-digest"
)

var (
	// ErrMissing is wrapped when volumes of an archive are missing, or a later one was given.
	ErrMissing = fault.New(fault.Local, "not all volumes of the archive are there")
	// ErrMismatch is wrapped when content is not what its digest says.
	ErrMismatch = fault.New(fault.Content, "content does not match its digest")
)

// sumsSuffix ends the name of the file that drayage writes beside volumes.
const sumsSuffix = ".sha256"

// Check compares the volumes of an archive with the list of checksums beside them, and returns an
// error that names the first that is missing (ErrMissing) or different (ErrMismatch). It returns nil
// where all are as the list says, and where there is none.
func Check(ctx context.Context, first string) error {
	base, _ := volumeName(first)
	for line := range strings.Lines(sums(base)) {
		sum, name, ok := strings.Cut(strings.TrimSpace(line), "  ")
		if !ok || !strings.HasPrefix(name, filepath.Base(base)+".") || name != filepath.Base(name) {
			continue
		}
		volume := filepath.Join(filepath.Dir(base), name)
		got, err := sumOf(ctx, volume)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("%w: %s is missing", ErrMissing, volume)
		case err != nil:
			return err
		case got.Encoded() != sum:
			return fmt.Errorf("%w: the volume %s is not what %s says, is it whole?", ErrMismatch, volume, base+sumsSuffix)
		}
	}
	return nil
}

// sums is the list of checksums beside volumes, or "" where there is none that can be read.
func sums(base string) string {
	list, err := durable.OpenRegular(base + sumsSuffix)
	if err != nil {
		return ""
	}
	defer list.Close()
	raw, err := io.ReadAll(io.LimitReader(list, limits.ManifestBytes))
	if err != nil {
		return ""
	}
	return string(raw)
}

// sumOf is the digest of a file.
func sumOf(ctx context.Context, name string) (digest.Digest, error) {
	f, err := durable.OpenRegular(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	defer context.AfterFunc(ctx, func() { f.Close() })() // which ends the read
	d, err := digest.FromReader(f)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return d, err
}

// FirstOf returns the first volume of what looks like a later one whose first isn't there, or "".
// Dates are numbers, too: volumes begin with 0, or have the list of their checksums beside them.
func FirstOf(name string) string {
	base, number := volumeName(name)
	_, err := os.Stat(base + sumsSuffix)
	if number == "" || number[0] != '0' && err != nil {
		return ""
	}
	return fmt.Sprintf("%s.%0*d", base, len(number), 1)
}

// volumeName takes a volume's name apart. The number is "" for what is none.
func volumeName(name string) (base, number string) {
	base, number = strings.TrimSuffix(name, path.Ext(name)), strings.TrimPrefix(path.Ext(name), ".")
	if n, err := strconv.Atoi(number); err != nil || len(number) < minWidth || n < 1 || number[0] == '+' {
		return name, ""
	}
	return base, number
}

// minWidth and maxWidth are how many digits the numbers of volumes have.
const minWidth, maxWidth = 3, 9

// Without leaves out of the names of archives what goes with another of them: the later
// volumes of an archive, and the list of their checksums, which a pattern of the shell names too.
func Without(names []string) []string {
	within := make(map[string]bool)
	for _, name := range names {
		volumes, err := Of(name)
		if err != nil || len(volumes) == 0 {
			continue
		}
		base, _ := volumeName(volumes[0])
		within[base+sumsSuffix] = true
		for _, v := range volumes {
			within[v] = within[v] || v != name
		}
	}
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return within[name] })
}

// Of lists the volumes of an archive by the name of the first, or by the
// archive's own where only volumes are there. It is empty for what is none. The error wraps
// ErrMissing when one is missing between others, or name is a later one.
func Of(name string) ([]string, error) {
	base, number := volumeName(name)
	if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
		for width := minWidth; width <= maxWidth; width++ {
			first := fmt.Sprintf("%0*d", width, 1)
			if _, err := os.Stat(name + "." + first); err == nil {
				base, number = name, first
				break
			}
			if err := missingVolume(name, width, 1); err != nil {
				return nil, err
			}
		}
	}
	if number == "" {
		return nil, nil
	}
	if n, err := strconv.Atoi(number); err != nil || n > 1 {
		first := fmt.Sprintf("%s.%0*d", base, len(number), 1)
		if _, err := os.Stat(first); err == nil {
			return nil, fmt.Errorf("%w: name the first one, %s", ErrMissing, first)
		}
		return nil, nil // a file that is called so
	}
	var out []string
	for n := 1; ; n++ {
		next := fmt.Sprintf("%s.%0*d", base, len(number), n)
		if _, err := os.Stat(next); err != nil {
			return out, missingVolume(base, len(number), n)
		}
		out = append(out, next)
	}
}

// missingVolume is an error when there are volumes after the one that isn't there.
func missingVolume(base string, width, n int) error {
	const far = 100 // volumes
	for later := n + 1; later < n+far; later++ {
		if _, err := os.Stat(fmt.Sprintf("%s.%0*d", base, width, later)); err == nil {
			return fmt.Errorf("%w: %s.%0*d is missing", ErrMissing, base, width, n)
		}
	}
	return nil
}

// joined is several files, read one after the other.
type joined struct {
	io.Reader
	files []*os.File
}

// Close implements io.Closer.
func (j *joined) Close() error {
	var all error
	for _, f := range j.files {
		all = errors.Join(all, f.Close())
	}
	return all
}

// Open returns what the named files contain, one after the other, and how many bytes that is.
func Open(names []string) (all io.ReadCloser, size int64, err error) {
	j := new(joined)
	defer func() {
		if err != nil {
			err = errors.Join(err, j.Close())
		}
	}()
	var readers []io.Reader
	for _, name := range names {
		f, err := durable.OpenRegular(name)
		if err != nil {
			return nil, 0, err
		}
		j.files, readers = append(j.files, f), append(readers, f)
		info, err := f.Stat()
		if err != nil {
			return nil, 0, err
		}
		size += info.Size()
	}
	j.Reader = io.MultiReader(readers...)
	return j, size, nil
}
