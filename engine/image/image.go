// Package image reads manifests and indexes, Docker's and OCI's: strictly,
// within limits, and telling exactly what is wrong with a bad one.
package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"drayage/engine/internal/limits"
	"drayage/engine/printable"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// MaxSize is the largest manifest, index or config that is read, in bytes.
const MaxSize = limits.ManifestBytes

// Docker's media types, by Image Manifest Version 2, Schema 1 and 2.
const (
	DockerManifest       = "application/vnd.docker.distribution.manifest.v2+json"
	DockerList           = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerConfig         = "application/vnd.docker.container.image.v1+json"
	dockerSchema1        = "application/vnd.docker.distribution.manifest.v1+json"
	dockerSchema1Signed  = "application/vnd.docker.distribution.manifest.v1+prettyjws"
	dockerReferenceType  = "vnd.docker.reference.type" // annotation of BuildKit's attestations
	unknownPlatformField = "unknown"
)

// MediaTypes are the types of manifest that Decode understands, in the order
// in which a registry should be asked for them.
func MediaTypes() []string {
	return []string{DockerList, DockerManifest, ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, dockerSchema1Signed, dockerSchema1}
}

// Errors that tell kinds of bad manifests apart.
var (
	// ErrInvalid is wrapped for bytes that are no manifest.
	ErrInvalid = errors.New("not a valid manifest")
	// ErrUnsupported is wrapped for manifests of a type that is not handled.
	ErrUnsupported = errors.New("unsupported kind of manifest")
)

// Document is a manifest or an index, decoded, with its bytes as they came.
type Document struct {
	// Descriptor has the media type that the content has, whatever it was
	// labelled, and the digest and size of Raw.
	Descriptor ocispec.Descriptor
	Raw        []byte

	Index    *ocispec.Index    // set for an index or a Docker manifest list
	Manifest *ocispec.Manifest // set for a manifest
	Schema1  *Schema1          // set for a manifest of Docker's old kind
}

// Decode reads a manifest or an index. The content alone decides what it is, by
// its mediaType field or else by its other fields: the label that a registry
// puts on it may be missing or wrong (G44), and isn't there any more when the
// same bytes come from the store. The errors wrap ErrInvalid or ErrUnsupported.
func Decode(raw []byte) (Document, error) {
	var look shape
	if err := checkJSON(raw, look, ocispec.Index{}, ocispec.Manifest{}, schema1{}); err != nil {
		return Document{}, err
	}
	if err := json.Unmarshal(raw, &look); err != nil {
		return Document{}, fmt.Errorf("%w: %s", ErrInvalid, notJSON(raw, err))
	}
	isIndex, isManifest := look.Manifests != nil, look.Config != nil || look.Layers != nil
	if isIndex && isManifest {
		return Document{}, errTwoKinds("a manifest", "an index")
	}
	if look.FSLayers != nil || look.SchemaVersion == 1 {
		if isIndex || isManifest {
			return Document{}, errTwoKinds("a schema 1 manifest", "one of another kind")
		}
		return schema1Document(Payload(raw))
	}

	doc := Document{Raw: raw}
	doc.Descriptor = ocispec.Descriptor{
		MediaType: look.mediaType(isIndex, isManifest),
		Digest:    digest.FromBytes(raw),
		Size:      int64(len(raw)),
	}
	switch doc.Descriptor.MediaType {
	case DockerList, ocispec.MediaTypeImageIndex:
		if err := checkCount("manifests", look.Manifests); err != nil {
			return Document{}, err
		}
		doc.Index = new(ocispec.Index)
		if err := unmarshal(raw, doc.Index); err != nil {
			return Document{}, err
		}
		for i := range doc.Index.Manifests { // a platform that is half empty tells nothing
			if p := doc.Index.Manifests[i].Platform; p != nil && (p.OS == "" || p.Architecture == "") {
				doc.Index.Manifests[i].Platform = nil
			}
		}
		return doc, checkAll("manifest", doc.Index.Manifests)
	case DockerManifest, ocispec.MediaTypeImageManifest:
		if !isManifest {
			return Document{}, fmt.Errorf("%w: it has neither config nor layers", ErrInvalid)
		}
		if err := checkCount("layers", look.Layers); err != nil {
			return Document{}, err
		}
		doc.Manifest = new(ocispec.Manifest)
		if err := unmarshal(raw, doc.Manifest); err != nil {
			return Document{}, err
		}
		if err := checkAll("config", []ocispec.Descriptor{doc.Manifest.Config}); err != nil {
			return Document{}, err
		}
		return doc, checkAll("layer", doc.Manifest.Layers)
	case "":
		return Document{}, fmt.Errorf("%w: it has neither manifests nor layers", ErrInvalid)
	default:
		return Document{}, fmt.Errorf("%w: media type %q", ErrUnsupported, printable.Line(doc.Descriptor.MediaType))
	}
}

