package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"drayage/blobstore"
	"drayage/engine/image"
	"drayage/tarwriter"

	_ "crypto/sha512" // an algorithm that blobs may be named by
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const deltaFile = tarwriter.DeltaFile

// Image is an image that was imported.
type Image struct {
	Name   string        // the whole name, or a digest for one that has none
	Digest digest.Digest // of its manifest or index
	Added  int64         // bytes that the store did not have
	Reused int64         // bytes that it had
}

// Options are how to import. The zero value is useful.
type Options struct {
	// NoReplace refuses a name that the store has for another image, with ErrReplaces.
	NoReplace bool
	// Warn, if not nil, gets a line for what is odd, and for each name that is replaced.
	Warn func(message string)
}

// ErrReplaces is wrapped when an archive has another image for a name that the store has.
var ErrReplaces = errors.New("the store has another image of that name")

// ImageError is a failure with the image of an archive that it happened to.
type ImageError struct {
	Image string // its name, or its digest
	Err   error
}

func (e *ImageError) Error() string { return image.Printable(e.Image) + ": " + e.Err.Error() }

// Unwrap is the failure itself.
func (e *ImageError) Unwrap() error { return e.Err }

// Import reads an archive into a store and pins its images. name is a file, a
// folder, the first of an archive's volumes, or "-" for stdin. The errors wrap ErrInvalid, ErrMismatch,
// ErrIncomplete, or are faults of the store. What was read before an error stays in
// the store, verified and unused. Images that are whole come in even when others are not: then
// both results are there.
func Import(ctx context.Context, store *blobstore.Store, name string, stdin io.Reader, o Options) (_ []Image, err error) {
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	lease, err := store.Lease()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lease.Close()) }()
	i := &importer{
		options: o, store: store, lease: lease, files: make(map[string]file), links: make(map[string]string),
		heads: make(map[string][]byte), added: make(map[digest.Digest]bool), rotten: make(map[digest.Digest]error),
	}
	if err := walkPath(ctx, name, stdin, func(m member) error { return i.take(ctx, m) }); err != nil {
		return nil, err
	}
	roots, err := i.roots(ctx)
	if err != nil {
		return nil, err
	}
	i.tellRotten()
	failed := errors.Join(i.failed...)
	if len(roots) == 0 {
		if failed != nil {
			return nil, failed
		}
		return nil, fmt.Errorf("%w: it has no images", ErrInvalid)
	}
	roots, refused := i.replacing(roots)
	if err := lease.Pin(roots...); err != nil {
		return nil, err
	}
	images, err := i.images(roots)
	return images, errors.Join(err, failed, refused)
}

// replacing tells of the names that the store has for other images, and leaves them out when
// they are not to be replaced.
func (i *importer) replacing(roots []blobstore.Root) (kept []blobstore.Root, refused error) {
	for _, r := range roots {
		old, err := i.store.Root(r.Name)
		switch {
		case err != nil || old.Target.Digest == r.Target.Digest:
		case i.options.NoReplace:
			refused = errors.Join(refused, &ImageError{r.Name, fmt.Errorf("%w: it is %s there, and %s in the archive", ErrReplaces, old.Target.Digest, r.Target.Digest)})
			continue
		default:
			i.options.Warn(fmt.Sprintf("replaces %s: %s becomes %s", image.Printable(r.Name), old.Target.Digest, r.Target.Digest))
		}
		kept = append(kept, r)
	}
	return kept, refused
}

// skip notes that an image of the archive can't be had, and reports whether the others can: a
// fault of the store or the end of the run is everybody's.
func (i *importer) skip(ctx context.Context, name string, err error) bool {
	if !itsFault(ctx, err) {
		return false
	}
	i.failed = append(i.failed, &ImageError{name, err})
	return true
}

// itsFault reports whether an error is of an image of the archive alone.
func itsFault(ctx context.Context, err error) bool {
	return ctx.Err() == nil && (errors.Is(err, ErrInvalid) || errors.Is(err, ErrMismatch))
}

// importer is a run of Import.
type importer struct {
	options Options
	failed  []error // images that can't be had

	store *blobstore.Store
	lease *blobstore.Lease
	files map[string]file        // by name
	links map[string]string      // names that lead to others
	heads map[string][]byte      // the files that tell what is there, and old layers' json
	small int64                  // bytes of heads
	added map[digest.Digest]bool // what the store did not have
	// rotten are the blobs of which no right copy was found. Only images that need them fail.
	rotten map[digest.Digest]error
}

// file is a member whose content is in the store.
type file struct {
	digest digest.Digest
	size   int64
}

