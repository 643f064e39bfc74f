package tarwriter_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"drayage/tarwriter"
	"drayage/tarwriter/compress"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var layouts = map[string]tarwriter.Layout{"docker": tarwriter.Docker, "oci": tarwriter.OCI, "legacy": tarwriter.Legacy}

// randomImages makes some images that share layers, with sizes around what the format has
// boundaries at.
func (f folder) randomImages(t *testing.T, random *rand.Rand) []tarwriter.Image {
	t.Helper()
	var layers []ocispec.Descriptor
	for range 1 + random.IntN(6) {
		base := []int64{0, 1, 512, 4096, 16 << 10, 64 << 10, 1 << 20}[random.IntN(7)]
		layers = append(layers, f.add(t, max(0, base+random.Int64N(3)-1)))
	}
	var images []tarwriter.Image
	for i := range 1 + random.IntN(4) {
		var own []ocispec.Descriptor
		for range random.IntN(5) {
			own = append(own, layers[random.IntN(len(layers))])
		}
		img := f.image(t, fmt.Sprintf("x%d:%d", i, random.IntN(3)), own...)
		img.Manifests[0].ConfigContent = []byte(`{"os":"linux"}`)
		images = append(images, img)
	}
	return images
}

// blobBytes is how much of members is blobs.
func blobBytes(members []tarwriter.Member) int64 {
	var n int64
	for _, m := range members {
		if m.Blob != "" {
			n += m.Size
		}
	}
	return n
}

// output writes an archive, checks what is reported of it, and returns how much was.
func output(t *testing.T, o tarwriter.Output, members []tarwriter.Member, blobs tarwriter.Blobs) (size, reported int64) {
	t.Helper()
	result, err := o.Write(t.Context(), members, blobs, func(n int64) { reported += n })
	if err := errors.Join(err, o.Close()); err != nil {
		t.Fatal(err)
	}
	if moved, want := result.Cloned+result.Kernel+result.ByHand, blobBytes(members); moved != want {
		t.Errorf("%d bytes of blobs were moved, want %d", moved, want)
	}
	return result.Size, reported
}

// Whatever the images and the output: the size is known before, is what is written and what is
// reported, and the bytes are the same.
func FuzzOutputs(f *testing.F) {
	for seed := range uint64(6) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 1))
		blobs := folder(t.TempDir())
		images := blobs.randomImages(t, random)
		for name, layout := range layouts {
			members, err := layout(images)
			must(t, err)
			e := expected{name: name, archive: compose(t, layout, blobs, images...), members: members, blobs: blobs, dir: t.TempDir()}
			e.file(t)
			e.compressed(t, compress.Gzip)
			e.compressed(t, compress.Zstd)
			e.volumes(t, tarwriter.VolumeUnit*(1+random.Int64N(4)), random.Int64N(100))
			e.pipe(t)
			e.folder(t)
		}
	})
}

// expected is an archive that every output is to have.
type expected struct {
	name    string
	archive []byte
	members []tarwriter.Member
	blobs   folder
	dir     string // for outputs
}

// check compares an archive that was written, and what was reported of it.
func (e expected) check(t *testing.T, output string, got []byte, reported, size, wantSize int64) {
	t.Helper()
	if n := int64(len(e.archive)); !bytes.Equal(got, e.archive) || reported != n || size != wantSize {
		t.Errorf("%s to %s: %d bytes, %d reported, Result.Size %d; want the same %d bytes and Result.Size %d", e.name, output, len(got), reported, size, n, wantSize)
	}
}

func (e expected) create(t *testing.T, path string, o tarwriter.Options) (size, reported int64) {
	t.Helper()
	f, err := tarwriter.CreateFile(path, o)
	must(t, err)
	return output(t, f, e.members, e.blobs)
}

func (e expected) file(t *testing.T) {
	path := filepath.Join(e.dir, "x.tar")
	size, reported := e.create(t, path, tarwriter.Options{})
	raw, err := os.ReadFile(path)
	must(t, err)
	known, err := tarwriter.Size(e.members)
	must(t, err)
	e.check(t, "a file", raw, reported, size, known)
}

