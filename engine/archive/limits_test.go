package archive_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"drayage/engine/archive"
	"drayage/engine/image"
	"drayage/engine/internal/limits"
	"drayage/engine/limitstest"
	"drayage/engine/registry/registrytest"
	"drayage/tarwriter/compress"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// repeated reads a text n times.
type repeated struct {
	text []byte
	n    int64
	at   int
}

func (r *repeated) Read(p []byte) (int, error) {
	if r.n == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.text[r.at:])
	if r.at += n; r.at == len(r.text) {
		r.at, r.n = 0, r.n-1
	}
	return n, nil
}

// headers are members without content, and nothing after them.
func headers(t *testing.T, h *tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := tar.NewWriter(&b).WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// The values here are those of docs/limits.md: a test fails when a limit is raised.
func TestLimitOfMembers(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes minutes on an emulated processor")
	}
	const members = 2_000_000
	img := pack(t, layout(t, registrytest.Build("linux/amd64", registrytest.Layer(1, 100)), "docker.io/x:1")...)
	const own = 5 // of the image
	folders := bytes.Repeat(headers(t, &tar.Header{Name: "x/", Typeflag: tar.TypeDir}), 100)
	for _, c := range []struct {
		n  int
		ok bool
	}{{members - 100, true}, {members, true}, {members + 1, false}} {
		n := c.n - own
		in := io.MultiReader(&repeated{text: folders, n: int64(n / 100)}, bytes.NewReader(folders[:n%100*512]), bytes.NewReader(img))
		got, err := archive.Import(t.Context(), openStore(t), "-", in, archive.Options{})
		if c.ok && (err != nil || len(got) != 1) || !c.ok && (!errors.Is(err, archive.ErrInvalid) || !strings.Contains(err.Error(), "more than 2000000 members")) {
			t.Errorf("%d members: %v, %v", c.n, got, err)
		}
	}
}

func TestLimitOfLists(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes minutes on an emulated processor")
	}
	const most = 128 << 20
	entries := layout(t, registrytest.Build("linux/amd64", registrytest.Layer(1, 100)), "docker.io/x:1")
	index := entries[1]
	rest := pack(t, without(entries, "index.json")...)
	for size, ok := range map[int64]bool{most - 1: true, most: true, most + 1: false} {
		h := headers(t, &tar.Header{Name: "index.json", Typeflag: tar.TypeReg, Mode: 0o644, Size: size})
		fill := size - int64(len(index.text))
		blank := bytes.Repeat([]byte(" "), 1<<16)
		in := io.MultiReader(bytes.NewReader(h), strings.NewReader(index.text), &repeated{text: blank, n: fill >> 16}, bytes.NewReader(blank[:fill%(1<<16)]),
			bytes.NewReader(make([]byte, -size&511)), bytes.NewReader(rest))
		got, err := archive.Import(t.Context(), openStore(t), "-", in, archive.Options{})
		if ok && (err != nil || len(got) != 1) || !ok && (!errors.Is(err, archive.ErrInvalid) || !strings.Contains(err.Error(), `"index.json" has 134217729 bytes`)) {
			t.Errorf("%d bytes: %v, %v", size, got, err)
		}
	}
}

