package archive_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"drayage/blobstore"
	"drayage/engine/archive"
	"drayage/engine/image"
	"drayage/engine/limitstest"
	"drayage/engine/registry/registrytest"
	"drayage/tarwriter/compress"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// packed is raw in gzip.
func packed(t testing.TB, raw []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := compress.NewWriter(&b, compress.Gzip)
	if _, err := z.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func importOf(t testing.TB, s *blobstore.Store, raw []byte, o archive.Options) ([]archive.Image, error) {
	t.Helper()
	return archive.Import(t.Context(), s, "-", bytes.NewReader(raw), o)
}

// lists are an archive's lists: what goes around the values that they have many of.
func lists() map[string][3]string {
	const d = `"digest":"sha256:` + "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" + `","size":0`
	return map[string][3]string{
		"index.json":                   {"index.json", `{"manifests":[`, `]}`},
		"an entry of index.json":       {"index.json", `{"manifests":[{` + d + `,"annotations":{"a":`, `}}]}`},
		"manifest.json":                {"manifest.json", `[`, `]`},
		"the layers of manifest.json":  {"manifest.json", `[{"Config":"x","Layers":[`, `]}]`},
		"the tags of manifest.json":    {"manifest.json", `[{"Config":"x","RepoTags":[`, `]}]`},
		"an unknown field of it":       {"manifest.json", `[{"Config":"x","More":[`, `]}]`},
		"repositories":                 {"repositories", `{"a":{"b":[`, `]}}`},
		"drayage-since.json":           {"drayage-since.json", `{"version":1,"absent":[`, `]}`},
		"an old layer's json":          {"x/json", `{"id":"x","config":[`, `]}`},
		"a field of index.json, alone": {"index.json", `{"more":[`, `]}`},
	}
}

// Whatever the lists of an archive have in them, it takes little memory to refuse it.
func TestListsOfArchivesTakeLittleMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes minutes on an emulated processor")
	}
	const size = 8 << 20 // unpacked
	try := func(t *testing.T, what string, raw []byte) {
		s := openStore(t)
		reads := []func() error{func() error { _, err := importOf(t, s, raw, archive.Options{}); return err }}
		if what == "drayage-since.json" { // the only one that is read for them
			reads = append(reads, func() error { _, err := archive.Digests(t.Context(), "-", bytes.NewReader(raw), 0); return err })
		}
		for _, read := range reads {
			var err error
			if peak := limitstest.Peak(func() { err = read() }); peak > limitstest.Most {
				t.Errorf("%s: %d MiB", what, peak>>20)
			}
			if err != nil && (len(err.Error()) > 500 || strings.ContainsAny(err.Error(), "\n\x1b")) {
				t.Errorf("%s: not one short line: %.1000q", what, err)
			}
		}
		if roots, err := s.Roots(); err != nil || len(roots) > 0 {
			t.Errorf("%s: %v, %v", what, roots, err)
		}
	}
	for name, l := range lists() {
		t.Run(name, func(t *testing.T) {
			unit := `{}`
			if strings.Contains(name, "layers") || strings.Contains(name, "tags") {
				unit = `""`
			}
			try(t, l[0], packed(t, pack(t, entry{name: l[0], text: string(limitstest.Filled(l[1], unit, l[2], size))})))
		})
	}
	config := []byte(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}`)
	empty := digest.FromBytes(config).Encoded()
	var fields, tags, names strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&fields, `"%d":{},`, i)
		fmt.Fprintf(&tags, `{"Config":"blobs/sha256/%s","RepoTags":["x:%d"],"Layers":[]},`, empty, i)
		fmt.Fprintf(&names, `{"digest":"sha256:%s","size":1,"annotations":{"io.containerd.image.name":"docker.io/x:%d"}},`, empty, i)
	}
	for name, e := range map[string]entry{
		"repositories of many": {name: "repositories", text: `{` + strings.TrimSuffix(fields.String(), ",") + `}`},
		"many names":           {name: "manifest.json", text: `[` + strings.TrimSuffix(tags.String(), ",") + `]`},
		"many entries":         {name: "index.json", text: `{"manifests":[` + strings.TrimSuffix(names.String(), ",") + `]}`},
		"a long string":        {name: "index.json", text: `{"manifests":["` + strings.Repeat("x", size) + `"]}`},
		"a long name":          {name: "repositories", text: `{"` + strings.Repeat("x", size) + `":{}}`},
		"a deep field":         {name: "index.json", text: `{"x":` + strings.Repeat("[", size)},
		"a deep entry":         {name: "manifest.json", text: strings.Repeat("[", size)},
		"a huge number":        {name: "manifest.json", text: `[{"Config":` + strings.Repeat("9", 1<<19) + `}]`},
	} {
		t.Run(name, func(t *testing.T) {
			try(t, name, packed(t, pack(t, entry{name: "blobs/sha256/" + empty, text: string(config)}, e)))
		})
	}
}

// Members that are nothing but names take little memory, too.
func TestNamesOfMembersTakeLittleMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes minutes on an emulated processor")
	}
	in, out := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w := tar.NewWriter(out)
		for i := 0; ; i++ {
			if w.WriteHeader(&tar.Header{Name: fmt.Sprintf("%0100x", i), Linkname: "x", Typeflag: tar.TypeSymlink}) != nil {
				return // its reader has had enough
			}
		}
	}()
	s := openStore(t)
	limitstest.Within(t, limitstest.Most, func() {
		if _, err := archive.Import(t.Context(), s, "-", in, archive.Options{}); !errors.Is(err, archive.ErrInvalid) || !strings.Contains(err.Error(), "too many") {
			t.Errorf("%v", err)
		}
	})
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	<-done
}

// An archive of ten thousand images is one like others.
func TestImportOfTenThousandImages(t *testing.T) {
	const images = 10_000
	layer := registrytest.Unpacked(registrytest.Layer(1, 100))
	l := blob(layer)
	config := []byte(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["` + digest.FromBytes(layer).String() + `"]}}`)
	c := blob(config)
	manifest := []byte(fmt.Sprintf(`{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"%s","digest":"%s","size":%d},"layers":[{"mediaType":"application/vnd.docker.image.rootfs.diff.tar","digest":"%s","size":%d}]}`,
		image.DockerManifest, image.DockerConfig, digest.FromBytes(config), len(config), digest.FromBytes(layer), len(layer)))
	m := blob(manifest)
	var index, docker strings.Builder
	for i := range images {
		fmt.Fprintf(&index, `,{"mediaType":"%s","digest":"%s","size":%d,"annotations":{"io.containerd.image.name":"registry.example/team/app:%d","org.opencontainers.image.ref.name":"%d"}}`, image.DockerManifest, digest.FromBytes(manifest), len(manifest), i, i)
		fmt.Fprintf(&docker, `,{"Config":"%s","RepoTags":["registry.example/team/app:%d"],"Layers":["%s"%s]}`, c.name, i, l.name, "")
	}
	raw := pack(t, entry{name: "oci-layout", text: `{"imageLayoutVersion":"1.0.0"}`}, entry{name: "index.json", text: `{"schemaVersion":2,"manifests":[` + index.String()[1:] + `]}`},
		entry{name: "manifest.json", text: `[` + docker.String()[1:] + `]`}, l, c, m)
	s := openStore(t)
	var got []archive.Image
	limitstest.Within(t, limitstest.Most, func() {
		var err error
		if got, err = importOf(t, s, raw, archive.Options{NoReplace: true}); err != nil {
			t.Fatal(err)
		}
	})
	if len(got) != images {
		t.Errorf("%d images", len(got))
	}
}

