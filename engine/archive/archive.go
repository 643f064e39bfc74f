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
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"drayage/blobstore/durable"
	"drayage/engine/fault"
	"drayage/engine/internal/limits"
	"drayage/engine/internal/volumes"
	"drayage/engine/printable"
	"drayage/tarwriter/compress"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var (
	// errInvalid is wrapped for what is no archive of images, or a hostile one.
	errInvalid = fault.New(fault.Invalid, "not an archive of images that can be read")
	// errMismatch is wrapped when content is not what its digest says.
	errMismatch = volumes.ErrMismatch
	// errNotArchive is wrapped for what is no archive at all: a text, an empty file. It is an
	// errInvalid.
	errNotArchive = fault.As(fault.Usage, notArchive{})
	// errIncomplete is wrapped when an archive leaves out what an earlier one
	// carried, and the store doesn't have that.
	errIncomplete = fault.New(fault.Local, "builds on an earlier archive that is not in the store: import that first")
)

type notArchive struct{}

func (notArchive) Error() string {
	return "not an archive: neither a tar, nor a tar compressed with gzip, bzip2 or zstd"
}

func (notArchive) Is(target error) bool { return target == errInvalid }

// member is a file of an archive.
type member struct {
	name string // relative, clean
	size int64
	link string // the name that a link leads to
	body io.Reader
	own  int64 // bytes of the archive itself, as far as that is known yet
	held int64 // bytes of memory that reading it may take
}

// source is where an archive comes from.
type source struct {
	name  string    // a file, a folder, the first of several volumes, or "-" for stdin
	stdin io.Reader // for "-"
	ratio compress.MaxRatio
	temp  func() (tempFile, error)
}

// walk calls f with every file and link of an archive in the order in which they
// are there. r may be an *os.File, of which what f doesn't read is skipped
// without reading it. size is the archive's, 0 where that isn't known.
func (s source) walk(ctx context.Context, r io.Reader, size int64, f func(member) error) (err error) {
	m := &meter{ratio: s.ratio, temp: s.temp, r: r, whole: size > 0, in: size}
	defer func() { err = errors.Join(err, m.close()) }()
	in, packed := r, compress.None
	var head []byte
	if file, ok := r.(*os.File); ok && plainTar(file) {
		head = headOf(file)
	} else {
		z, format, err := compress.NewReader(m)
		if err != nil {
			return unreadable(err)
		}
		defer z.Close()
		var body io.Reader = z
		if format != compress.None {
			body = unpacked{z, m}
		}
		buffered := bufio.NewReader(body)
		head, _ = buffered.Peek(headSize) // reading tells what is wrong
		in, packed = buffered, format
	}
	tr := tar.NewReader(in)
	for n := 0; ; n++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			if n == 0 {
				return fmt.Errorf("%w: it is empty", errNotArchive)
			}
			return nil
		}
		if n == 0 && (errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF)) {
			return noTar(packed, head)
		}
		if err != nil {
			return broken(err)
		}
		if n >= limits.ArchiveMembers {
			return fmt.Errorf("%w: more than %d members", errTooMuch, limits.ArchiveMembers)
		}
		one, ok, err := check(h)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		one.body, one.own = interruptible{ctx, tr}, m.size()
		if packed == compress.Zstd {
			one.held = compress.MaxWindow
		}
		if isSparse(h) {
			if err := m.expects(h.Size); err != nil { // before any of it is read
				return fmt.Errorf("%q is a sparse file of %d bytes: %w", printable.Line(h.Name), h.Size, err)
			}
			one.body = unpacked{one.body, m}
		}
		if err := f(one); err != nil {
			return err
		}
	}
}

// interruptible ends with ctx: the holes of sparse files take long, and read nothing.
type interruptible struct {
	ctx context.Context
	r   io.Reader
}

func (i interruptible) Read(p []byte) (int, error) {
	if i.ctx.Err() != nil {
		return 0, context.Cause(i.ctx)
	}
	return i.r.Read(p)
}

// headSize is how much of a stream tells its compression, in bytes.
const headSize = 6

// headOf is how a file begins, as far as that can be read.
func headOf(f *os.File) []byte {
	head := make([]byte, headSize)
	n, _ := f.ReadAt(head, 0)
	return head[:n]
}

// plainTar reports whether a file can be read as a tar where it stands, which
// allows for seeking.
func plainTar(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	format, err := compress.Detect(headOf(f))
	if err != nil || format != compress.None {
		return false
	}
	at, err := f.Seek(0, io.SeekCurrent)
	return err == nil && at == 0
}