func (e expected) compressed(t *testing.T, format compress.Format) {
	path := filepath.Join(e.dir, "x."+format.String())
	size, reported := e.create(t, path, tarwriter.Options{Compress: format})
	raw, err := os.ReadFile(path)
	must(t, err)
	e.check(t, format.String(), decompressed(t, raw, format), reported, size, int64(len(raw)))
}

func (e expected) volumes(t *testing.T, size, more int64) {
	path := filepath.Join(e.dir, "split.tar")
	written, reported := e.create(t, path, tarwriter.Options{Split: size + more}) // which is rounded down
	e.check(t, "volumes", joined(t, path, size), reported, written, int64(len(e.archive)))
}

func (e expected) pipe(t *testing.T) {
	r, w, err := os.Pipe()
	must(t, err)
	piped := make(chan []byte)
	go func() {
		raw, _ := io.ReadAll(r) // what is missing is noticed
		piped <- raw
	}()
	size, reported := output(t, tarwriter.NewStream(w, compress.None), e.members, e.blobs)
	must(t, w.Close())
	e.check(t, "a pipe", <-piped, reported, size, int64(len(e.archive)))
	must(t, r.Close())
}

func (e expected) folder(t *testing.T) {
	path := filepath.Join(e.dir, "dir")
	d, err := tarwriter.CreateDir(path, tarwriter.Options{})
	must(t, err)
	var size int64
	for _, m := range e.members {
		size += m.Size
	}
	if written, reported := output(t, d, e.members, e.blobs); written != size || reported != size {
		t.Errorf("%s to a directory: %d bytes and %d reported, want %d", e.name, written, reported, size)
	}
	checkDir(t, path, e.archive)
}

func decompressed(t *testing.T, raw []byte, want compress.Format) []byte {
	t.Helper()
	r, format, err := compress.NewReader(bytes.NewReader(raw))
	if err != nil || format != want {
		t.Fatalf("compressed with %s, want %s; %v", format, want, err)
	}
	out, err := io.ReadAll(r)
	must(t, err, r.Close())
	return out
}

// joined checks the volumes of an archive and joins them as cat does.
func joined(t *testing.T, path string, size int64) []byte {
	t.Helper()
	names, err := filepath.Glob(path + ".0*")
	must(t, err)
	var all []byte
	var sums strings.Builder
	for i, name := range names {
		raw, err := os.ReadFile(name)
		must(t, err)
		if n := int64(len(raw)); n > size || n == 0 || n < size && i < len(names)-1 {
			t.Errorf("%s has %d bytes, want %d", name, n, size)
		}
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(raw), filepath.Base(name))
		all = append(all, raw...)
	}
	if got, err := os.ReadFile(path + ".sha256"); err != nil || string(got) != sums.String() {
		t.Errorf("the checksums are\n%s, %v; want\n%s", got, err, sums.String())
	}
	return all
}

// checkDir checks that a directory has what an archive has, and nothing else.
func checkDir(t *testing.T, dir string, archive []byte) {
	t.Helper()
	want := make(map[string]string)
	tr := tar.NewReader(bytes.NewReader(archive))
	for h, err := tr.Next(); err != io.EOF; h, err = tr.Next() {
		must(t, err)
		raw, err := io.ReadAll(tr)
		must(t, err)
		if want[h.Name] = string(raw); h.Typeflag == tar.TypeSymlink {
			want[h.Name] = "-> " + h.Linkname
		}
	}
	got := make(map[string]string)
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if e.Type() == fs.ModeSymlink {
			to, err := os.Readlink(path)
			got[filepath.ToSlash(name)] = "-> " + filepath.ToSlash(to)
			return err
		}
		raw, err := os.ReadFile(path)
		got[filepath.ToSlash(name)] = string(raw)
		return err
	}))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the directory differs from the archive: %.500s", diff)
	}
}