func TestNothingStaysThatNoImageNeeds(t *testing.T) {
	img := registrytest.Build("linux/amd64", registrytest.Layer(1, 1000))
	junk := registrytest.Random(9, 50_000)
	stray := blob(registrytest.Random(8, 50_000))
	for name, c := range map[string]struct {
		entries []entry
		fails   bool
	}{
		"an OCI layout":            {append([]entry{stray, {name: "junk", text: string(junk)}}, layout(t, img, "docker.io/x:1")...), false},
		"after it":                 {append(layout(t, img, "docker.io/x:1"), stray, entry{name: "a/layer.tar", text: string(junk)}), false},
		"docker save":              {append([]entry{stray, {name: "junk", text: string(junk)}}, saved(t, img, "x:1")...), false},
		"an archive of no image":   {[]entry{stray, {name: "junk", text: string(junk)}, {name: "index.json", text: `{"manifests":[]}`}}, true},
		"no archive of images":     {[]entry{stray, {name: "junk", text: string(junk)}}, true},
		"a name that leads astray": {append(layout(t, img, "docker.io/x:1"), stray, entry{name: "../x", text: "x"}), true},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
			_, err := importOf(t, s, pack(t, c.entries...), archive.Options{})
			if (err != nil) != c.fails {
				t.Fatal(err)
			}
			need := make(map[digest.Digest]bool)
			roots, err := s.Roots()
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range roots {
				for _, d := range r.Blobs {
					need[d] = true
				}
			}
			left, err := s.Blobs(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range left {
				if !need[b.Digest] {
					t.Errorf("%s stays, of %d bytes", b.Digest, b.Size)
				}
			}
			if len(roots) == 0 != c.fails || len(left) != len(need) {
				t.Errorf("%d images, %d blobs of %d", len(roots), len(left), len(need))
			}
		})
	}
}

