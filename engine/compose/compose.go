// Package compose turns pulled images into what an archive holds: it settles
// which manifest or index stands for a name, converts layers, and makes what
// the images came without.
//
// What it makes goes into the store beside what was pulled, so that archives are
// composed of stored blobs alone. It reads blobs as they become available, and so
// may work while others are still being fetched.
package compose

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"

	"drayage/blobstore"
	"drayage/engine/fault"
	"drayage/engine/image"
	"drayage/engine/plan"
	"drayage/tarwriter"
	"drayage/tarwriter/compress"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// AnnotationOriginal is the annotation, in an archive's index.json and in
	// indexes that were made anew, with the digest of what a manifest or index was
	// made from.
	AnnotationOriginal = "dev.drayage.original.digest"
	// AnnotationTag is the annotation, in an archive's index.json, of a manifest
	// that goes beside an image: the name by which it can be found in a registry.
	AnnotationTag = "dev.drayage.name"
	// AnnotationBeside is the annotation, in an archive's index.json, of a manifest
	// that goes beside an image: the image's name there, or its digest.
	AnnotationBeside = "dev.drayage.beside"
)

// Named is an image under the name that it is to have.
type Named struct {
	Name    string // as tarwriter.Image has them
	RepoTag string
	Image   *plan.Image
}

// Blobs are the blobs of the images. Open waits for those that are on their way,
// until ctx is done.
type Blobs interface {
	Open(ctx context.Context, d digest.Digest) (*os.File, error)
}

// InStore are the blobs of a store.
type InStore struct{ *blobstore.Store }

// Open opens a blob, or says that it isn't there.
func (s InStore) Open(_ context.Context, d digest.Digest) (*os.File, error) { return s.Store.Open(d) }

// Options say what to do with images. The zero value leaves them as they are.
type Options struct {
	Layers Layers
	// Legacy prepares images for the legacy format: it needs configs, and takes
	// schema 1 manifests as they are. Others get a config made from the history.
	Legacy bool
	// MaxRatio is how far layers may unpack that are converted.
	MaxRatio compress.MaxRatio
	// Made is told when an image gets another digest than it had; nil means nobody.
	Made func(name string, from, to digest.Digest, why string)
}

// Images prepares images for an archive.
func Images(ctx context.Context, lease *blobstore.Lease, blobs Blobs, o Options, named []Named) ([]tarwriter.Image, error) {
	c := &composer{opts: o, lease: lease, blobs: blobs, wanted: make(map[digest.Digest][]digest.Digest)}
	if err := c.convertAll(ctx, named); err != nil {
		return nil, err
	}
	var out []tarwriter.Image
	for _, n := range named {
		images, err := c.image(ctx, n)
		if err != nil {
			return nil, fault.About(n.Image.Ref.String(), err)
		}
		out = append(out, images...)
	}
	return out, nil
}

// Expected is what Images is going to return for images that may not be in the
// store yet, if no layer is converted. exact is false when something is missing to
// tell.
func Expected(store *blobstore.Store, legacy bool, named []Named) (images []tarwriter.Image, exact bool, err error) {
	exact = true
	c := &composer{opts: Options{Legacy: legacy}, blobs: InStore{store}}
	for _, n := range named {
		for _, v := range n.Image.Variants {
			_, missing := store.Stat(v.Config.Digest)
			exact = exact && (v.Schema1 == nil || legacy) && (!legacy || v.Schema1 != nil || missing == nil)
		}
		if !exact {
			c.opts.Legacy = false // then without what the configs add
		}
		made, err := c.image(context.Background(), n)
		if err != nil {
			return nil, false, fmt.Errorf("%s: %w", n.Image.Ref, err)
		}
		images = append(images, made...)
	}
	return images, exact, nil
}

// composer is a run of Images.
type composer struct {
	zstd sync.Mutex // held while a layer is unpacked whose window may take much memory

	opts      Options
	lease     *blobstore.Lease
	blobs     Blobs
	converted map[key]blobstore.Derived
	forms     map[digest.Digest]string          // that layers are brought into, "" for none
	wanted    map[digest.Digest][]digest.Digest // the diff ids of variants' layers
}

