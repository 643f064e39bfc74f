package compose

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"

	"drayage/blobstore"
	"drayage/engine/fault"
	"drayage/engine/image"
	"drayage/engine/plan"
	"drayage/tarwriter/compress"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// Layers is the form that layers are to have.
type Layers int

// The forms. NoZstd is tar for layers that are compressed with zstd, and leaves
// the others.
const (
	Keep Layers = iota
	Tar
	Gzip
	NoZstd
)

// ParseLayers reads a form's name: keep, tar or gzip.
func ParseLayers(s string) (Layers, error) {
	for l, name := range map[Layers]string{Keep: "keep", Tar: "tar", Gzip: "gzip"} {
		if s == name {
			return l, nil
		}
	}
	return Keep, fmt.Errorf("layers as %q: want keep, tar or gzip", s)
}

// The names of forms in the store's records.
const (
	formTar    = "tar"
	formGzip   = "gzip" + compress.Version
	formDiffID = "diffid" // nothing is made but the diff id
)

// diffIDError says that a layer is not what its image's config says, once it is
// decompressed.
type diffIDError struct {
	Layer     digest.Digest
	Want, Got digest.Digest
}

func (e *diffIDError) Error() string {
	return fmt.Sprintf("layer %s has the diff id %s, and the config says %s", e.Layer, e.Got, e.Want)
}

// FaultKind is its kind: see fault.Of.
func (*diffIDError) FaultKind() fault.Kind { return fault.Content }

// job is a layer to be converted or read.
type job struct {
	layer ocispec.Descriptor
	form  string
	want  digest.Digest // its diff id, or "" when that is to be found out
}

// key is a layer with the diff id that a config gives it, "" where there is none:
// what one config says of a layer is nothing to another.
type key struct{ layer, diffID digest.Digest }

// convertAll converts what needs it, each layer once, on all cores.
func (c *composer) convertAll(ctx context.Context, named []Named) error {
	c.converted = make(map[key]blobstore.Derived)
	c.forms = make(map[digest.Digest]string)
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	queued := make(map[key]bool)
	for _, n := range named {
		for i := range n.Image.Variants {
			v := &n.Image.Variants[i]
			jobs, err := c.jobs(ctx, v)
			if err != nil {
				if failed := group.Wait(); failed != nil { // which ended ctx
					return failed
				}
				return fault.About(n.Image.Ref.String(), err)
			}
			for _, j := range jobs {
				k := key{j.layer.Digest, j.want}
				if queued[k] {
					continue
				}
				queued[k] = true
				group.Go(func() error {
					if ctx.Err() != nil {
						return context.Cause(ctx)
					}
					d, err := c.convert(ctx, j)
					if err != nil {
						return fault.About(n.Image.Ref.String(), fmt.Errorf("converting layer %s: %w", j.layer.Digest, err))
					}
					mu.Lock()
					defer mu.Unlock()
					c.converted[k] = d
					return nil
				})
			}
			if !n.Image.Several {
				break
			}
		}
	}
	return group.Wait()
}

// jobs lists what is to be done with a variant's layers.
func (c *composer) jobs(ctx context.Context, v *plan.Variant) ([]job, error) {
	if v.Schema1 != nil {
		form := formDiffID
		switch {
		case c.opts.Layers == Tar:
			form = formTar
		case c.opts.Legacy:
			return nil, nil
		}
		var out []job
		for _, i := range v.Schema1.Kept() {
			out = append(out, job{layer: v.Layers[i], form: form})
		}
		return out, nil
	}
	if c.opts.Layers == Keep || !v.Runnable() {
		return nil, nil
	}
	forms := make([]string, len(v.Layers))
	some := false
	for i, l := range v.Layers {
		form, err := c.formOf(ctx, l)
		if err != nil {
			return nil, err
		}
		forms[i], some = form, some || form != ""
	}
	if !some {
		return nil, nil
	}
	config, err := c.read(ctx, v.Config)
	if err != nil {
		return nil, err
	}
	diffIDs, err := image.DiffIDs(config)
	if err != nil {
		return nil, err
	}
	if len(diffIDs) != len(v.Layers) {
		return nil, fmt.Errorf("%w: the config lists %d layers and the manifest %d", image.ErrInvalid, len(diffIDs), len(v.Layers))
	}
	c.wanted[v.Document.Descriptor.Digest] = diffIDs
	var out []job
	for i, l := range v.Layers {
		if forms[i] != "" {
			out = append(out, job{layer: l, form: forms[i], want: diffIDs[i]})
		}
	}
	return out, nil
}

