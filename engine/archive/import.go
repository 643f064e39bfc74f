package archive

import (
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

// Import reads an archive into a store and pins its images. name is a file, a
// folder, the first of an archive's volumes, or "-" for stdin. The errors wrap ErrInvalid, ErrMismatch,
// ErrIncomplete, or are faults of the store. What was read before an error stays in
// the store, verified and unused.
func Import(ctx context.Context, store *blobstore.Store, name string, stdin io.Reader) (_ []Image, err error) {
	lease, err := store.Lease()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lease.Close()) }()
	i := &importer{
		store: store, lease: lease, files: make(map[string]file), links: make(map[string]string),
		heads: make(map[string][]byte), added: make(map[digest.Digest]bool),
	}
	if err := walkPath(ctx, name, stdin, func(m member) error { return i.take(ctx, m) }); err != nil {
		return nil, err
	}
	roots, err := i.roots(ctx)
	if err != nil {
		return nil, err
	}
	if len(roots) == 0 {
		return nil, fmt.Errorf("%w: it has no images", ErrInvalid)
	}
	if err := lease.Pin(roots...); err != nil {
		return nil, err
	}
	return i.images(roots)
}

// importer is a run of Import.
type importer struct {
	store *blobstore.Store
	lease *blobstore.Lease
	files map[string]file        // by name
	links map[string]string      // names that lead to others
	heads map[string][]byte      // the files that tell what is there, and old layers' json
	small int64                  // bytes of heads
	added map[digest.Digest]bool // what the store did not have
}

// file is a member whose content is in the store.
type file struct {
	digest digest.Digest
	size   int64
}

// take reads a member.
func (i *importer) take(ctx context.Context, m member) error {
	if _, twice := i.files[m.name]; twice || i.links[m.name] != "" || i.heads[m.name] != nil {
		return fmt.Errorf("%w: %q is there twice", ErrInvalid, image.Printable(m.name))
	}
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
	want := blobDigest(m.name)
	if want == "" && strings.HasPrefix(m.name, ocispec.ImageBlobsDir+"/") {
		return fmt.Errorf("%w: %q is no name of a blob", ErrInvalid, image.Printable(m.name))
	}
	if want != "" {
		if has, err := i.lease.Has(ocispec.Descriptor{Digest: want, Size: m.size}); err == nil && has {
			i.files[m.name] = file{want, m.size} // what is here was verified: the archive's copy isn't needed
			return nil
		}
	}
	f, err := i.keep(ctx, m, want)
	if err != nil {
		return err
	}
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
	switch {
	case hasIndex:
		return i.fromIndex(ctx, index, manifest)
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

// unique keeps the last root of each name.
func unique(roots []blobstore.Root) []blobstore.Root {
	byName := make(map[string]blobstore.Root)
	for _, r := range roots {
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