// unreadable tells of a stream that can't be decompressed, and who can.
func unreadable(err error) error {
	var format *compress.FormatError
	if errors.As(err, &format) && format.Program != "" {
		return decompress("it is compressed with "+format.Name, format.Program+" FILE")
	}
	return fmt.Errorf("%w: %w", errInvalid, err)
}

// decompress tells of an archive that a command makes readable.
func decompress(why, command string) error {
	return fmt.Errorf("%w: %s: decompress it first: %s > FILE.tar", errNotArchive, why, command)
}

// noTar tells of what is no tar, once it is decompressed, by how it begins.
func noTar(packed compress.Format, head []byte) error {
	const lzma = "\x5d\x00\x00" // as it begins by default: it has no magic number
	if packed == compress.None {
		if bytes.HasPrefix(head, []byte(lzma)) {
			return decompress("it is compressed with lzma", "xz -dc FILE")
		}
		return errNotArchive
	}
	undo := packed.String() + " -dc FILE"
	within, err := compress.Detect(head)
	var format *compress.FormatError
	switch {
	case errors.As(err, &format):
		return decompress("it is compressed with "+format.Name+" and then with "+packed.String(), undo+" | "+format.Program)
	case within == packed:
		return decompress("it is compressed with "+packed.String()+" twice", undo)
	case within != compress.None:
		return decompress("it is compressed with "+within.String()+" and then with "+packed.String(), undo)
	}
	return errNotArchive
}

// broken tells of an archive that can't be read on.
func broken(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, errTooMuch) {
		return err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends too early%w", errInvalid, tooEarly{})
	}
	var path *fs.PathError
	if errors.As(err, &path) {
		return err
	}
	return fmt.Errorf("%w: %w", errInvalid, err)
}

// check makes a member of a header, or refuses it. ok is false for what is no
// file.
func check(h *tar.Header) (m member, ok bool, err error) {
	name, err := clean(h.Name)
	if err != nil {
		return m, false, err
	}
	m = member{name: name, size: h.Size}
	if leftByMacOS(name) {
		return m, false, nil
	}
	if isSparse(h) && h.Size > maxSparse {
		return m, false, fmt.Errorf("%w: %q is a sparse file of more than %d GiB", errInvalid, printable.Line(h.Name), int64(maxSparse)>>30)
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse: // the holes of sparse files are read as what they are
	case tar.TypeLink:
		m.link, err = clean(h.Linkname)
	case tar.TypeSymlink:
		if path.IsAbs(h.Linkname) {
			return m, false, outside(h.Name, h.Linkname)
		}
		if m.link, err = clean(path.Join(path.Dir(name), h.Linkname)); err != nil {
			return m, false, outside(h.Name, h.Linkname)
		}
	case tar.TypeDir, tar.TypeXGlobalHeader:
		return m, false, nil
	default:
		return m, false, fmt.Errorf("%w: %q is not a file, directory or link", errInvalid, printable.Line(h.Name))
	}
	return m, true, err
}

// maxSparse is the largest sparse file that is read, in bytes. A header alone makes one, and it
// would fill a disk.
const maxSparse = 16 << 30

func isSparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

// outside tells of a link that leads out of an archive, and how to take in what it leads to.
func outside(name, to string) error {
	return fmt.Errorf("%w: %q links to %q, outside of it: copy the directory with cp -RL, or pack it with tar -h", errInvalid, printable.Line(name), printable.Line(to))
}

// leftByMacOS reports whether a file is one that macOS adds to archives and folders, beside
// what they are about.
func leftByMacOS(name string) bool {
	base := path.Base(name)
	return strings.HasPrefix(base, "._") || base == ".DS_Store" || strings.HasPrefix(name, "__MACOSX/")
}

// clean refuses names that lead outside of an archive.
func clean(name string) (string, error) {
	if len(name) > limits.ArchiveName {
		return "", fmt.Errorf("%w: a name of %d bytes: %q", errInvalid, len(name), printable.Line(name))
	}
	c := path.Clean(strings.TrimPrefix(name, "./"))
	if name == "" || path.IsAbs(c) || c == ".." || strings.HasPrefix(c, "../") || strings.ContainsRune(c, 0) {
		return "", fmt.Errorf("%w: a name leads outside of it: %q", errInvalid, printable.Line(name))
	}
	return c, nil
}