// What another process counts on stays, even if an archive brought it and has no use for it.
func TestWhatOthersNeedStays(t *testing.T) {
	img := registrytest.Build("linux/amd64", registrytest.Layer(1, 1000))
	s := openStore(t)
	lease, err := s.Lease()
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Close()
	stray := registrytest.Random(8, 5000)
	if has, err := lease.Has(ocispec.Descriptor{Digest: digest.FromBytes(stray), Size: int64(len(stray))}); err != nil || has {
		t.Fatal(has, err)
	}
	if _, err := importOf(t, s, pack(t, append(layout(t, img, "docker.io/x:1"), blob(stray))...), archive.Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(digest.FromBytes(stray)); err != nil {
		t.Errorf("a blob that another lease has: %v", err)
	}
	// What was there before is nobody's to remove.
	if err := lease.Put(t.Context(), ocispec.Descriptor{Digest: digest.FromString("old"), Size: 3}, []byte("old")); err != nil {
		t.Fatal(err)
	}
	if _, err := importOf(t, s, pack(t, append(layout(t, img, "docker.io/x:2"), blob([]byte("old")))...), archive.Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(digest.FromString("old")); err != nil {
		t.Errorf("a blob that was there: %v", err)
	}
}

func TestRatioOfArchivesAndLayers(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes minutes on an emulated processor")
	}
	zeros := make([]byte, compress.RatioFrom+(1<<20))
	padded := registrytest.Build("linux/amd64", packed(t, pack(t, entry{name: "zeros", text: string(zeros)})))
	bare := registrytest.Build("linux/amd64", registrytest.Layer(1, 100))
	for name, raw := range map[string][]byte{
		"a layer":            pack(t, layout(t, padded, "docker.io/x:1")...),
		"a compressed layer": pack(t, saved(t, padded, "x:1")[:1]...),
		"an archive":         packed(t, pack(t, append(layout(t, bare, "docker.io/x:1"), entry{name: "junk", text: string(zeros)})...)),
	} {
		if name == "a compressed layer" {
			e := saved(t, padded, "x:1")
			e[1].text = string(padded.Blobs[padded.Layers[0].Digest])
			raw = pack(t, e...)
		}
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
			_, err := importOf(t, s, raw, archive.Options{})
			var ratio *compress.RatioError
			if !errors.Is(err, archive.ErrInvalid) || !errors.As(err, &ratio) || !strings.Contains(err.Error(), "--max-ratio") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v", err)
			}
			if left, err := s.Blobs(t.Context()); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
			for _, o := range []archive.Options{{MaxRatio: -1}, {MaxRatio: 2000}} {
				if got, err := importOf(t, openStore(t), raw, o); err != nil || len(got) != 1 {
					t.Errorf("%d: %v, %v", o.MaxRatio, got, err)
				}
			}
			if name == "an archive" {
				if _, err := archive.Digests(t.Context(), "-", bytes.NewReader(raw), 0); !errors.As(err, &ratio) {
					t.Errorf("its digests: %v", err)
				}
			}
		})
	}
}

