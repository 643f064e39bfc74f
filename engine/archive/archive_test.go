package archive_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"drayage/blobstore"
	"drayage/engine/archive"
	"drayage/engine/registry/registrytest"
	"drayage/tarwriter/compress"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// entry is a member of an archive made by hand.
type entry struct {
	name, text, link string
	kind             byte // 0 means a file, or a symbolic link
}

func pack(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: e.name, Size: int64(len(e.text)), Mode: 0o644, Linkname: e.link}
		if e.link != "" {
			h.Typeflag = tar.TypeSymlink
		}
		if e.kind != 0 {
			h.Typeflag = e.kind
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func openStore(t testing.TB) *blobstore.Store {
	t.Helper()
	s, err := blobstore.OpenWith(filepath.Join(t.TempDir(), "store"), blobstore.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func blob(content []byte) entry {
	return entry{name: "blobs/sha256/" + digest.FromBytes(content).Encoded(), text: string(content)}
}

// layout is an OCI layout of an image.
func layout(t testing.TB, img registrytest.Image, name string) []entry {
	t.Helper()
	d := img.Descriptor
	d.Annotations = map[string]string{"io.containerd.image.name": name}
	out := []entry{{name: "oci-layout", text: `{"imageLayoutVersion":"1.0.0"}`}, {name: "index.json", text: string(registrytest.Index(ocispec.MediaTypeImageIndex, d))}, blob(img.Manifest)}
	for _, b := range img.Blobs {
		out = append(out, blob(b))
	}
	return out
}

// saved is what docker save wrote: configs and layers by other names.
func saved(t testing.TB, img registrytest.Image, tag string) []entry {
	t.Helper()
	config := img.Config.Digest.Encoded() + ".json"
	var layers []string
	out := []entry{{name: config, text: string(img.Blobs[img.Config.Digest])}}
	for i, l := range img.Layers {
		name := fmt.Sprintf("%064x/layer.tar", i)
		layers = append(layers, name)
		out = append(out, entry{name: name, text: string(registrytest.Unpacked(img.Blobs[l.Digest]))})
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": config, "RepoTags": []string{tag}, "Layers": layers}})
	if err != nil {
		t.Fatal(err)
	}
	return append(out, entry{name: "manifest.json", text: string(manifest)})
}

func TestImportOfWhatOthersWrite(t *testing.T) {
	img := registrytest.Build("linux/amd64", registrytest.Layer(1, 10_000), registrytest.Layer(2, 1000))
	docker := saved(t, img, "team/app:1")
	linked := append(append([]entry{}, docker[:2]...), entry{name: fmt.Sprintf("%064x/layer.tar", 1), link: "../real.tar"}, entry{name: "./real.tar", text: docker[2].text}, docker[3])
	hard := append(append([]entry{}, docker[:2]...), entry{name: "real.tar", text: docker[2].text}, entry{name: docker[2].name, link: "real.tar", kind: tar.TypeLink}, docker[3])
	crane := []entry{{name: "sha256:" + img.Config.Digest.Encoded(), text: docker[0].text}}
	var layers []string
	for _, l := range img.Layers {
		name := l.Digest.Encoded() + ".tar.gz"
		layers = append(layers, `"`+name+`"`)
		crane = append(crane, entry{name: name, text: string(img.Blobs[l.Digest])})
	}
	crane = append(crane, entry{name: "manifest.json", text: `[{"Config":"` + crane[0].name + `","RepoTags":["team/app:1"],"Layers":[` + strings.Join(layers, ",") + `]}]`})
	nameless := layout(t, img, "")
	tagged := append([]entry{}, nameless...)
	d := img.Descriptor
	d.Annotations = map[string]string{ocispec.AnnotationRefName: "team/app:1"}
	tagged[1].text = string(registrytest.Index(ocispec.MediaTypeImageIndex, d))
	for name, c := range map[string]struct {
		entries []entry
		want    string
	}{
		"an OCI layout":                     {layout(t, img, "docker.io/team/app:1"), "docker.io/team/app:1"},
		"an OCI layout by skopeo":           {tagged, "docker.io/team/app:1"},
		"an OCI layout without names":       {nameless, img.Descriptor.Digest.String()},
		"docker save":                       {docker, "docker.io/team/app:1"},
		"docker save with a link":           {linked, "docker.io/team/app:1"},
		"docker save with a hard link":      {hard, "docker.io/team/app:1"},
		"crane's tarball":                   {crane, "docker.io/team/app:1"},
		"an OCI layout with docker's names": {append(nameless, entry{name: "manifest.json", text: `[{"Config":"` + blob(img.Blobs[img.Config.Digest]).name + `","RepoTags":["team/app:1"]}]`}), "docker.io/team/app:1"},
	} {
		for _, format := range []compress.Format{compress.None, compress.Gzip, compress.Zstd} {
			s := openStore(t)
			file := filepath.Join(t.TempDir(), "x.tar")
			var b bytes.Buffer
			z := compress.NewWriter(&b, format)
			_, err := z.Write(pack(t, c.entries...))
			if err := errors.Join(err, z.Close(), os.WriteFile(file, b.Bytes(), 0o644)); err != nil {
				t.Fatal(err)
			}
			got, err := archive.Import(t.Context(), s, file, nil, archive.Options{})
			if err != nil {
				t.Errorf("%s, %s: %v", name, format, err)
				continue
			}
			if len(got) != 1 || got[0].Name != c.want || got[0].Added == 0 || got[0].Reused != 0 {
				t.Errorf("%s: %+v", name, got)
			}
			root, err := s.Root(c.want)
			if err != nil || len(root.Blobs) != 4 {
				t.Errorf("%s: %v, %v", name, root, err)
			}
			for _, d := range root.Blobs {
				if _, err := s.Read(d, 1<<20); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			if _, err := s.Stat(img.Config.Digest); err != nil {
				t.Errorf("%s: the config has another digest: %v", name, err)
			}
		}
	}
}

func TestHostileArchivesAreRefused(t *testing.T) {
	img := registrytest.Build("linux/amd64", registrytest.Layer(1, 1000))
	good, docker := layout(t, img, "docker.io/x:1"), saved(t, img, "x:1")
	with := func(base []entry, e ...entry) []byte { return pack(t, append(append([]entry{}, base...), e...)...) }
	changed := func(base []entry, i int, text string) []byte {
		out := append([]entry{}, base...)
		out[i].text = text
		return pack(t, out...)
	}
	whole := pack(t, good...)
	lying := append([]byte{}, pack(t, entry{name: "big", text: "x"})...)
	copy(lying[124:136], "77777777777\x00") // the size, in octal: 8 GiB
	fixSum(lying)
	endless := append([]byte{}, pack(t, entry{name: "big", text: "x"})...)
	copy(endless[124:136], []byte{0x80, 0, 0, 0, 0x3f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	fixSum(endless)
	var bomb bytes.Buffer
	z := compress.NewWriter(&bomb, compress.Zstd)
	zeros := make([]byte, 1<<20)
	for range 4200 {
		if _, err := z.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		raw  []byte
		want error
	}{
		"nothing":                        {nil, archive.ErrInvalid},
		"no tar":                         {[]byte(strings.Repeat("hello ", 1000)), archive.ErrInvalid},
		"an empty tar":                   {pack(t), archive.ErrInvalid},
		"another tar":                    {pack(t, entry{name: "readme", text: "x"}), archive.ErrInvalid},
		"bzip2":                          {[]byte("BZh91AY&SY"), archive.ErrInvalid},
		"a name that climbs":             {with(good, entry{name: "../../etc/passwd", text: "x"}), archive.ErrInvalid},
		"a name that climbs inside":      {with(good, entry{name: "a/../../b", text: "x"}), archive.ErrInvalid},
		"an absolute name":               {with(good, entry{name: "/etc/passwd", text: "x"}), archive.ErrInvalid},
		"a link that climbs":             {with(good, entry{name: "a/b", link: "../../etc"}), archive.ErrInvalid},
		"an absolute link":               {with(good, entry{name: "a", link: "/etc/passwd"}), archive.ErrInvalid},
		"a hard link that climbs":        {with(good, entry{name: "a", link: "../x", kind: tar.TypeLink}), archive.ErrInvalid},
		"a device":                       {with(good, entry{name: "a", kind: tar.TypeChar}), archive.ErrInvalid},
		"a pipe":                         {with(good, entry{name: "a", kind: tar.TypeFifo}), archive.ErrInvalid},
		"a blob with a wrong digest":     {changed(good, 2, string(img.Manifest)+" "), archive.ErrMismatch},
		"cut short":                      {whole[:len(whole)/2], archive.ErrInvalid},
		"a header that lies":             {lying, nil},
		"a header of exabytes":           {endless, nil},
		"index.json is no index":         {changed(good, 1, `{"layers":[],"config":{}}`), archive.ErrInvalid},
		"index.json is no JSON":          {changed(good, 1, `{`), archive.ErrInvalid},
		"index.json lists nothing":       {changed(good, 1, `{"manifests":[]}`), archive.ErrInvalid},
		"index.json lists what isn't":    {changed(good, 1, strings.Replace(good[1].text, img.Descriptor.Digest.Encoded(), strings.Repeat("0", 64), 1)), archive.ErrInvalid},
		"index.json lies about a size":   {changed(good, 1, strings.Replace(good[1].text, fmt.Sprintf(`"size":%d`, len(img.Manifest)), `"size":1`, 1)), archive.ErrMismatch},
		"a layer is missing":             {pack(t, without(good, blob(img.Blobs[img.Layers[0].Digest]).name)...), archive.ErrInvalid},
		"manifest.json is no list":       {changed(docker, 2, `{}`), archive.ErrInvalid},
		"manifest.json names what isn't": {changed(docker, 2, `[{"Config":"x.json"}]`), archive.ErrInvalid},
		"manifest.json climbs":           {changed(docker, 2, `[{"Config":"../../x.json"}]`), archive.ErrInvalid},
		"fewer layers than diff ids":     {changed(docker, 2, `[{"Config":"`+docker[0].name+`","Layers":[]}]`), archive.ErrInvalid},
		"a layer is not what it should":  {changed(docker, 1, "another"), archive.ErrMismatch},
		"links in a circle":              {pack(t, docker[0], docker[2], entry{name: docker[1].name, link: "../b"}, entry{name: "b", link: docker[1].name}), archive.ErrInvalid},
		"repositories names what isn't":  {pack(t, entry{name: "repositories", text: `{"x":{"1":"abc"}}`}), archive.ErrInvalid},
		"a long name":                    {with(good, entry{name: strings.Repeat("x", 5000), text: "x"}), archive.ErrInvalid},
		"a link to a long name":          {with(good, entry{name: "x", link: strings.Repeat("x", 5000)}), archive.ErrInvalid},
		"a huge json of a layer":         {pack(t, entry{name: "repositories", text: `{"x":{"1":"a"}}`}, entry{name: "a/json", text: `{"id":"a","created":"` + strings.Repeat("x", 2<<20) + `"}`}), archive.ErrInvalid},
		"names that paint the terminal":  {changed(docker, 2, `[{"Config":"`+docker[0].name+`","Layers":["\u001b[31mx","y"]}]`), archive.ErrInvalid},
		"a chain in a circle":            {pack(t, entry{name: "repositories", text: `{"x":{"1":"a"}}`}, entry{name: "a/json", text: `{"id":"a","parent":"a"}`}, entry{name: "a/layer.tar", text: "x"}), archive.ErrInvalid},
		"a difference without its base":  {with(good, entry{name: "drayage-since.json", text: `{"version":1,"absent":[{"digest":"sha256:` + strings.Repeat("0", 64) + `","size":1}]}`}), archive.ErrIncomplete},
		"a difference from the future":   {with(good, entry{name: "drayage-since.json", text: `{"version":2}`}), archive.ErrInvalid},
		"a layer that is a bomb":         {changed(docker, 1, bomb.String()), archive.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
			_, err := archive.Import(t.Context(), s, "-", bytes.NewReader(c.raw), archive.Options{})
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if err != nil && (strings.ContainsAny(err.Error(), "\n\x1b") || len(err.Error()) > 400) {
				t.Errorf("not one short line: %q", err)
			}
			if roots, _ := s.Roots(); len(roots) > 0 {
				t.Errorf("it was pinned: %v", roots)
			}
			if left, _ := filepath.Glob(filepath.Join(s.Dir(), "ingest", "*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func without(entries []entry, name string) []entry {
	var out []entry
	for _, e := range entries {
		if e.name != name {
			out = append(out, e)
		}
	}
	return out
}

// fixSum makes a header's checksum right again (POSIX ustar).
func fixSum(header []byte) {
	copy(header[148:156], "        ")
	sum := 0
	for _, b := range header[:512] {
		sum += int(b)
	}
	copy(header[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

func TestImportOfAFolderStaysInside(t *testing.T) {
	img := registrytest.Build("linux/amd64", registrytest.Layer(1, 1000))
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, e := range layout(t, img, "docker.io/x:1") {
		path := filepath.Join(dir, e.name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(e.text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := archive.Import(t.Context(), openStore(t), dir, nil, archive.Options{}); err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
	if err := os.Symlink(secret, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := archive.Import(t.Context(), openStore(t), dir, nil, archive.Options{}); !errors.Is(err, archive.ErrInvalid) {
		t.Errorf("a link to the outside: %v", err)
	}
}

func FuzzImport(f *testing.F) {
	img := registrytest.Build("linux/amd64", registrytest.Layer(1, 100))
	f.Add(pack(f, layout(f, img, "docker.io/x:1")...))
	f.Add(pack(f, saved(f, img, "x:1")...))
	f.Add(pack(f, entry{name: "repositories", text: `{"x":{"1":"a"}}`}, entry{name: "a/json", text: `{"id":"a"}`}, entry{name: "a/layer.tar", text: "x"}))
	f.Add(pack(f, entry{name: "drayage-since.json", text: `{"version":1}`}, entry{name: "index.json", text: `{"manifests":[]}`}))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := blobstore.OpenWith(filepath.Join(dir, "store"), blobstore.Options{NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		images, err := archive.Import(t.Context(), s, "-", bytes.NewReader(raw), archive.Options{})
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than a line: %q", err)
			}
			return
		}
		for _, img := range images { // what was taken is whole
			root, err := s.Root(img.Name)
			if err != nil {
				t.Fatalf("%s was imported and is not there: %v", img.Name, err)
			}
			for _, d := range root.Blobs {
				if _, err := s.Read(d, 1<<30); err != nil {
					t.Errorf("%s: %v", img.Name, err)
				}
			}
		}
	})
}
