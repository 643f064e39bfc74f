package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"drayage/engine/registry/registrytest"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// part is a member of an archive that a test writes.
type part struct {
	name, text, link string
	pax              map[string]string
}

func tarOf(t *testing.T, parts ...part) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, p := range parts {
		h := &tar.Header{Name: p.name, Size: int64(len(p.text)), Mode: 0o644, PAXRecords: p.pax}
		if p.link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, p.link
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, p.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func blobPart(raw []byte) part {
	return part{name: "blobs/sha256/" + digest.FromBytes(raw).Encoded(), text: string(raw)}
}

// parts are the blobs of images.
func blobParts(images ...registrytest.Image) []part {
	var out []part
	for _, img := range images {
		out = append(out, blobPart(img.Manifest))
		for _, b := range img.Blobs {
			out = append(out, blobPart(b))
		}
	}
	return out
}

// indexPart is an index.json of images with names, "" for none.
func indexPart(t *testing.T, pairs ...any) part {
	t.Helper()
	var list []ocispec.Descriptor
	for i := 0; i < len(pairs); i += 2 {
		d := pairs[i].(registrytest.Image).Descriptor
		d.Platform = nil
		if name := pairs[i+1].(string); name != "" {
			d.Annotations = map[string]string{ocispec.AnnotationRefName: name}
		}
		list = append(list, d)
	}
	return part{name: "index.json", text: string(registrytest.Index(ocispec.MediaTypeImageIndex, list...))}
}

// configOf is an image's config.
func configOf(t *testing.T, img registrytest.Image) ([]byte, ocispec.Manifest) {
	t.Helper()
	var m ocispec.Manifest
	if err := json.Unmarshal(img.Manifest, &m); err != nil {
		t.Fatal(err)
	}
	return img.Blobs[m.Config.Digest], m
}

// manifestPart is a manifest.json of images with tags, as Docker 25 writes it.
func manifestPart(t *testing.T, pairs ...any) part {
	t.Helper()
	var entries []map[string]any
	for i := 0; i < len(pairs); i += 2 {
		_, m := configOf(t, pairs[i].(registrytest.Image))
		var layers []string
		for _, l := range m.Layers {
			layers = append(layers, "blobs/sha256/"+l.Digest.Encoded())
		}
		var tags []string
		if tag := pairs[i+1].(string); tag != "" {
			tags = []string{tag}
		}
		entries = append(entries, map[string]any{"Config": "blobs/sha256/" + m.Config.Digest.Encoded(), "RepoTags": tags, "Layers": layers})
	}
	raw, err := json.Marshal(entries)
	if err != nil {
		t.Fatal(err)
	}
	return part{name: "manifest.json", text: string(raw)}
}

var layoutPart = part{name: "oci-layout", text: `{"imageLayoutVersion":"1.0.0"}`}

func gzipped(t *testing.T, raw []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(raw)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func plainImage(platform string, seeds ...uint64) registrytest.Image {
	var layers [][]byte
	for _, s := range seeds {
		layers = append(layers, registrytest.Layer(s, 2000))
	}
	return registrytest.Build(platform, layers...)
}

func TestWorldArchives(t *testing.T) {
	here := "linux/" + runtime.GOARCH
	one, two := plainImage(here, 1, 2, 3), plainImage(here, 4)
	// imports imports an archive into a new store.
	imports := func(t *testing.T, raw []byte, status int, texts ...string) *world {
		t.Helper()
		w := newWorld(t)
		w.want(w.run("store", "import", w.write("archive.tar", string(raw))), status, texts...)
		return w
	}

	t.Run("R1", func(t *testing.T) {
		for _, index := range []string{`{"schemaVersion":2,"manifests":null}`, `{"schemaVersion":2,"manifests":[]}`, `{"schemaVersion":2}`} {
			all := append(blobParts(one), layoutPart, part{name: "index.json", text: index}, manifestPart(t, one, "app:1"))
			w := imports(t, tarOf(t, all...), 0, "app:1")
			w.want(w.run("store", "verify"), 0)
			w.want(w.run("store", "export", "-o", "out.tar", "app:1"), 0)
		}
		// By its id alone: it has no name, and none is invented.
		all := append(blobParts(one), layoutPart, part{name: "index.json", text: `{"manifests":null}`}, manifestPart(t, one, ""))
		w := imports(t, tarOf(t, all...), 0, "sha256:", "!library")
		w.want(w.run("store", "ls"), 0, "sha256:", "!library")
		w.want(w.run("store", "export", "-o", "out.tar"), 0)
		if raw, err := os.ReadFile(filepath.Join(w.home, "out.tar")); err != nil || strings.Contains(string(raw), "library/") || strings.Contains(string(raw), `"RepoTags":["`) || strings.Contains(string(raw), "io.containerd.image.name") {
			t.Errorf("the archive has an invented name, %v", err)
		}
	})

	t.Run("R1 an index.json that is empty or cut off", func(t *testing.T) {
		for index, texts := range map[string][]string{"": {"app:1", "!warning"}, " \n": {"app:1", "!warning"}, `{"manifests":[{"med`: {"app:1", "warning", "index.json"}} {
			all := append(blobParts(one), layoutPart, part{name: "index.json", text: index})
			w := imports(t, tarOf(t, append(all, manifestPart(t, one, "app:1"))...), 0, texts...)
			w.want(w.run("store", "ls"), 0, "app:1")
			imports(t, tarOf(t, all...), 1, "index.json")
		}
	})

	t.Run("R2", func(t *testing.T) {
		// The OCI manifest lists layers in the wrong order.
		_, m := configOf(t, one)
		m.Layers[0], m.Layers[2] = m.Layers[2], m.Layers[0]
		raw, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		wrong := one
		wrong.Manifest, wrong.Descriptor = raw, registrytest.Describe(one.Descriptor.MediaType, raw)
		all := append(blobParts(wrong), layoutPart, indexPart(t, wrong, "docker.io/library/app:1"), manifestPart(t, one, "app:1"))
		w := imports(t, tarOf(t, all...), 0, "app:1")
		w.want(w.run("store", "export", "--layers", "tar", "-o", "out.tar", "app:1"), 0)
		// With nothing that is right it is refused.
		imports(t, tarOf(t, append(blobParts(wrong), layoutPart, indexPart(t, wrong, "app:1"))...), 6)
	})

	t.Run("R2 the OCI half can't be used", func(t *testing.T) {
		config, m := configOf(t, one)
		// with is the image with another manifest.
		with := func(layers ...ocispec.Descriptor) registrytest.Image {
			other := m
			other.Layers = layers
			raw, err := json.Marshal(other)
			if err != nil {
				t.Fatal(err)
			}
			img := one
			img.Manifest, img.Descriptor = raw, registrytest.Describe(one.Descriptor.MediaType, raw)
			return img
		}
		gone := registrytest.Layer(77, 100)
		lost := one
		lost.Descriptor = registrytest.Describe(one.Descriptor.MediaType, []byte("no manifest"))
		for name, wrong := range map[string]registrytest.Image{
			"fewer layers":        with(m.Layers[:2]...),
			"more layers":         with(append(append([]ocispec.Descriptor{}, m.Layers...), m.Layers[0])...),
			"a layer is missing":  with(m.Layers[0], registrytest.Describe(m.Layers[1].MediaType, gone), m.Layers[2]),
			"the manifest is not": lost,
		} {
			blobs := []part{blobPart(config), layoutPart}
			for _, l := range m.Layers {
				blobs = append(blobs, blobPart(one.Blobs[l.Digest]))
			}
			if name != "the manifest is not" {
				blobs = append(blobs, blobPart(wrong.Manifest))
			}
			index := indexPart(t, wrong, "docker.io/library/app:1")
			w := imports(t, tarOf(t, append(blobs, index, manifestPart(t, one, "app:1"))...), 0, "app:1", "warning", "manifest.json")
			w.want(w.run("store", "ls"), 0, "app:1", "!sha256:"+wrong.Descriptor.Digest.Encoded())
			if o := w.run("store", "ls"); strings.Count(o.out, "\n") != 1 {
				t.Errorf("%s: want one image:\n%s", name, o.out)
			}
			w.want(w.run("store", "export", "-o", "out.tar", "app:1"), 0)
			w.want(w.run("store", "verify"), 0)
			// Another image beside it, which index.json has right, and one that only manifest.json has.
			all := append(blobs, blobParts(two)...)
			w = imports(t, tarOf(t, append(all, indexPart(t, two, "two:1", wrong, "app:1"), manifestPart(t, one, "app:1", two, "two:1", two, "again:1"))...), 0, "app:1", "two:1", "again:1")
			w.want(w.run("store", "verify"), 0)
			// With nothing that is right it is refused.
			if o := imports(t, tarOf(t, append(blobs, index)...), 1, "app:1").run("store", "ls"); strings.Contains(o.out, "app") {
				t.Errorf("%s: it came in:\n%s", name, o.out)
			}
		}
		// Of several platforms manifest.json has but one.
		index := registrytest.Index(ocispec.MediaTypeImageIndex, lost.Descriptor, two.Descriptor)
		several := one
		several.Descriptor = registrytest.Describe(ocispec.MediaTypeImageIndex, index)
		var parts []part
		for _, p := range append(blobParts(one), blobPart(index), layoutPart, indexPart(t, several, "app:1"), manifestPart(t, one, "app:1")) {
			if p.name != blobPart(one.Manifest).name {
				parts = append(parts, p)
			}
		}
		imports(t, tarOf(t, parts...), 1, "app:1", "!manifest.json is used")
	})

	t.Run("R3", func(t *testing.T) {
		all := append(blobParts(one, two), layoutPart, indexPart(t, one, "docker.io/library/app:1"), manifestPart(t, one, "app:1", two, ""))
		w := imports(t, tarOf(t, all...), 0, "app:1", "sha256:")
		w.want(w.run("store", "verify"), 0)
		if o := w.run("store", "ls"); strings.Count(o.out, "\n") != 2 {
			t.Errorf("want two images:\n%s", o.out)
		}
		// A second tag of the first, too.
		all = append(blobParts(one, two), layoutPart, indexPart(t, one, "docker.io/library/app:1"), manifestPart(t, one, "app:1", one, "app:latest", two, "other:2"))
		imports(t, tarOf(t, all...), 0, "app:1", "app:latest", "other:2")
	})

	t.Run("R4", func(t *testing.T) {
		config, m := configOf(t, one)
		var parts []part
		var layers []string
		for _, l := range m.Layers {
			name := "blobs/sha256/" + l.Digest.Encoded() + ".tar.gz"
			layers = append(layers, name)
			parts = append(parts, part{name: name, text: string(one.Blobs[l.Digest])})
		}
		raw, err := json.Marshal([]map[string]any{{"Config": "blobs/sha256/" + m.Config.Digest.Encoded(), "RepoTags": []string{"app:1"}, "Layers": layers}})
		if err != nil {
			t.Fatal(err)
		}
		imports(t, tarOf(t, append(parts, blobPart(config), part{name: "manifest.json", text: string(raw)})...), 0, "app:1")
	})

	t.Run("R5", func(t *testing.T) {
		all := []part{{name: "./._index.json", text: "\x00\x05\x16\x07"}, {name: ".DS_Store", text: "\x00\x00"}, {name: "__MACOSX/._x", text: "x"}}
		for _, p := range append(blobParts(one), layoutPart, indexPart(t, one, "app:1"), manifestPart(t, one, "app:1")) {
			p.pax = map[string]string{"LIBARCHIVE.xattr.com.apple.provenance": "AQAA"}
			all = append(all, part{name: filepath.Dir(p.name) + "/._" + filepath.Base(p.name), text: "\x00\x05\x16\x07"}, p)
		}
		imports(t, tarOf(t, all...), 0, "app:1")
		// The same as a folder.
		w := newWorld(t)
		for _, p := range all {
			w.write("dir/"+p.name, p.text)
		}
		w.want(w.run("store", "import", filepath.Join(w.home, "dir")), 0, "app:1")
	})

	t.Run("R6", func(t *testing.T) {
		// Twice the same, and an index that was appended later.
		all := append(blobParts(one), layoutPart, indexPart(t, one, "old:1"))
		all = append(all, blobParts(one, two)...)
		all = append(all, indexPart(t, two, "new:1"))
		imports(t, tarOf(t, all...), 0, "new:1", "!old:1")
		if _, err := exec.LookPath("tar"); err == nil {
			w := newWorld(t)
			path := w.write("a.tar", string(tarOf(t, append(blobParts(one), layoutPart, indexPart(t, one, "old:1"))...)))
			w.write("index.json", indexPart(t, one, "new:1").text)
			if out, err := exec.CommandContext(t.Context(), "tar", "-C", w.home, "-rf", path, "index.json").CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			w.want(w.run("store", "import", path), 0, "new:1", "!old:1")
		}
	})

	t.Run("R7", func(t *testing.T) {
		if _, err := exec.LookPath("tar"); err != nil || runtime.GOOS != "linux" {
			t.Skip("needs GNU tar")
		}
		hole := registrytest.Random(9, 100)
		hole = append(hole, make([]byte, 1<<20)...)
		hole = append(hole, registrytest.Random(10, 100)...)
		img := registrytest.Build(here, hole)
		for _, format := range [][]string{{"--format=gnu"}, {"--format=pax", "--sparse-version=0.0"}, {"--format=pax", "--sparse-version=0.1"}, {"--format=pax", "--sparse-version=1.0"}} {
			w := newWorld(t)
			for _, p := range append(blobParts(img), layoutPart, indexPart(t, img, "app:1")) {
				path := w.write("dir/"+p.name, p.text)
				if int64(len(p.text)) == int64(len(hole)) { // written anew, with a hole
					f, err := os.Create(path)
					if err != nil {
						t.Fatal(err)
					}
					_, err1 := f.WriteAt(hole[:100], 0)
					_, err2 := f.WriteAt(hole[len(hole)-100:], int64(len(hole)-100))
					if err1 != nil || err2 != nil || f.Close() != nil {
						t.Fatal(err1, err2)
					}
				}
			}
			args := append([]string{"-C", filepath.Join(w.home, "dir"), "-S", "-cf", filepath.Join(w.home, "a.tar")}, append(format, ".")...)
			if out, err := exec.CommandContext(t.Context(), "tar", args...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if info, err := os.Stat(filepath.Join(w.home, "a.tar")); err != nil || info.Size() > 1<<19 {
				t.Fatalf("%v: tar did not find the hole", format)
			}
			w.want(w.run("store", "import", "a.tar"), 0, "app:1")
			w.want(w.run("store", "verify"), 0)
		}
	})

	t.Run("R7 a hole that would fill the disk", func(t *testing.T) {
		if _, err := exec.LookPath("tar"); err != nil || runtime.GOOS != "linux" {
			t.Skip("needs GNU tar")
		}
		w := newWorld(t)
		const size = 20 << 30 // all of it a hole
		if err := os.Truncate(w.write("vast", ""), size); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(w.home, "vast.tar")
		if out, err := exec.CommandContext(t.Context(), "tar", "-C", w.home, "--format=gnu", "-S", "-cf", path, "vast").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		w.want(w.run("store", "import", path), 1, "sparse")
		w.want(w.run("pull", "--since", path, "-o", "new.tar", w.image), 1, "sparse")
	})

	t.Run("R8", func(t *testing.T) {
		w := newWorld(t)
		_, m := configOf(t, one)
		layer := m.Layers[0].Digest
		for _, p := range append(blobParts(one), layoutPart, indexPart(t, one, "app:1")) {
			w.write("dir/"+p.name, p.text)
		}
		blob := filepath.Join(w.home, "dir/blobs/sha256", layer.Encoded())
		move := func(to, link string) {
			t.Helper()
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(blob, to); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(link, blob); err != nil {
				t.Fatal(err)
			}
		}
		back := func(from string) {
			t.Helper()
			if err := os.Rename(from, blob); err != nil {
				t.Fatal(err)
			}
		}
		inside := filepath.Join(w.home, "dir/shared/layer")
		for _, link := range []string{"../../shared/layer", inside} {
			move(inside, link)
			w.want(w.run("store", "import", "--store", t.TempDir(), filepath.Join(w.home, "dir")), 0, "app:1")
			back(inside)
		}
		outside := filepath.Join(w.home, "base/blobs/layer")
		for _, link := range []string{"../../../base/blobs/layer", outside} {
			move(outside, link)
			w.want(w.run("store", "import", "--store", t.TempDir(), filepath.Join(w.home, "dir")), 1, "cp -RL", "tar -h")
			back(outside)
		}
	})

	t.Run("R9", func(t *testing.T) {
		amd, arm := plainImage("linux/amd64", 1), plainImage("linux/arm64", 2)
		for _, pair := range [][2]registrytest.Image{{amd, arm}, {arm, amd}} {
			all := append(blobParts(amd, arm), layoutPart, indexPart(t, pair[0], "app:1", pair[1], "app:1"))
			w := imports(t, tarOf(t, all...), 0, "app:1")
			for _, platform := range []string{"linux/amd64", "linux/arm64"} {
				w.want(w.run("store", "export", "--platform", platform, "--force", "-o", "out.tar", "app:1"), 0)
			}
			w.want(w.run("store", "export", "--format", "oci", "-d", "out", "app:1"), 0)
			for _, img := range []registrytest.Image{amd, arm} {
				if _, err := os.Stat(filepath.Join(w.home, "out/blobs/sha256", img.Descriptor.Digest.Encoded())); err != nil {
					t.Errorf("one of them was dropped: %v", err)
				}
			}
		}
		// Two of one platform: the later one counts, and the other is named.
		all := append(blobParts(one, two), layoutPart, indexPart(t, one, "app:1", two, "app:1"))
		imports(t, tarOf(t, all...), 0, "warning", one.Descriptor.Digest.String(), two.Descriptor.Digest.String())
	})

	t.Run("R10", func(t *testing.T) {
		_, m := configOf(t, two)
		missing := "blobs/sha256/" + m.Layers[0].Digest.Encoded()
		for _, index := range []part{indexPart(t, one, "whole:1", two, "broken:1"), indexPart(t, two, "broken:1", one, "whole:1")} {
			var all []part
			for _, p := range append(blobParts(one, two), layoutPart, index) {
				if p.name != missing {
					all = append(all, p)
				}
			}
			w := imports(t, tarOf(t, all...), 1, "whole:1", "broken:1")
			w.want(w.run("store", "ls"), 0, "whole:1", "!broken:1")
		}
		var all []part
		for _, p := range append(blobParts(one, two), manifestPart(t, two, "broken:1", one, "whole:1")) {
			if p.name != missing {
				all = append(all, p)
			}
		}
		w := imports(t, tarOf(t, all...), 1, "broken:1")
		w.want(w.run("store", "ls"), 0, "whole:1", "!broken:1")
	})

	t.Run("R10 a blob that isn't what its name says", func(t *testing.T) {
		_, m := configOf(t, two)
		bad := "blobs/sha256/" + m.Layers[0].Digest.Encoded()
		rotten := func(parts []part) []part {
			var out []part
			for _, p := range parts {
				if p.name == bad {
					p.text = "rotten" + p.text[len("rotten"):]
				}
				out = append(out, p)
			}
			return out
		}
		for _, heads := range [][]part{
			{layoutPart, indexPart(t, two, "broken:1", one, "whole:1")},
			{manifestPart(t, two, "broken:1", one, "whole:1")},
			{layoutPart, indexPart(t, two, "broken:1", one, "whole:1"), manifestPart(t, two, "broken:1", one, "whole:1")},
		} {
			w := imports(t, tarOf(t, append(rotten(blobParts(two, one)), heads...)...), 6, "broken:1: ", bad, "whole:1")
			w.want(w.run("store", "ls"), 0, "whole:1", "!broken:1")
			w.want(w.run("store", "verify"), 0)
			// Alone, it is refused.
			imports(t, tarOf(t, append(rotten(blobParts(two)), layoutPart, indexPart(t, two, "broken:1"))...), 6, bad)
			// One that was appended later is right.
			all := append(append(rotten(blobParts(two, one)), heads...), blobParts(two)...)
			imports(t, tarOf(t, all...), 0, "broken:1", "whole:1")
		}
		// No image needs it.
		w := imports(t, tarOf(t, append(rotten(blobParts(two, one)), layoutPart, indexPart(t, one, "whole:1"))...), 6, bad, "whole:1")
		w.want(w.run("store", "ls"), 0, "whole:1")
	})

	t.Run("R11", func(t *testing.T) {
		raw := tarOf(t, append(blobParts(one), layoutPart, indexPart(t, one, "app:1"))...)
		for program, want := range map[string]int{"bzip2": 0, "gzip": 0, "xz": 2} {
			path, err := exec.LookPath(program)
			if err != nil {
				continue
			}
			cmd := exec.CommandContext(t.Context(), path, "-c")
			cmd.Stdin = bytes.NewReader(raw)
			packed, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			w := imports(t, packed, want)
			if want != 0 {
				w.want(w.run("store", "import", "archive.tar"), want, "decompress it first: "+program+" -dc FILE > ", "!|")
				w.want(w.pull("--since", "archive.tar", "-o", "out.tar", w.image), want, "decompress it first: "+program+" -dc FILE > ", "!store import")
			}
			w.want(w.runIn(string(packed), "store", "import", "-"), want)
		}
		// lzma has no magic number; these are its properties, its dictionary's size and no length.
		imports(t, []byte("\x5d\x00\x00\x80\x00"+strings.Repeat("\xff", 8)+strings.Repeat("\x00 body", 200)), 2, "lzma", "xz -dc FILE > ")
		twice := gzipped(t, gzipped(t, raw))
		w := imports(t, twice, 2, "gzip twice", "gzip -dc FILE > ")
		w.want(w.runIn(string(twice), "store", "import", "-"), 2, "gzip twice")
		if _, err := exec.LookPath("xz"); err == nil {
			cmd := exec.CommandContext(t.Context(), "xz", "-c")
			cmd.Stdin = bytes.NewReader(raw)
			packed, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			imports(t, gzipped(t, packed), 2, "xz and then with gzip", "gzip -dc FILE | xz -dc > ")
		}
	})

	t.Run("what is no archive", func(t *testing.T) {
		for _, raw := range []string{"", "alpine:3.20\nbusybox\n", strings.Repeat("text ", 1000), "\x7fELF\x02\x01\x01"} {
			w := newWorld(t)
			w.want(w.run("store", "import", w.write("list.txt", raw)), 2, "not an archive")
		}
	})

	t.Run("volumes", func(t *testing.T) {
		w := newWorld(t)
		large := w.reg.Push("large", "1", registrytest.Build(here, registrytest.Random(9, 300_000)))
		w.want(w.run("pull", "--split", "64KiB", "-o", "out.tar", large), 0)
		files, err := filepath.Glob(filepath.Join(w.home, "out.tar.*"))
		if err != nil || len(files) < 3 {
			t.Fatalf("%v, %v", files, err)
		}
		w.want(w.run("store", "import", "--store", t.TempDir(), "out.tar.002"), 7, "out.tar.001")
		if err := os.Rename(files[1], filepath.Join(w.home, "away")); err != nil {
			t.Fatal(err)
		}
		w.want(w.run("store", "import", "--store", t.TempDir(), "out.tar.001"), 7, "out.tar.002", "missing")
		for _, f := range files[2:] {
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
		}
		w.want(w.run("store", "import", "--store", t.TempDir(), "out.tar.001"), 7, "out.tar.001")
	})

	t.Run("volumes as the shell names them", func(t *testing.T) {
		w := newWorld(t)
		large := w.reg.Push("large", "1", registrytest.Build(here, registrytest.Random(9, 300_000)))
		w.want(w.run("pull", "--split", "64KiB", "-o", "out.tar", large), 0)
		other := w.write("other.tar", string(tarOf(t, append(blobParts(one), layoutPart, indexPart(t, one, "app:1"))...)))
		imported := func(status int, names []string, texts ...string) {
			t.Helper()
			w.want(w.run(append([]string{"store", "import", "--store", t.TempDir()}, names...)...), status, texts...)
		}
		for _, pattern := range []string{"out.tar.0*", "out.tar.*"} {
			files, err := filepath.Glob(filepath.Join(w.home, pattern))
			if err != nil || len(files) < 3 {
				t.Fatalf("%v, %v", files, err)
			}
			imported(0, append(files, other), "large:1", "app:1")
		}
		imported(0, []string{"out.tar"}, "large:1")
		imported(0, []string{"out.tar", "out.tar.001", "out.tar.002"}, "large:1")

		second := filepath.Join(w.home, "out.tar.002")
		raw, err := os.ReadFile(second)
		if err != nil {
			t.Fatal(err)
		}
		w.write("out.tar.002", string(raw[:len(raw)-1000]))
		imported(6, []string{"out.tar.001"}, "out.tar.002", "out.tar.sha256")
		w.write("out.tar.002", string(raw))

		if err := os.Remove(filepath.Join(w.home, "out.tar.001")); err != nil {
			t.Fatal(err)
		}
		imported(7, []string{"out.tar.002"}, "out.tar.001 is missing")
		imported(7, []string{"out.tar"}, "out.tar.001 is missing")
		imported(7, []string{"out.tar.001"}, "out.tar.001 is missing")
		// A number may be a date.
		dated := w.write("images.20241125", string(tarOf(t, append(blobParts(one), layoutPart, indexPart(t, one, "app:1"))...)))
		imported(0, []string{dated}, "app:1")
		imported(2, []string{w.write("notes.20241125", "a text")}, "not an archive")
	})

	t.Run("a layer of the store that lost bytes", func(t *testing.T) {
		w := imports(t, tarOf(t, append(blobParts(one, two), layoutPart, indexPart(t, one, "app:1", two, "whole:1"))...), 0)
		_, m := configOf(t, one)
		blob := filepath.Join(w.home, "store/blobs/sha256", m.Layers[0].Digest.Encoded())
		if err := os.Chmod(blob, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(blob, 10); err != nil {
			t.Fatal(err)
		}
		w.want(w.run("store", "export", "-o", "out.tar", "app:1"), 6, m.Layers[0].Digest.String())
		w.want(w.run("store", "export", "-o", "all.tar"), 0, "app:1", "skipped")
	})

	t.Run("names that are replaced", func(t *testing.T) {
		w := newWorld(t)
		old := w.write("old.tar", string(tarOf(t, append(blobParts(one), layoutPart, indexPart(t, one, "app:1"))...)))
		other := w.write("new.tar", string(tarOf(t, append(blobParts(two), layoutPart, indexPart(t, two, "app:1"))...)))
		w.want(w.run("store", "import", old), 0, "!replaces")
		w.want(w.run("store", "import", old), 0, "!replaces")
		w.want(w.run("store", "import", "--no-replace", other), 7, one.Descriptor.Digest.String(), two.Descriptor.Digest.String())
		w.want(w.run("store", "ls"), 0, one.Descriptor.Digest.String())
		w.want(w.run("store", "import", other), 0, "replaces", one.Descriptor.Digest.String(), two.Descriptor.Digest.String())
		w.want(w.run("store", "ls"), 0, two.Descriptor.Digest.String())
	})
}

func TestWorldManifests(t *testing.T) {
	t.Run("M1", func(t *testing.T) {
		w := newWorld(t)
		layer, config := registrytest.Layer(1, 3000), []byte(`{"layers":[{"blob":"sha256:x"}]}`)
		w.reg.PushBlob("cache", layer)
		w.reg.PushBlob("cache", config)
		index := registrytest.Index(ocispec.MediaTypeImageIndex,
			registrytest.Describe(ocispec.MediaTypeImageLayerGzip, layer), registrytest.Describe("application/vnd.buildkit.cacheconfig.v0", config))
		name := w.reg.PushManifest("cache", "1", ocispec.MediaTypeImageIndex, index)
		w.want(w.pull(name), 4, "build cache")
		w.want(w.run("inspect", name), 4, "build cache")
		store := t.TempDir()
		w.want(w.run("pull", "--store", store, "--all-platforms", "--format", "oci", "-d", "out", name), 0)
		for _, raw := range [][]byte{layer, config, index} {
			if got, err := os.ReadFile(filepath.Join(w.home, "out/blobs/sha256", digest.FromBytes(raw).Encoded())); err != nil || !bytes.Equal(got, raw) {
				t.Errorf("a blob of it: %v", err)
			}
		}
		w.want(w.run("store", "verify", "--store", store), 0)
		w.want(w.run("store", "export", "--store", store, "--format", "oci", "-o", "again.tar", name), 0)
		w.want(w.pull("--all-platforms", "-o", "docker.tar", name), 4, "build cache")
		// Images and blobs in one index.
		img := smallImage()
		w.reg.Push("mixed", "", img)
		w.reg.PushBlob("mixed", layer)
		mixed := w.reg.PushManifest("mixed", "1", ocispec.MediaTypeImageIndex, registrytest.Index(ocispec.MediaTypeImageIndex,
			registrytest.Describe(ocispec.MediaTypeImageLayerGzip, layer), img.Descriptor))
		w.want(w.pull(mixed), 0)
		w.want(w.pull("--all-platforms", "--format", "oci", "-d", "mixed", mixed), 0)
		if _, err := os.Stat(filepath.Join(w.home, "mixed/blobs/sha256", digest.FromBytes(layer).Encoded())); err != nil {
			t.Error(err)
		}
	})

	t.Run("M2", func(t *testing.T) {
		for _, platform := range []ocispec.Platform{{}, {Architecture: runtime.GOARCH}, {OS: "linux"}, {Variant: "v8"}} {
			w := newWorld(t)
			img := smallImage()
			w.reg.Push("half", "", img)
			d := img.Descriptor
			d.Platform = &platform
			name := w.reg.PushManifest("half", "1", ocispec.MediaTypeImageIndex, registrytest.Index(ocispec.MediaTypeImageIndex, d))
			w.want(w.pull(name), 0)
			w.want(w.pull("--platform", "linux/"+runtime.GOARCH, name), 0)
			w.want(w.pull("--platform", "linux/s390x", name), 4) // the config tells
		}
	})

	t.Run("M2 several that tell no platform", func(t *testing.T) {
		for _, platform := range []*ocispec.Platform{nil, {}, {OS: "linux"}} {
			w := newWorld(t)
			var children []ocispec.Descriptor
			var names []string
			for i, p := range []string{"linux/amd64", "linux/arm64"} {
				img := plainImage(p, uint64(i+1))
				w.reg.Push("half", "", img)
				d := img.Descriptor
				d.Platform = platform
				children = append(children, d)
				names = append(names, "@"+d.Digest.String())
			}
			name := w.reg.PushManifest("half", "1", ocispec.MediaTypeImageIndex, registrytest.Index(ocispec.MediaTypeImageIndex, children...))
			w.want(w.pull(name), 4, append(names, "!has no images")...)
			w.want(w.pull("--platform", "linux/arm64", name), 4, names...)
			chosen := name + "@" + children[1].Digest.String()
			w.want(w.pull("--platform", "linux/arm64", chosen), 0)
			// Beside one that tells its platform, but not the one that is wanted.
			told := plainImage("linux/s390x", 3)
			w.reg.Push("half", "", told)
			name = w.reg.PushManifest("half", "2", ocispec.MediaTypeImageIndex, registrytest.Index(ocispec.MediaTypeImageIndex, append(children, told.Descriptor)...))
			w.want(w.pull("--platform", "linux/arm64", name), 4, append(names, "linux/s390x")...)
			w.want(w.pull("--platform", "linux/s390x", name), 0)
		}
	})

	t.Run("M3", func(t *testing.T) {
		w := newWorld(t)
		var children []ocispec.Descriptor
		want := ""
		for i, version := range []string{"10.0.17763.5576", "", "10.0.20348.2340", "10.0.9.1"} {
			img := plainImage("windows/amd64", uint64(i+1))
			w.reg.Push("win", "", img)
			d := img.Descriptor
			d.Platform = &ocispec.Platform{OS: "windows", Architecture: "amd64", OSVersion: version}
			children = append(children, d)
			if version == "10.0.20348.2340" {
				want = d.Digest.String()
			}
		}
		arm := plainImage("linux/arm64", 7)
		w.reg.Push("win", "", arm)
		name := w.reg.PushManifest("win", "1", ocispec.MediaTypeImageIndex, registrytest.Index(ocispec.MediaTypeImageIndex, append(children, arm.Descriptor)...))
		w.want(w.pull("--platform", "windows/amd64", name), 0, "10.0.20348.2340")
		w.want(w.run("inspect", "--platform", "windows/amd64", name), 0, want)
		w.want(w.pull("--platform", "windows/arm64", name), 4)
		lone := w.reg.PushManifest("win", "2", ocispec.MediaTypeImageIndex, registrytest.Index(ocispec.MediaTypeImageIndex, children[1]))
		w.want(w.pull("--platform", "windows/amd64", lone), 0, "!warning")
	})

	t.Run("M7", func(t *testing.T) {
		packed := registrytest.Layer(1, 5000)
		bare := registrytest.Unpacked(packed)
		for name, layer := range map[string][]byte{"gzip": bare, "gzip alone": bare, "zstd alone": bare, "tar": packed, "zstd": packed, "tar of zstd": registrytest.ZstdLayer(3, 5000)} {
			w := newWorld(t)
			layers := [][]byte{layer}
			if !strings.HasSuffix(name, "alone") { // else nothing is converted, and yet its name is wrong
				layers = append(layers, registrytest.Layer(2, 100))
			}
			img := registrytest.Build("linux/"+runtime.GOARCH, layers...)
			_, m := configOf(t, img)
			m.Layers[0].MediaType = map[string]string{"gzip": ocispec.MediaTypeImageLayerGzip, "zstd": ocispec.MediaTypeImageLayerZstd, "gzip alone": ocispec.MediaTypeImageLayerGzip, "zstd alone": ocispec.MediaTypeImageLayerZstd}[name]
			if m.Layers[0].MediaType == "" {
				m.Layers[0].MediaType = ocispec.MediaTypeImageLayer
			}
			raw, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			w.reg.Push("odd", "", img)
			ref := w.reg.PushManifest("odd", "1", ocispec.MediaTypeImageManifest, raw)
			for _, form := range []string{"tar", "gzip", "keep"} {
				out := filepath.Join(w.home, form+".tar")
				w.want(w.run("pull", "--store", t.TempDir(), "--layers", form, "-o", out, ref), 0)
				if form != "keep" {
					dir := filepath.Join(w.home, form)
					w.want(w.run("pull", "--store", t.TempDir(), "--layers", form, "--format", "oci", "-d", dir, ref), 0)
					checkLayerTypes(t, dir, form)
				}
				if form != "keep" {
					checkLayerForms(t, out, form)
				}
				w.want(w.run("store", "import", "--store", t.TempDir(), out), 0)
			}
		}
	})
}

// checkLayerTypes wants the layers of the manifest in a folder to be called by their form.
func checkLayerTypes(t *testing.T, dir, form string) {
	t.Helper()
	read := func(into any, name string) {
		t.Helper()
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = json.Unmarshal(raw, into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var index ocispec.Index
	var m ocispec.Manifest
	read(&index, "index.json")
	read(&m, "blobs/sha256/"+index.Manifests[0].Digest.Encoded())
	want := map[string]string{"tar": ocispec.MediaTypeImageLayer, "gzip": ocispec.MediaTypeImageLayerGzip}[form]
	for _, l := range m.Layers {
		if l.MediaType != want {
			t.Errorf("%s: layer %s is called %s", form, l.Digest, l.MediaType)
		}
	}
}

// checkLayerForms wants all layers of an archive to be of a form.
func checkLayerForms(t *testing.T, path, form string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files := make(map[string][]byte)
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	var entries []struct{ Layers []string }
	if err := json.Unmarshal(files["manifest.json"], &entries); err != nil {
		t.Fatal(err)
	}
	for _, l := range entries[0].Layers {
		_, err := gzip.NewReader(bytes.NewReader(files[l]))
		if isGzip := err == nil; isGzip != (form == "gzip") {
			t.Errorf("%s: layer %s is gzip: %v", form, l, isGzip)
		}
	}
}