// hybrid is an archive with both lists, of which manifest.json is of another image, maybe.
func hybrid(t testing.TB, a registrytest.Image, nameA string, b registrytest.Image, tagB string) []entry {
	t.Helper()
	out := layout(t, a, nameA)
	if b.Descriptor.Digest != a.Descriptor.Digest {
		for _, raw := range b.Blobs {
			out = append(out, blob(raw))
		}
	}
	e := map[string]any{"Config": blob(b.Blobs[b.Config.Digest]).name, "RepoTags": []string{tagB}}
	var layers []string
	for _, l := range b.Layers {
		layers = append(layers, blob(b.Blobs[l.Digest]).name)
	}
	e["Layers"] = layers
	raw, err := json.Marshal([]any{e})
	if err != nil {
		t.Fatal(err)
	}
	return append(out, entry{name: "manifest.json", text: string(raw)})
}

func TestListsThatDisagreeAreRefused(t *testing.T) {
	a := registrytest.Build("linux/amd64", registrytest.Layer(1, 1000))
	b := registrytest.Build("linux/amd64", registrytest.Layer(2, 1000))
	for _, c := range []struct {
		name  string
		raw   []entry
		names int
		bad   bool
	}{
		{"the same image", hybrid(t, a, "docker.io/x:1", a, "x:1"), 1, false},
		{"two names", hybrid(t, a, "docker.io/x:1", b, "x:2"), 2, false},
		{"one name", hybrid(t, a, "docker.io/x:1", b, "x:1"), 0, true},
		{"one name, spelled otherwise", hybrid(t, a, "docker.io/library/x:1", b, "index.docker.io/x:1"), 0, true},
	} {
		s := openStore(t)
		_, err := importOf(t, s, pack(t, c.raw...), archive.Options{})
		if c.bad && (!errors.Is(err, archive.ErrInvalid) || !strings.Contains(err.Error(), "index.json and manifest.json have different images")) || !c.bad && err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if roots, err := s.Roots(); err != nil || len(roots) != c.names {
			t.Errorf("%s: %v, %v", c.name, roots, err)
		}
	}
}

// The archives that earlier versions wrote still go in, from files and from folders.
func TestImportOfGoldenArchives(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "..", "cmd", "drayage", "testdata", "golden", "*.tar"))
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		s := openStore(t)
		got, err := archive.Import(t.Context(), s, f, nil, archive.Options{NoReplace: true, Warn: func(m string) { t.Errorf("%s: %s", f, m) }})
		if err != nil || len(got) != 3 {
			t.Errorf("%s: %v, %v", f, got, err)
		}
		roots, err := s.Roots()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range roots {
			if r.From != (blobstore.Origin{Kind: blobstore.FromArchive, Where: filepath.Base(f)}) {
				t.Errorf("%s: from %v", r.Name, r.From)
			}
		}
	}
}

