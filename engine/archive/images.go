package archive

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"

	"drayage/blobstore"
	"drayage/engine/compose"
	"drayage/engine/image"
	"drayage/engine/plan"
	"drayage/engine/reference"
	"drayage/tarwriter/squeeze"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// dockerImage is an entry of manifest.json.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string

	told bool // index.json has the same image, and neither half of it is right, which was told
}

// fullName is a name as the store has it, or "" for what is none. A tag alone is
// none.
func fullName(name string) string {
	if !strings.ContainsAny(name, ":/") || digest.Digest(name).Validate() == nil {
		return ""
	}
	ref, err := reference.Parse(name)
	if err != nil || ref.Tag() == "" {
		return ""
	}
	return ref.Tagged()
}

// fromIndex finds the images of an OCI layout, and those that only its manifest.json has.
func (i *importer) fromIndex(ctx context.Context, raw, manifest []byte) ([]blobstore.Root, error) {
	var index ocispec.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, fmt.Errorf("%w: index.json is no index", ErrInvalid)
	}
	docker := i.dockerImages(manifest)
	var roots []blobstore.Root
	var besides []beside
	was := make(map[string]digest.Digest) // what the root of a name was made from
	covered := make(map[digest.Digest][]blobstore.Root)
	for _, d := range index.Manifests {
		all, img, err := i.indexed(ctx, d, docker)
		if err != nil {
			if !i.skip(ctx, cmp.Or(indexName(d), d.Digest.String()), err) {
				return nil, err
			}
			for _, e := range i.otherHalf(d, docker) { // which isn't right either, or is but one of several platforms
				e.told = true
			}
			continue
		}
		root := all[0]
		for _, v := range img.Variants {
			covered[v.Config.Digest] = append(covered[v.Config.Digest], all...)
		}
		named := slices.ContainsFunc(all, func(r blobstore.Root) bool { return fullName(r.Name) != "" })
		if b := besideOf(root, d, img); !named && b.refers() {
			besides = append(besides, b)
			continue
		}
		for _, r := range all {
			roots = append(roots, r)
			was[r.Name] = digest.Digest(d.Annotations[compose.AnnotationOriginal])
		}
	}
	roots, err := i.together(ctx, roots)
	if err != nil {
		return nil, err
	}
	more, err := i.dockerOnly(ctx, docker, roots, covered)
	if err != nil {
		return nil, err
	}
	roots = i.unique(append(roots, more...))
	for _, b := range attach(roots, was, besides) { // what it refers to is elsewhere
		roots = append(roots, names([]string{b.tag}, b.root)...)
	}
	return i.unique(roots), nil
}

// indexName is the name that index.json gives to an image, or "".
func indexName(d ocispec.Descriptor) string {
	return cmp.Or(d.Annotations["io.containerd.image.name"], d.Annotations[ocispec.AnnotationRefName])
}

