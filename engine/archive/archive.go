// Package archive reads archives of images into a store: those that drayage
// writes, in every format, and those of docker save, Podman, skopeo, crane and
// containerd, as tars, compressed or not, or as folders.
//
// Nothing is believed: what has a digest is held against it, layers are held
// against the diff ids of their configs, no name of a member becomes the name of a
// file, and what is malformed, too large or points outside is refused.
package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"drayage/engine/image"
	"drayage/tarwriter/squeeze"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var (
	// ErrInvalid is wrapped for what is no archive of images, or a hostile one.
	ErrInvalid = errors.New("not an archive of images that can be read")
	// ErrMismatch is wrapped when content is not what its digest says.
	ErrMismatch = errors.New("content does not match its digest")
	// ErrIncomplete is wrapped when an archive leaves out what an earlier one
	// carried, and the store doesn't have that.
	ErrIncomplete = errors.New("builds on an earlier archive that is not in the store: import that first")
)

const (
	// maxMembers bounds the members of an archive: ten thousand images with a
	// hundred layers each fit.
	maxMembers = 2_000_000
	// maxName is the longest name of a member, as of files on Linux; maxNames
	// bounds all of them together, in bytes.
	maxName, maxNames = 4096, 256 << 20
)

// member is a file of an archive.
type member struct {
	name string // relative, clean
	size int64
	link string // the name that a link leads to
	body io.Reader
}

// walk calls f with every file and link of an archive in the order in which they
// are there. r may be an *os.File, of which what f doesn't read is skipped
// without reading it.
func walk(ctx context.Context, r io.Reader, f func(member) error) error {
	in := r
	if file, ok := r.(*os.File); !ok || !plainTar(file) {
		z, _, err := squeeze.NewReader(r)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		defer z.Close()
		in = z
	}
	tr := tar.NewReader(in)
	names := 0
	for n := 0; ; n++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return broken(err)
		}
		if n >= maxMembers {
			return fmt.Errorf("%w: more than %d members", ErrInvalid, maxMembers)
		}
		if names += len(h.Name) + len(h.Linkname); names > maxNames {
			return fmt.Errorf("%w: the names of its members take more than %d MiB", ErrInvalid, maxNames>>20)
		}
		m, ok, err := check(h)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		m.body = tr
		if err := f(m); err != nil {
			return err
		}
	}
}

// plainTar reports whether a file can be read as a tar where it stands, which
// allows for seeking.
func plainTar(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	var head [6]byte
	n, err := f.ReadAt(head[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return false
	}
	format, err := squeeze.Detect(head[:n])
	if err != nil || format != squeeze.None {
		return false
	}
	at, err := f.Seek(0, io.SeekCurrent)
	return err == nil && at == 0
}

// broken tells of an archive that can't be read on.
func broken(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends too early", ErrInvalid)
	}
	var path *fs.PathError
	if errors.As(err, &path) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrInvalid, err)
}

// check makes a member of a header, or refuses it. ok is false for what is no
// file.
func check(h *tar.Header) (m member, ok bool, err error) {
	name, err := clean(h.Name)
	if err != nil {
		return m, false, err
	}
	m = member{name: name, size: h.Size}
	switch h.Typeflag {
	case tar.TypeReg:
		for k := range h.PAXRecords {
			if strings.HasPrefix(k, "GNU.sparse.") {
				return m, false, fmt.Errorf("%w: %q is a sparse file", ErrInvalid, image.Printable(h.Name))
			}
		}
	case tar.TypeLink:
		m.link, err = clean(h.Linkname)
	case tar.TypeSymlink:
		if path.IsAbs(h.Linkname) {
			return m, false, fmt.Errorf("%w: %q links to %q, outside of it", ErrInvalid, image.Printable(h.Name), image.Printable(h.Linkname))
		}
		m.link, err = clean(path.Join(path.Dir(name), h.Linkname))
	case tar.TypeDir, tar.TypeXGlobalHeader:
		return m, false, nil
	default:
		return m, false, fmt.Errorf("%w: %q is neither file, folder nor link", ErrInvalid, image.Printable(h.Name))
	}
	return m, true, err
}

// clean refuses names that lead outside of an archive.
func clean(name string) (string, error) {
	if len(name) > maxName {
		return "", fmt.Errorf("%w: a name of %d bytes: %q", ErrInvalid, len(name), image.Printable(name))
	}
	c := path.Clean(strings.TrimPrefix(name, "./"))
	if name == "" || path.IsAbs(c) || c == ".." || strings.HasPrefix(c, "../") || strings.ContainsRune(c, 0) {
		return "", fmt.Errorf("%w: a name leads outside of it: %q", ErrInvalid, image.Printable(name))
	}
	return c, nil
}