func TestLayersOfUnknownTypesAreChecked(t *testing.T) {
	plain := pack(t, entry{name: "etc/x", text: "x"})
	other := pack(t, entry{name: "etc/x", text: "y"})
	sealed := registrytest.Random(3, 1000)
	const odd = "application/vnd.example.layer+odd"
	build := func(layer, diffOf []byte, mediaType string) []byte {
		config := []byte(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["` + digest.FromBytes(diffOf).String() + `"]}}`)
		manifest := []byte(fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":"%s","digest":"%s","size":%d},"layers":[{"mediaType":"%s","digest":"%s","size":%d}]}`,
			ocispec.MediaTypeImageConfig, digest.FromBytes(config), len(config), mediaType, digest.FromBytes(layer), len(layer)))
		index := fmt.Sprintf(`{"manifests":[{"mediaType":"%s","digest":"%s","size":%d}]}`, ocispec.MediaTypeImageManifest, digest.FromBytes(manifest), len(manifest))
		return pack(t, entry{name: "index.json", text: index}, blob(config), blob(manifest), blob(layer))
	}
	for _, c := range []struct {
		name           string
		layer, diffOf  []byte
		mediaType      string
		refused, warns bool
	}{
		{"a tar", plain, plain, odd, false, false},
		{"another tar", other, plain, odd, true, false},
		{"gzip", packed(t, plain), plain, odd, false, false},
		{"gzip by its own digest", packed(t, plain), packed(t, plain), odd, false, false},
		{"gzip of another", packed(t, other), plain, odd, true, false},
		{"what can't be read", sealed, plain, odd, false, true},
		{"what can't be read, and calls itself a layer", sealed, plain, ocispec.MediaTypeImageLayer, true, false},
		{"without a type", other, plain, "", true, false},
	} {
		var warned []string
		_, err := importOf(t, openStore(t), build(c.layer, c.diffOf, c.mediaType), archive.Options{Warn: func(m string) { warned = append(warned, m) }})
		if c.refused != errors.Is(err, archive.ErrMismatch) || !c.refused && err != nil || c.warns != (len(warned) > 0) {
			t.Errorf("%s: %v, warned %q", c.name, err, warned)
		}
	}
}

// An archive that has a name twice, and names that the store has, in each format.
func TestNamesAreReplacedOrRefused(t *testing.T) {
	a := registrytest.Build("linux/amd64", registrytest.Layer(1, 1000))
	b := registrytest.Build("linux/amd64", registrytest.Layer(2, 1000))
	both := func(first, second registrytest.Image) []entry {
		x, y := first.Descriptor, second.Descriptor
		x.Platform, y.Platform = nil, nil
		x.Annotations = map[string]string{ocispec.AnnotationRefName: "x:1"}
		y.Annotations = x.Annotations
		out := []entry{{name: "index.json", text: string(registrytest.Index(ocispec.MediaTypeImageIndex, x, y))}}
		for _, img := range []registrytest.Image{first, second} {
			out = append(out, layout(t, img, "")[2:]...)
		}
		return out
	}
	twiceSaved := func() []entry {
		first, second := saved(t, a, "x:1"), saved(t, b, "x:1")
		second[1].name = strings.Replace(second[1].name, "0/", "f/", 1)
		text := strings.TrimSuffix(first[2].text, "]") + "," + strings.TrimPrefix(strings.Replace(second[2].text, "0/layer", "f/layer", 1), "[")
		return append(append(first[:2], second[:2]...), entry{name: "manifest.json", text: text})
	}
	legacy := func(img registrytest.Image) []entry {
		id := strings.Repeat("a", 64)
		return []entry{{name: "repositories", text: `{"x":{"1":"` + id + `"}}`}, {name: id + "/json", text: `{"id":"` + id + `","os":"linux","architecture":"amd64"}`},
			{name: id + "/layer.tar", text: string(registrytest.Unpacked(img.Blobs[img.Layers[0].Digest]))}}
	}
	for name, c := range map[string]struct {
		first, second []entry
		twice         bool // the second has it twice
	}{
		"OCI layouts":             {layout(t, a, "docker.io/x:1"), layout(t, b, "docker.io/x:1"), false},
		"docker save":             {saved(t, a, "x:1"), saved(t, b, "x:1"), false},
		"the oldest format":       {legacy(a), legacy(b), false},
		"both lists":              {hybrid(t, a, "docker.io/x:1", a, "x:1"), hybrid(t, b, "docker.io/x:1", b, "x:1"), false},
		"twice in index.json":     {layout(t, a, "docker.io/x:1"), both(a, b), true},
		"twice in manifest.json":  {saved(t, a, "x:1"), twiceSaved(), true},
		"twice, the old one last": {layout(t, a, "docker.io/x:1"), both(b, a), true},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
			if _, err := importOf(t, s, pack(t, c.first...), archive.Options{NoReplace: true}); err != nil {
				t.Fatal(err)
			}
			old, err := s.Root("docker.io/library/x:1")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := importOf(t, s, pack(t, c.first...), archive.Options{NoReplace: true}); err != nil {
				t.Errorf("the same again: %v", err)
			}
			if _, err := importOf(t, s, pack(t, c.second...), archive.Options{NoReplace: true}); !errors.Is(err, archive.ErrReplaces) {
				t.Errorf("another: %v", err)
			}
			if now, err := s.Root("docker.io/library/x:1"); err != nil || now.Target.Digest != old.Target.Digest {
				t.Errorf("it was replaced: %v, %v", now, err)
			}
			var warned []string
			if _, err := importOf(t, s, pack(t, c.second...), archive.Options{Warn: func(m string) { warned = append(warned, m) }}); err != nil {
				t.Fatal(err)
			}
			now, err := s.Root("docker.io/library/x:1")
			if err != nil {
				t.Fatal(err)
			}
			text := strings.Join(warned, "\n")
			if c.twice && !strings.Contains(text, "twice") {
				t.Errorf("warned %q", warned)
			}
			replaced := now.Target.Digest != old.Target.Digest
			if replaced != (strings.Contains(text, "replaces docker.io/library/x:1") && strings.Contains(text, old.Target.Digest.String()) && strings.Contains(text, now.Target.Digest.String())) && !c.twice {
				t.Errorf("replaced: %v, warned %q", replaced, warned)
			}
			if replaced && !strings.Contains(text, "replaces") {
				t.Errorf("warned %q", warned)
			}
		})
	}
}