// take reads a member.
func (i *importer) take(ctx context.Context, m member) error {
	// What was appended later counts, as for tar itself.
	delete(i.files, m.name)
	delete(i.links, m.name)
	i.small -= int64(len(i.heads[m.name]))
	delete(i.heads, m.name)
	switch base := path.Base(m.name); {
	case m.link != "":
		i.links[m.name] = m.link
		return nil
	case base == "VERSION":
		return nil
	case heads[m.name], m.name == deltaFile, base == "json":
		const maxJSON = 1 << 20 // of a layer
		if base == "json" && m.size > maxJSON {
			return fmt.Errorf("%w: %q has %d bytes", ErrInvalid, image.Printable(m.name), m.size)
		}
		raw, err := readSmall(m)
		if err != nil {
			return err
		}
		if i.small += int64(len(raw)); i.small > 2*maxHead {
			return fmt.Errorf("%w: too much of it tells what is there", ErrInvalid)
		}
		i.heads[m.name] = append([]byte{}, raw...)
		return nil
	}
	want := blobDigest(m.name) // "" for all else, also below blobs/: Bazel has layers there with an ending
	if want != "" {
		if has, err := i.lease.Has(ocispec.Descriptor{Digest: want, Size: m.size}); err == nil && has {
			i.files[m.name] = file{want, m.size} // what is here was verified: the archive's copy isn't needed
			return nil
		}
	}
	f, err := i.keep(ctx, m, want)
	if errors.Is(err, ErrMismatch) {
		i.rotten[want] = err
		return nil
	}
	if err != nil {
		return err
	}
	delete(i.rotten, want)
	i.files[m.name] = f
	return nil
}

// keep stores a member's content.
func (i *importer) keep(ctx context.Context, m member, want digest.Digest) (_ file, err error) {
	if err := blobstore.CheckSpace(i.store.Dir(), m.size); err != nil {
		return file{}, err // said beforehand, and headers can claim anything
	}
	draft, err := i.lease.Draft()
	if err != nil {
		return file{}, err
	}
	defer func() { err = errors.Join(err, draft.Close()) }()
	algorithm := digest.SHA256
	if want != "" {
		algorithm = want.Algorithm()
	}
	hash := algorithm.Hash()
	buf := make([]byte, min(1<<20-1, m.size)+1)
	for {
		if ctx.Err() != nil {
			return file{}, context.Cause(ctx)
		}
		n, errRead := m.body.Read(buf)
		hash.Write(buf[:n])
		if _, err := draft.Write(buf[:n]); err != nil {
			return file{}, fmt.Errorf("storing %q: %w", image.Printable(m.name), err)
		}
		if errors.Is(errRead, io.EOF) {
			break
		}
		if errRead != nil {
			return file{}, broken(errRead)
		}
	}
	got := digest.NewDigest(algorithm, hash)
	if want != "" && got != want {
		return file{}, fmt.Errorf("%w: %q has the digest %s", ErrMismatch, image.Printable(m.name), got)
	}
	has, err := i.lease.Has(ocispec.Descriptor{Digest: got, Size: draft.Size()})
	if err != nil {
		return file{}, err
	}
	i.added[got] = i.added[got] || !has
	_, err = draft.Commit(got)
	return file{got, draft.Size()}, err
}

// tellRotten adds the rotten blobs to the failures that no failed image has told of. No image
// needs them, and yet the archive is damaged.
func (i *importer) tellRotten() {
	const most = 20
	failed, untold := errors.Join(i.failed...), 0
	for _, d := range slices.Sorted(maps.Keys(i.rotten)) {
		if err := i.rotten[d]; errors.Is(failed, err) {
			continue
		} else if untold++; untold <= most {
			i.failed = append(i.failed, err)
		}
	}
	if untold > most {
		i.failed = append(i.failed, fmt.Errorf("%w: and %d more blobs", ErrMismatch, untold-most))
	}
}