// walkFolder is walk for an unpacked archive.
func walkFolder(ctx context.Context, root *os.Root, f func(member) error) error {
	_, noMark := root.Stat(storeMark)
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		top, _, _ := strings.Cut(name, "/")
		if noMark == nil && name != "." && !heads[top] && top != ocispec.ImageBlobsDir {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil // a store has files of its own beside the layout
		}
		info, err := d.Info()
		if err != nil || d.IsDir() {
			return err
		}
		m := member{name: name, size: info.Size()}
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			to, err := root.Readlink(name)
			if err != nil {
				return err
			}
			if path.IsAbs(to) {
				return fmt.Errorf("%w: %q links to %q, outside of it", ErrInvalid, image.Printable(name), image.Printable(to))
			}
			if m.link, err = clean(path.Join(path.Dir(name), to)); err != nil {
				return err
			}
			m.size = 0
			return f(m)
		case !d.Type().IsRegular():
			return fmt.Errorf("%w: %q is neither file, folder nor link", ErrInvalid, image.Printable(name))
		}
		file, err := root.Open(name)
		if err != nil {
			return err
		}
		defer file.Close()
		m.body = file
		return f(m)
	})
}

// walkPath is walk for what is at a path: a file, a folder, the first of several
// volumes, or "-" for stdin.
func walkPath(ctx context.Context, name string, stdin io.Reader, f func(member) error) error {
	if name == "-" {
		return walk(ctx, stdin, f)
	}
	if volumes := volumesOf(name); len(volumes) > 0 {
		return walkVolumes(ctx, volumes, f)
	}
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	if info.IsDir() {
		root, err := os.OpenRoot(name)
		if err != nil {
			return err
		}
		return errors.Join(walkFolder(ctx, root, f), root.Close())
	}
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	return walk(ctx, file, f)
}

// volumesOf lists the volumes of an archive by the name of the first, or by the
// archive's own where only volumes are there. It is empty for what is none.
func volumesOf(name string) []string {
	base, number := strings.TrimSuffix(name, path.Ext(name)), strings.TrimPrefix(path.Ext(name), ".")
	if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
		const widest = 9
		for width := 3; width <= widest; width++ {
			if _, err := os.Stat(fmt.Sprintf("%s.%0*d", name, width, 1)); err == nil {
				base, number = name, fmt.Sprintf("%0*d", width, 1)
				break
			}
		}
	}
	if len(number) < 3 || strings.TrimLeft(number, "0") != "1" {
		return nil
	}
	var out []string
	for n := 1; ; n++ {
		next := fmt.Sprintf("%s.%0*d", base, len(number), n)
		if _, err := os.Stat(next); err != nil {
			return out
		}
		out = append(out, next)
	}
}

// walkVolumes is walk for volumes, one after the other.
func walkVolumes(ctx context.Context, names []string, f func(member) error) error {
	var files []*os.File
	var readers []io.Reader
	defer func() {
		for _, file := range files {
			file.Close()
		}
	}()
	for _, name := range names {
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		files, readers = append(files, file), append(readers, file)
	}
	return walk(ctx, io.MultiReader(readers...), f)
}

// blobDigest is the digest that a member's name claims, or "".
func blobDigest(name string) digest.Digest {
	rest, ok := strings.CutPrefix(name, ocispec.ImageBlobsDir+"/")
	if !ok {
		return ""
	}
	algorithm, hex, _ := strings.Cut(rest, "/")
	d := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex)
	if d.Validate() != nil {
		return ""
	}
	return d
}

// Digests lists the blobs that an archive carried, and those that it left out
// because an earlier one did. name is as for Import. What it names by digest is believed: it says what
// to leave out, and who reads the result checks that.
func Digests(ctx context.Context, name string, stdin io.Reader) ([]digest.Digest, error) {
	var out []digest.Digest
	known := false // anything that an archive of images has
	err := walkPath(ctx, name, stdin, func(m member) error {
		if m.link != "" {
			return nil
		}
		if d := blobDigest(m.name); d != "" {
			out = append(out, d)
			return nil
		}
		known = known || heads[m.name] || m.name == deltaFile
		if m.name == deltaFile {
			raw, err := readSmall(m)
			if err != nil {
				return err
			}
			delta, err := decodeDelta(raw)
			if err != nil {
				return err
			}
			for _, a := range delta.Absent {
				out = append(out, a.Digest)
			}
			return nil
		}
		if heads[m.name] {
			return nil
		}
		d, err := digest.FromReader(m.body)
		if err != nil {
			return broken(err)
		}
		out = append(out, d)
		return nil
	})
	if err == nil && !known {
		err = fmt.Errorf("%w: it has neither index.json nor manifest.json nor repositories", ErrInvalid)
	}
	return out, err
}

// heads are the files that tell what an archive has.
var heads = map[string]bool{ocispec.ImageLayoutFile: true, ocispec.ImageIndexFile: true, manifestFile: true, reposFile: true}

const (
	storeMark    = "drayage.json" // marks the folder of a store
	manifestFile = "manifest.json"
	reposFile    = "repositories"
	// maxHead is the largest of heads that is read, in bytes: manifest.json has a
	// hundred bytes for each layer of each image.
	maxHead = 32 << 20
)

// readSmall reads a member that tells what others are.
func readSmall(m member) ([]byte, error) {
	if m.size > maxHead {
		return nil, fmt.Errorf("%w: %q has %d bytes", ErrInvalid, image.Printable(m.name), m.size)
	}
	var b bytes.Buffer
	if _, err := io.Copy(&b, io.LimitReader(m.body, maxHead)); err != nil {
		return nil, broken(err)
	}
	return b.Bytes(), nil
}