// A volume is full, nearly full, or has one byte; and what an earlier archive has left does not get
// into the new one.
func TestVolumesAtTheirBoundaries(t *testing.T) {
	blobs, dir := folder(t.TempDir()), t.TempDir()
	const blocks = 2 * tarwriter.VolumeUnit / 512 // of the archive: 8 of header, content, 2 of the end
	for _, more := range []int64{1, 0, -1} {      // with more first, so that there is a surplus volume
		content := bytes.Repeat([]byte("x"), int((blocks-10+more)*512))
		members := []tarwriter.Member{{Name: "a", Size: int64(len(content)), Content: content}}
		size, err := tarwriter.Size(members)
		must(t, err)
		path := filepath.Join(dir, "x.tar")
		f, err := tarwriter.CreateFile(path, tarwriter.Options{Split: tarwriter.VolumeUnit, Force: true})
		must(t, err)
		written, _ := output(t, f, members, blobs)
		if more == 0 && size != 2*tarwriter.VolumeUnit {
			t.Fatalf("the archive has %d bytes", size)
		}
		if raw := joined(t, path, tarwriter.VolumeUnit); int64(len(raw)) != size || written != size {
			t.Errorf("%+d blocks: volumes have %d bytes and %d are reported, want %d", more, len(raw), written, size)
		}
		if _, err := tarwriter.CreateFile(path, tarwriter.Options{Split: tarwriter.VolumeUnit}); !errors.Is(err, tarwriter.ErrExists) {
			t.Errorf("over existing volumes: %v, want ErrExists", err)
		}
	}
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(names) != 3 {
		t.Errorf("left are %v, %v", names, err)
	}
}

// Other files that end in a number are not volumes.
func TestFilesThatAreNotVolumesStay(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.tar")
	others := []string{path + ".003", path + ".1", path + ".backup", path + ".001.drayage-part.old", filepath.Join(dir, "y.tar.001.drayage-part")}
	for _, name := range others {
		must(t, os.WriteFile(name, nil, 0o644))
	}
	dead := path + ".0001.drayage-part"
	must(t, os.WriteFile(dead, nil, 0o644))
	f, err := tarwriter.CreateFile(path, tarwriter.Options{Split: tarwriter.VolumeUnit})
	must(t, err)
	output(t, f, []tarwriter.Member{{Name: "a"}}, folder(dir))
	for _, name := range others {
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(dead); err == nil {
		t.Error("the part of a killed process is still there")
	}
}

// Names and sizes that a tar can hold come back as they were, and others are errors before a byte
// is written.
func TestOddMembers(t *testing.T) {
	long := strings.Repeat("a", 200)
	for name, ok := range map[string]bool{
		"plain": true, "with space": true, "ünïcödé/日本": true, "-rf": true, "a\nb": true, "a=b\\c": true,
		long: true, long + "/" + long: true, strings.Repeat(long+"/", 30) + "x": true, "nul\x00": false,
	} {
		for _, size := range []int64{0, 1, 20_000, 1 << 20} {
			content := bytes.Repeat([]byte("c"), int(size))
			members := []tarwriter.Member{{Name: name, Size: size, Content: content}, {Name: name + "2", Link: name}}
			want, err := tarwriter.Size(members)
			if (err == nil) != ok {
				t.Fatalf("%.50q: Size: %v", name, err)
			}
			var b bytes.Buffer
			if _, err := tarwriter.Write(t.Context(), &b, members, nil, nil); (err == nil) != ok {
				t.Fatalf("%.50q: Write: %v", name, err)
			}
			if !ok {
				if b.Len() > 0 {
					t.Errorf("%.50q: %d bytes before the error", name, b.Len())
				}
				continue
			}
			if int64(b.Len()) != want {
				t.Errorf("%.50q: %d bytes, want %d", name, b.Len(), want)
			}
			tr := tar.NewReader(&b)
			h, err := tr.Next()
			must(t, err)
			got, err := io.ReadAll(tr)
			if h.Name != name || err != nil || !bytes.Equal(got, content) {
				t.Errorf("%.50q came back as %.50q with %d bytes, %v", name, h.Name, len(got), err)
			}
			if h, err := tr.Next(); err != nil || h.Name != name+"2" || h.Linkname != name {
				t.Errorf("%.50q: the link is %v, %v", name, h, err)
			}
		}
	}
}

// Names of every length, at every offset of a block: the header has the length that was planned.
func TestNamesOfEveryLength(t *testing.T) {
	for n := 1; n < 1200; n++ {
		name := strings.Repeat("n", n)
		if n%2 == 0 {
			name = strings.Repeat("n/", n/2) + "x" // which ustar can split, up to 256 bytes
		}
		before := tarwriter.Member{Name: "a", Size: int64(n%130) * 512}
		size, err := tarwriter.Size([]tarwriter.Member{before, {Name: name, Size: 16 << 10}})
		if err != nil || (size-1024)%4096 != 0 {
			t.Errorf("a name of %d bytes: the member ends at %d, %v", n, size-1024, err)
		}
		size, err = tarwriter.Size([]tarwriter.Member{before, {Name: name, Size: 16 << 30}})
		if err != nil || (size-1024)%(64<<10) != 0 {
			t.Errorf("a name of %d bytes, 16 GiB: the member ends at %d, %v", n, size-1024, err)
		}
	}
}

// Members cannot leave the directory that they are written to.
func TestMembersStayInTheirDirectory(t *testing.T) {
	for _, name := range []string{"../out", "a/../../out", "/out"} {
		parent := t.TempDir()
		d, err := tarwriter.CreateDir(filepath.Join(parent, "dir"), tarwriter.Options{})
		must(t, err)
		if _, err := d.Write(t.Context(), []tarwriter.Member{{Name: name, Size: 1, Content: []byte("x")}}, nil, nil); err == nil {
			t.Errorf("%s was written", name)
		}
		must(t, d.Close())
		if left, err := os.ReadDir(parent); err != nil || len(left) > 0 {
			t.Errorf("%s: left behind: %v, %v", name, left, err)
		}
	}
}

// FuzzNames gives images any name: the archive is a tar of the size that was known, and
// manifest.json has the name as JSON can hold it.
func FuzzNames(f *testing.F) {
	for _, name := range []string{"alpine:3", "localhost:5000/a/b:c", ":", "", "a", "\x00", "\xff:1", "<&>:\"", strings.Repeat("x:", 500)} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		blobs := folder(t.TempDir())
		img := blobs.image(t, "", blobs.add(t, 700))
		img.Name, img.RepoTag = name, name
		raw := compose(t, tarwriter.Docker, blobs, img)
		readTar(t, raw)
		var manifest []struct{ RepoTags []string }
		decode(t, raw, "manifest.json", &manifest)
		want := []string{strings.ToValidUTF8(name, "\ufffd")}
		if name == "" {
			want = nil
		}
		if len(manifest) != 1 || len(manifest[0].RepoTags) != len(want) || len(want) == 1 && len([]rune(manifest[0].RepoTags[0])) < len([]rune(want[0])) {
			t.Errorf("%q is %v", name, manifest)
		}
	})
}

