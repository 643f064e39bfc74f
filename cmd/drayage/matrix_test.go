//go:build interop

package main_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"drayage/engine/registry/registrytest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// writeTable writes the table of what loads where into docs/archive-layouts.md.
var writeTable = flag.Bool("table", false, "write the table of loaders anew")

const tableFile = "../../docs/archive-layouts.md"

// cargo is an archive and what a reader has to find in it.
type cargo struct {
	format, layers, set string
	file, dir           string
	images              map[string]registrytest.Image // for linux/amd64, by name
	target              map[string]digest.Digest      // what index.json lists, by name
	probe               string                        // a file of each image
}

// reader is a program that loads archives.
type reader struct {
	name string
	// reads reports whether the program is meant for the format at all.
	reads func(c cargo) bool
	load  func(c cargo) error
}

// try runs a program.
func try(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// TestInteropMatrix loads archives of every kind with every reader, and holds
// the result against the table in the documentation.
func TestInteropMatrix(t *testing.T) {
	bin := build(t)
	s := registrytest.New()
	defer s.Close()
	cargos := matrix(t, s, bin)
	readers := []reader{
		dockerReader(t), containerdReader(t), podmanReader(t), skopeoReader(t), ggcrTarball(t), ggcrLayout(t), tarReaders(t),
	}
	var table strings.Builder
	table.WriteString("| format | layers | images |")
	for _, r := range readers {
		table.WriteString(" " + r.name + " |")
	}
	table.WriteString("\n|" + strings.Repeat(" --- |", 3+len(readers)) + "\n")
	for _, c := range cargos {
		fmt.Fprintf(&table, "| `%s` | %s | %s |", c.format, c.layers, c.set)
		for _, r := range readers {
			cell := ""
			if r.reads(c) {
				cell = "yes"
				if err := r.load(c); err != nil {
					cell = "no"
					t.Logf("%s, %s, %s in %s: %v", c.format, c.layers, c.set, r.name, err)
				}
			}
			table.WriteString(" " + cell + " |")
		}
		table.WriteString("\n")
	}
	compareTable(t, table.String())
}

// compareTable holds a table against the one in the documentation, or writes it there.
func compareTable(t *testing.T, table string) {
	t.Helper()
	const from, to = "<!-- loaders: written by make loaders -->\n", "<!-- end of loaders -->\n"
	raw, err := os.ReadFile(tableFile)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(raw), from)
	old, tail, ok2 := strings.Cut(rest, to)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", tableFile)
	}
	if *writeTable {
		if err := os.WriteFile(tableFile, []byte(head+from+table+to+tail), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if old != table {
		t.Errorf("what loads where is not what %s says (make loaders writes it):\n%s", tableFile, table)
	}
}

// matrix makes the archives.
func matrix(t *testing.T, s *registrytest.Server, bin string) []cargo {
	t.Helper()
	dir := t.TempDir()
	layer := map[string][2]func(uint64, int) []byte{
		"gzip": {registrytest.Layer, registrytest.Layer}, "zstd": {registrytest.ZstdLayer, registrytest.ZstdLayer}, "mixed": {registrytest.Layer, registrytest.ZstdLayer},
	}
	var out []cargo
	for _, format := range []string{"docker", "oci", "legacy"} {
		for _, layers := range []string{"gzip", "zstd", "mixed", "zstd, `--layers tar`", "zstd, `--layers gzip`"} {
			from, converted, _ := strings.Cut(layers, ", ")
			base, top := layer[from][0], layer[from][1]
			amd := registrytest.Build("linux/amd64", base(1, 200_000), top(2, 20_000))
			other := registrytest.BuildDocker("linux/amd64", base(1, 200_000), top(3, 20_000), base(1, 200_000))
			if from != "gzip" { // Docker's format has no media type for zstd
				other = registrytest.Build("linux/amd64", base(1, 200_000), top(3, 20_000), base(1, 200_000))
			}
			arm := registrytest.Build("linux/arm64/v8", base(4, 20_000), top(1, 10_000))
			one := s.Push("team/one", from+"-1", amd)
			two := s.Push("team/two", from+"-2", other)
			multi := s.PushIndex("team/multi", from, ocispec.MediaTypeImageIndex, amd, arm)
			index := digest.FromBytes(registrytest.Index(ocispec.MediaTypeImageIndex, amd.Descriptor, arm.Descriptor))
			for _, set := range []string{"one", "several", "multi-platform"} {
				c := cargo{format: format, layers: layers, set: set, probe: "data/1", images: map[string]registrytest.Image{one: amd}, target: map[string]digest.Digest{one: amd.Descriptor.Digest}}
				args := []string{"pull", "-q", "--store", dir + "/store", "--platform", "linux/amd64", "--format", format}
				switch set {
				case "several":
					c.images[two], c.target[two] = other, other.Descriptor.Digest
				case "multi-platform":
					if format == "legacy" {
						continue
					}
					args = append(args, "--all-platforms")
					c.images = map[string]registrytest.Image{multi: amd}
					c.target = map[string]digest.Digest{multi: index}
				}
				if converted != "" {
					flag := strings.Trim(converted, "`")
					args = append(args, strings.Fields(flag)...)
					c.target = map[string]digest.Digest{} // is another then
					for name := range c.images {
						c.target[name] = ""
					}
				}
				c.file = filepath.Join(dir, fmt.Sprintf("%s-%d.tar", format, len(out)))
				c.dir = strings.TrimSuffix(c.file, ".tar")
				command(t, bin, append(args, append([]string{"-o", c.file, "-d", c.dir}, slices.Sorted(maps.Keys(c.images))...)...)...)
				out = append(out, c)
			}
		}
	}
	return out
}

// checkInspected holds what docker or podman tells of images against what they are.
func checkInspected(c cargo, inspect func(name string) (string, error)) error {
	for name, img := range c.images {
		text, err := inspect(name)
		if err != nil {
			return err
		}
		var got []inspection
		if err := json.Unmarshal([]byte(text), &got); err != nil || len(got) != 1 {
			return fmt.Errorf("%s: %w, %d images", name, err, len(got))
		}
		if id := strings.TrimPrefix(got[0].ID, "sha256:"); id != img.Config.Digest.Encoded() {
			return fmt.Errorf("%s has the id %s, want %s", name, id, img.Config.Digest)
		}
		if !slices.Contains(got[0].RepoTags, name) || len(got[0].RootFS.Layers) != len(img.Layers) {
			return fmt.Errorf("%s: tags %v, %d layers; want %d", name, got[0].RepoTags, len(got[0].RootFS.Layers), len(img.Layers))
		}
	}
	return nil
}

// probe copies a file out of a container that only exists, and runs nothing.
func probe(run func(args ...string) (string, error), c cargo) error {
	for name := range c.images {
		id, err := run("create", name, "/none")
		if err != nil {
			return err
		}
		lines := strings.Fields(id)
		id = lines[len(lines)-1]
		target, err := os.MkdirTemp("", "probe")
		if err != nil {
			return err
		}
		defer os.RemoveAll(target)
		if _, err := run("cp", id+":/"+c.probe, target+"/file"); err != nil {
			return err
		}
		if _, err := run("rm", id); err != nil {
			return err
		}
		return checkProbe(target + "/file")
	}
	return nil
}

// checkProbe holds a file against what the layer of that seed has in it.
func checkProbe(path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if string(raw) != string(registrytest.Random(1, len(raw))) || len(raw) < 10_000 {
		return fmt.Errorf("the file has %d bytes, and not the right ones", len(raw))
	}
	return nil
}

func dockerReader(t *testing.T) reader {
	docker := startDocker(t)
	_ = docker
	run := func(args ...string) (string, error) {
		return try("docker", append([]string{"-H", os.Getenv("DOCKER_HOST")}, args...)...)
	}
	return reader{name: "dockerd 20.10", reads: func(cargo) bool { return true }, load: func(c cargo) (err error) {
		defer func() {
			ids, _ := run("images", "-q", "--no-trunc")
			for _, id := range slices.Compact(slices.Sorted(slices.Values(strings.Fields(ids)))) {
				_, _ = run("rmi", "-f", id)
			}
		}()
		if _, err := run("load", "-i", c.file); err != nil {
			return err
		}
		if err := checkInspected(c, func(name string) (string, error) { return run("image", "inspect", name) }); err != nil {
			return err
		}
		return probe(run, c)
	}}
}

func podmanReader(t *testing.T) reader {
	root := t.TempDir()
	podman := tool(t, "podman")
	run := func(args ...string) (string, error) {
		return try(podman, append([]string{"--root", root + "/root", "--runroot", root + "/run", "--storage-driver", "vfs"}, args...)...)
	}
	return reader{name: "podman 4.3", reads: func(cargo) bool { return true }, load: func(c cargo) error {
		defer func() { _, _ = run("rmi", "-a", "-f") }()
		if _, err := run("load", "-i", c.file); err != nil {
			return err
		}
		if err := checkInspected(c, func(name string) (string, error) { return run("image", "inspect", name) }); err != nil {
			return err
		}
		return probe(run, c)
	}}
}

// containerdReader is containerd 2.x, built for the test.
func containerdReader(t *testing.T) reader {
	programs, _ := filepath.Glob(filepath.Join(os.Getenv("DRAYAGE_INTEROP"), "containerd-v2*"))
	if len(programs) == 0 {
		t.Fatal("containerd 2 is not installed: make interop installs what is needed")
	}
	program := programs[len(programs)-1]
	client := strings.Replace(program, "containerd-v2", "ctr-v2", 1)
	dir := runContainerd(t, program, client, 3)
	run := func(args ...string) (string, error) {
		return try(client, append([]string{"-a", dir + "/sock"}, args...)...)
	}
	return reader{name: "containerd 2", reads: func(cargo) bool { return true }, load: func(c cargo) error {
		defer func() {
			_, _ = run(append([]string{"images", "rm", "--sync"}, slices.Sorted(maps.Keys(c.images))...)...)
		}()
		args := []string{"images", "import", "--snapshotter", "native", "--local"}
		if c.set == "multi-platform" {
			args = append(args, "--all-platforms", "--no-unpack")
		}
		if _, err := run(append(args, c.file)...); err != nil {
			return err
		}
		listed, err := run("images", "ls")
		if err != nil {
			return err
		}
		for name, d := range c.target {
			line := ""
			for l := range strings.Lines(listed) {
				if strings.HasPrefix(l, name+" ") {
					line = l
				}
			}
			if line == "" || c.format != "legacy" && !strings.Contains(line, d.String()) {
				return fmt.Errorf("%s is not listed with %s:\n%s", name, d, listed)
			}
			mount, err := os.MkdirTemp("", "probe")
			if err != nil {
				return err
			}
			defer os.RemoveAll(mount)
			if c.set == "multi-platform" {
				continue
			}
			if _, err := run("images", "mount", "--snapshotter", "native", name, mount); err != nil {
				return err
			}
			err = checkProbe(filepath.Join(mount, c.probe))
			if _, err := run("images", "unmount", "--rm", "--snapshotter", "native", mount); err != nil {
				return err
			}
			if err != nil {
				return err
			}
		}
		return nil
	}}
}

func skopeoReader(t *testing.T) reader {
	skopeo := tool(t, "skopeo")
	return reader{name: "skopeo 1.9", reads: func(cargo) bool { return true }, load: func(c cargo) error {
		for name, img := range c.images {
			from := "docker-archive:" + c.file + ":" + name
			if c.format == "oci" {
				from = "oci-archive:" + c.file + name[strings.LastIndex(name, ":"):]
			}
			target, err := os.MkdirTemp("", "skopeo")
			if err != nil {
				return err
			}
			defer os.RemoveAll(target)
			if _, err := try(skopeo, "--insecure-policy", "--override-arch", "amd64", "copy", from, "dir:"+target); err != nil {
				return err
			}
			if _, err := os.Stat(filepath.Join(target, img.Config.Digest.Encoded())); err != nil {
				return err
			}
		}
		return nil
	}}
}

// ggcrTool is the program of testdata/interop/ggcr.
func ggcrTool(t *testing.T) string {
	path := filepath.Join(os.Getenv("DRAYAGE_INTEROP"), "ggcr")
	if _, err := os.Stat(path); err != nil {
		t.Fatal("ggcr is not built: make interop builds what is needed")
	}
	return path
}

func ggcrTarball(t *testing.T) reader {
	ggcr := ggcrTool(t)
	return reader{name: "ggcr tarball", reads: func(c cargo) bool { return c.format != "oci" }, load: func(c cargo) error {
		for name, img := range c.images {
			out, err := try(ggcr, "tarball", c.file, name)
			if err != nil {
				return err
			}
			if want := fmt.Sprintf("%s %d\n", img.Config.Digest, len(img.Layers)); out != want {
				return fmt.Errorf("%s: got %q, want %q", name, out, want)
			}
		}
		return nil
	}}
}

func ggcrLayout(t *testing.T) reader {
	ggcr := ggcrTool(t)
	return reader{name: "ggcr layout (`-d`)", reads: func(c cargo) bool { return c.format != "legacy" }, load: func(c cargo) error {
		out, err := try(ggcr, "layout", c.dir)
		if err != nil {
			return err
		}
		for name, img := range c.images {
			if want := fmt.Sprintf("%s %d\n", img.Config.Digest, len(img.Layers)); !strings.Contains(out, want) {
				return fmt.Errorf("%s: got %q, want %q", name, out, want)
			}
		}
		return nil
	}}
}

// tarReaders are programs that know nothing of images.
func tarReaders(t *testing.T) reader {
	tar, bsdtar, python := tool(t, "tar"), tool(t, "bsdtar"), tool(t, "python3")
	return reader{name: "GNU tar, bsdtar, Python", reads: func(cargo) bool { return true }, load: func(c cargo) error {
		for _, program := range [][]string{
			{tar, "-xf", c.file, "-C"}, {bsdtar, "-xf", c.file, "-C"},
			{python, "-c", "import sys,tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])", c.file},
		} {
			target, err := os.MkdirTemp("", "untar")
			if err != nil {
				return err
			}
			defer os.RemoveAll(target)
			if _, err := try(program[0], append(program[1:], target)...); err != nil {
				return err
			}
			if out, err := try("diff", "-r", target, c.dir); err != nil {
				return fmt.Errorf("%s: %w\n%s", program[0], err, out)
			}
		}
		return nil
	}}
}
