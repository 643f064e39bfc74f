package layout

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// annotationImageName is containerd's annotation for an image's whole name,
// which it and podman prefer over org.opencontainers.image.ref.name.
const annotationImageName = "io.containerd.image.name"

// Named is an image as index.json lists it.
type Named struct {
	Name   string // its digest for one without a name
	Target ocispec.Descriptor
}

// EncodeIndex is what index.json says of images.
func EncodeIndex(images []Named) ([]byte, error) {
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: make([]ocispec.Descriptor, 0, len(images)),
	}
	for _, r := range images {
		d := r.Target
		d.Annotations = nil
		if digest.Digest(r.Name).Validate() != nil { // one without a name has its digest for it
			d.Annotations = map[string]string{
				annotationImageName:       r.Name,
				ocispec.AnnotationRefName: r.Name,
			}
		}
		index.Manifests = append(index.Manifests, d)
	}
	return json.Marshal(index)
}

// Own makes a descriptor's parts its own. Most have none.
func Own(d *ocispec.Descriptor) {
	if d.URLs != nil || d.Annotations != nil || d.Data != nil {
		d.URLs, d.Annotations, d.Data = slices.Clone(d.URLs), maps.Clone(d.Annotations), slices.Clone(d.Data)
	}
	if d.Platform != nil {
		p := *d.Platform
		p.OSFeatures = slices.Clone(p.OSFeatures)
		d.Platform = &p
	}
}