// What an archive leaves out and what it has are together what it had; the order of the base does
// not matter.
func TestSinceLeavesOutLayersOnly(t *testing.T) {
	blobs := folder(t.TempDir())
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 2))
		members, err := tarwriter.Docker(blobs.randomImages(t, random))
		must(t, err)
		before := slices.Clone(members)
		var base []digest.Digest
		for _, m := range members {
			if m.Blob != "" && random.IntN(2) == 0 {
				base = append(base, m.Blob)
			}
		}
		rest, delta, err := tarwriter.Since(members, base)
		must(t, err)
		slices.Reverse(base)
		again, same, err := tarwriter.Since(members, append(base, base...))
		must(t, err)
		if diff := cmp.Diff(rest, again) + cmp.Diff(delta, same) + cmp.Diff(before, members); diff != "" {
			t.Error(diff)
		}
		absent := make(map[digest.Digest]int64)
		for i, a := range delta.Absent {
			absent[a.Digest] = a.Size
			if i > 0 && delta.Absent[i-1].Digest >= a.Digest {
				t.Errorf("not sorted: %v", delta.Absent)
			}
		}
		var want []tarwriter.Member
		for _, m := range members {
			if n, ok := absent[m.Blob]; !ok {
				want = append(want, m)
			} else if !m.Layer || n != m.Size {
				t.Errorf("left out: %v", m)
			}
		}
		got := slices.DeleteFunc(slices.Clone(rest), func(m tarwriter.Member) bool { return m.Name == tarwriter.DeltaFile })
		if diff := cmp.Diff(want, got); diff != "" || len(got) != len(rest)-1 {
			t.Errorf("seed %d: %s", seed, diff)
		}
	}
}