// rottenBelow is the error of a rotten blob among those that a manifest or an index needs, or nil.
func (i *importer) rottenBelow(d digest.Digest, depth int) error {
	if len(i.rotten) == 0 || depth > maxDepth {
		return nil
	}
	if err := i.rotten[d]; err != nil {
		return err
	}
	doc := i.document(d)
	if doc.Manifest != nil {
		for _, blob := range append([]ocispec.Descriptor{doc.Manifest.Config}, doc.Manifest.Layers...) {
			if err := i.rotten[blob.Digest]; err != nil {
				return err
			}
		}
	}
	if doc.Index != nil {
		for _, child := range doc.Index.Manifests {
			if err := i.rottenBelow(child.Digest, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxDepth is how deep indexes are nested that are looked into.
const maxDepth = 4

// find resolves a name that another member tells, by links too.
func (i *importer) find(name string) (file, error) {
	c, err := clean(name)
	if err != nil {
		return file{}, err
	}
	const most = 8 // links to links
	for range most {
		if f, ok := i.files[c]; ok {
			return f, nil
		}
		if err := i.rotten[blobDigest(c)]; err != nil {
			return file{}, err
		}
		to, ok := i.links[c]
		if !ok {
			break
		}
		c = to
	}
	return file{}, fmt.Errorf("%w: it tells of %q, which is not there", ErrInvalid, image.Printable(name))
}

// roots finds the images, by whichever of the files that tell is the best.
func (i *importer) roots(ctx context.Context) ([]blobstore.Root, error) {
	if raw, ok := i.heads[deltaFile]; ok {
		if err := i.checkBase(raw); err != nil {
			return nil, err
		}
	}
	index, hasIndex := i.heads[ocispec.ImageIndexFile]
	manifest, hasManifest := i.heads[manifestFile]
	repos, hasRepos := i.heads[reposFile]
	if hasIndex && (hasManifest || hasRepos) && json.Unmarshal(index, new(ocispec.Index)) != nil {
		if len(bytes.TrimSpace(index)) > 0 {
			i.options.Warn("index.json is no index: what else tells of the images is used")
		}
		hasIndex = false
	}
	switch {
	case hasIndex:
		roots, err := i.fromIndex(ctx, index, manifest)
		if err == nil && len(roots) == 0 && len(i.failed) == 0 && !hasManifest && hasRepos {
			return i.fromRepositories(ctx, repos, nil)
		}
		return roots, err
	case hasManifest:
		return i.fromManifest(ctx, manifest, repos)
	case hasRepos:
		return i.fromRepositories(ctx, repos, nil)
	}
	return nil, fmt.Errorf("%w: it has neither index.json nor manifest.json nor repositories", ErrInvalid)
}

// checkBase looks for what an archive leaves out.
func (i *importer) checkBase(raw []byte) error {
	delta, err := decodeDelta(raw)
	if err != nil {
		return err
	}
	missing := 0
	for _, a := range delta.Absent {
		has, err := i.lease.Has(ocispec.Descriptor{Digest: a.Digest, Size: a.Size})
		if err != nil {
			return err
		}
		if !has {
			missing++
		}
	}
	if missing > 0 {
		return fmt.Errorf("%w (%d of %d layers that it leaves out are missing; its base has the list %s)", ErrIncomplete, missing, len(delta.Absent), delta.Since)
	}
	return nil
}

func decodeDelta(raw []byte) (tarwriter.Delta, error) {
	var d tarwriter.Delta
	if err := json.Unmarshal(raw, &d); err != nil {
		return d, fmt.Errorf("%w: %s is no JSON object", ErrInvalid, deltaFile)
	}
	if d.Version != tarwriter.DeltaVersion {
		return d, fmt.Errorf("%w: %s of version %d, from a newer drayage", ErrInvalid, deltaFile, d.Version)
	}
	for _, a := range d.Absent {
		if a.Digest.Validate() != nil || a.Size < 0 {
			return d, fmt.Errorf("%w: %s has a malformed digest or size", ErrInvalid, deltaFile)
		}
	}
	return d, nil
}

// images tells what became of each root.
func (i *importer) images(roots []blobstore.Root) ([]Image, error) {
	var out []Image
	for _, r := range roots {
		img := Image{Name: r.Name, Digest: r.Target.Digest}
		for _, d := range r.Blobs {
			size, err := i.store.Stat(d)
			if err != nil {
				return nil, err
			}
			if i.added[d] {
				img.Added += size
				i.added[d] = false // for the next it is here
			} else {
				img.Reused += size
			}
		}
		out = append(out, img)
	}
	return out, nil
}

// put stores a document that was made here.
func (i *importer) put(ctx context.Context, mediaType string, raw []byte) (ocispec.Descriptor, error) {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	has, err := i.lease.Has(d)
	if err == nil {
		i.added[d.Digest] = i.added[d.Digest] || !has
		err = i.lease.Put(ctx, d, raw)
	}
	return d, err
}

// names makes a root for each name of an image; one without names goes by its
// digest. The roots of a name that is there twice are the last one's.
func names(repoTags []string, root blobstore.Root) []blobstore.Root {
	var out []blobstore.Root
	for _, tag := range repoTags {
		if name := fullName(tag); name != "" {
			r := root
			r.Name = name
			out = append(out, r)
		}
	}
	if len(out) == 0 {
		root.Name = root.Target.Digest.String()
		out = append(out, root)
	}
	return out
}

// unique keeps the last root of each name, and tells of those that it replaces.
func (i *importer) unique(roots []blobstore.Root) []blobstore.Root {
	byName := make(map[string]blobstore.Root)
	for _, r := range roots {
		if old, twice := byName[r.Name]; twice && old.Target.Digest != r.Target.Digest {
			i.options.Warn(fmt.Sprintf("the archive has %s twice: %s is taken, and not %s", image.Printable(r.Name), r.Target.Digest, old.Target.Digest))
		}
		byName[r.Name] = r
	}
	return slices.SortedFunc(maps.Values(byName), func(a, b blobstore.Root) int { return strings.Compare(a.Name, b.Name) })
}

// invalid wraps what image tells of bad documents.
func invalid(err error) error {
	if errors.Is(err, image.ErrInvalid) || errors.Is(err, image.ErrUnsupported) {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return err
}