func TestLimitOfNames(t *testing.T) {
	const most = 4096
	entries := layout(t, registrytest.Build("linux/amd64", registrytest.Layer(1, 100)), "docker.io/x:1")
	for size, ok := range map[int]bool{most - 1: true, most: true, most + 1: false} {
		_, err := importOf(t, openStore(t), pack(t, append(entries, entry{name: strings.Repeat("x", size)})...), archive.Options{})
		if ok != (err == nil) || !ok && !strings.Contains(err.Error(), "a name of 4097 bytes") {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

// The limits that other packages' tests hold the program to by their names.
func TestLimitsAreThoseOfTheDocs(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "limits.md"))
	if err != nil {
		t.Fatal(err)
	}
	for name, is := range map[string][2]any{
		"Searched": {limits.Searched, "100"}, "NeededBelow": {limits.NeededBelow, "50,000"}, "MemoryBytes": {limits.MemoryBytes >> 20, "16 MiB"},
		"ArchiveMembers": {limits.ArchiveMembers, "2,000,000"}, "ArchiveListBytes": {limits.ArchiveListBytes >> 20, "128 MiB"}, "ArchiveName": {limits.ArchiveName >> 10, "4 KiB"},
		"EntryBytes": {limits.EntryBytes >> 20, "1 MiB"}, "ArchiveNotes": {limits.ArchiveNotes >> 20, "40 MiB"}, "ArchiveNotesShare": {limits.ArchiveNotesShare, "8"},
		"ArchiveNotesMost": {limits.ArchiveNotesMost >> 20, "256 MiB"}, "Ratio": {compress.Ratio, "200"}, "RatioFrom": {compress.RatioFrom >> 20, "64 MiB"}, "ImageBytes": {limits.ImageBytes >> 20, "8 MiB"},
	} {
		text := is[1].(string)
		number, _, _ := strings.Cut(strings.ReplaceAll(text, ",", ""), " ")
		if number != fmt.Sprint(is[0]) {
			t.Errorf("%s is %v, and its documented value %s", name, is[0], text)
		}
		if !strings.Contains(string(page), "| `"+name+"` | "+text+" |") {
			t.Errorf("docs/limits.md doesn't say that %s is %s", name, text)
		}
	}
}

// What comes by a pipe is judged as what comes from a file: by its whole size, which is not known
// when its first layer is all holes.
func TestPipesAreJudgedAsFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes minutes on an emulated processor")
	}
	zeros := entry{name: "blobs/sha256/x.tar", text: string(make([]byte, 2*compress.RatioFrom))}
	img := layout(t, registrytest.Build("linux/amd64", registrytest.Layer(1, 1<<20)), "docker.io/x:1")
	plain := layout(t, registrytest.Build("linux/amd64", registrytest.Layer(1, 100)), "docker.io/x:1")
	// sparse is a file of n bytes that is one hole.
	sparse := func(n int64) []byte {
		b := headers(t, &tar.Header{Name: "hole", Typeflag: tar.TypeReg, Mode: 0o644})
		b[156] = tar.TypeGNUSparse
		copy(b[257:], "ustar  \x00")
		copy(b[386:], fmt.Sprintf("%011o\x00%011o\x00", n, 0))
		copy(b[483:], fmt.Sprintf("%011o\x00", n))
		fixSum(b)
		return b
	}
	noise := entry{name: "noise", text: string(registrytest.Random(7, 2<<20))}
	for name, c := range map[string]struct {
		raw   []byte
		ratio compress.MaxRatio
		ok    bool
	}{
		"gzip, honest":   {squeezedBy(t, compress.Gzip, pack(t, append([]entry{zeros}, img...)...)), 0, true},
		"zstd, honest":   {squeezedBy(t, compress.Zstd, pack(t, append([]entry{zeros}, img...)...)), 0, true},
		"gzip, a bomb":   {squeezedBy(t, compress.Gzip, pack(t, append([]entry{zeros}, plain...)...)), 100, false},
		"zstd, a bomb":   {squeezedBy(t, compress.Zstd, pack(t, append([]entry{zeros}, plain...)...)), 0, false},
		"holes, honest":  {append(sparse(2*compress.RatioFrom), pack(t, append(img, noise)...)...), 0, true},
		"holes, a bomb":  {append(sparse(2*compress.RatioFrom), pack(t, plain...)...), 0, false},
		"holes, no end":  {append(sparse(2*compress.RatioFrom), make([]byte, 600)...), 0, false},
		"a higher ratio": {append(sparse(2*compress.RatioFrom), pack(t, plain...)...), 1 << 20, true},
	} {
		t.Run(name, func(t *testing.T) {
			file := put(t, filepath.Join(t.TempDir(), "a.tar"), c.raw)
			for _, from := range []string{file, "-"} {
				s := openStore(t)
				_, err := archive.Import(t.Context(), s, from, bytes.NewReader(c.raw), archive.Options{MaxRatio: c.ratio})
				var ratio *compress.RatioError
				if c.ok != (err == nil) || !c.ok && !errors.As(err, &ratio) {
					t.Errorf("from %s: %v", filepath.Base(from), err)
				}
				if ratio != nil && ratio.Size != int64(len(c.raw)) {
					t.Errorf("from %s: it says that its size is %d, which is %d", filepath.Base(from), ratio.Size, len(c.raw))
				}
				if left, _ := filepath.Glob(filepath.Join(s.Dir(), "ingest", "*")); len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
				_, err = archive.Digests(t.Context(), from, bytes.NewReader(c.raw), c.ratio)
				if c.ok != (err == nil) {
					t.Errorf("the digests from %s: %v", filepath.Base(from), err)
				}
			}
		})
	}
}

