package tarwriter_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"drayage/tarwriter"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// folder is a Blobs of files named by digest.
type folder string

func (f folder) Open(_ context.Context, d digest.Digest) (*os.File, error) {
	return os.Open(filepath.Join(string(f), d.Encoded()))
}

func (f folder) add(t *testing.T, size int64) ocispec.Descriptor {
	t.Helper()
	content := make([]byte, size)
	rnd := rand.NewChaCha8([32]byte{byte(size), byte(size >> 8), byte(size >> 16), 1})
	rnd.Read(content)
	return f.put(t, content)
}

func (f folder) put(t *testing.T, content []byte) ocispec.Descriptor {
	t.Helper()
	d := digest.FromBytes(content)
	if err := os.WriteFile(filepath.Join(string(f), d.Encoded()), content, 0o644); err != nil {
		t.Fatal(err)
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: d, Size: int64(len(content))}
}

// image makes an image whose blobs are random and in the folder.
func (f folder) image(t *testing.T, name string, layers ...ocispec.Descriptor) tarwriter.Image {
	t.Helper()
	config := f.put(t, []byte(fmt.Sprintf(`{"os":"linux","architecture":"amd64","x":%d}`, len(layers))))
	raw, err := json.Marshal(ocispec.Manifest{Config: config, Layers: layers})
	if err != nil {
		t.Fatal(err)
	}
	m := f.put(t, raw)
	m.MediaType = ocispec.MediaTypeImageManifest
	m.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	img := tarwriter.Image{Target: m, Manifests: []tarwriter.Manifest{{Descriptor: m, Config: config, Layers: layers, Runnable: true}}}
	if name != "" {
		img.Name, img.RepoTag = "docker.io/library/"+name, name
	}
	return img
}

type file struct {
	name   string
	at     int64 // where its data starts in the archive
	digest digest.Digest
}

// readTar lists an archive's members by the standard library's reader.
func readTar(t *testing.T, raw []byte) []file {
	t.Helper()
	r := bytes.NewReader(raw)
	tr := tar.NewReader(r)
	var out []file
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		at := int64(len(raw) - r.Len())
		d, err := digest.FromReader(tr)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, file{name: h.Name, at: at, digest: d})
	}
}

func compose(t *testing.T, l tarwriter.Layout, blobs folder, images ...tarwriter.Image) []byte {
	t.Helper()
	members, err := l(images)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	var told int64
	if _, err := tarwriter.Write(t.Context(), &b, members, blobs, func(n int64) { told += n }); err != nil {
		t.Fatal(err)
	}
	if size, err := tarwriter.Size(members); err != nil || size != int64(b.Len()) || size != told {
		t.Errorf("Size = %d, %v, progress = %d; the archive has %d bytes", size, err, told, b.Len())
	}
	return b.Bytes()
}

func TestDockerLayoutHasBothHalves(t *testing.T) {
	blobs := folder(t.TempDir())
	base, top := blobs.add(t, 100_000), blobs.add(t, 10)
	raw := compose(t, tarwriter.Docker, blobs,
		blobs.image(t, "b:2", base, top, base), // a layer twice
		blobs.image(t, "a:1", base),
		blobs.image(t, "a:latest", base), // the same image under another name
		blobs.image(t, "", top))          // by digest alone

	files := readTar(t, raw)
	seen := map[string]digest.Digest{}
	for i, f := range files {
		if _, twice := seen[f.name]; twice {
			t.Errorf("%s is there twice", f.name)
		}
		seen[f.name] = f.digest
		if want := []string{"oci-layout", "index.json", "manifest.json", "repositories"}; i < len(want) && f.name != want[i] {
			t.Errorf("member %d is %s, want %s", i, f.name, want[i])
		}
		if hex, ok := strings.CutPrefix(f.name, "blobs/sha256/"); ok && hex != f.digest.Encoded() {
			t.Errorf("%s has the content of %s", f.name, f.digest)
		}
	}
	checkDockerManifest(t, raw, seen)
	checkOCIIndex(t, raw, seen)

	var repos map[string]map[string]string
	decode(t, raw, "repositories", &repos)
	want := map[string]map[string]string{
		"a": {"1": base.Digest.Encoded(), "latest": base.Digest.Encoded()}, "b": {"2": base.Digest.Encoded()},
	}
	if diff := cmp.Diff(want, repos); diff != "" {
		t.Error(diff)
	}
}

