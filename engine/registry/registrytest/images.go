package registrytest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of Docker's image format, schema 2.
const (
	DockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	DockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerLayer    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// Image is an image made on the spot: its manifest, and the blobs below it.
type Image struct {
	Descriptor ocispec.Descriptor // of Manifest, with the platform
	Manifest   []byte
	Config     ocispec.Descriptor
	Layers     []ocispec.Descriptor
	Blobs      map[digest.Digest][]byte
}

// Size is the number of bytes of all that the image needs, each blob once.
func (i Image) Size() int64 {
	n := i.Descriptor.Size
	for _, b := range i.Blobs {
		n += int64(len(b))
	}
	return n
}

// Build makes an OCI image for a platform, such as linux/arm64, out of layers,
// which are gzipped tars as Layer makes them, or any bytes where nobody is
// going to unpack them.
func Build(platform string, layers ...[]byte) Image {
	return build(platform, ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig, ocispec.MediaTypeImageLayerGzip, layers)
}

// BuildDocker is Build in Docker's format, schema 2.
func BuildDocker(platform string, layers ...[]byte) Image {
	return build(platform, DockerManifest, dockerConfig, dockerLayer, layers)
}

func build(platform, manifestType, configType, layerType string, layers [][]byte) Image {
	img := Image{Blobs: make(map[digest.Digest][]byte)}
	os, arch, _ := strings.Cut(platform, "/")
	arch, variant, _ := strings.Cut(arch, "/")
	p := ocispec.Platform{OS: os, Architecture: arch, Variant: variant}

	config := ocispec.Image{Platform: p, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}}
	config.Config.Cmd = []string{"/data"}
	img.Layers = make([]ocispec.Descriptor, 0, len(layers))
	for i, l := range layers {
		img.Layers = append(img.Layers, img.add(layerType, l))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID(l))
		config.History = append(config.History, ocispec.History{CreatedBy: fmt.Sprintf("layer %d", i)})
	}
	img.Config = img.add(configType, mustJSON(config))
	img.Manifest = mustJSON(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: manifestType, Config: img.Config, Layers: img.Layers,
	})
	img.Descriptor = Describe(manifestType, img.Manifest)
	img.Descriptor.Platform = &p
	return img
}

func (i *Image) add(mediaType string, content []byte) ocispec.Descriptor {
	d := Describe(mediaType, content)
	i.Blobs[d.Digest] = content
	return d
}

// Describe makes content's descriptor.
func Describe(mediaType string, content []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
}

// Index makes an index of the given type out of children.
func Index(mediaType string, children ...ocispec.Descriptor) []byte {
	return mustJSON(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: mediaType, Manifests: children})
}

// Layer makes a gzipped tar with one file of about size bytes once compressed,
// its content drawn from seed: the same seed and size give the same layer.
func Layer(seed uint64, size int) []byte {
	var out bytes.Buffer
	zip, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		panic(err)
	}
	files := tar.NewWriter(zip)
	content := Random(seed, size)
	name := fmt.Sprintf("data/%x", seed)
	if err := files.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
		panic(err)
	}
	for _, err := range []error{second(files.Write(content)), files.Close(), zip.Close()} {
		if err != nil {
			panic(err)
		}
	}
	return out.Bytes()
}

// Random makes size bytes that don't compress, drawn from seed.
func Random(seed uint64, size int) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	out := make([]byte, size)
	rand.NewChaCha8(key).Read(out)
	return out
}

func diffID(layer []byte) digest.Digest {
	zip, err := gzip.NewReader(bytes.NewReader(layer))
	if err != nil {
		return digest.FromBytes(layer)
	}
	raw, err := io.ReadAll(zip)
	if err != nil {
		return digest.FromBytes(layer)
	}
	return digest.FromBytes(raw)
}

func mustJSON(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return raw
}

func second[T any](_ T, err error) error { return err }