// formOf is the form that a layer is to be brought into, or "" when it may stay. What the layer
// really is decides, and what its media type says: some are called gzip and are not compressed,
// some the reverse, and Docker runs them.
func (c *composer) formOf(ctx context.Context, d ocispec.Descriptor) (string, error) {
	kind, label := splitType(d.MediaType)
	if kind == "" { // not a layer of a container image
		return "", nil
	}
	if form, known := c.forms[d.Digest]; known {
		return form, nil
	}
	form := ""
	switch c.opts.Layers { // by what it is called: that needs no look at it
	case Tar:
		if label != "" {
			form = formTar
		}
	case Gzip:
		if label != "gzip" {
			form = formGzip
		}
	case NoZstd:
		if label == "zstd" {
			form = formTar
		}
	}
	if form == "" {
		content, err := c.compression(ctx, d.Digest)
		if err != nil {
			return "", err
		}
		switch l := c.opts.Layers; {
		case l == Tar && content != compress.None, l == NoZstd && content == compress.Zstd:
			form = formTar
		case l == Gzip && content != compress.Gzip:
			form = formGzip
		}
	}
	c.forms[d.Digest] = form
	return form, nil
}

// compression is how a layer is compressed, by its content.
func (c *composer) compression(ctx context.Context, d digest.Digest) (compress.Format, error) {
	f, err := c.blobs.Open(ctx, d)
	if err != nil {
		return compress.None, err
	}
	defer f.Close()
	return formatOf(f)
}

// formatOf is how a file is compressed.
func formatOf(f *os.File) (compress.Format, error) {
	const look = 6
	head := make([]byte, look)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return compress.None, err
	}
	format, err := compress.Detect(head[:n])
	if err != nil {
		return compress.None, notALayer(err)
	}
	return format, nil
}

// IsLayer reports whether a media type is of a layer of a container image.
func IsLayer(mediaType string) bool {
	kind, _ := splitType(mediaType)
	return kind != ""
}

// splitType takes a layer's media type apart: application/vnd.oci.image.layer.v1.tar+gzip
// is ("application/vnd.oci.image.layer.v1.tar", "gzip"). What is no layer is ("", "").
func splitType(mediaType string) (kind, compression string) {
	for _, base := range []string{
		ocispec.MediaTypeImageLayer, "application/vnd.oci.image.layer.nondistributable.v1.tar",
		strings.TrimSuffix(image.DockerLayer, ".gzip"), "application/vnd.docker.image.rootfs.foreign.diff.tar",
	} {
		switch rest, ok := strings.CutPrefix(mediaType, base); {
		case !ok:
		case rest == "":
			return base, ""
		case rest == "+gzip" || rest == ".gzip":
			return base, "gzip"
		case rest == "+zstd" || rest == ".zstd":
			return base, "zstd"
		}
	}
	return "", ""
}

// layer is the descriptor that a layer has in the archive.
func (c *composer) layer(v plan.Variant, d ocispec.Descriptor) ocispec.Descriptor {
	made, ok := c.made(v, d)
	if !ok || made.Blob.Digest == "" {
		d.Data = nil // the blob itself is there
		return d
	}
	kind, _ := splitType(d.MediaType)
	out := ocispec.Descriptor{MediaType: kind, Digest: made.Blob.Digest, Size: made.Blob.Size}
	if made.Form == formGzip {
		out.MediaType += "+gzip"
		if strings.Contains(kind, "docker") {
			out.MediaType = kind + ".gzip"
		}
	}
	return out // without annotations: those of lazy pulling describe the bytes that were
}

// made is what was made of a layer of a variant.
func (c *composer) made(v plan.Variant, d ocispec.Descriptor) (blobstore.Derived, bool) {
	if v.Schema1 != nil {
		made, ok := c.converted[key{d.Digest, ""}]
		return made, ok
	}
	if !v.Runnable() || c.forms[d.Digest] == "" {
		return blobstore.Derived{}, false
	}
	for i, l := range v.Layers {
		if l.Digest == d.Digest {
			made, ok := c.converted[key{d.Digest, c.wanted[v.Document.Descriptor.Digest][i]}]
			return made, ok
		}
	}
	return blobstore.Derived{}, false
}

