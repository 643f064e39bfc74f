package archive

import (
	"archive/tar"
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
	"drayage/engine/internal/limits"
	"drayage/engine/plan"
	"drayage/engine/printable"
	"drayage/engine/reference"
	"drayage/tarwriter/compress"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// annotationImageName is containerd's annotation for an image's whole name.
const annotationImageName = "io.containerd.image.name"

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
func (i *importer) fromIndex(ctx context.Context, entries []*ocispec.Descriptor) ([]blobstore.Root, error) {
	docker := i.dockerImages()
	var roots []blobstore.Root
	var besides []beside
	was := make(map[string]digest.Digest)             // what the root of a name was made from
	covered := make(map[digest.Digest]blobstore.Root) // the first image with a config
	named := make(map[string]map[digest.Digest]bool)  // the configs of what index.json has for a name
	for _, entry := range entries {
		d := *entry
		all, img, err := i.indexed(ctx, d, docker)
		if err != nil {
			if !i.skip(ctx, cmp.Or(indexName(d), d.Digest.String()), err) {
				return nil, err
			}
			for _, e := range i.otherHalf(d, img, docker) { // which isn't right either, or is but one of several platforms
				e.told = true
			}
			continue
		}
		root := all[0]
		for _, c := range img.complete {
			if _, ok := covered[c]; !ok {
				covered[c] = root
			}
		}
		hasName := slices.ContainsFunc(all, func(r blobstore.Root) bool { return fullName(r.Name) != "" })
		if b := besideOf(root, d, img); !hasName && b.refers() {
			besides = append(besides, b)
			continue
		}
		for _, r := range all {
			roots = append(roots, r)
			was[r.Name] = digest.Digest(d.Annotations[compose.AnnotationOriginal])
			if named[r.Name] == nil {
				named[r.Name] = make(map[digest.Digest]bool)
			}
			for _, c := range img.configs {
				named[r.Name][c] = true
			}
			if err := i.notes.add(costOfEntry + costOfString*len(img.configs)); err != nil {
				return nil, err
			}
		}
	}
	roots = i.agreed(docker, roots, named)
	roots, err := i.together(ctx, roots)
	if err != nil {
		return nil, err
	}
	more, err := i.dockerOnly(ctx, docker, roots, covered)
	if err != nil {
		return nil, err
	}
	roots = i.unique(append(roots, more...))
	left, err := i.attach(roots, was, besides)
	if err != nil {
		return nil, err
	}
	for _, b := range left { // what it refers to is elsewhere
		roots = append(roots, names([]string{b.tag}, b.root)...)
	}
	return i.unique(roots), nil
}

// agreed leaves out the names for which index.json and manifest.json have different images: who
// reads the one would get another image than who reads the other. Both may have it, and then
// manifest.json has one of the platforms.
func (i *importer) agreed(docker *dockerHalf, roots []blobstore.Root, named map[string]map[digest.Digest]bool) []blobstore.Root {
	wrong := make(map[string]bool)
	for _, e := range docker.entries {
		for _, tag := range e.RepoTags {
			name := fullName(tag)
			if have := named[name]; wrong[name] || len(have) == 0 || have[e.config] {
				continue
			}
			wrong[name] = true
			i.fail(aboutImage(name, fmt.Errorf("%w: index.json and manifest.json have different images of that name: manifest.json has one with the config %s", errInvalid, e.config)))
		}
	}
	for _, e := range docker.entries { // which is no other image's then
		e.told = e.told || slices.ContainsFunc(e.RepoTags, func(tag string) bool { return wrong[fullName(tag)] })
	}
	return slices.DeleteFunc(roots, func(r blobstore.Root) bool { return wrong[r.Name] })
}

// indexName is the name that index.json gives to an image, or "".
func indexName(d ocispec.Descriptor) string {
	return cmp.Or(d.Annotations[annotationImageName], d.Annotations[ocispec.AnnotationRefName])
}

// indexed finds an image that index.json lists, under each of its names. Where that half of the
// archive is wrong and manifest.json has the image and is right, that one counts: Docker 25.0.0
// wrote manifests with layers in another order than their configs. The result has what is known
// of the image in any case.
func (i *importer) indexed(ctx context.Context, d ocispec.Descriptor, docker *dockerHalf) ([]blobstore.Root, *resolved, error) {
	if d.Digest.Validate() != nil || d.Size < 0 {
		return nil, new(resolved), fmt.Errorf("%w: index.json has a malformed digest or size", errInvalid)
	}
	target := ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, Platform: d.Platform}
	img, err := i.resolve(ctx, target)
	if err != nil && itsFault(ctx, err) {
		if other, ok := i.rescued(ctx, d, img, docker); ok {
			i.options.Warn(fmt.Sprintf("%s: what index.json says of it is wrong, and manifest.json is used (%v)", printable.Line(cmp.Or(indexName(d), d.Digest.String())), err))
			target = other.Target
			img, err = i.resolve(ctx, target)
		}
	}
	if err != nil {
		return nil, img, err
	}
	all := []string{d.Annotations[annotationImageName]}
	if fullName(all[0]) == "" {
		all = nil
		for _, e := range docker.byConfig[img.main] {
			all = append(all, e.RepoTags...)
		}
		all = append(all, d.Annotations[ocispec.AnnotationRefName])
	}
	return names(all, blobstore.Root{Target: target, Blobs: img.blobs}), img, nil
}

