// Demo shows drayage's main job without a network: it starts a registry on the
// loopback interface with images made on the spot, has the real program pull
// them into one archive over real HTTP, and checks that archive by itself.
package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"drayage/engine/registry/registrytest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func main() {
	program := flag.String("drayage", "bin/drayage", "the program to show")
	out := flag.String("o", "demo.tar", "the archive to write")
	flag.Parse()
	if err := demo(*program, *out); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func demo(program, out string) error {
	fmt.Println("Making images, with layers that they share ...")
	server := registrytest.New()
	defer server.Close()
	names, total := push(server)

	scratch, err := os.MkdirTemp("", "drayage-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	args := append([]string{"pull", "--store", filepath.Join(scratch, "store"), "--force", "-o", out}, names...)
	fmt.Printf("A registry with %d images is at http://%s. Now:\n\n$ drayage pull -o %s \\\n    %s\n\n",
		len(names), server.Host(), out, strings.Join(names, " \\\n    "))
	start := time.Now()
	if err := pull(program, args); err != nil {
		return err
	}
	took := time.Since(start)

	sum, err := check(out, names)
	if err != nil {
		return fmt.Errorf("checking %s: %w", out, err)
	}
	sent, asked := server.Sent(), len(server.Requests())
	fmt.Printf(`
Checked %s independently: %d images, %d blobs, every digest, layer and name right.
%s of images, of which %s differ, came in %d requests and %s; %s were sent.

`, out, sum.images, sum.blobs, mib(total), mib(sum.bytes), asked, took.Round(time.Millisecond), mib(sent))

	fmt.Println("The same command again asks once an image, and fetches nothing:")
	fmt.Println()
	server.Forget()
	if err := pull(program, args); err != nil {
		return err
	}
	fmt.Printf("\n%d requests, %s sent.\n\nLoad the archive with one of\n", len(server.Requests()), mib(server.Sent()))
	for _, how := range []string{"docker load -i", "podman load -i", "ctr images import"} {
		fmt.Printf("    %s %s\n", how, out)
	}
	return nil
}

func pull(program string, args []string) error {
	cmd := exec.CommandContext(context.Background(), program, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// push fills the registry: a base that all share, a runtime that some share,
// applications, and one image for several platforms.
func push(s *registrytest.Server) (names []string, total int64) {
	const mb = 1 << 20
	base, runtime := registrytest.Layer(1, 30*mb), registrytest.Layer(2, 45*mb)
	add := func(name string, size int64) {
		names = append(names, name)
		total += size
	}
	for i, app := range []string{"web", "api", "worker", "batch"} {
		img := registrytest.Build("linux/amd64", base, runtime, registrytest.Layer(uint64(10+i), (6+4*i)*mb), registrytest.Layer(uint64(20+i), mb/2))
		add(s.Push("team/"+app, "1.0", img), img.Size())
	}
	old := registrytest.BuildDocker("linux/amd64", base, registrytest.Layer(30, 20*mb))
	add(s.Push("legacy/cron", "2019", old), old.Size())
	amd := registrytest.Build("linux/amd64", base, registrytest.Layer(40, 12*mb), registrytest.Layer(41, 9*mb))
	arm := registrytest.Build("linux/arm64/v8", registrytest.Layer(42, 12*mb), registrytest.Layer(43, 9*mb))
	add(s.PushIndex("tools/cli", "latest", ocispec.MediaTypeImageIndex, amd, arm), amd.Size())
	return names, total
}

type summary struct {
	images, blobs int
	bytes         int64
}

// check reads an archive as a stranger would: with the standard library's tar
// and nothing of drayage's.
func check(file string, names []string) (summary, error) {
	blobs, rest, err := read(file)
	if err != nil {
		return summary{}, err
	}
	var images []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(rest["manifest.json"], &images); err != nil {
		return summary{}, fmt.Errorf("manifest.json: %w", err)
	}
	want := make(map[string]bool)
	for _, n := range names {
		want[n] = true
	}
	for _, img := range images {
		for _, tag := range img.RepoTags {
			delete(want, tag)
		}
		var config ocispec.Image
		if err := json.Unmarshal(rest[img.Config], &config); err != nil {
			return summary{}, fmt.Errorf("config %s: %w", img.Config, err)
		}
		if len(config.RootFS.DiffIDs) != len(img.Layers) {
			return summary{}, fmt.Errorf("%v has %d layers and %d diff ids", img.RepoTags, len(img.Layers), len(config.RootFS.DiffIDs))
		}
		for i, l := range img.Layers {
			if b, ok := blobs[l]; !ok || b.diffID != config.RootFS.DiffIDs[i] {
				return summary{}, fmt.Errorf("layer %s of %v is missing, or not what the config says", l, img.RepoTags)
			}
		}
	}
	if len(want) > 0 {
		return summary{}, fmt.Errorf("not in the archive: %v", want)
	}
	s := summary{images: len(images), blobs: len(blobs)}
	for _, b := range blobs {
		s.bytes += b.size
	}
	return s, nil
}

type blob struct {
	size   int64
	diffID digest.Digest // of the content without gzip; "" for what isn't gzipped
}

// read takes in an archive: what its blobs are, each held against its name,
// and the content of the small files.
func read(file string) (map[string]blob, map[string][]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	blobs, small := make(map[string]blob), make(map[string][]byte)
	for members := tar.NewReader(f); ; {
		h, err := members.Next()
		if errors.Is(err, io.EOF) {
			return blobs, small, nil
		}
		if err != nil {
			return nil, nil, err
		}
		hash := digest.Canonical.Digester()
		in := io.TeeReader(members, hash.Hash())
		var b blob
		if h.Size > 64<<10 {
			if b.diffID, err = unzip(in); err != nil {
				return nil, nil, fmt.Errorf("%s: %w", h.Name, err)
			}
		} else if small[h.Name], err = io.ReadAll(in); err != nil {
			return nil, nil, err
		}
		if !strings.HasPrefix(h.Name, "blobs/sha256/") {
			continue
		}
		if got := hash.Digest().Encoded(); got != path.Base(h.Name) {
			return nil, nil, fmt.Errorf("%s has the content of %s", h.Name, got)
		}
		b.size = h.Size
		blobs[h.Name] = b
	}
}

func unzip(in io.Reader) (digest.Digest, error) {
	zip, err := gzip.NewReader(in)
	if err != nil {
		return "", err
	}
	d, err := digest.FromReader(zip)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(io.Discard, in) // what follows the gzip stream, for the hash
	return d, err
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