// DecodeVerified is Decode for bytes that were held against a digest, which may
// be of another algorithm than Decode's own.
func DecodeVerified(raw []byte, d digest.Digest) (Document, error) {
	doc, err := Decode(raw)
	if err != nil {
		return Document{}, fmt.Errorf("manifest %s: %w", d, err)
	}
	doc.Descriptor.Digest = d
	return doc, nil
}

// schema1Document reads a schema 1 manifest, of which the document is what its
// digest is over: without the signatures.
func schema1Document(raw []byte) (Document, error) {
	s, err := decodeSchema1(raw)
	if err != nil {
		return Document{}, err
	}
	return Document{Raw: raw, Schema1: s, Descriptor: ocispec.Descriptor{
		MediaType: dockerSchema1, Digest: digest.FromBytes(raw), Size: int64(len(raw)),
	}}, nil
}

// shape is what tells kinds of manifests apart.
type shape struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     string          `json:"mediaType"`
	Manifests     json.RawMessage `json:"manifests"`
	Config        json.RawMessage `json:"config"`
	Layers        json.RawMessage `json:"layers"`
	FSLayers      json.RawMessage `json:"fsLayers"`
}

// mediaType settles what a document is: by its own word, else by its fields.
// OCI's types are optional in the content, Docker's are not; a manifest without
// one is Docker's only when its config is.
func (s shape) mediaType(isIndex, isManifest bool) string {
	switch {
	case s.MediaType != "":
		return s.MediaType
	case isIndex:
		return ocispec.MediaTypeImageIndex
	case isManifest:
		var config ocispec.Descriptor
		if json.Unmarshal(s.Config, &config) == nil && config.MediaType == DockerConfig {
			return DockerManifest
		}
		return ocispec.MediaTypeImageManifest
	}
	return ""
}

// maxTotal is the largest size, in bytes, of all that one manifest lists: 64 TiB. So the sums of
// many images don't overflow.
const maxTotal = 64 << 40

// checkAll refuses descriptors that could not be fetched or kept safely.
func checkAll(what string, descs []ocispec.Descriptor) error {
	var total int64
	for i, d := range descs {
		if err := d.Digest.Validate(); err != nil {
			return fmt.Errorf("%w: %s %d has digest %q", ErrInvalid, what, i, printable.Line(d.Digest.String()))
		}
		if d.Size < 0 || d.Size > maxTotal-total {
			return fmt.Errorf("%w: %s %d has size %d", ErrInvalid, what, i, d.Size)
		}
		total += d.Size
	}
	return nil
}

// notJSON says in a few words what came instead of JSON. Login pages and
// firewalls answer in HTML, so their title is worth showing.
func notJSON(raw []byte, err error) string {
	text := strings.TrimSpace(string(raw[:min(len(raw), 4096)]))
	if strings.HasPrefix(text, "<") {
		if _, rest, ok := strings.Cut(text, "<title>"); ok {
			if title, _, ok := strings.Cut(rest, "<"); ok {
				return fmt.Sprintf("a web page came instead, titled %q", printable.Line(strings.TrimSpace(title)))
			}
		}
		return "a web page came instead"
	}
	return jsonError(err)
}

// jsonError is a decoding error in a few words, without the names of our types.
func jsonError(err error) string {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		if wrong.Field == "" {
			return "it is a JSON " + wrong.Value + ", not an object"
		}
		return fmt.Sprintf("its field %s is a %s", printable.Line(wrong.Field), printable.Line(wrong.Value))
	}
	return err.Error()
}

// IsImage reports whether a manifest is of a container image, by its config's
// media type, and not of another kind of artifact.
func IsImage(m *ocispec.Manifest) bool {
	return m != nil && (m.Config.MediaType == DockerConfig || m.Config.MediaType == ocispec.MediaTypeImageConfig)
}

// IsZstd reports whether a layer's media type says that it is compressed with
// zstd, which Docker reads from version 23 on.
func IsZstd(mediaType string) bool {
	return strings.HasSuffix(mediaType, "+zstd") || strings.HasSuffix(mediaType, ".zstd")
}
