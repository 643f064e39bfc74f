package tarwriter_test

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"drayage/tarwriter"
	"drayage/tarwriter/compress"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// blobDir is a directory of blobs, named by the hex digits of their digests.
type blobDir string

// Open implements tarwriter.Blobs.
func (b blobDir) Open(_ context.Context, d digest.Digest) (*os.File, error) {
	return os.Open(filepath.Join(string(b), d.Encoded()))
}

// store adds a blob. In a program, the blobs are there already.
func (b blobDir) store(mediaType string, content []byte) ocispec.Descriptor {
	d := digest.FromBytes(content)
	check(os.WriteFile(filepath.Join(string(b), d.Encoded()), content, 0o644))
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}
}

// image adds an image with one layer and describes it.
func (b blobDir) image(name, tag string) tarwriter.Image {
	layer := b.store(ocispec.MediaTypeImageLayer, make([]byte, 10240)) // an empty tar
	config := b.store(ocispec.MediaTypeImageConfig, []byte(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["`+layer.Digest.String()+`"]}}`))
	raw, err := json.Marshal(ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{layer}})
	check(err)
	manifest := b.store(ocispec.MediaTypeImageManifest, raw)
	return tarwriter.Image{
		Name: "docker.io/library/" + name + ":" + tag, RepoTag: name + ":" + tag, Target: manifest,
		Manifests: []tarwriter.Manifest{{Descriptor: manifest, Config: config, Layers: []ocispec.Descriptor{layer}, Runnable: true}},
	}
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// tempBlobs is an empty directory for blobs, and what removes it.
func tempBlobs() (blobDir, func()) {
	dir, err := os.MkdirTemp("", "blobs-")
	check(err)
	return blobDir(dir), func() { os.RemoveAll(dir) }
}

// An archive in a file that docker load reads. Its checksum is the same on every machine.
func Example() {
	blobs, remove := tempBlobs()
	defer remove()
	path := filepath.Join(string(blobs), "hello.tar")

	members, err := tarwriter.Docker([]tarwriter.Image{blobs.image("hello", "1")})
	check(err)
	size, err := tarwriter.Size(members)
	check(err)
	fmt.Println("size:", size)

	file, err := tarwriter.CreateFile(path, tarwriter.Options{})
	check(err)
	defer file.Close()
	result, err := file.Write(context.Background(), members, blobs, nil)
	check(err)
	fmt.Println("written:", result.Size)

	raw, err := os.ReadFile(path)
	check(err)
	fmt.Printf("sha256:%x\n", sha256.Sum256(raw))
	// Output:
	// size: 17920
	// written: 17920
	// sha256:851318ab438661683b9117a54a9d55f3352cbf9e30c182732a0269785e5de2f5
}

// An OCI image layout to a pipe, as to another program's standard input.
func ExampleNewStream() {
	blobs, remove := tempBlobs()
	defer remove()
	members, err := tarwriter.OCI([]tarwriter.Image{blobs.image("hello", "1")})
	check(err)

	r, w, err := os.Pipe()
	check(err)
	done := make(chan error)
	go func() {
		_, err := tarwriter.NewStream(w, compress.Gzip).Write(context.Background(), members, blobs, nil)
		w.Close()
		done <- err
	}()
	in, format, err := compress.NewReader(r)
	check(err)
	defer in.Close()
	fmt.Println(format)
	archive := tar.NewReader(in)
	for {
		h, err := archive.Next()
		if err == io.EOF {
			break
		}
		check(err)
		fmt.Println(h.Size, h.Name[:min(20, len(h.Name))])
	}
	check(<-done)
	// Output:
	// gzip
	// 30 oci-layout
	// 351 index.json
	// 398 blobs/sha256/422b6bd
	// 151 blobs/sha256/6210f21
	// 10240 blobs/sha256/84ff926
}

// The images as files in a directory: an OCI image layout.
func ExampleCreateDir() {
	blobs, remove := tempBlobs()
	defer remove()
	path := filepath.Join(string(blobs), "layout")
	members, err := tarwriter.OCI([]tarwriter.Image{blobs.image("hello", "1"), blobs.image("hello", "latest")})
	check(err)

	dir, err := tarwriter.CreateDir(path, tarwriter.Options{})
	check(err)
	defer dir.Close()
	_, err = dir.Write(context.Background(), members, blobs, nil)
	check(err)

	raw, err := os.ReadFile(filepath.Join(path, "index.json"))
	check(err)
	var index ocispec.Index
	check(json.Unmarshal(raw, &index))
	for _, m := range index.Manifests {
		fmt.Println(m.Annotations[ocispec.AnnotationRefName], m.Size)
	}
	// Output:
	// 1 398
	// latest 398
}

// The difference to an archive that the recipient has.
func ExampleSince() {
	blobs, remove := tempBlobs()
	defer remove()
	image := blobs.image("hello", "2")
	members, err := tarwriter.Docker([]tarwriter.Image{image})
	check(err)

	base := []digest.Digest{image.Manifests[0].Layers[0].Digest}
	rest, delta, err := tarwriter.Since(members, base)
	check(err)
	fmt.Println("left out:", len(delta.Absent), "layer of", delta.Absent[0].Size, "bytes")
	for _, m := range rest {
		fmt.Println(m.Size, m.Name[:min(20, len(m.Name))])
	}
	// Output:
	// left out: 1 layer of 10240 bytes
	// 30 oci-layout
	// 351 index.json
	// 206 manifest.json
	// 82 repositories
	// 204 drayage-since.json
	// 398 blobs/sha256/422b6bd
	// 151 blobs/sha256/6210f21
}

// An archive in volumes of at most 64 KiB, to be joined by cat image.tar.0*.
func ExampleOptions() {
	blobs, remove := tempBlobs()
	defer remove()
	image := blobs.image("hello", "1")
	big := blobs.store(ocispec.MediaTypeImageLayer, make([]byte, 100_000))
	image.Manifests[0].Layers = append(image.Manifests[0].Layers, big)
	members, err := tarwriter.Docker([]tarwriter.Image{image})
	check(err)

	file, err := tarwriter.CreateFile(filepath.Join(string(blobs), "image.tar"), tarwriter.Options{Split: tarwriter.VolumeUnit, Force: true})
	check(err)
	_, err = file.Write(context.Background(), members, blobs, nil)
	check(err)
	check(file.Close())

	names, err := filepath.Glob(filepath.Join(string(blobs), "image.tar*"))
	check(err)
	for _, name := range names {
		info, err := os.Stat(name)
		check(err)
		fmt.Println(info.Size(), filepath.Base(name))
	}
	// Output:
	// 65536 image.tar.001
	// 56320 image.tar.002
	// 160 image.tar.sha256
}