func checkDockerManifest(t *testing.T, raw []byte, seen map[string]digest.Digest) {
	t.Helper()
	var manifest []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	decode(t, raw, "manifest.json", &manifest)
	if len(manifest) != 3 {
		t.Fatalf("manifest.json has %d images, want 3: %v", len(manifest), manifest)
	}
	var tags [][]string
	for _, m := range manifest {
		tags = append(tags, m.RepoTags)
		for _, name := range append(m.Layers, m.Config) {
			if _, ok := seen[name]; !ok {
				t.Errorf("manifest.json names %s, which is not there", name)
			}
		}
	}
	if diff := cmp.Diff([][]string{nil, {"a:1", "a:latest"}, {"b:2"}}, tags); diff != "" {
		t.Error(diff)
	}
	if n := len(manifest[2].Layers); n != 3 {
		t.Errorf("b:2 has %d layers, want 3 with one twice", n)
	}
}

func checkOCIIndex(t *testing.T, raw []byte, seen map[string]digest.Digest) {
	t.Helper()
	var index ocispec.Index
	decode(t, raw, "index.json", &index)
	var names []string
	for _, d := range index.Manifests {
		names = append(names, d.Annotations["io.containerd.image.name"]+" "+d.Annotations[ocispec.AnnotationRefName])
		if _, ok := seen["blobs/sha256/"+d.Digest.Encoded()]; !ok || d.Platform == nil {
			t.Errorf("index.json: %v", d)
		}
	}
	if diff := cmp.Diff([]string{" ", "docker.io/library/a:1 1", "docker.io/library/a:latest latest", "docker.io/library/b:2 2"}, names); diff != "" {
		t.Error(diff)
	}
}

func TestOCILayoutIsPlain(t *testing.T) {
	blobs := folder(t.TempDir())
	artifact := blobs.image(t, "chart:1", blobs.add(t, 5))
	artifact.Manifests[0].Runnable = false
	var names []string
	for _, f := range readTar(t, compose(t, tarwriter.OCI, blobs, artifact)) {
		names = append(names, f.name)
	}
	if len(names) != 5 || names[0] != "oci-layout" || names[1] != "index.json" {
		t.Errorf("members: %v", names)
	}
	if _, err := tarwriter.Docker([]tarwriter.Image{artifact}); !errors.Is(err, tarwriter.ErrNotImage) {
		t.Errorf("Docker of an artifact: %v", err)
	}
}

func TestZeroLayers(t *testing.T) {
	blobs := folder(t.TempDir())
	raw := compose(t, tarwriter.Docker, blobs, blobs.image(t, "scratch:1"))
	var manifest []map[string]any
	decode(t, raw, "manifest.json", &manifest)
	if layers, ok := manifest[0]["Layers"].([]any); !ok || len(layers) != 0 {
		t.Errorf("Layers = %v, want an empty list", manifest[0]["Layers"])
	}
}

func TestArchivesAreTheSameInAnyOrder(t *testing.T) {
	blobs := folder(t.TempDir())
	images := []tarwriter.Image{
		blobs.image(t, "c:1", blobs.add(t, 1000), blobs.add(t, 70_000)), blobs.image(t, "a:1", blobs.add(t, 1000)),
		blobs.image(t, "b:1", blobs.add(t, 200_000)), blobs.image(t, ""),
	}
	for name, layout := range map[string]tarwriter.Layout{"docker": tarwriter.Docker, "oci": tarwriter.OCI, "legacy": tarwriter.Legacy} {
		want := compose(t, layout, blobs, images...)
		for range 10 {
			rand.Shuffle(len(images), func(i, j int) { images[i], images[j] = images[j], images[i] })
			if got := compose(t, layout, blobs, append(images, images[0])...); !bytes.Equal(got, want) {
				t.Fatalf("%s: the order of images changes the archive", name)
			}
		}
	}
}