// image prepares an image and what goes beside it.
func (c *composer) image(ctx context.Context, n Named) ([]tarwriter.Image, error) {
	img := n.Image
	out := tarwriter.Image{Name: n.Name, RepoTag: n.RepoTag}
	changed := false
	variants := img.Variants
	if c.opts.Legacy || !img.Several {
		variants = variants[:1]
	}
	for _, v := range variants {
		if c.opts.Legacy && v.Schema1 != nil {
			out.Manifests = append(out.Manifests, tarwriter.Manifest{Descriptor: v.Descriptor(), Runnable: true})
			for i, l := range v.Schema1.Layers {
				out.History = append(out.History, tarwriter.HistoryLayer{ID: l.ID, JSON: l.JSON, Layer: c.layer(v, v.Layers[i])})
			}
			continue
		}
		made, err := c.variant(ctx, v)
		if err != nil {
			return nil, err
		}
		if d := made.Descriptor.Digest; d != v.Document.Descriptor.Digest {
			changed = true
			made.Descriptor.Annotations = map[string]string{AnnotationOriginal: v.Document.Descriptor.Digest.String()}
			if c.opts.Made != nil {
				why := "its layers are converted"
				if v.Schema1 != nil {
					why = "its schema 1 manifest has no config, so one was made from its history"
				}
				c.opts.Made(n.Image.Ref.String(), v.Document.Descriptor.Digest, d, why)
			}
		}
		out.Manifests = append(out.Manifests, made)
	}
	switch {
	case !img.Several || c.opts.Legacy:
		out.Target = out.Manifests[0].Descriptor
	case img.Whole && !changed:
		out.Target = img.Target()
		if was := img.Documents[0].Index.Annotations[AnnotationOriginal]; was != "" { // it came out of an archive
			out.Target.Annotations = map[string]string{AnnotationOriginal: was}
		}
		for _, doc := range img.Documents {
			if doc.Index != nil {
				out.Indexes = append(out.Indexes, doc.Descriptor)
			}
		}
	default:
		var err error
		if out.Target, err = c.index(ctx, img, out.Manifests); err != nil {
			return nil, err
		}
		out.Indexes = []ocispec.Descriptor{out.Target}
	}
	return append([]tarwriter.Image{out}, referrers(n, out)...), nil
}

// referrers are the entries of what refers to an image.
func referrers(n Named, owner tarwriter.Image) []tarwriter.Image {
	var out []tarwriter.Image
	for _, v := range n.Image.Referrers {
		d := v.Descriptor()
		if v.Manifest != nil {
			d.ArtifactType = v.Manifest.ArtifactType
		}
		d.Annotations = map[string]string{AnnotationBeside: cmp.Or(owner.Name, owner.Target.Digest.String())}
		if v.Tag != "" {
			// Under this name it can be found in a registry; a loader would take it for an image.
			d.Annotations[AnnotationTag] = n.Image.Ref.Registry() + "/" + n.Image.Ref.Repository() + ":" + v.Tag
		}
		out = append(out, tarwriter.Image{Target: d, Referrer: true, Manifests: []tarwriter.Manifest{{
			Descriptor: d, Config: v.Config, Layers: v.Layers, Runnable: v.Runnable(),
		}}})
	}
	return out
}

// variant prepares a manifest: with converted layers, and with a config where it
// came without one.
func (c *composer) variant(ctx context.Context, v plan.Variant) (tarwriter.Manifest, error) {
	out := tarwriter.Manifest{Descriptor: v.Descriptor(), Config: v.Config, Layers: v.Layers, Runnable: v.Runnable()}
	if v.Schema1 != nil {
		return c.fromHistory(ctx, v)
	}
	if c.opts.Legacy {
		var err error
		if out.ConfigContent, err = c.read(ctx, v.Config); err != nil {
			return out, err
		}
		if err := image.CheckConfig(out.ConfigContent); err != nil { // it is decoded for the layers' json
			return out, fmt.Errorf("the config: %w", err)
		}
	}
	layers, changed := make([]ocispec.Descriptor, len(v.Layers)), false
	for i, l := range v.Layers {
		layers[i] = c.layer(v, l)
		// A layer that is called gzip and was none keeps its digest and gets its right name.
		changed = changed || layers[i].Digest != l.Digest || layers[i].MediaType != l.MediaType
	}
	if !changed {
		return out, nil
	}
	// The manifest's other fields stay, known or not.
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(v.Raw, &fields); err != nil {
		return out, fmt.Errorf("%w: %w", image.ErrInvalid, err)
	}
	raw, err := json.Marshal(layers)
	if err != nil {
		return out, err
	}
	fields["layers"] = raw
	out.Layers = layers
	out.Descriptor, err = c.put(ctx, v.Document.Descriptor.MediaType, fields)
	out.Descriptor.Platform = v.Platform
	return out, err
}

