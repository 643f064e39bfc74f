package registrytest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"

	"github.com/klauspost/compress/zstd"
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
		kind := layerType
		if isZstd(l) {
			kind = strings.Replace(layerType, "gzip", "zstd", 1)
		}
		img.Layers = append(img.Layers, img.add(kind, l))
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

// Unpacked is a layer without its compression, if it has one.
func Unpacked(layer []byte) []byte {
	if isZstd(layer) {
		dec, err := zstd.NewReader(nil)
		if err != nil {
			panic(err)
		}
		defer dec.Close()
		if raw, err := dec.DecodeAll(layer, nil); err == nil {
			return raw
		}
		return layer
	}
	zip, err := gzip.NewReader(bytes.NewReader(layer))
	if err != nil {
		return layer
	}
	raw, err := io.ReadAll(zip)
	if err != nil {
		return layer
	}
	return raw
}

func diffID(layer []byte) digest.Digest { return digest.FromBytes(Unpacked(layer)) }

func isZstd(layer []byte) bool { return bytes.HasPrefix(layer, []byte("\x28\xb5\x2f\xfd")) }

// ZstdLayer is Layer with zstd.
func ZstdLayer(seed uint64, size int) []byte {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic(err)
	}
	return enc.EncodeAll(Unpacked(Layer(seed, size)), nil)
}

// Schema1 makes a manifest of Docker's schema 1 for layers, bottom first, signed
// as registries do it or not, and returns it with the ids of its layers. The
// topmost layer changes no file, and so has an empty one.
func Schema1(arch string, signed bool, layers ...[]byte) (manifest []byte, ids []string) {
	type blobSum struct {
		BlobSum digest.Digest `json:"blobSum"`
	}
	type history struct {
		V1Compatibility string `json:"v1Compatibility"`
	}
	m := struct {
		SchemaVersion int       `json:"schemaVersion"`
		Name          string    `json:"name"`
		Tag           string    `json:"tag"`
		Architecture  string    `json:"architecture"`
		FSLayers      []blobSum `json:"fsLayers"`
		History       []history `json:"history"`
	}{SchemaVersion: 1, Name: "old", Tag: "1", Architecture: arch}
	parent := ""
	for i := range len(layers) + 1 {
		throwaway := i == len(layers)
		content := EmptyLayer()
		if !throwaway {
			content = layers[i]
		}
		id := digest.FromString(fmt.Sprintf("%s %d %s", parent, i, digest.FromBytes(content))).Encoded()
		v1 := map[string]any{"id": id, "created": "2015-06-01T00:00:00Z", "container_config": map[string]any{"Cmd": []string{"/bin/sh", "-c", fmt.Sprint("step ", i)}}}
		if parent != "" {
			v1["parent"] = parent
		}
		if throwaway {
			v1["throwaway"] = true
			v1["os"], v1["architecture"] = "linux", arch
			v1["config"] = map[string]any{"Cmd": []string{"/data"}}
		}
		m.FSLayers = append([]blobSum{{digest.FromBytes(content)}}, m.FSLayers...)
		m.History = append([]history{{string(mustJSON(v1))}}, m.History...)
		ids, parent = append(ids, id), id
	}
	raw, err := json.MarshalIndent(m, "", "   ")
	if err != nil {
		panic(err)
	}
	if !signed {
		return raw, ids
	}
	// libtrust's form: the signatures are put in before the last brace, and tell
	// where that was.
	const tail = "\n}"
	cut := len(raw) - len(tail)
	protected := fmt.Sprintf(`{"formatLength":%d,"formatTail":%q,"time":"2015-06-01T00:00:00Z"}`, cut, base64.RawURLEncoding.EncodeToString([]byte(tail)))
	signature := fmt.Sprintf(`,%s   "signatures": [{"header":{"alg":"ES256"},"signature":"x","protected":%q}]%s`,
		"\n", base64.RawURLEncoding.EncodeToString([]byte(protected)), tail)
	return append(raw[:cut:cut], signature...), ids
}

// EmptyLayer is a gzipped tar without files.
func EmptyLayer() []byte {
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	for _, err := range []error{tar.NewWriter(zip).Close(), zip.Close()} {
		if err != nil {
			panic(err)
		}
	}
	return out.Bytes()
}

// Artifact makes a manifest of another kind than images, with one blob, that
// refers to a subject, if there is one.
func Artifact(artifactType string, subject *ocispec.Descriptor, content []byte) Image {
	img := Image{Blobs: make(map[digest.Digest][]byte)}
	img.Config = img.add(ocispec.MediaTypeEmptyJSON, []byte("{}"))
	img.Layers = []ocispec.Descriptor{img.add("application/octet-stream", content)}
	if subject != nil {
		subject = &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size}
	}
	img.Manifest = mustJSON(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType,
		Config: img.Config, Layers: img.Layers, Subject: subject,
	})
	img.Descriptor = Describe(ocispec.MediaTypeImageManifest, img.Manifest)
	img.Descriptor.ArtifactType = artifactType
	return img
}

func mustJSON(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return raw
}

func second[T any](_ T, err error) error { return err }
