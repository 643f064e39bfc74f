package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"drayage/cmd/drayage/internal/limits"
	"drayage/engine/registry/registrytest"
	"drayage/tarwriter/compress"
)

// TestWorldBounds holds the program to what archives, layers and lists may cost.
func TestWorldBounds(t *testing.T) {
	here := "linux/" + runtime.GOARCH
	one := registrytest.Build(here, registrytest.Layer(1, 3000))
	two := registrytest.Build(here, registrytest.Layer(2, 3000))
	oneLine := func(t *testing.T, o outcome) {
		t.Helper()
		if strings.Count(strings.TrimSpace(o.err), "\n") > 0 || len(o.err) > 600 {
			t.Errorf("not one short line: %.2000q", o.err)
		}
	}
	// stays is what a store has of blobs, drafts included.
	stays := func(t *testing.T, w *world) []string {
		t.Helper()
		var out []string
		for _, pattern := range []string{"store/blobs/sha256/*", "store/ingest/*"} {
			files, err := filepath.Glob(filepath.Join(w.home, pattern))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, files...)
		}
		return out
	}

	t.Run("a small archive with a large list", func(t *testing.T) {
		w := newWorld(t)
		const size = 20 << 20
		for name, text := range map[string]string{
			"index.json":         `{"manifests":[` + strings.Repeat(`{},`, size/3) + `{}]}`,
			"manifest.json":      `[` + strings.Repeat(`{},`, size/3) + `{}]`,
			"repositories":       `{"x":{` + strings.Repeat(`"a":{},`, size/7) + `"a":{}}}`,
			"drayage-since.json": `{"version":1,"absent":[` + strings.Repeat(`{},`, size/3) + `{}]}`,
		} {
			w.write("a.tar.gz", string(gzipped(t, tarOf(t, part{name: name, text: text}))))
			o := w.run("store", "import", "a.tar.gz")
			w.want(o, 1)
			oneLine(t, o)
			if left := stays(t, w); len(left) > 0 {
				t.Errorf("%s: left behind: %v", name, left)
			}
		}
	})

	t.Run("an archive full of junk", func(t *testing.T) {
		w := newWorld(t)
		junk := strings.Repeat("\x00", compress.RatioFrom+1)
		parts := append(blobParts(one), layoutPart, indexPart(t, one, "app:1"))
		w.write("a.tar.gz", string(gzipped(t, tarOf(t, append(parts, part{name: "junk", text: junk})...))))
		o := w.run("store", "import", "a.tar.gz")
		w.want(o, 1, "--max-ratio")
		oneLine(t, o)
		if left := stays(t, w); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		w.want(w.run("store", "import", "--max-ratio", "0", "a.tar.gz"), 0, "app:1")
		if left := stays(t, w); len(left) != 1+len(one.Blobs) {
			t.Errorf("not what the image needs: %v", left)
		}
		w.want(w.run("pull", "--since", "a.tar.gz", "-o", "x.tar", w.image), 1, "--max-ratio")
		w.want(w.run("store", "import", "--max-ratio", "-1", "a.tar.gz"), 2, "--max-ratio")
		w.want(w.run("pull", "--max-ratio", "x", w.image), 2)
	})

	t.Run("a hole", func(t *testing.T) {
		if _, err := exec.LookPath("tar"); err != nil || runtime.GOOS != "linux" {
			t.Skip("needs GNU tar")
		}
		w := newWorld(t)
		if err := os.Truncate(w.write("vast", ""), 1<<30); err != nil {
			t.Fatal(err)
		}
		for _, format := range []string{"--format=gnu", "--format=pax"} {
			path := filepath.Join(w.home, "vast.tar")
			if out, err := exec.CommandContext(t.Context(), "tar", "-C", w.home, format, "-S", "-cf", path, "vast").CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			o := w.run("store", "import", path)
			w.want(o, 1, "--max-ratio", "sparse")
			oneLine(t, o)
		}
	})

	t.Run("layers that fill the disk", func(t *testing.T) {
		w := newWorld(t)
		layer := gzipped(t, tarOf(t, part{name: "zeros", text: strings.Repeat("\x00", compress.RatioFrom+1)}))
		name := w.reg.Push("bomb", "1", registrytest.Build(here, layer))
		o := w.run("pull", "-q", "--layers", "tar", "-o", "a.tar", name)
		w.want(o, 1, "--max-ratio")
		oneLine(t, o)
		w.want(w.run("pull", "-q", "--layers", "tar", "--max-ratio", "5000", "-o", "a.tar", name), 0)
		w.want(w.run("pull", "-q", "--store", "kept", "-o", "kept.tar", name), 0) // nothing is unpacked
		w.want(w.run("store", "export", "--store", "kept", "--layers", "tar", "-o", "b.tar", name), 1, "--max-ratio")
		w.want(w.run("store", "export", "--store", "kept", "--layers", "tar", "--max-ratio", "0", "-o", "b.tar", name), 0)
		w.want(w.run("store", "import", "--store", "fresh", "kept.tar"), 1, "--max-ratio")
		w.want(w.run("store", "import", "--store", "fresh", "--max-ratio", "0", "kept.tar"), 0)
		if drafts, err := filepath.Glob(filepath.Join(w.home, "store/ingest/*draft*")); err != nil || len(drafts) > 0 {
			t.Errorf("left behind: %v, %v", drafts, err)
		}
	})

	t.Run("two lists that disagree", func(t *testing.T) {
		w := newWorld(t)
		w.write("a.tar", string(tarOf(t, append(blobParts(one, two), layoutPart, indexPart(t, one, "app:1"), manifestPart(t, two, "app:1"))...)))
		o := w.run("store", "import", "a.tar")
		w.want(o, 1, "index.json and manifest.json have different images", "app:1")
		oneLine(t, o)
		w.write("b.tar", string(tarOf(t, append(blobParts(one, two), layoutPart, indexPart(t, one, "app:1", two, "other:1"), manifestPart(t, one, "app:1", two, "other:1"))...)))
		w.want(w.run("store", "import", "b.tar"), 0, "app:1", "other:1")
	})

	t.Run("where a name came from", func(t *testing.T) {
		w := newWorld(t)
		w.write("in/\x1b[31mbase.tar", string(tarOf(t, append(blobParts(one), layoutPart, indexPart(t, one, "app:1"))...)))
		w.want(w.run("store", "import", "in/\x1b[31mbase.tar"), 0)
		w.want(w.run("pull", "-q", w.image), 0)
		w.want(w.run("store", "ls"), 0, "\tarchive \\x1b[31mbase.tar\n", "!\x1b")
		var listed []struct {
			Name string
			From struct{ Kind, Where string }
		}
		if err := json.Unmarshal([]byte(w.run("store", "ls", "--json").out), &listed); err != nil || len(listed) != 2 {
			t.Fatalf("%v, %v", listed, err)
		}
		kinds := make(map[string]string)
		for _, i := range listed {
			kinds[i.From.Kind] = i.From.Where
		}
		if kinds["archive"] != "\x1b[31mbase.tar" || kinds["registry"] == "" {
			t.Errorf("%v", listed)
		}
	})

	t.Run("lists that are too long", func(t *testing.T) {
		w := newWorld(t)
		w.write("images", strings.Repeat("app:1\n", limits.ListImages+1))
		w.write("line", strings.Repeat("x", 100_000))
		w.write("large", strings.Repeat("# nothing\n", limits.ListBytes/10+1))
		w.write("digests", strings.Repeat("sha256:"+strings.Repeat("0", 64)+"\n", limits.ListDigests+1))
		for _, args := range [][]string{{"-f", "images"}, {"-f", "line"}, {"-f", "large"}, {"--since", "digests", "-o", "x.tar", w.image}} {
			w.want(w.run(append([]string{"pull"}, args...)...), 2)
		}
	})
}