// A cancelled writing returns the cause, and leaves nothing.
func TestCancelledOutputs(t *testing.T) {
	blobs, dir := folder(t.TempDir()), t.TempDir()
	members, err := tarwriter.Docker([]tarwriter.Image{blobs.image(t, "x:1", blobs.add(t, 100_000), blobs.add(t, 200_000))})
	must(t, err)
	path := filepath.Join(dir, "x")
	create := func(o tarwriter.Options) tarwriter.Output {
		f, err := tarwriter.CreateFile(path, o)
		must(t, err)
		return f
	}
	cause := errors.New("the cause")
	for name, open := range map[string]func() tarwriter.Output{
		"a file":     func() tarwriter.Output { return create(tarwriter.Options{}) },
		"compressed": func() tarwriter.Output { return create(tarwriter.Options{Compress: compress.Zstd}) },
		"volumes":    func() tarwriter.Output { return create(tarwriter.Options{Split: tarwriter.VolumeUnit}) },
		"a directory": func() tarwriter.Output {
			d, err := tarwriter.CreateDir(path, tarwriter.Options{})
			must(t, err)
			return d
		},
	} {
		o := open()
		ctx, cancel := context.WithCancelCause(t.Context())
		_, err := o.Write(ctx, members, blobs, func(int64) { cancel(cause) }) // at the first step
		if !errors.Is(err, cause) {
			t.Errorf("%s: %v", name, err)
		}
		must(t, o.Close())
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s: left behind: %v, %v", name, left, err)
		}
	}
}

// Into a directory with other files: they stay, also when the writing fails; and it is locked.
func TestDirWithOtherFiles(t *testing.T) {
	blobs, dir := folder(t.TempDir()), t.TempDir()
	members, err := tarwriter.OCI([]tarwriter.Image{blobs.image(t, "x:1", blobs.add(t, 5000))})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "thesis"), []byte("precious"), 0o644), os.WriteFile(filepath.Join(dir, "index.json"), []byte("old"), 0o644))
	for _, broken := range []bool{true, false} {
		d, err := tarwriter.CreateDir(dir, tarwriter.Options{Force: true})
		must(t, err)
		if _, err := tarwriter.CreateDir(dir, tarwriter.Options{Force: true}); !errors.Is(err, tarwriter.ErrBusy) {
			t.Errorf("a second writer: %v, want ErrBusy", err)
		}
		now := members
		if broken {
			now = append(slices.Clone(members), tarwriter.Member{Name: "blobs/sha256/gone", Blob: "sha256:gone"})
		}
		if _, err := d.Write(t.Context(), now, blobs, nil); (err != nil) != broken {
			t.Errorf("broken %v: %v", broken, err)
		}
		must(t, d.Close())
		unharmed(t, filepath.Join(dir, "thesis"))
		raw, err := os.ReadFile(filepath.Join(dir, "index.json"))
		must(t, err)
		if (string(raw) == "old") != broken {
			t.Errorf("broken %v: index.json is %s", broken, raw)
		}
		if entries, err := os.ReadDir(dir); err != nil || broken && len(entries) != 2 || !broken && len(entries) != 4 {
			t.Errorf("broken %v: the directory has %v, %v", broken, entries, err)
		}
	}
}

// What a killed process has left in a directory of its own is removed, and in another one only its
// parts.
func TestDirAfterAKilledProcess(t *testing.T) {
	for mark, want := range map[string][]string{
		"all here is of an archive that is being written\n": {"new"},
		"": {"new", "sub", "thesis"},
	} {
		dir := t.TempDir()
		must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o755))
		for name, content := range map[string]string{".drayage-part": mark, "thesis": "", "a.drayage-part": "half", "sub/b.drayage-part": "half"} {
			must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
		}
		d, err := tarwriter.CreateDir(dir, tarwriter.Options{})
		must(t, err)
		must(t, second(d.Write(t.Context(), []tarwriter.Member{{Name: "new"}}, nil, nil)), d.Close())
		var got []string
		entries, err := os.ReadDir(dir)
		must(t, err)
		for _, e := range entries {
			got = append(got, e.Name())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("mark %q: %s", mark, diff)
		}
		if left, _ := os.ReadDir(filepath.Join(dir, "sub")); len(left) > 0 {
			t.Errorf("mark %q: left in sub: %v", mark, left)
		}
	}
}