// Sizes at every boundary: each member's bytes are right, and those of large
// members start where a file system can share them.
func TestLargeMembersAreAligned(t *testing.T) {
	blobs := folder(t.TempDir())
	const medium, large = 16 << 10, 1 << 20
	var layers []ocispec.Descriptor
	for _, base := range []int64{1, 511, 512, 1024, 1536, 2048, 2560, 3072, 3584, 4096, medium, medium + 512, 3 * medium, large, large + 512} {
		for d := int64(-1); d <= 1; d++ {
			layers = append(layers, blobs.add(t, base+d))
		}
	}
	for range 20 { // so that headers come at every multiple of 512
		rand.Shuffle(len(layers), func(i, j int) { layers[i], layers[j] = layers[j], layers[i] })
		for _, f := range readTar(t, compose(t, tarwriter.Docker, blobs, blobs.image(t, "x:1", layers...))) {
			hex, ok := strings.CutPrefix(f.name, "blobs/sha256/")
			if !ok {
				continue
			}
			if hex != f.digest.Encoded() {
				t.Fatalf("%s has the content of %s", f.name, f.digest)
			}
			i := slices.IndexFunc(layers, func(d ocispec.Descriptor) bool { return d.Digest.Encoded() == hex })
			if i < 0 {
				continue
			}
			if size := layers[i].Size; size >= medium && f.at%4096 != 0 || size >= large && f.at%(64<<10) != 0 {
				t.Errorf("member of %d bytes starts at %d", size, f.at)
			}
		}
	}
}

// The size of a member over 8 GiB takes a record of its own in the header.
func TestHugeMembersAreAligned(t *testing.T) {
	members := []tarwriter.Member{{Name: "a", Size: 1, Content: []byte("x")}, {Name: "blobs/sha256/x", Size: 9 << 30, Blob: "x"}}
	size, err := tarwriter.Size(members)
	if want := int64(64<<10 + 9<<30 + 1024); err != nil || size != want {
		t.Errorf("Size = %d, %v; want %d", size, err, want)
	}
}