// convert brings a layer into a form, and finds out its diff id: from what is
// recorded in the store, or by doing it.
func (c *composer) convert(ctx context.Context, j job) (blobstore.Derived, error) {
	if d, ok := c.lease.Derived(j.layer.Digest, j.form); ok && (j.want == "" || d.DiffID == j.want) {
		return d, nil
	}
	f, err := c.blobs.Open(ctx, j.layer.Digest)
	if err != nil {
		return blobstore.Derived{}, err
	}
	defer f.Close()
	if format, err := formatOf(f); err == nil && format == compress.Zstd {
		c.zstd.Lock() // one at a time: its window is memory, and it uses several processors itself
		defer c.zstd.Unlock()
	}
	in, _, err := compress.NewReader(f)
	if err != nil {
		return blobstore.Derived{}, notALayer(err)
	}
	defer in.Close()
	content := c.opts.MaxRatio.Reader(in, j.layer.Size)
	d := blobstore.Derived{From: j.layer.Digest, Form: j.form}
	if j.form == formDiffID {
		d.DiffID, err = hashed(ctx, io.Discard, content)
	} else {
		d.Blob, d.DiffID, err = c.make(ctx, j, content)
	}
	if err != nil {
		return d, err
	}
	return d, c.lease.Derive(d)
}

// make writes a layer's new form into the store, unless it isn't what the config
// says.
func (c *composer) make(ctx context.Context, j job, in io.Reader) (blob ocispec.Descriptor, diffID digest.Digest, err error) {
	draft, err := c.lease.Draft(digest.Canonical)
	if err != nil {
		return blob, "", err
	}
	defer func() { err = errors.Join(err, draft.Close()) }()
	if j.form == formTar {
		err = pump(ctx, draft, in)
		diffID = draft.Digest()
	} else {
		z := compress.NewWriter(draft, compress.Gzip)
		diffID, err = hashed(ctx, z, in)
		err = errors.Join(err, z.Close())
	}
	if err != nil {
		return blob, "", err
	}
	if j.want != "" && diffID != j.want {
		return blob, "", &diffIDError{Layer: j.layer.Digest, Want: j.want, Got: diffID}
	}
	blob, err = draft.Commit("")
	return blob, diffID, err
}

// hashed copies in to out and returns the digest of what it copied. Reading,
// which decompresses, goes on while what was read is hashed and written.
func hashed(ctx context.Context, out io.Writer, in io.Reader) (digest.Digest, error) {
	sum := sha256.New()
	if err := pump(ctx, io.MultiWriter(out, sum), in); err != nil {
		return "", err
	}
	return digest.NewDigest(digest.SHA256, sum), nil
}

// pump copies in to out by a few buffers that go round.
func pump(ctx context.Context, out io.Writer, in io.Reader) error {
	const buffers, size = 3, 1 << 20
	free, full := make(chan []byte, buffers), make(chan []byte, buffers)
	for range buffers {
		free <- make([]byte, size)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(full)
		for {
			var buf []byte
			select {
			case buf = <-free:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			n, err := fill(in, buf[:size])
			if n > 0 {
				full <- buf[:n] // never waits: there is room for all
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return notALayer(err)
			}
		}
	})
	group.Go(func() error {
		for buf := range full {
			if _, err := out.Write(buf); err != nil {
				return err
			}
			free <- buf
		}
		return nil
	})
	return group.Wait()
}

// fill reads until buf is full or the stream ends: with io.EOF where it should,
// unlike io.ReadFull, whose error is the same as that of a stream cut short.
func fill(in io.Reader, buf []byte) (int, error) {
	n := 0
	for n < len(buf) {
		more, err := in.Read(buf[n:])
		n += more
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// errLayer is wrapped for layers that can't be decompressed.
var errLayer = fault.New(fault.Content, "not what its media type says")

func notALayer(err error) error {
	var ratio *compress.RatioError
	if errors.As(err, &ratio) {
		return err
	}
	return fmt.Errorf("%w: %w", errLayer, err)
}