func TestFileWhereNoFileCanBe(t *testing.T) {
	dir := t.TempDir()
	if _, err := tarwriter.CreateFile(dir, tarwriter.Options{Force: true}); err == nil {
		t.Error("a directory was replaced")
	}
	if _, err := tarwriter.CreateFile(filepath.Join(dir, "missing", "x.tar"), tarwriter.Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in a directory that does not exist: %v", err)
	}
	if _, err := tarwriter.CreateFile(os.DevNull, tarwriter.Options{Split: tarwriter.VolumeUnit}); !errors.Is(err, tarwriter.ErrExists) {
		t.Errorf("volumes of a device: %v", err)
	}
	f, err := tarwriter.CreateFile(os.DevNull, tarwriter.Options{})
	must(t, err)
	if size, _ := output(t, f, []tarwriter.Member{{Name: "a"}}, nil); size != 512+1024 {
		t.Errorf("to a device: %d bytes", size)
	}
	if info, err := os.Stat(os.DevNull); err != nil || info.Mode().IsRegular() {
		t.Errorf("%s is %v, %v", os.DevNull, info.Mode(), err)
	}
}

// A blob that gets shorter while it is copied is an error, not a gap.
func TestBlobsThatShrink(t *testing.T) {
	blobs, dir := folder(t.TempDir()), t.TempDir()
	const size = 16<<20 + 4096 // more than one step
	blob := filepath.Join(string(blobs), "shrinking")
	members := []tarwriter.Member{{Name: "a", Size: size, Blob: "sha256:shrinking"}}
	for _, inFile := range []bool{false, true} {
		must(t, os.WriteFile(blob, nil, 0o644), os.Truncate(blob, size))
		shrink := func(n int64) {
			if n == 16<<20 {
				must(t, os.Truncate(blob, 16<<20+1))
			}
		}
		var err error
		if inFile {
			f, errCreate := tarwriter.CreateFile(filepath.Join(dir, "x.tar"), tarwriter.Options{})
			must(t, errCreate)
			_, err = f.Write(t.Context(), members, blobs, shrink)
			must(t, f.Close())
		} else {
			_, err = tarwriter.Write(t.Context(), io.Discard, members, blobs, shrink)
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("in a file %v: %v, want ErrUnexpectedEOF", inFile, err)
		}
	}
}

// waiting waits for blobs without opening them, and counts the open ones.
type waiting struct {
	late
	opened *atomic.Int64
}

func (w waiting) Wait(ctx context.Context, d digest.Digest) error {
	select {
	case <-w.ready[d]:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (w waiting) Open(ctx context.Context, d digest.Digest) (*os.File, error) {
	w.opened.Add(1)
	return w.folder.Open(ctx, d)
}

// More blobs are waited for than may be open: the last one can come first.
func TestBlobsAreAwaitedWithoutBeingOpen(t *testing.T) {
	blobs := folder(t.TempDir())
	from := waiting{late{blobs, make(map[digest.Digest]chan struct{})}, new(atomic.Int64)}
	var members []tarwriter.Member
	for i := range int64(200) {
		d := blobs.add(t, 600+i)
		from.ready[d.Digest] = make(chan struct{})
		members = append(members, tarwriter.Member{Name: fmt.Sprint(i), Size: d.Size, Blob: d.Digest})
	}
	f, err := tarwriter.CreateFile(filepath.Join(t.TempDir(), "x.tar"), tarwriter.Options{})
	must(t, err)
	copied, wrote := make(chan int64, 1000), make(chan error)
	go func() {
		wrote <- errors.Join(second(f.Write(t.Context(), members, from, func(n int64) { copied <- n })), f.Close())
	}()
	for i, m := range slices.Backward(members) {
		if n := from.opened.Load(); n != int64(len(members)-1-i) {
			t.Errorf("%d blobs were opened before they are there, want %d", n, len(members)-1-i)
		}
		close(from.ready[m.Blob])
		for n := int64(0); i > 0 && n != m.Size; {
			n = <-copied
		}
	}
	must(t, <-wrote)
}
