//go:build interop

package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"drayage/engine/registry/registrytest"
)

// What the real programs write comes into a store, with the same config, and goes out
// again into Docker.
func TestInteropImport(t *testing.T) {
	bin := build(t)
	s := registrytest.New()
	defer s.Close()
	img := registrytest.Build("linux/amd64", registrytest.Layer(1, 200_000), registrytest.Layer(2, 20_000), registrytest.Layer(1, 200_000))
	name := s.Push("team/app", "1", img)
	dir := t.TempDir()
	base := filepath.Join(dir, "base.tar")
	command(t, bin, "pull", "-q", "--store", dir+"/store", "--platform", "linux/amd64", "-o", base, name)

	docker := startDocker(t)
	docker(t, "load", "-i", base)
	docker(t, "save", "-o", dir+"/docker-save.tar", name)
	docker(t, "rmi", "-f", name)
	podman := func(args ...string) {
		command(t, tool(t, "podman"), append([]string{"--root", dir + "/root", "--runroot", dir + "/run", "--storage-driver", "vfs"}, args...)...)
	}
	podman("load", "-i", base)
	podman("save", "-q", "-o", dir+"/podman-save.tar", name)
	podman("save", "-q", "--format", "oci-archive", "-o", dir+"/podman-oci.tar", name)
	skopeo := func(to string) {
		command(t, tool(t, "skopeo"), "--insecure-policy", "--override-arch", "amd64", "copy", "--src-tls-verify=false", "docker://"+name, to)
	}
	skopeo("docker-archive:" + dir + "/skopeo-docker.tar:" + name)
	skopeo("oci-archive:" + dir + "/skopeo-oci.tar:" + name)
	skopeo("oci:" + dir + "/skopeo-layout:" + name)
	crane := filepath.Join(os.Getenv("DRAYAGE_INTEROP"), "crane")
	command(t, crane, "pull", "--insecure", "--platform", "linux/amd64", name, dir+"/crane.tar")
	command(t, crane, "pull", "--insecure", "--platform", "linux/amd64", "--format", "legacy", name, dir+"/crane-legacy.tar")
	command(t, crane, "pull", "--insecure", "--platform", "linux/amd64", "--format", "oci", name, dir+"/crane-layout")
	ctr := startContainerd(t)
	ctr("images", "import", "--snapshotter", "native", base)
	ctr("images", "export", dir+"/ctr.tar", name)
	command(t, "gzip", "-k", dir+"/docker-save.tar")
	command(t, "zstd", "-q", dir+"/podman-save.tar")

	for _, file := range []string{
		"docker-save.tar", "docker-save.tar.gz", "podman-save.tar", "podman-save.tar.zst", "podman-oci.tar", "skopeo-docker.tar", "skopeo-oci.tar",
		"skopeo-layout", "crane.tar", "crane-legacy.tar", "crane-layout", "ctr.tar",
	} {
		t.Run(file, func(t *testing.T) {
			store := filepath.Join(t.TempDir(), "store")
			out := command(t, bin, "store", "import", "--store", store, filepath.Join(dir, file))
			got, _, _ := strings.Cut(out, "\t")
			if want := name; got != want && file != "crane-layout" { // which has no names
				t.Errorf("imported as %s, want %s", got, want)
			}
			// A tool may write the config anew; podman and skopeo do for other formats.
			again := filepath.Join(t.TempDir(), "again.tar")
			command(t, bin, "store", "export", "-q", "--store", store, "-o", again)
			docker(t, "load", "-i", again)
			id := strings.TrimSpace(docker(t, "images", "-q", "--no-trunc"))
			if want := img.Config.Digest.String(); id != want {
				t.Errorf("Docker has it as %s, want %s", id, want)
			}
			docker(t, "rmi", "-f", id)
		})
	}
}

// An archive without what an earlier one carried loads where that was loaded, and
// not where it wasn't.
func TestInteropDifferences(t *testing.T) {
	bin := build(t)
	s := registrytest.New()
	defer s.Close()
	base := registrytest.Layer(1, 200_000)
	one, two := registrytest.Build("linux/amd64", base), registrytest.Build("linux/amd64", base, registrytest.Layer(2, 20_000))
	first, second := s.Push("team/app", "1", one), s.Push("team/app", "2", two)
	dir := t.TempDir()
	pull := func(args ...string) {
		command(t, bin, append([]string{"pull", "-q", "--store", dir + "/store", "--platform", "linux/amd64"}, args...)...)
	}
	pull("-o", dir+"/base.tar", first)
	pull("-o", dir+"/new.tar", "--since", dir+"/base.tar", second)

	docker := startDocker(t)
	if out, err := exec.Command("docker", "load", "-i", dir+"/new.tar").CombinedOutput(); err == nil {
		t.Errorf("Docker took a difference without its base:\n%s", out)
	}
	docker(t, "load", "-i", dir+"/base.tar")
	docker(t, "load", "-i", dir+"/new.tar")
	images := set{names: []string{second}, images: map[string]registrytest.Image{second: two}}
	images.check(t, func(name string) string { return docker(t, "image", "inspect", name) })

	ctr := startContainerd(t)
	ctr("images", "import", "--snapshotter", "native", dir+"/base.tar")
	ctr("images", "import", "--snapshotter", "native", dir+"/new.tar")
	if listed := ctr("images", "ls"); !strings.Contains(listed, second) {
		t.Errorf("containerd does not list it:\n%s", listed)
	}
}