// walkFolder is walk for an unpacked archive.
func walkFolder(ctx context.Context, root *os.Root, f func(member) error) error {
	_, noMark := root.Stat(storeMark)
	own := int64(0)
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
		if err != nil || d.IsDir() || leftByMacOS(name) {
			return err
		}
		own += info.Size()
		m := member{name: name, size: info.Size(), own: own}
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			to, err := root.Readlink(name)
			if err != nil {
				return err
			}
			if m.link, err = within(root, name, to); err != nil {
				return err
			}
			m.size = 0
			return f(m)
		case !d.Type().IsRegular():
			return fmt.Errorf("%w: %q is not a file, directory or link", errInvalid, printable.Line(name))
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

// within is where a link of a folder leads, if that is in the folder.
func within(root *os.Root, name, to string) (string, error) {
	if filepath.IsAbs(to) {
		top, err := filepath.Abs(root.Name())
		if err != nil {
			return "", err
		}
		if real, err := filepath.EvalSymlinks(top); err == nil && !strings.HasPrefix(to, top+string(filepath.Separator)) {
			top = real
		}
		rel, err := filepath.Rel(top, to)
		if err != nil || !filepath.IsLocal(rel) {
			return "", outside(name, to)
		}
		return clean(filepath.ToSlash(rel))
	}
	link, err := clean(path.Join(path.Dir(name), filepath.ToSlash(to)))
	if err != nil {
		return "", outside(name, to)
	}
	return link, nil
}

// walkAll is walk for a source, whatever it is.
func (s source) walkAll(ctx context.Context, f func(member) error) error {
	name := s.name
	if name == "-" {
		return s.walk(ctx, s.stdin, 0, f)
	}
	parts, err := volumes.Of(name)
	if err != nil {
		return err
	}
	if len(parts) > 0 {
		err := s.walkVolumes(ctx, parts, f)
		if errors.Is(err, errInvalid) {
			err = cmp.Or(volumes.Check(ctx, parts[0]), err)
		}
		if errors.Is(err, errInvalid) && errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("%w: it ends with %s, and is cut off there", volumes.ErrMissing, parts[len(parts)-1])
		}
		return err
	}
	file, err := durable.OpenNamed(name)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
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
	if !info.Mode().IsRegular() {
		return s.walk(ctx, file, 0, f)
	}
	err = s.walk(ctx, file, info.Size(), f)
	if first := volumes.FirstOf(name); first != "" && errors.Is(err, errInvalid) {
		return fmt.Errorf("%w: %s is missing", volumes.ErrMissing, first)
	}
	return err
}

// WithoutVolumes leaves out of the names of archives what goes with another of them: the later
// volumes of an archive, and the list of their checksums, which a pattern of the shell names too.
func WithoutVolumes(names []string) []string { return volumes.Without(names) }

// tooEarly adds to an error, without a word, that it is an unexpected end.
type tooEarly struct{}

func (tooEarly) Error() string        { return "" }
func (tooEarly) Is(target error) bool { return target == io.ErrUnexpectedEOF }

// walkVolumes is walk for volumes, one after the other.
func (s source) walkVolumes(ctx context.Context, names []string, f func(member) error) error {
	all, size, err := volumes.Open(names)
	if err != nil {
		return err
	}
	return errors.Join(s.walk(ctx, all, size, f), all.Close())
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
// because an earlier one did. name is as for Import, and so is ratio. What it names by digest is
// believed: it says what to leave out, and who reads the result checks that.
func Digests(ctx context.Context, name string, stdin io.Reader, ratio compress.MaxRatio) ([]digest.Digest, error) {
	var out []digest.Digest
	note := new(notes)
	add := func(d digest.Digest) error {
		out = append(out, d)
		return note.add(costOfBlob)
	}
	known := false // anything that an archive of images has
	err := source{name: name, stdin: stdin, ratio: ratio, temp: newTemp}.walkAll(ctx, func(m member) error {
		note.own, note.held = m.own, m.held
		if m.link != "" {
			return nil
		}
		if d := blobDigest(m.name); d != "" {
			return add(d)
		}
		known = known || heads[m.name] || m.name == deltaFile
		if m.name == deltaFile {
			l := lists{notes: note}
			if err := l.read(m); err != nil {
				return err
			}
			for _, a := range l.delta.entries {
				if err := add(a.Digest); err != nil {
					return err
				}
			}
			return l.delta.err
		}
		if heads[m.name] {
			return nil
		}
		d, err := digest.FromReader(m.body)
		if err != nil {
			return broken(err)
		}
		return add(d)
	})
	if err == nil && !known {
		err = fmt.Errorf("%w: it has neither index.json nor manifest.json nor repositories", errInvalid)
	}
	return out, err
}

// heads are the files that tell what an archive has.
var heads = map[string]bool{ocispec.ImageLayoutFile: true, ocispec.ImageIndexFile: true, manifestFile: true, reposFile: true}

const (
	storeMark    = "drayage.json" // marks the folder of a store
	manifestFile = "manifest.json"
	reposFile    = "repositories"
)