// indexed finds an image that index.json lists, under each of its names. Where that half of the
// archive is wrong and manifest.json has the image and is right, that one counts: Docker 25.0.0
// wrote manifests with layers in another order than their configs.
func (i *importer) indexed(ctx context.Context, d ocispec.Descriptor, docker map[digest.Digest][]*dockerImage) ([]blobstore.Root, *plan.Image, error) {
	if d.Digest.Validate() != nil || d.Size < 0 {
		return nil, nil, fmt.Errorf("%w: index.json has a malformed digest or size", ErrInvalid)
	}
	root := blobstore.Root{Target: ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, Platform: d.Platform}}
	img, err := i.resolve(ctx, &root)
	if err != nil && itsFault(ctx, err) {
		if other, ok := i.rescued(ctx, d, docker); ok {
			i.options.Warn(fmt.Sprintf("%s: what index.json says of it is wrong, and manifest.json is used (%v)", image.Printable(cmp.Or(indexName(d), d.Digest.String())), err))
			root = other
			img, err = i.resolve(ctx, &root)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	all := []string{d.Annotations["io.containerd.image.name"]}
	if fullName(all[0]) == "" {
		all = nil
		for _, e := range docker[img.Main().Config.Digest] {
			all = append(all, e.RepoTags...)
		}
		all = append(all, d.Annotations[ocispec.AnnotationRefName])
	}
	return names(all, root), img, nil
}

// rescued is the image of an entry of index.json as manifest.json has it, if that is right.
func (i *importer) rescued(ctx context.Context, d ocispec.Descriptor, docker map[digest.Digest][]*dockerImage) (blobstore.Root, bool) {
	if !i.sole(d) {
		return blobstore.Root{}, false // of several platforms manifest.json has but one
	}
	for _, e := range i.otherHalf(d, docker) {
		if root, err := i.dockerRoot(ctx, *e); err == nil {
			return root, true
		}
	}
	return blobstore.Root{}, false
}

// otherHalf lists the entries of manifest.json for an image of index.json: those with its name,
// and then those with its config.
func (i *importer) otherHalf(d ocispec.Descriptor, docker map[digest.Digest][]*dockerImage) []*dockerImage {
	var named []*dockerImage
	want := fullName(indexName(d))
	for _, config := range slices.Sorted(maps.Keys(docker)) {
		for _, e := range docker[config] {
			if want != "" && slices.ContainsFunc(e.RepoTags, func(tag string) bool { return fullName(tag) == want }) {
				named = append(named, e)
			}
		}
	}
	if m := i.document(d.Digest).Manifest; m != nil {
		return append(named, docker[m.Config.Digest]...)
	}
	return named
}

// sole reports whether an entry of index.json is one image, and no index of several platforms.
func (i *importer) sole(d ocispec.Descriptor) bool {
	if ix := i.document(d.Digest).Index; ix != nil {
		return len(image.Children(ix)) == 1
	}
	return d.MediaType != image.DockerList && d.MediaType != ocispec.MediaTypeImageIndex
}

// document is a manifest or an index of the store, or nothing.
func (i *importer) document(d digest.Digest) image.Document {
	raw, err := i.store.Read(d, image.MaxSize)
	if err != nil {
		return image.Document{}
	}
	doc, err := image.DecodeVerified(raw, d)
	if err != nil {
		return image.Document{}
	}
	return doc
}

// together makes an index of images for several platforms that have one name and no index above
// them, as some write: a name stands for one thing.
func (i *importer) together(ctx context.Context, roots []blobstore.Root) ([]blobstore.Root, error) {
	byName := make(map[string][]blobstore.Root)
	for _, r := range roots {
		same := byName[r.Name]
		if !slices.ContainsFunc(same, func(o blobstore.Root) bool { return o.Target.Digest == r.Target.Digest }) {
			byName[r.Name] = append(same, r)
		}
	}
	var out []blobstore.Root
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		same := byName[name]
		index, ok, err := i.indexOf(same)
		if err != nil {
			return nil, err
		}
		if !ok {
			out = append(out, same...)
			continue
		}
		raw, err := json.Marshal(index)
		if err != nil {
			return nil, err
		}
		target, err := i.put(ctx, ocispec.MediaTypeImageIndex, raw)
		if err != nil {
			return nil, err
		}
		joined := blobstore.Root{Name: name, Target: target, Blobs: []digest.Digest{target.Digest}}
		for _, r := range same {
			for _, b := range r.Blobs {
				if !slices.Contains(joined.Blobs, b) {
					joined.Blobs = append(joined.Blobs, b)
				}
			}
		}
		out = append(out, joined)
	}
	return out, nil
}

// indexOf is an index of manifests for different platforms, if that is what they are.
func (i *importer) indexOf(roots []blobstore.Root) (index ocispec.Index, ok bool, err error) {
	if len(roots) < 2 {
		return index, false, nil
	}
	index = ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	seen := make(map[string]bool)
	for _, r := range roots {
		raw, err := i.store.Read(r.Target.Digest, image.MaxSize)
		if err != nil {
			return index, false, err
		}
		doc, err := image.DecodeVerified(raw, r.Target.Digest)
		if err != nil || doc.Manifest == nil {
			return index, false, nil
		}
		d := doc.Descriptor
		if d.Platform = r.Target.Platform; d.Platform == nil {
			config, err := i.store.Read(doc.Manifest.Config.Digest, image.MaxSize)
			if err != nil {
				return index, false, err
			}
			p, err := image.ConfigPlatform(config)
			if err != nil || p.OS == "" || p.Architecture == "" {
				return index, false, nil
			}
			d.Platform = &p
		}
		key := image.FormatPlatform(*d.Platform) + " " + d.Platform.OSVersion
		if seen[key] {
			return index, false, nil
		}
		seen[key] = true
		index.Manifests = append(index.Manifests, d)
	}
	return index, true, nil
}