// rescued is the image of an entry of index.json as manifest.json has it, if that is right.
func (i *importer) rescued(ctx context.Context, d ocispec.Descriptor, img *resolved, docker *dockerHalf) (blobstore.Root, bool) {
	i.lookInto(d, img)
	if !img.sole {
		return blobstore.Root{}, false // of several platforms manifest.json has but one
	}
	for _, e := range i.otherHalf(d, img, docker) {
		if root, err := i.dockerRoot(ctx, e); err == nil {
			return root, true
		}
	}
	return blobstore.Root{}, false
}

// otherHalf lists the entries of manifest.json for an image of index.json: those with its name,
// and then those with its config.
func (i *importer) otherHalf(d ocispec.Descriptor, img *resolved, docker *dockerHalf) []*dockerImage {
	i.lookInto(d, img)
	var out []*dockerImage
	if want := fullName(indexName(d)); want != "" {
		out = slices.Clone(docker.byName[want])
	}
	if img.config != "" {
		out = append(out, docker.byConfig[img.config]...)
	}
	return out
}

// lookInto finds out, once, what there is to know of an image that is not right.
func (i *importer) lookInto(d ocispec.Descriptor, img *resolved) {
	if img.looked {
		return
	}
	img.looked = true
	doc := i.document(d.Digest)
	if doc.Manifest != nil {
		img.config = doc.Manifest.Config.Digest
	}
	if img.sole = d.MediaType != image.DockerList && d.MediaType != ocispec.MediaTypeImageIndex; doc.Index != nil {
		img.sole = len(image.Children(doc.Index)) == 1
	}
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
	byName, seen := make(map[string][]blobstore.Root), make(map[string]bool)
	for _, r := range roots {
		key := r.Name + " " + r.Target.Digest.String()
		if !seen[key] {
			seen[key] = true
			byName[r.Name] = append(byName[r.Name], r)
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
		joined := []digest.Digest{target.Digest}
		for _, r := range same {
			joined = append(joined, r.Blobs...)
		}
		joined = once(joined)
		if err := i.notes.add(costOfRef * len(joined)); err != nil {
			return nil, err
		}
		out = append(out, blobstore.Root{Name: name, Target: target, Blobs: joined})
	}
	return out, nil
}

// once are digests without those that were there before.
func once(digests []digest.Digest) []digest.Digest {
	seen := make(map[digest.Digest]bool, len(digests))
	return slices.DeleteFunc(digests, func(d digest.Digest) bool {
		again := seen[d]
		seen[d] = true
		return again
	})
}

// indexOf is an index of manifests for different platforms, if that is what they are.
func (i *importer) indexOf(roots []blobstore.Root) (index ocispec.Index, ok bool, err error) {
	if len(roots) < 2 || len(roots) > limits.Platforms {
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
		key := image.FormatPlatform(*d.Platform)
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
func (i *importer) dockerOnly(ctx context.Context, docker *dockerHalf, roots []blobstore.Root, covered map[digest.Digest]blobstore.Root) ([]blobstore.Root, error) {
	known := make(map[string]bool)
	for _, r := range roots {
		known[r.Name] = true
	}
	var out []blobstore.Root
	for _, config := range slices.Sorted(maps.Keys(docker.byConfig)) {
		for _, e := range docker.byConfig[config] {
			if e.told {
				continue
			}
			if same, ok := covered[config]; ok {
				for _, tag := range e.RepoTags {
					if name := fullName(tag); name != "" && !known[name] {
						known[name] = true
						r := same
						r.Name = name
						out = append(out, r)
					}
				}
				continue
			}
			root, err := i.dockerRoot(ctx, e)
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

func besideOf(root blobstore.Root, d ocispec.Descriptor, img *resolved) beside {
	b := beside{root: root, owner: d.Annotations[compose.AnnotationBeside], tag: d.Annotations[compose.AnnotationTag]}
	if img.subject != "" {
		b.subject = img.subject
	} else if hex, _, ok := strings.Cut(b.short(), "."); ok { // cosign's tags
		b.subject = digest.NewDigestFromEncoded(digest.SHA256, strings.TrimPrefix(hex, "sha256-"))
	}
	return b
}

func (b beside) refers() bool { return b.owner != "" || b.tag != "" || b.subject != "" }

// short is the tag alone.
func (b beside) short() string { return b.tag[strings.LastIndexByte(b.tag, ':')+1:] }

// attach gives to each image what refers to it, and to that again, whatever the
// order. It returns what refers to none.
func (i *importer) attach(roots []blobstore.Root, was map[string]digest.Digest, besides []beside) ([]beside, error) {
	byOwner, bySubject := make(map[string][]int), make(map[digest.Digest][]int)
	for n, b := range besides {
		if b.owner != "" {
			byOwner[b.owner] = append(byOwner[b.owner], n)
		} else if b.subject != "" {
			bySubject[b.subject] = append(bySubject[b.subject], n)
		}
	}
	taken := make([]bool, len(besides))
	for k := range roots {
		r := &roots[k]
		has := make(map[int]bool)
		due := append(slices.Clone(byOwner[r.Name]), byOwner[r.Target.Digest.String()]...)
		due = append(due, bySubject[was[r.Name]]...)
		for _, d := range r.Blobs {
			due = append(due, bySubject[d]...)
		}
		for len(due) > 0 {
			n := due[0]
			due = due[1:]
			if has[n] {
				continue
			}
			has[n], taken[n] = true, true
			b := besides[n]
			d := b.root.Target
			if b.tag != "" {
				d.Annotations = map[string]string{ocispec.AnnotationRefName: b.short()}
			}
			r.Beside = append(r.Beside, d)
			r.Blobs = append(slices.Clip(r.Blobs), b.root.Blobs...)
			if err := i.notes.add(2*costOfEntry + costOfRef*len(b.root.Blobs)); err != nil {
				return nil, err
			}
			for _, d := range b.root.Blobs {
				due = append(due, bySubject[d]...)
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
	return left, nil
}

// dockerHalf are the entries of manifest.json whose configs are there. What it tells of that
// isn't there is left to index.json.
type dockerHalf struct {
	entries  []*dockerImage
	byConfig map[digest.Digest][]*dockerImage
	byName   map[string][]*dockerImage // whole names, each in the order of the configs
}

func (i *importer) dockerImages() *dockerHalf {
	out := &dockerHalf{byConfig: make(map[digest.Digest][]*dockerImage), byName: make(map[string][]*dockerImage)}
	if i.lists.manifest == nil || i.lists.manifest.err != nil {
		return out
	}
	for _, e := range i.lists.manifest.entries {
		f, err := i.find(e.Config)
		if err != nil {
			continue
		}
		e.config = f.digest
		out.entries = append(out.entries, e)
		out.byConfig[f.digest] = append(out.byConfig[f.digest], e)
	}
	for _, e := range slices.SortedStableFunc(slices.Values(out.entries), func(a, b *dockerImage) int { return cmp.Compare(a.config, b.config) }) {
		for _, tag := range e.RepoTags {
			if name := fullName(tag); name != "" {
				out.byName[name] = append(out.byName[name], e)
			}
		}
	}
	return out
}

// imageKey is what an image that index.json lists is known by.
type imageKey struct {
	digest  digest.Digest
	unknown bool // index.json says that its platform is that of attestations
}

// resolved is what an image that index.json lists was found to be, or why it can't be had.
type resolved struct {
	err     error
	blobs   []digest.Digest // that it needs
	main    digest.Digest   // the config of the platform that counts most
	subject digest.Digest   // what it refers to
	// configs are those of all its platforms, and complete of those that are all there.
	configs, complete []digest.Digest

	looked bool // the rest is known, of one that can't be had
	config digest.Digest
	sole   bool // it is one image, and no index of several platforms
}

// resolve finds what an image needs, all of which must be in the store, once. Children of an
// index that were left out are left out. The result is never nil.
func (i *importer) resolve(ctx context.Context, target ocispec.Descriptor) (*resolved, error) {
	key := imageKey{target.Digest, target.Platform != nil && image.IsUnknown(*target.Platform)}
	img := i.images[key]
	if img == nil {
		img = new(resolved)
		i.images[key] = img
		if err := i.notes.add(2 * costOfEntry); err != nil {
			return img, err
		}
		err := i.whole(ctx, target, img)
		if errors.Is(err, errInvalid) && !errors.Is(err, errTooMuch) {
			if rotten := i.rottenBelow(target.Digest, 0, make(map[digest.Digest]bool)); rotten != nil {
				err = rotten // which says more than that it isn't there
			}
		}
		img.err = err
		return img, err
	}
	if img.err == nil {
		has, err := i.has(target) // which may give it another size
		if err == nil && !has {
			err = absentTarget(target.Digest)
		}
		return img, wrongSize(err)
	}
	return img, img.err
}

func absentTarget(d digest.Digest) error {
	return fmt.Errorf("%w: index.json lists %s, which is missing", errInvalid, d)
}

// has reports whether the store has a blob, which stays. It is looked at once, whatever sizes it
// is described with.
func (i *importer) has(d ocispec.Descriptor) (bool, error) {
	if i.sound[d.Digest] {
		return i.store.Has(d)
	}
	has, err := i.lease.Has(d)
	var size *blobstore.SizeError
	if err == nil && has || errors.As(err, &size) {
		i.sound[d.Digest] = true
		if err := i.notes.add(costOfString); err != nil {
			return false, err
		}
	}
	return has, err
}

// whole is resolve for one that wasn't looked at yet.
func (i *importer) whole(ctx context.Context, target ocispec.Descriptor, out *resolved) error {
	if has, err := i.has(target); err != nil || !has {
		if err == nil {
			err = absentTarget(target.Digest)
		}
		return wrongSize(err)
	}
	root := blobstore.Root{Name: target.Digest.String(), Target: target}
	img, err := compose.Stored(ctx, i.store, root, image.DefaultPlatform())
	var size *blobstore.SizeError
	if errors.Is(err, blobstore.ErrNotFound) && !errors.As(err, &size) {
		return fmt.Errorf("%w: some blobs of %s are missing", errInvalid, target.Digest)
	}
	var none *image.NoPlatformError
	if errors.As(err, &none) {
		return fmt.Errorf("%w: everything that the index %s lists is missing", errInvalid, target.Digest)
	}
	if err != nil {
		return wrongSize(invalid(err))
	}
	if !slices.ContainsFunc(img.Variants, func(v plan.Variant) bool { return v.Platform == nil || !image.IsUnknown(*v.Platform) }) {
		return fmt.Errorf("%w: only the attestations of %s are complete", errInvalid, target.Digest)
	}
	for _, d := range img.Blobs() {
		has, err := i.has(d) // keeps it
		if err == nil && !has {
			err = fmt.Errorf("%w: blob %s is missing", errInvalid, d.Digest)
		}
		if err != nil {
			return wrongSize(err)
		}
	}
	out.blobs = img.Digests()
	out.main = img.Main().Config.Digest
	if m := img.Main().Manifest; m != nil && m.Subject != nil {
		out.subject = m.Subject.Digest
	}
	for _, v := range img.Variants {
		out.complete = append(out.complete, v.Config.Digest)
	}
	for _, doc := range img.Documents {
		if doc.Manifest != nil {
			out.configs = append(out.configs, doc.Manifest.Config.Digest)
		}
	}
	if err := i.notes.add(costOfRef * (len(out.blobs) + len(out.configs) + len(out.complete))); err != nil {
		return err
	}
	return i.checkLayers(ctx, img)
}

// layerCheck is a layer to be held against a diff id.
type layerCheck struct {
	layer  ocispec.Descriptor
	diffID digest.Digest
	known  bool // its media type is one of layers
}

// checkLayers holds layers against the diff ids of their configs, on all cores.
func (i *importer) checkLayers(ctx context.Context, img *plan.Image) error {
	var checks []layerCheck
	type pair struct{ layer, diffID digest.Digest }
	seen := make(map[pair]bool)
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
		if err != nil {
			return fmt.Errorf("config %s: %w", v.Config.Digest, invalid(err))
		}
		if len(diffIDs) == 0 { // some configs are of no container image, whatever they call themselves
			continue
		}
		if len(diffIDs) != len(v.Layers) {
			return fmt.Errorf("%w: the config %s lists %d layers and the manifest %d", errInvalid, v.Config.Digest, len(diffIDs), len(v.Layers))
		}
		for k, l := range v.Layers {
			if p := (pair{l.Digest, diffIDs[k]}); !seen[p] {
				seen[p] = true
				checks = append(checks, layerCheck{l, diffIDs[k], compose.IsLayer(l.MediaType)})
			}
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, c := range checks {
		group.Go(func() error {
			if err := i.checkLayer(ctx, c); err != nil {
				return fmt.Errorf("layer %s: %w", c.layer.Digest, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// checkLayer holds a layer against its diff id. What it is decides, and not what its media type
// says: that may be one that is not known here. Of what is no archive at all, such as an
// encrypted layer, the diff id can't be found out, which is told.
func (i *importer) checkLayer(ctx context.Context, c layerCheck) error {
	got, format, err := i.diffID(ctx, file{c.layer.Digest, c.layer.Size})
	if !c.known {
		if c.diffID == c.layer.Digest {
			return nil // as others than container engines have it
		}
		var unreadable *compress.FormatError
		sealed := err == nil && format == compress.None && got != c.diffID
		if sealed {
			if sealed, err = i.sealed(c.layer.Digest); err != nil {
				return err
			}
		}
		if sealed || errors.As(err, &unreadable) {
			i.mu.Lock()
			defer i.mu.Unlock()
			i.options.Warn(fmt.Sprintf("layer %s can't be checked against its image's config: unknown media type %q", c.layer.Digest, printable.Line(c.layer.MediaType)))
			return nil
		}
	}
	if err == nil && got != c.diffID {
		err = fmt.Errorf("%w: it has the diff id %s, and the config says %s", errMismatch, got, c.diffID)
	}
	return err
}

// sealed reports whether a blob that is not compressed is no tar either, whose first header has
// its checksum right (POSIX ustar).
func (i *importer) sealed(d digest.Digest) (bool, error) {
	f, err := i.store.Open(d)
	if err != nil {
		return false, err
	}
	defer f.Close()
	_, err = tar.NewReader(f).Next()
	return err != nil && !errors.Is(err, io.EOF), nil
}

// wrongSize marks descriptors that lie about sizes.
func wrongSize(err error) error {
	if errors.As(err, new(*blobstore.SizeError)) || errors.Is(err, plan.ErrSize) {
		return fmt.Errorf("%w: %w", errMismatch, err)
	}
	return err
}

// fromManifest finds the images of docker save's older format, and of what others
// write in it.
func (i *importer) fromManifest(ctx context.Context, entries []*dockerImage) ([]blobstore.Root, error) {
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
	if i.lists.repos != nil { // which may have images of the oldest kind beside others
		old, err := i.fromRepositories(ctx, roots)
		if err != nil {
			return nil, err
		}
		roots = append(roots, old...)
	}
	return i.unique(roots), nil
}

// dockerRoot makes a manifest for an image that came without one, once.
func (i *importer) dockerRoot(ctx context.Context, e *dockerImage) (blobstore.Root, error) {
	if !e.tried {
		root, err := i.makeRoot(ctx, e)
		if err != nil && !itsFault(ctx, err) {
			return root, err
		}
		e.tried, e.root, e.err = true, &root, err
	}
	return *e.root, e.err
}

func (i *importer) makeRoot(ctx context.Context, e *dockerImage) (blobstore.Root, error) {
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
		return blobstore.Root{}, fmt.Errorf("%w: the config %q lists %d layers and manifest.json %d", errInvalid, printable.Line(e.Config), len(diffIDs), len(e.Layers))
	}
	layers := make([]ocispec.Descriptor, 0, len(e.Layers))
	for n, name := range e.Layers {
		d, diffID, err := i.layer(ctx, name)
		if err != nil {
			return blobstore.Root{}, err
		}
		if diffID != diffIDs[n] {
			return blobstore.Root{}, fmt.Errorf("%w: layer %q has the diff id %s, and the config says %s", errMismatch, printable.Line(name), diffID, diffIDs[n])
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
	needs := []digest.Digest{target.Digest, config.Digest}
	for _, l := range layers {
		needs = append(needs, l.Digest)
	}
	needs = once(needs)
	return blobstore.Root{Target: target, Blobs: needs}, errors.Join(err, i.notes.add(costOfEntry+costOfRef*len(needs)))
}

// layer describes a layer's file, and finds out its diff id.
func (i *importer) layer(ctx context.Context, name string) (ocispec.Descriptor, digest.Digest, error) {
	f, err := i.find(name)
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	diffID, format, err := i.diffID(ctx, f)
	if err != nil {
		return ocispec.Descriptor{}, "", fmt.Errorf("layer %q: %w", printable.Line(name), err)
	}
	kind := strings.TrimSuffix(image.DockerLayer, ".gzip")
	if format != compress.None {
		kind += "." + format.String()
	}
	return ocispec.Descriptor{MediaType: kind, Digest: f.digest, Size: f.size}, diffID, nil
}

// unpackedLayer is what a layer was found to be.
type unpackedLayer struct {
	diffID digest.Digest
	format compress.Format
}

// diffID hashes a layer without its compression, once.
func (i *importer) diffID(ctx context.Context, f file) (digest.Digest, compress.Format, error) {
	i.mu.Lock()
	known, ok := i.layers[f.digest]
	i.mu.Unlock()
	if ok {
		return known.diffID, known.format, nil
	}
	d, format, err := i.unpack(ctx, f)
	if err != nil {
		return d, format, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.layers[f.digest] = unpackedLayer{d, format}
	return d, format, i.notes.add(costOfBlob)
}

// unpack is diffID for a layer that wasn't looked at yet.
func (i *importer) unpack(ctx context.Context, f file) (digest.Digest, compress.Format, error) {
	const form = "diffid"
	blob, err := i.store.Open(f.digest)
	if err != nil {
		return "", compress.None, err
	}
	defer blob.Close()
	format, err := compress.Detect(headOf(blob))
	if err != nil {
		return "", format, fmt.Errorf("%w: %w", errInvalid, err)
	}
	if format == compress.None && f.digest.Algorithm() == digest.SHA256 {
		return f.digest, format, nil
	}
	if d, ok := i.lease.Derived(f.digest, form); ok {
		return d.DiffID, format, nil
	}
	if format == compress.Zstd {
		i.zstd.Lock() // one at a time: its window is memory, and it uses several processors itself
		defer i.zstd.Unlock()
	}
	in, format, err := compress.NewReader(blob)
	if err != nil {
		return "", format, fmt.Errorf("%w: %w", errInvalid, err)
	}
	defer in.Close()
	hash := digest.SHA256.Hash()
	if _, err := io.CopyBuffer(hash, i.options.MaxRatio.Reader(interruptible{ctx, in}, f.size), make([]byte, 1<<20)); err != nil {
		if ctx.Err() != nil {
			return "", format, context.Cause(ctx)
		}
		return "", format, broken(err)
	}
	d := digest.NewDigest(digest.SHA256, hash)
	return d, format, i.lease.Derive(blobstore.Derived{From: f.digest, Form: form, DiffID: d})
}

// fromRepositories finds the images of the oldest format, where each layer tells
// of itself and the one below it. Those that are known are left out; beside
// known ones, so are those that name no such layer.
func (i *importer) fromRepositories(ctx context.Context, known []blobstore.Root) ([]blobstore.Root, error) {
	if i.lists.repos.err != nil {
		return nil, fmt.Errorf("%w: repositories is not what docker save writes: %w", errInvalid, i.lists.repos.err)
	}
	have := make(map[string]bool)
	for _, r := range known {
		have[r.Name] = true
	}
	made := make(map[string]blobstore.Root) // by the top layer
	var roots []blobstore.Root
	for _, e := range slices.SortedFunc(slices.Values(i.lists.repos.entries), func(a, b *repoTag) int {
		return cmp.Or(cmp.Compare(a.repo, b.repo), cmp.Compare(a.tag, b.tag))
	}) {
		name := e.repo + ":" + e.tag
		if _, ok := i.json[e.top+"/json"]; len(known) > 0 && (!ok || have[fullName(name)]) {
			continue
		}
		root, ok := made[e.top]
		if !ok {
			var err error
			if root, err = i.historyRoot(ctx, e.top); err != nil {
				return nil, err
			}
			made[e.top] = root
		}
		roots = append(roots, names([]string{name}, root)...)
	}
	return i.unique(roots), nil
}

// maxLayers is how many layers the oldest format's chains may have.
const maxLayers = 1000

// historyRoot makes a config and a manifest from the layers' own history.
func (i *importer) historyRoot(ctx context.Context, top string) (blobstore.Root, error) {
	var s image.Schema1
	seen := make(map[string]bool)
	size := 0
	for id := top; id != ""; {
		raw, ok, err := i.layerJSON(id)
		if err != nil {
			return blobstore.Root{}, err
		}
		if size += len(raw); size > limits.ManifestBytes { // as those of a schema 1 manifest are
			return blobstore.Root{}, fmt.Errorf("%w: the history of layer %q has more than %d MiB", errInvalid, printable.Line(top), limits.ManifestBytes>>20)
		}
		if seen[id] {
			return blobstore.Root{}, fmt.Errorf("%w: layer %q is below itself", errInvalid, printable.Line(id))
		}
		seen[id] = true
		if !ok {
			return blobstore.Root{}, fmt.Errorf("%w: layer %q is missing", errInvalid, printable.Line(id))
		}
		l := image.Schema1Layer{ID: id}
		if id == top {
			l.JSON = raw // which becomes the config
		}
		if l.Config, err = image.DecodeHistory(raw); err != nil {
			return blobstore.Root{}, fmt.Errorf("the json of layer %q: %w", printable.Line(id), invalid(err))
		}
		l.Config.ContainerConfig.Cmd = []string{strings.Join(l.Config.ContainerConfig.Cmd, " ")} // as the config has it
		s.Layers = append(s.Layers, l)
		if len(s.Layers) > maxLayers {
			return blobstore.Root{}, fmt.Errorf("%w: layer %q has more than %d below it", errInvalid, printable.Line(top), maxLayers)
		}
		id = l.Config.Parent
	}
	slices.Reverse(s.Layers)
	if len(s.Layers) == 0 {
		return blobstore.Root{}, fmt.Errorf("%w: an image without layers", errInvalid)
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