func TestFileAppearsWholeOrNotAtAll(t *testing.T) {
	blobs := folder(t.TempDir())
	members, err := tarwriter.Docker([]tarwriter.Image{blobs.image(t, "x:1", blobs.add(t, 100_000))})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "x.tar")
	f, err := tarwriter.CreateFile(path, tarwriter.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tarwriter.CreateFile(path, tarwriter.Options{}); !errors.Is(err, tarwriter.ErrBusy) {
		t.Errorf("a second writer: %v, want ErrBusy", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is there before it is complete: %v", err)
	}
	if err := errors.Join(second(f.Write(t.Context(), members, blobs, nil)), f.Close()); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	readTar(t, first)

	if _, err := tarwriter.CreateFile(path, tarwriter.Options{}); !errors.Is(err, tarwriter.ErrExists) {
		t.Errorf("over an existing file: %v, want ErrExists", err)
	}
	// A failure leaves what was there, and nothing else.
	again, err := tarwriter.CreateFile(path, tarwriter.Options{Force: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := again.Write(ctx, members, blobs, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Write = %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	if got, _ := os.ReadFile(path); !bytes.Equal(got, first) {
		t.Error("the failed writing changed the file")
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

func TestFileTakesOverWhatADeadWriterLeft(t *testing.T) {
	blobs := folder(t.TempDir())
	path := filepath.Join(t.TempDir(), "x.tar")
	if err := os.WriteFile(path+".drayage-part", bytes.Repeat([]byte("junk"), 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	members, err := tarwriter.OCI([]tarwriter.Image{blobs.image(t, "x:1")})
	if err != nil {
		t.Fatal(err)
	}
	f, err := tarwriter.CreateFile(path, tarwriter.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(second(f.Write(t.Context(), members, blobs, nil)), f.Close()); err != nil {
		t.Fatal(err)
	}
	size, err := tarwriter.Size(members)
	if info, _ := os.Stat(path); err != nil || info.Size() != size {
		t.Errorf("size %d, want %d (%v)", info.Size(), size, err)
	}
}

func TestDamagedBlobsAreNoticed(t *testing.T) {
	blobs := folder(t.TempDir())
	layer := blobs.add(t, 1000)
	img := blobs.image(t, "x:1", layer)
	if err := os.Truncate(filepath.Join(string(blobs), layer.Digest.Encoded()), 999); err != nil {
		t.Fatal(err)
	}
	members, err := tarwriter.Docker([]tarwriter.Image{img})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tarwriter.Write(t.Context(), io.Discard, members, blobs, nil); err == nil {
		t.Error("a blob of the wrong size went into the archive")
	}
}

func TestDir(t *testing.T) {
	blobs := folder(t.TempDir())
	img := blobs.image(t, "x:1", blobs.add(t, 100_000))
	members, err := tarwriter.Docker([]tarwriter.Image{img})
	if err != nil {
		t.Fatal(err)
	}
	parent := t.TempDir()
	path := filepath.Join(parent, "new")
	d, err := tarwriter.CreateDir(path, tarwriter.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(second(d.Write(t.Context(), members, blobs, nil)), d.Close()); err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		if info, err := os.Stat(filepath.Join(path, m.Name)); err != nil || info.Size() != m.Size {
			t.Errorf("%s: %v", m.Name, err)
		}
	}
	if _, err := tarwriter.CreateDir(path, tarwriter.Options{}); !errors.Is(err, tarwriter.ErrExists) {
		t.Errorf("into a folder that is not empty: %v", err)
	}

	failed, err := tarwriter.CreateDir(filepath.Join(parent, "failed"), tarwriter.Options{})
	if err != nil {
		t.Fatal(err)
	}
	broken := append(slices.Clone(members), tarwriter.Member{Name: "blobs/sha256/gone", Blob: "sha256:gone"})
	if _, err := failed.Write(t.Context(), broken, blobs, nil); err == nil {
		t.Error("a missing blob was not noticed")
	}
	if err := failed.Close(); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(parent); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

// Into a pipe the kernel moves the bytes; what comes out must be the same.
func TestWriteIntoAPipe(t *testing.T) {
	blobs := folder(t.TempDir())
	img := blobs.image(t, "x:1", blobs.add(t, 3<<20), blobs.add(t, 17))
	want := compose(t, tarwriter.Docker, blobs, img)
	members, err := tarwriter.Docker([]tarwriter.Image{img})
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	wrote := make(chan error)
	go func() { wrote <- errors.Join(second(tarwriter.Write(t.Context(), w, members, blobs, nil)), w.Close()) }()
	got, err := io.ReadAll(r)
	if err := errors.Join(err, <-wrote); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes came through the pipe and differ from the %d expected", len(got), len(want))
	}
}

func decode(t *testing.T, raw []byte, name string, v any) {
	t.Helper()
	tr := tar.NewReader(bytes.NewReader(raw))
	for {
		h, err := tr.Next()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if h.Name == name {
			if err := json.NewDecoder(tr).Decode(v); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// unharmed checks that a precious file is what it was.
func unharmed(t *testing.T, precious string) {
	t.Helper()
	if precious == "" {
		return
	}
	if got, err := os.ReadFile(precious); err != nil || string(got) != "precious" {
		t.Errorf("it is %q now, %v", got, err)
	}
}

func second[T any](_ T, err error) error { return err }

// late gives out blobs only when they are released, as while they are fetched.
type late struct {
	folder
	ready map[digest.Digest]chan struct{}
}

func (l late) Open(ctx context.Context, d digest.Digest) (*os.File, error) {
	if c := l.ready[d]; c != nil {
		select {
		case <-c:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return l.folder.Open(ctx, d)
}

// An archive in a file is written in whichever order blobs come, and the same.
func TestFileTakesBlobsAsTheyCome(t *testing.T) {
	blobs := folder(t.TempDir())
	var layers []ocispec.Descriptor
	for i := range int64(8) {
		layers = append(layers, blobs.add(t, 1<<20*i+i))
	}
	img := blobs.image(t, "x:1", layers...)
	want := compose(t, tarwriter.Docker, blobs, img)
	members, err := tarwriter.Docker([]tarwriter.Image{img})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "x.tar")
	f, err := tarwriter.CreateFile(path, tarwriter.Options{})
	if err != nil {
		t.Fatal(err)
	}
	from := late{blobs, make(map[digest.Digest]chan struct{})}
	for _, l := range layers {
		from.ready[l.Digest] = make(chan struct{})
	}
	copied := make(chan int64, 1000)
	wrote := make(chan error)
	go func() {
		wrote <- errors.Join(second(f.Write(t.Context(), members, from, func(n int64) { copied <- n })), f.Close())
	}()
	for i := len(layers) - 1; i >= 0; i-- { // the last first, each copied before the next is there
		close(from.ready[layers[i].Digest])
		for n := int64(0); i > 0 && n != layers[i].Size; {
			n = <-copied
		}
	}
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, want %d (%v)", len(got), len(want), err)
	}
}

// A blob that doesn't come ends the writing, and leaves nothing.
func TestFileWithABlobThatIsGone(t *testing.T) {
	blobs := folder(t.TempDir())
	gone := blobs.add(t, 5000)
	img := blobs.image(t, "x:1", gone, blobs.add(t, 6000))
	if err := os.Remove(filepath.Join(string(blobs), gone.Digest.Encoded())); err != nil {
		t.Fatal(err)
	}
	members, err := tarwriter.Docker([]tarwriter.Image{img})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	f, err := tarwriter.CreateFile(filepath.Join(dir, "x.tar"), tarwriter.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(t.Context(), members, blobs, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Write = %v", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// What a config says goes into the legacy format: whatever it is, the result is
// JSON with the layer's own id.
func FuzzLegacyConfig(f *testing.F) {
	f.Add([]byte(`{"os":"linux","config":{"Cmd":["x"]},"id":"other","parent":"other","rootfs":{},"history":[]}`))
	f.Add([]byte(`[]`))
	layer := ocispec.Descriptor{Digest: digest.FromString("layer"), Size: 5}
	f.Fuzz(func(t *testing.T, config []byte) {
		d := ocispec.Descriptor{Digest: digest.FromBytes(config), Size: int64(len(config))}
		members, err := tarwriter.Legacy([]tarwriter.Image{{RepoTag: "x:1", Manifests: []tarwriter.Manifest{{
			Descriptor: d, Config: d, ConfigContent: config, Layers: []ocispec.Descriptor{layer}, Runnable: true,
		}}}})
		if err != nil {
			return
		}
		for _, m := range members {
			if id, ok := strings.CutSuffix(m.Name, "/json"); ok {
				var got map[string]any
				if err := json.Unmarshal(m.Content, &got); err != nil || got["id"] != id || got["parent"] != nil || got["rootfs"] != nil {
					t.Errorf("%s: %v", m.Content, err)
				}
			}
		}
	})
}

// A process that dies while it gives an archive its name leaves the archive under
// two. The next one must not write over it.
func TestAPartThatIsTheArchiveIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.tar")
	if err := errors.Join(os.WriteFile(path, []byte("archive"), 0o644), os.Link(path, path+".drayage-part")); err != nil {
		t.Fatal(err)
	}
	f, err := tarwriter.CreateFile(path, tarwriter.Options{Force: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "archive" {
		t.Errorf("the archive is %q, %v", got, err)
	}
}