func squeezedBy(t *testing.T, f compress.Format, raw []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := compress.NewWriter(&b, f)
	_, err := z.Write(raw)
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A config that is ambiguous is no reason not to hold layers against it.
func TestAmbiguousConfigsAreRefused(t *testing.T) {
	layer := registrytest.Unpacked(registrytest.Layer(1, 100))
	right, wrong := digest.FromBytes(layer).String(), digest.FromString("x").String()
	build := func(config string) []entry {
		manifest := []byte(fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":"%s","digest":"%s","size":%d},"layers":[{"mediaType":"%s","digest":"%s","size":%d}]}`,
			ocispec.MediaTypeImageConfig, digest.FromString(config), len(config), image.DockerLayer, digest.FromBytes(layer), len(layer)))
		index := fmt.Sprintf(`{"manifests":[{"mediaType":"%s","digest":"%s","size":%d,"annotations":{"io.containerd.image.name":"docker.io/x:1"}}]}`, ocispec.MediaTypeImageManifest, digest.FromBytes(manifest), len(manifest))
		return []entry{{name: "index.json", text: index}, blob([]byte(config)), blob(manifest), blob(layer)}
	}
	rootfs := func(d string) string { return `{"type":"layers","diff_ids":["` + d + `"]}` }
	for name, c := range map[string]struct {
		config string
		ok     bool
	}{
		"right":                       {`{"os":"linux","architecture":"amd64","rootfs":` + rootfs(right) + `}`, true},
		"wrong":                       {`{"os":"linux","architecture":"amd64","rootfs":` + rootfs(wrong) + `}`, false},
		"twice":                       {`{"os":"linux","architecture":"amd64","rootfs":` + rootfs(right) + `,"rootfs":` + rootfs(wrong) + `}`, false},
		"twice in case":               {`{"os":"linux","architecture":"amd64","rootfs":` + rootfs(wrong) + `,"RootFS":` + rootfs(right) + `}`, false},
		"twice elsewhere":             {`{"os":"linux","architecture":"amd64","x":1,"x":2,"rootfs":` + rootfs(wrong) + `}`, false},
		"no digest":                   {`{"os":"linux","architecture":"amd64","rootfs":` + rootfs("x") + `}`, false},
		"labels that differ in case":  {`{"os":"linux","architecture":"amd64","config":{"Labels":{"Foo":"1","foo":"2","os":"","OS":""}},"rootfs":` + rootfs(right) + `}`, true},
		"unknown ones that do":        {`{"os":"linux","architecture":"amd64","x-y":{"A":1,"a":2},"X-Y":2,"rootfs":` + rootfs(right) + `}`, true},
		"labels that do, and a wrong": {`{"os":"linux","architecture":"amd64","config":{"Labels":{"Foo":"1","foo":"2"}},"rootfs":` + rootfs(wrong) + `}`, false},
	} {
		got, err := importOf(t, openStore(t), pack(t, build(c.config)...), archive.Options{})
		if c.ok != (err == nil) || c.ok != (len(got) == 1) || !c.ok && !errors.Is(err, archive.ErrInvalid) && !errors.Is(err, archive.ErrMismatch) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// An archive of docker save as it was, with tens of thousands of layers' folders, is one like others.
func TestThirtyThousandOldLayers(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes minutes on an emulated processor")
	}
	const layers, each = 30_000, 30
	path := filepath.Join(t.TempDir(), "a.tar")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(out)
	add := func(name, text string) {
		err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))})
		if _, errWrite := io.WriteString(w, text); errors.Join(err, errWrite) != nil {
			t.Fatal(err, errWrite)
		}
	}
	history := `,"created":"2015-01-01T00:00:00Z","container_config":{"Cmd":["` + strings.Repeat("x", 800) + `"]}}`
	var manifest, repositories, diffIDs, names strings.Builder
	below := ""
	for n := range layers {
		id := digest.FromString(fmt.Sprint(n)).Encoded()
		text := string(registrytest.Random(uint64(n), 20))
		add(id+"/VERSION", "1.0")
		add(id+"/json", `{"id":"`+id+`","parent":"`+below+`"`+history)
		add(id+"/layer.tar", text)
		fmt.Fprintf(&diffIDs, `,"%s"`, digest.FromString(text))
		fmt.Fprintf(&names, `,"%s/layer.tar"`, id)
		if below = id; n%each != each-1 {
			continue
		}
		config := `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[` + diffIDs.String()[1:] + `]}}`
		file := digest.FromString(config).Encoded() + ".json"
		add(file, config)
		fmt.Fprintf(&manifest, `,{"Config":"%s","RepoTags":["x:%d"],"Layers":[%s]}`, file, n, names.String()[1:])
		fmt.Fprintf(&repositories, `,"%d":"%s"`, n, id)
		diffIDs.Reset()
		names.Reset()
		below = ""
	}
	add("manifest.json", "["+manifest.String()[1:]+"]")
	add("repositories", `{"x":{`+repositories.String()[1:]+`}}`)
	if err := errors.Join(w.Close(), out.Close()); err != nil {
		t.Fatal(err)
	}
	s := openStore(t)
	limitstest.Within(t, limitstest.Most, func() {
		if got, err := archive.Import(t.Context(), s, path, nil, archive.Options{}); err != nil || len(got) != layers/each {
			t.Errorf("%d images, %v", len(got), err)
		}
	})
}