// A descriptor with a wrong size costs a comparison, however many images have it.
func TestManyImagesWithOneLayer(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes minutes on an emulated processor")
	}
	layer := registrytest.Unpacked(registrytest.Layer(1, 1000))
	config := []byte(`{"os":"linux","architecture":"amd64"}`)
	var parts []string
	entries := []entry{blob(layer), blob(config)}
	for i := range 300 {
		manifest := []byte(fmt.Sprintf(`{"schemaVersion":2,"annotations":{"n":"%d"},"config":{"mediaType":"%s","digest":"%s","size":%d},"layers":[%s]}`, i, ocispec.MediaTypeImageConfig, digest.FromBytes(config), len(config),
			strings.TrimSuffix(strings.Repeat(fmt.Sprintf(`{"mediaType":"%s","digest":"%s","size":%d},`, ocispec.MediaTypeImageLayer, digest.FromBytes(layer), len(layer)), 1000), ",")))
		entries = append(entries, blob(manifest))
		parts = append(parts, fmt.Sprintf(`{"mediaType":"%s","digest":"%s","size":%d}`, ocispec.MediaTypeImageManifest, digest.FromBytes(manifest), len(manifest)))
	}
	some := strings.Join(parts[:40], ",")
	index := []byte(`{"schemaVersion":2,"manifests":[` + some + strings.Repeat(","+parts[0], 1000) + `]}`)
	entries = append(entries, blob(index), entry{name: "index.json", text: fmt.Sprintf(`{"manifests":[{"mediaType":"%s","digest":"%s","size":%d}]}`, ocispec.MediaTypeImageIndex, digest.FromBytes(index), len(index))})
	got, err := importOf(t, openStore(t), pack(t, entries...), archive.Options{})
	if err != nil || len(got) != 1 {
		t.Fatalf("%v, %v", got, err)
	}
}
