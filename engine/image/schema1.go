package image

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"drayage/engine/internal/limits"
	"drayage/engine/printable"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// DockerLayer is the media type of a layer in Docker's schema 2; what schema 1
// refers to is the same.
const DockerLayer = "application/vnd.docker.image.rootfs.diff.tar.gzip"

// Schema1 is a manifest by Docker's Image Manifest Version 2, Schema 1: it has no
// config, and tells neither sizes nor diff ids of its layers.
type Schema1 struct {
	Layers []Schema1Layer // bottom first, at least one
}

// Schema1Layer is a layer with its part of the history.
type Schema1Layer struct {
	Blob   digest.Digest
	ID     string // 64 hex digits
	JSON   []byte // v1Compatibility, an object
	Config Schema1History
}

// Schema1History is what a v1Compatibility tells, as far as it is read.
type Schema1History struct {
	ID              string          `json:"id"`
	Parent          string          `json:"parent"`
	Created         json.RawMessage `json:"created"`
	Author          string          `json:"author"`
	Comment         string          `json:"comment"`
	Throwaway       bool            `json:"throwaway"` // the layer changes no file
	ContainerConfig struct {
		Cmd []string `json:"Cmd"`
	} `json:"container_config"`
}

// DecodeHistory reads a v1Compatibility, or the json of a layer in old archives. The error wraps
// ErrInvalid.
func DecodeHistory(raw []byte) (Schema1History, error) {
	var h Schema1History
	err := decodeJSON(raw, &h, ocispec.Image{}) // the top one becomes a config
	return h, err
}

// Payload is what a manifest's digest is over: all of it, but for schema 1 with
// signatures, where it is the manifest as it was before they were put in
// (JSON Web Signature as libtrust writes it: formatLength and formatTail).
func Payload(raw []byte) []byte {
	var signed struct {
		SchemaVersion int `json:"schemaVersion"`
		Signatures    []struct {
			Protected string `json:"protected"`
		} `json:"signatures"`
	}
	if !bytes.Contains(raw, []byte("signatures")) || decodeJSON(raw, &signed) != nil || signed.SchemaVersion != 1 || len(signed.Signatures) == 0 {
		return raw
	}
	protected, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(signed.Signatures[0].Protected, "="))
	if err != nil {
		return raw
	}
	var format struct {
		Length int    `json:"formatLength"`
		Tail   string `json:"formatTail"`
	}
	if decodeJSON(protected, &format) != nil || format.Length <= 0 || format.Length > len(raw) {
		return raw
	}
	tail, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(format.Tail, "="))
	if err != nil || len(tail) == 0 {
		return raw
	}
	return slices.Concat(raw[:format.Length], tail)
}

// schema1 is a schema 1 manifest as far as it is read.
type schema1 struct {
	FSLayers []struct {
		BlobSum digest.Digest `json:"blobSum"`
	} `json:"fsLayers"`
	History []struct {
		V1Compatibility string `json:"v1Compatibility"`
	} `json:"history"`
}

// decodeSchema1 reads a schema 1 manifest without signatures.
func decodeSchema1(raw []byte) (*Schema1, error) {
	var m schema1
	if err := decodeJSON(raw, &m); err != nil {
		return nil, err
	}
	if len(m.FSLayers) > limits.Descriptors {
		return nil, fmt.Errorf("%w: it lists more than %d layers", ErrInvalid, limits.Descriptors)
	}
	if len(m.FSLayers) == 0 || len(m.FSLayers) != len(m.History) {
		return nil, fmt.Errorf("%w: schema 1 with %d layers and a history of %d", ErrInvalid, len(m.FSLayers), len(m.History))
	}
	out := new(Schema1)
	for i := len(m.FSLayers) - 1; i >= 0; i-- { // the bottom layer is the last
		l := Schema1Layer{Blob: m.FSLayers[i].BlobSum, JSON: []byte(m.History[i].V1Compatibility)}
		if err := l.Blob.Validate(); err != nil {
			return nil, fmt.Errorf("%w: layer %d has digest %q", ErrInvalid, i, printable.Line(l.Blob.String()))
		}
		var err error
		if l.Config, err = DecodeHistory(l.JSON); err != nil {
			return nil, fmt.Errorf("the history of layer %d: %w", i, err)
		}
		// The id is going to be a folder's name.
		if l.ID = l.Config.ID; len(l.ID) != 64 || strings.Trim(l.ID, "0123456789abcdef") != "" {
			return nil, fmt.Errorf("%w: layer %d has id %q", ErrInvalid, i, printable.Line(l.ID))
		}
		if n := len(out.Layers); n > 0 {
			below := out.Layers[n-1].ID
			if l.ID == below { // some pushed the same layer twice
				continue
			}
			if l.Config.Parent != below {
				return nil, fmt.Errorf("%w: layer %d says that its parent is %q, and below it is %s", ErrInvalid, i, printable.Line(l.Config.Parent), below)
			}
		}
		out.Layers = append(out.Layers, l)
	}
	return out, nil
}

// Top is the history of the top layer, which has the image's settings.
func (s *Schema1) Top() []byte { return s.Layers[len(s.Layers)-1].JSON }

// Kept lists the places of the layers that change files, of which a config has
// diff ids.
func (s *Schema1) Kept() []int {
	var out []int
	for i, l := range s.Layers {
		if !l.Config.Throwaway {
			out = append(out, i)
		}
	}
	return out
}

// Config makes a config, by Docker's image spec 1.2, out of the history. diffIDs
// are those of the layers of Kept.
func (s *Schema1) Config(diffIDs []digest.Digest) ([]byte, error) {
	var config map[string]any
	if err := decodeJSON(s.Top(), &config); err != nil {
		return nil, err
	}
	for _, old := range []string{"id", "parent", "Size", "parent_id", "layer_id", "throwaway"} {
		delete(config, old)
	}
	type history struct {
		Created    json.RawMessage `json:"created,omitempty"`
		Author     string          `json:"author,omitempty"`
		CreatedBy  string          `json:"created_by,omitempty"`
		Comment    string          `json:"comment,omitempty"`
		EmptyLayer bool            `json:"empty_layer,omitempty"`
	}
	var all []history
	for _, l := range s.Layers {
		c := l.Config
		all = append(all, history{Created: c.Created, Author: c.Author, CreatedBy: strings.Join(c.ContainerConfig.Cmd, " "), Comment: c.Comment, EmptyLayer: c.Throwaway})
	}
	config["history"] = all
	config["rootfs"] = ocispec.RootFS{Type: "layers", DiffIDs: diffIDs}
	if diffIDs == nil {
		config["rootfs"] = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	}
	return json.Marshal(config)
}

// DiffIDs reads from an image's config the digests of its layers without
// compression, bottom first.
func DiffIDs(config []byte) ([]digest.Digest, error) {
	var c struct {
		RootFS struct {
			DiffIDs []digest.Digest `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := decodeJSON(config, &c, ocispec.Image{}); err != nil {
		return nil, fmt.Errorf("the config: %w", err)
	}
	for _, d := range c.RootFS.DiffIDs {
		if d.Validate() != nil {
			return nil, fmt.Errorf("%w: the config has a diff id %q", ErrInvalid, printable.Line(d.String()))
		}
	}
	return c.RootFS.DiffIDs, nil
}

// errTwoKinds tells of documents that different readers take for different
// things: CVE-2021-41190.
func errTwoKinds(a, b string) error {
	return fmt.Errorf("%w: it is %s and %s at once", ErrInvalid, a, b)
}