// fromHistory makes a config and a manifest of schema 2 for an image that came
// with one of schema 1.
func (c *composer) fromHistory(ctx context.Context, v plan.Variant) (tarwriter.Manifest, error) {
	out := tarwriter.Manifest{Runnable: true, Layers: []ocispec.Descriptor{}}
	var diffIDs []digest.Digest
	for _, i := range v.Schema1.Kept() {
		out.Layers = append(out.Layers, c.layer(v, v.Layers[i]))
		diffIDs = append(diffIDs, c.converted[key{v.Layers[i].Digest, ""}].DiffID)
	}
	config, err := v.Schema1.Config(diffIDs)
	if err != nil {
		return out, err
	}
	out.Config = ocispec.Descriptor{MediaType: image.DockerConfig, Digest: digest.FromBytes(config), Size: int64(len(config))}
	if c.lease != nil {
		if err := c.lease.Put(ctx, out.Config, config); err != nil {
			return out, err
		}
	}
	out.Descriptor, err = c.put(ctx, image.DockerManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: image.DockerManifest, Config: out.Config, Layers: out.Layers,
	})
	out.Descriptor.Platform = v.Platform
	return out, err
}

// index makes an index of the variants that are there, in the order in which the
// original lists them.
func (c *composer) index(ctx context.Context, img *plan.Image, variants []tarwriter.Manifest) (ocispec.Descriptor, error) {
	made := make(map[digest.Digest]ocispec.Descriptor) // by the original manifest
	for i, v := range img.Variants {
		made[v.Document.Descriptor.Digest] = variants[i].Descriptor
	}
	byDigest := make(map[digest.Digest]image.Document)
	for _, doc := range img.Documents {
		byDigest[doc.Descriptor.Digest] = doc
	}
	ix := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{},
		Annotations: maps.Clone(img.Documents[0].Index.Annotations),
	}
	if ix.Annotations == nil {
		ix.Annotations = make(map[string]string)
	}
	ix.Annotations[AnnotationOriginal] = img.Target().Digest.String()
	seen := make(map[digest.Digest]bool)
	var list func(doc image.Document)
	list = func(doc image.Document) {
		for _, child := range doc.Index.Manifests {
			if seen[child.Digest] {
				continue
			}
			seen[child.Digest] = true
			if below, ok := byDigest[child.Digest]; ok && below.Index != nil {
				list(below)
			} else if d, ok := made[child.Digest]; ok {
				if child.Digest != d.Digest {
					child.Data, child.URLs = nil, nil
				}
				child.MediaType, child.Digest, child.Size = d.MediaType, d.Digest, d.Size
				child.Annotations = maps.Clone(child.Annotations)
				if child.Annotations == nil && d.Annotations != nil {
					child.Annotations = make(map[string]string)
				}
				maps.Copy(child.Annotations, d.Annotations)
				ix.Manifests = append(ix.Manifests, child)
			}
		}
	}
	list(img.Documents[0])
	d, err := c.put(ctx, ix.MediaType, ix)
	d.Annotations = map[string]string{AnnotationOriginal: img.Target().Digest.String()}
	return d, err
}

// put stores a document that was made here.
func (c *composer) put(ctx context.Context, mediaType string, v any) (ocispec.Descriptor, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if c.lease == nil { // it is only to be known
		return d, nil
	}
	return d, c.lease.Put(ctx, d, raw)
}

// read reads a small blob and checks it again.
func (c *composer) read(ctx context.Context, d ocispec.Descriptor) (_ []byte, err error) {
	if d.Size > image.MaxSize {
		return nil, fmt.Errorf("%w: config %s has %d bytes", image.ErrInvalid, d.Digest, d.Size)
	}
	f, err := c.blobs.Open(ctx, d.Digest)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	raw := make([]byte, d.Size)
	if _, err := f.ReadAt(raw, 0); err != nil {
		return nil, fmt.Errorf("reading config %s: %w", d.Digest, err)
	}
	if d.Digest.Algorithm().FromBytes(raw) != d.Digest {
		return nil, fmt.Errorf("reading config %s: %w", d.Digest, blobstore.ErrDamaged)
	}
	return raw, nil
}