// dockerOnly finds what manifest.json has beyond index.json: images, as of docker save of an
// image by its id, and names.
func (i *importer) dockerOnly(ctx context.Context, docker map[digest.Digest][]*dockerImage, roots []blobstore.Root, covered map[digest.Digest][]blobstore.Root) ([]blobstore.Root, error) {
	known := make(map[string]bool)
	for _, r := range roots {
		known[r.Name] = true
	}
	var out []blobstore.Root
	for _, config := range slices.Sorted(maps.Keys(docker)) {
		for _, e := range docker[config] {
			if same := covered[config]; len(same) > 0 {
				for _, tag := range e.RepoTags {
					if name := fullName(tag); name != "" && !known[name] {
						known[name] = true
						r := same[0]
						r.Name = name
						out = append(out, r)
					}
				}
				continue
			}
			if e.told {
				continue
			}
			root, err := i.dockerRoot(ctx, *e)
			if err != nil {
				if !i.skip(ctx, strings.Join(append(slices.Clone(e.RepoTags), e.Config), " "), err) {
					return nil, err
				}
				continue
			}
			out = append(out, names(e.RepoTags, root)...)
		}
	}
	return out, nil
}

// beside is a manifest that may go beside an image, by what is told of it.
type beside struct {
	root    blobstore.Root
	owner   string        // the image's name or digest, in drayage's archives
	tag     string        // the whole name that it was found by
	subject digest.Digest // what it refers to
}

func besideOf(root blobstore.Root, d ocispec.Descriptor, img *plan.Image) beside {
	b := beside{root: root, owner: d.Annotations[compose.AnnotationBeside], tag: d.Annotations[compose.AnnotationTag]}
	if m := img.Main().Manifest; m != nil && m.Subject != nil {
		b.subject = m.Subject.Digest
	} else if hex, _, ok := strings.Cut(b.short(), "."); ok { // cosign's tags
		b.subject = digest.NewDigestFromEncoded(digest.SHA256, strings.TrimPrefix(hex, "sha256-"))
	}
	return b
}

func (b beside) refers() bool { return b.owner != "" || b.tag != "" || b.subject != "" }

// short is the tag alone.
func (b beside) short() string { return b.tag[strings.LastIndexByte(b.tag, ':')+1:] }

// belongs reports whether it goes beside an image.
func (b beside) belongs(r blobstore.Root, was digest.Digest) bool {
	if b.owner != "" {
		return b.owner == r.Name || b.owner == r.Target.Digest.String()
	}
	return b.subject != "" && (b.subject == was || slices.Contains(r.Blobs, b.subject))
}

// attach gives to each image what refers to it, and to that again, whatever the
// order. It returns what refers to none.
func attach(roots []blobstore.Root, was map[string]digest.Digest, besides []beside) []beside {
	taken := make([]bool, len(besides))
	for k := range roots {
		r := &roots[k]
		has := make([]bool, len(besides))
		for more := true; more; {
			more = false
			for n, b := range besides {
				if has[n] || !b.belongs(*r, was[r.Name]) {
					continue
				}
				has[n], taken[n], more = true, true, true
				d := b.root.Target
				if b.tag != "" {
					d.Annotations = map[string]string{ocispec.AnnotationRefName: b.short()}
				}
				r.Beside = append(r.Beside, d)
				r.Blobs = append(slices.Clip(r.Blobs), b.root.Blobs...)
			}
		}
		slices.SortFunc(r.Beside, func(a, b ocispec.Descriptor) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	}
	var left []beside
	for n, b := range besides {
		if !taken[n] {
			left = append(left, b)
		}
	}
	return left
}

// dockerImages are the entries of manifest.json, by their configs. What it tells of that isn't
// there is left to index.json.
func (i *importer) dockerImages(raw []byte) map[digest.Digest][]*dockerImage {
	out := make(map[digest.Digest][]*dockerImage)
	var entries []dockerImage
	if json.Unmarshal(raw, &entries) != nil {
		return out
	}
	for _, e := range entries {
		if f, err := i.find(e.Config); err == nil {
			out[f.digest] = append(out[f.digest], &e)
		}
	}
	return out
}

// resolve finds what an image needs, all of which must be in the store, and lists
// it in the root. Children of an index that were left out are left out.
func (i *importer) resolve(ctx context.Context, root *blobstore.Root) (*plan.Image, error) {
	img, err := i.whole(ctx, root)
	if img == nil && errors.Is(err, ErrInvalid) {
		if rotten := i.rottenBelow(root.Target.Digest, 0); rotten != nil {
			return nil, rotten // which says more than that it isn't there
		}
	}
	return img, err
}

// whole is resolve without the look for what is rotten.
func (i *importer) whole(ctx context.Context, root *blobstore.Root) (*plan.Image, error) {
	if has, err := i.lease.Has(root.Target); err != nil || !has {
		if err == nil {
			err = fmt.Errorf("%w: index.json lists %s, which is not there", ErrInvalid, root.Target.Digest)
		}
		return nil, wrongSize(err)
	}
	root.Name = root.Target.Digest.String()
	img, err := compose.Stored(ctx, i.store, *root, image.DefaultPlatform())
	var size *blobstore.SizeError
	if errors.Is(err, blobstore.ErrNotFound) && !errors.As(err, &size) {
		return nil, fmt.Errorf("%w: some blobs of %s are not there", ErrInvalid, root.Target.Digest)
	}
	var none *image.NoPlatformError
	if errors.As(err, &none) {
		return nil, fmt.Errorf("%w: of what the index %s lists nothing is there", ErrInvalid, root.Target.Digest)
	}
	if err != nil {
		return nil, wrongSize(invalid(err))
	}
	if !slices.ContainsFunc(img.Variants, func(v plan.Variant) bool { return v.Platform == nil || !image.IsUnknown(*v.Platform) }) {
		return nil, fmt.Errorf("%w: of %s nothing but attestations is whole", ErrInvalid, root.Target.Digest)
	}
	root.Blobs = img.Digests()
	for _, v := range img.Variants {
		for _, d := range append([]ocispec.Descriptor{v.Config}, v.Layers...) {
			if d.Digest == "" {
				continue
			}
			has, err := i.lease.Has(d) // keeps it
			if err == nil && !has {
				err = fmt.Errorf("%w: blob %s is not there", ErrInvalid, d.Digest)
			}
			if err != nil {
				return nil, wrongSize(err)
			}
		}
	}
	return img, i.checkLayers(ctx, img)
}

// checkLayers holds layers against the diff ids of their configs, on all cores.
func (i *importer) checkLayers(ctx context.Context, img *plan.Image) error {
	type check struct {
		layer  ocispec.Descriptor
		diffID digest.Digest
	}
	var checks []check
	for n := range img.Variants {
		v := &img.Variants[n]
		if v.Manifest == nil || !v.Runnable() || v.Platform != nil && image.IsUnknown(*v.Platform) {
			continue
		}
		raw, err := i.store.Read(v.Config.Digest, image.MaxSize)
		if err != nil {
			return err
		}
		diffIDs, err := image.DiffIDs(raw)
		if err != nil || len(diffIDs) == 0 { // some configs are of no container image, whatever they call themselves
			continue
		}
		if len(diffIDs) != len(v.Layers) {
			return fmt.Errorf("%w: the config %s tells of %d layers and the manifest of %d", ErrInvalid, v.Config.Digest, len(diffIDs), len(v.Layers))
		}
		for k, l := range v.Layers {
			if compose.IsLayer(l.MediaType) {
				checks = append(checks, check{l, diffIDs[k]})
			}
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, c := range checks {
		group.Go(func() error {
			got, _, err := i.diffID(ctx, file{c.layer.Digest, c.layer.Size})
			if err == nil && got != c.diffID {
				err = fmt.Errorf("%w: it has the diff id %s, and the config says %s", ErrMismatch, got, c.diffID)
			}
			if err != nil {
				return fmt.Errorf("layer %s: %w", c.layer.Digest, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// wrongSize marks descriptors that lie about sizes.
func wrongSize(err error) error {
	var size *blobstore.SizeError
	var planned *plan.SizeError
	if errors.As(err, &size) || errors.As(err, &planned) {
		return fmt.Errorf("%w: %w", ErrMismatch, err)
	}
	return err
}

// fromManifest finds the images of docker save's older format, and of what others
// write in it.
func (i *importer) fromManifest(ctx context.Context, raw, repos []byte) ([]blobstore.Root, error) {
	var entries []dockerImage
	if err := json.Unmarshal(raw, &entries); err != nil {
		return nil, fmt.Errorf("%w: manifest.json is not what docker save writes", ErrInvalid)
	}
	var roots []blobstore.Root
	for _, e := range entries {
		root, err := i.dockerRoot(ctx, e)
		if err != nil {
			if !i.skip(ctx, cmp.Or(strings.Join(e.RepoTags, " "), e.Config), err) {
				return nil, err
			}
			continue
		}
		roots = append(roots, names(e.RepoTags, root)...)
	}
	if repos != nil { // which may have images of the oldest kind beside others
		old, err := i.fromRepositories(ctx, repos, roots)
		if err != nil {
			return nil, err
		}
		roots = append(roots, old...)
	}
	return i.unique(roots), nil
}

// dockerRoot makes a manifest for an image that came without one.
func (i *importer) dockerRoot(ctx context.Context, e dockerImage) (blobstore.Root, error) {
	config, err := i.find(e.Config)
	if err != nil {
		return blobstore.Root{}, err
	}
	raw, err := i.store.Read(config.digest, image.MaxSize)
	if err != nil {
		return blobstore.Root{}, err
	}
	diffIDs, err := image.DiffIDs(raw)
	if err != nil {
		return blobstore.Root{}, invalid(err)
	}
	if len(diffIDs) != len(e.Layers) {
		return blobstore.Root{}, fmt.Errorf("%w: the config %q tells of %d layers and manifest.json of %d", ErrInvalid, image.Printable(e.Config), len(diffIDs), len(e.Layers))
	}
	layers := make([]ocispec.Descriptor, 0, len(e.Layers))
	for n, name := range e.Layers {
		d, diffID, err := i.layer(ctx, name)
		if err != nil {
			return blobstore.Root{}, err
		}
		if diffID != diffIDs[n] {
			return blobstore.Root{}, fmt.Errorf("%w: layer %q has the diff id %s, and the config says %s", ErrMismatch, image.Printable(name), diffID, diffIDs[n])
		}
		layers = append(layers, d)
	}
	return i.dockerManifest(ctx, ocispec.Descriptor{MediaType: image.DockerConfig, Digest: config.digest, Size: config.size}, layers)
}

func (i *importer) dockerManifest(ctx context.Context, config ocispec.Descriptor, layers []ocispec.Descriptor) (blobstore.Root, error) {
	raw, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: image.DockerManifest, Config: config, Layers: layers,
	})
	if err != nil {
		return blobstore.Root{}, err
	}
	target, err := i.put(ctx, image.DockerManifest, raw)
	root := blobstore.Root{Target: target, Blobs: []digest.Digest{target.Digest, config.Digest}}
	for _, l := range layers {
		if !slices.Contains(root.Blobs, l.Digest) {
			root.Blobs = append(root.Blobs, l.Digest)
		}
	}
	return root, err
}

// layer describes a layer's file, and finds out its diff id.
func (i *importer) layer(ctx context.Context, name string) (ocispec.Descriptor, digest.Digest, error) {
	f, err := i.find(name)
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	diffID, format, err := i.diffID(ctx, f)
	if err != nil {
		return ocispec.Descriptor{}, "", fmt.Errorf("layer %q: %w", image.Printable(name), err)
	}
	kind := strings.TrimSuffix(image.DockerLayer, ".gzip")
	if format != squeeze.None {
		kind += "." + format.String()
	}
	return ocispec.Descriptor{MediaType: kind, Digest: f.digest, Size: f.size}, diffID, nil
}

const (
	// bombFrom and bombRatio are where decompressing ends: gzip can't make more of
	// a byte than some thousand, and no layer has more of nothing.
	bombFrom  = 4 << 30
	bombRatio = 1100
)

// diffID hashes a layer without its compression.
func (i *importer) diffID(ctx context.Context, f file) (digest.Digest, squeeze.Format, error) {
	const form = "diffid"
	blob, err := i.store.Open(f.digest)
	if err != nil {
		return "", squeeze.None, err
	}
	defer blob.Close()
	in, format, err := squeeze.NewReader(blob)
	if err != nil {
		return "", format, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	defer in.Close()
	if format == squeeze.None && f.digest.Algorithm() == digest.SHA256 {
		return f.digest, format, nil
	}
	if d, ok := i.lease.Derived(f.digest, form); ok {
		return d.DiffID, format, nil
	}
	hash, buf, total := digest.SHA256.Hash(), make([]byte, 1<<20), int64(0)
	for {
		if ctx.Err() != nil {
			return "", format, context.Cause(ctx)
		}
		n, err := in.Read(buf)
		hash.Write(buf[:n])
		if total += int64(n); total > bombFrom && total/bombRatio > f.size {
			return "", format, fmt.Errorf("%w: %d bytes decompress to more than %d", ErrInvalid, f.size, total)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", format, broken(err)
		}
	}
	d := digest.NewDigest(digest.SHA256, hash)
	return d, format, i.lease.Derive(blobstore.Derived{From: f.digest, Form: form, DiffID: d})
}

// fromRepositories finds the images of the oldest format, where each layer tells
// of itself and the one below it. Those that are known are left out; beside
// known ones, so are those that name no such layer.
func (i *importer) fromRepositories(ctx context.Context, raw []byte, known []blobstore.Root) ([]blobstore.Root, error) {
	var repos map[string]map[string]string
	if err := json.Unmarshal(raw, &repos); err != nil {
		return nil, fmt.Errorf("%w: repositories is not what docker save writes", ErrInvalid)
	}
	var roots []blobstore.Root
	for _, repo := range slices.Sorted(maps.Keys(repos)) {
		for _, tag := range slices.Sorted(maps.Keys(repos[repo])) {
			top := repos[repo][tag]
			name := fullName(repo + ":" + tag)
			old := i.heads[top+"/json"] != nil
			if len(known) > 0 && (!old || slices.ContainsFunc(known, func(r blobstore.Root) bool { return r.Name == name })) {
				continue
			}
			root, err := i.historyRoot(ctx, top)
			if err != nil {
				return nil, err
			}
			roots = append(roots, names([]string{repo + ":" + tag}, root)...)
		}
	}
	return i.unique(roots), nil
}

// maxLayers is how many layers the oldest format's chains may have.
const maxLayers = 1000

// historyRoot makes a config and a manifest from the layers' own history.
func (i *importer) historyRoot(ctx context.Context, top string) (blobstore.Root, error) {
	var s image.Schema1
	seen := make(map[string]bool)
	for id := top; id != ""; {
		raw, ok := i.heads[id+"/json"]
		if seen[id] {
			return blobstore.Root{}, fmt.Errorf("%w: layer %q is below itself", ErrInvalid, image.Printable(id))
		}
		seen[id] = true
		if !ok {
			return blobstore.Root{}, fmt.Errorf("%w: it tells of layer %q, which is not there", ErrInvalid, image.Printable(id))
		}
		l := image.Schema1Layer{ID: id, JSON: raw}
		if err := json.Unmarshal(raw, &l.Config); err != nil {
			return blobstore.Root{}, fmt.Errorf("%w: the json of layer %q", ErrInvalid, image.Printable(id))
		}
		s.Layers = append(s.Layers, l)
		if len(s.Layers) > maxLayers {
			return blobstore.Root{}, fmt.Errorf("%w: layer %q has more than %d below it", ErrInvalid, image.Printable(top), maxLayers)
		}
		id = l.Config.Parent
	}
	slices.Reverse(s.Layers)
	if len(s.Layers) == 0 {
		return blobstore.Root{}, fmt.Errorf("%w: an image without layers", ErrInvalid)
	}
	var layers []ocispec.Descriptor
	var diffIDs []digest.Digest
	for _, n := range s.Kept() {
		d, diffID, err := i.layer(ctx, s.Layers[n].ID+"/layer.tar")
		if err != nil {
			return blobstore.Root{}, err
		}
		layers, diffIDs = append(layers, d), append(diffIDs, diffID)
	}
	config, err := s.Config(diffIDs)
	if err != nil {
		return blobstore.Root{}, invalid(err)
	}
	desc, err := i.put(ctx, image.DockerConfig, config)
	if err != nil {
		return blobstore.Root{}, err
	}
	return i.dockerManifest(ctx, desc, layers)
}
