package archive

import (
	"context"
	_ "crypto/sha512" // an algorithm that blobs may be named by
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"drayage/blobstore"
	"drayage/engine/fault"
	"drayage/engine/image"
	"drayage/engine/internal/limits"
	"drayage/engine/printable"
	"drayage/tarwriter"
	"drayage/tarwriter/compress"

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
	// NoReplace refuses a name that the store has for another image, with errReplaces.
	NoReplace bool
	// MaxRatio is how far the archive and its layers may unpack.
	MaxRatio compress.MaxRatio
	// Warn, if not nil, gets a line for what is odd, and for each name that is replaced.
	Warn func(message string)
}

// errReplaces is wrapped when an archive has another image for a name that the store has.
var errReplaces = fault.New(fault.Local, "the store has another image of that name")

// Import reads an archive into a store and pins its images. name is a file, a
// folder, the first of an archive's volumes, or "-" for stdin. The errors wrap errInvalid, errMismatch,
// errIncomplete, or are faults of the store. Images that are whole come in even when others are
// not: then both results are there. Of what was read nothing stays in the store that none of
// these images needs, unless ctx ended.
func Import(ctx context.Context, store *blobstore.Store, name string, stdin io.Reader, o Options) (_ []Image, err error) {
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	lease, err := store.Lease()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lease.Close()) }()
	n := new(notes)
	i := &importer{
		options: o, store: store, lease: lease, origin: originOf(name), notes: n, lists: lists{notes: n, texts: make(map[string]string)},
		files: make(map[string]file), links: make(map[string]string), json: make(map[string]extent), blobs: make(map[digest.Digest]blob),
		rotten: make(map[digest.Digest]*rottenError), images: make(map[imageKey]*resolved), layers: make(map[digest.Digest]unpackedLayer), sound: make(map[digest.Digest]bool),
	}
	defer func() {
		if i.texts != nil {
			err = errors.Join(err, i.texts.Close())
		}
	}()
	var pinned []blobstore.Root
	defer func() {
		if ctx.Err() == nil {
			err = errors.Join(err, i.dropUnneeded(pinned))
		}
	}()
	from := source{name: name, stdin: stdin, ratio: o.MaxRatio, temp: i.temp}
	if err := from.walkAll(ctx, func(m member) error { return i.take(ctx, m) }); err != nil {
		return nil, err
	}
	i.notes.held = 0
	roots, err := i.roots(ctx)
	if err != nil {
		return nil, err
	}
	i.tellRotten()
	failed := i.failures()
	if len(roots) == 0 {
		if failed != nil {
			return nil, failed
		}
		return nil, fmt.Errorf("%w: it has no images", errInvalid)
	}
	roots, refused := i.replacing(roots)
	for n := range roots {
		roots[n].From = i.origin
	}
	if err := lease.Pin(roots...); err != nil {
		return nil, err
	}
	pinned = roots
	images, err := i.results(roots)
	return images, errors.Join(err, failed, refused)
}

// originOf is what images of an archive have for their origin: its name without folders.
func originOf(name string) blobstore.Origin {
	where := "standard input"
	if name != "-" {
		where = filepath.Base(name)
		if abs, err := filepath.Abs(name); err == nil { // which may be called "."
			where = filepath.Base(abs)
		}
	}
	return blobstore.Origin{Kind: blobstore.FromArchive, Where: where}
}

// dropUnneeded removes what came from the archive and none of the images needs. Archives may
// have anything beside their images, and in front of what says which these are.
func (i *importer) dropUnneeded(pinned []blobstore.Root) error {
	need := make(map[digest.Digest]bool)
	for _, r := range pinned {
		for _, d := range r.Blobs {
			need[d] = true
		}
	}
	var drop []digest.Digest
	for d, b := range i.blobs {
		if b.added && !need[d] {
			drop = append(drop, d)
		}
	}
	return i.lease.Drop(drop)
}

// replacing tells of the names that the store has for other images, and leaves them out when
// they are not to be replaced.
func (i *importer) replacing(roots []blobstore.Root) (kept []blobstore.Root, refused error) {
	for _, r := range roots {
		old, err := i.store.Root(r.Name)
		switch {
		case err != nil || old.Target.Digest == r.Target.Digest:
		case i.options.NoReplace:
			refused = errors.Join(refused, aboutImage(r.Name, fmt.Errorf("%w: it is %s there, and %s in the archive", errReplaces, old.Target.Digest, r.Target.Digest)))
			continue
		default:
			i.options.Warn(fmt.Sprintf("replaces %s: %s becomes %s", printable.Line(r.Name), old.Target.Digest, r.Target.Digest))
		}
		kept = append(kept, r)
	}
	return kept, refused
}

// skip notes that an image of the archive can't be had, and reports whether the others can: a
// fault of the store or the end of the run is everybody's.
func (i *importer) skip(ctx context.Context, name string, err error) bool {
	if !itsFault(ctx, err) || errors.Is(err, errTooMuch) {
		return false
	}
	var of *rottenError
	if errors.As(err, &of) {
		of.told = true
	}
	i.fail(aboutImage(name, err))
	return true
}

// fail notes a failure. Of very many the last ones are only counted.
func (i *importer) fail(err error) {
	const most = 1000
	if len(i.failed) < most {
		i.failed = append(i.failed, err)
	} else {
		i.moreFailed++
	}
}

// failures are all that were noted, or nil.
func (i *importer) failures() error {
	if i.moreFailed > 0 {
		return errors.Join(append(i.failed, fmt.Errorf("%w: %d more of its images and blobs", errInvalid, i.moreFailed))...)
	}
	return errors.Join(i.failed...)
}

// itsFault reports whether an error is of an image of the archive alone.
func itsFault(ctx context.Context, err error) bool {
	return ctx.Err() == nil && (errors.Is(err, errInvalid) || errors.Is(err, errMismatch))
}

// importer is a run of Import.
type importer struct {
	zstd sync.Mutex // held while a layer is unpacked whose window may take much memory

	options    Options
	origin     blobstore.Origin
	failed     []error // images that can't be had
	moreFailed int

	store  *blobstore.Store
	lease  *blobstore.Lease
	notes  *notes
	lists  lists
	files  map[string]file        // members that are named otherwise than blobs
	links  map[string]string      // names that lead to others
	json   map[string]extent      // old layers' json, in texts
	texts  tempFile               // nil while there is none
	wrote  int64                  // of texts, in bytes
	blobs  map[digest.Digest]blob // what came from the archive, and what was made
	sound  map[digest.Digest]bool // blobs that were looked at
	images map[imageKey]*resolved // what index.json lists, each once
	layers map[digest.Digest]unpackedLayer
	mu     sync.Mutex // guards layers
	// rotten are the blobs of which no right copy was found. Only images that need them fail.
	rotten map[digest.Digest]*rottenError
}

// extent is a part of a file, in bytes.
type extent struct{ offset, size int64 }

// file is a member whose content is in the store.
type file struct {
	digest digest.Digest
	size   int64
}

// blob is content of the archive in the store.
type blob struct {
	size  int64
	named bool // the archive has it below blobs/
	added bool // the store did not have it
	told  bool // that it was added
}

// rottenError is what a blob is instead of what its name says.
type rottenError struct {
	err  error
	told bool
}

func (e *rottenError) Error() string { return e.err.Error() }
func (e *rottenError) Unwrap() error { return e.err }

// take reads a member.
func (i *importer) take(ctx context.Context, m member) error {
	i.notes.own, i.notes.held = m.own, m.held
	// What was appended later counts, as for tar itself.
	delete(i.files, m.name)
	delete(i.links, m.name)
	delete(i.json, m.name)
	want := blobDigest(m.name) // "" for all else, also below blobs/: Bazel has layers there with an ending
	switch base := path.Base(m.name); {
	case m.link != "":
		i.links[m.name] = m.link
		return i.notes.add(costOfEntry + costOf(m.name, m.link))
	case base == "VERSION":
		return nil
	case heads[m.name], m.name == deltaFile:
		return i.lists.read(m)
	case base == "json":
		return i.takeJSON(m)
	case want == "":
		if err := i.notes.add(costOfEntry + costOfBlob + costOf(m.name)); err != nil {
			return err
		}
	default:
		if err := i.notes.add(costOfBlob); err != nil {
			return err
		}
		if has, err := i.has(ocispec.Descriptor{Digest: want, Size: m.size}); err == nil && has {
			delete(i.rotten, want)
			b := i.blobs[want] // what is here was verified: the archive's copy isn't needed
			b.size, b.named = m.size, true
			i.blobs[want] = b
			return nil
		}
	}
	f, err := i.keep(ctx, m, want)
	if errors.Is(err, errMismatch) {
		i.rotten[want] = &rottenError{err: err}
		return i.notes.add(costOfEntry + costOfBlob)
	}
	if err != nil {
		return err
	}
	if want == "" {
		i.files[m.name] = f
		return nil
	}
	delete(i.rotten, want)
	b := i.blobs[want]
	b.named = true
	i.blobs[want] = b
	return nil
}

// takeJSON reads what an old archive says of a layer.
func (i *importer) takeJSON(m member) error {
	const most = 1 << 20
	if m.size > most {
		return fmt.Errorf("%w: %q has %d bytes", errInvalid, printable.Line(m.name), m.size)
	}
	if err := i.notes.add(costOfText + costOf(m.name)); err != nil {
		return err
	}
	raw := make([]byte, m.size)
	if _, err := io.ReadFull(m.body, raw); err != nil {
		return broken(err)
	}
	if i.texts == nil {
		var err error
		if i.texts, err = i.temp(); err != nil {
			return err
		}
	}
	if _, err := i.texts.Write(raw); err != nil {
		return fmt.Errorf("storing %q: %w", printable.Line(m.name), err)
	}
	i.json[m.name] = extent{i.wrote, m.size}
	i.wrote += m.size
	return nil
}

// temp makes a temporary file in the store.
func (i *importer) temp() (tempFile, error) { return i.lease.Scratch() }

// layerJSON reads back what takeJSON has read. ok is false for a layer that has none.
func (i *importer) layerJSON(id string) (raw []byte, ok bool, err error) {
	at, ok := i.json[id+"/json"]
	if !ok || at.size == 0 {
		return nil, ok, nil
	}
	raw = make([]byte, at.size)
	_, err = i.texts.ReadAt(raw, at.offset)
	return raw, true, err
}

// keep stores a member's content.
func (i *importer) keep(ctx context.Context, m member, want digest.Digest) (_ file, err error) {
	if err := blobstore.CheckSpace(i.store.Dir(), m.size); err != nil {
		return file{}, err // said beforehand, and headers can claim anything
	}
	algorithm := digest.Canonical
	if want != "" {
		algorithm = want.Algorithm()
	}
	draft, err := i.lease.Draft(algorithm)
	if err != nil {
		return file{}, err
	}
	defer func() { err = errors.Join(err, draft.Close()) }()
	buf := make([]byte, min(1<<20-1, m.size)+1)
	for {
		if ctx.Err() != nil {
			return file{}, context.Cause(ctx)
		}
		n, errRead := m.body.Read(buf)
		if _, err := draft.Write(buf[:n]); err != nil {
			return file{}, fmt.Errorf("storing %q: %w", printable.Line(m.name), err)
		}
		if errors.Is(errRead, io.EOF) {
			break
		}
		if errRead != nil {
			return file{}, broken(errRead)
		}
	}
	got := draft.Digest()
	if want != "" && got != want {
		return file{}, fmt.Errorf("%w: %q has digest %s", errMismatch, printable.Line(m.name), got)
	}
	has, err := i.lease.Has(ocispec.Descriptor{Digest: got, Size: draft.Size()})
	if err != nil {
		return file{}, err
	}
	i.note(got, draft.Size(), !has)
	_, err = draft.Commit(want)
	return file{got, draft.Size()}, err
}

// note notes what is in the store for the archive.
func (i *importer) note(d digest.Digest, size int64, added bool) {
	b := i.blobs[d]
	b.size, b.added = size, b.added || added
	i.blobs[d] = b
}

// tellRotten adds the rotten blobs to the failures that no failed image has told of. No image
// needs them, and yet the archive is damaged.
func (i *importer) tellRotten() {
	const most = 20
	untold := 0
	for _, d := range slices.Sorted(maps.Keys(i.rotten)) {
		if err := i.rotten[d]; err.told {
			continue
		} else if untold++; untold <= most {
			i.fail(err)
		}
	}
	if untold > most {
		i.fail(fmt.Errorf("%w: and %d more blobs", errMismatch, untold-most))
	}
}

// rottenBelow is the error of a rotten blob among those that a manifest or an index needs, or nil.
// seen are the documents that were looked at.
func (i *importer) rottenBelow(d digest.Digest, depth int, seen map[digest.Digest]bool) error {
	if len(i.rotten) == 0 || depth > limits.Depth || seen[d] {
		return nil
	}
	seen[d] = true
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
			if err := i.rottenBelow(child.Digest, depth+1, seen); err != nil {
				return err
			}
		}
	}
	return nil
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
		if to, ok := i.links[c]; ok {
			c = to
			continue
		}
		d := blobDigest(c)
		if err := i.rotten[d]; err != nil {
			return file{}, err
		}
		if b := i.blobs[d]; b.named {
			return file{d, b.size}, nil
		}
		break
	}
	return file{}, fmt.Errorf("%w: %q is missing", errInvalid, printable.Line(name))
}

// roots finds the images, by whichever of the files that tell is the best.
func (i *importer) roots(ctx context.Context) ([]blobstore.Root, error) {
	if err := i.checkBase(); err != nil {
		return nil, err
	}
	index, manifest, repos := i.lists.index, i.lists.manifest, i.lists.repos
	if index != nil && index.err != nil && (manifest != nil || repos != nil) {
		if !index.blank {
			i.options.Warn("index.json is not an image index; using manifest.json or repositories")
		}
		index = nil
	}
	switch {
	case index != nil && index.err != nil:
		return nil, fmt.Errorf("%w: index.json is no index: %w", errInvalid, index.err)
	case index != nil:
		roots, err := i.fromIndex(ctx, index.entries)
		if err == nil && len(roots) == 0 && len(i.failed) == 0 && manifest == nil && repos != nil {
			return i.fromRepositories(ctx, nil)
		}
		return roots, err
	case manifest != nil && manifest.err != nil:
		return nil, fmt.Errorf("%w: manifest.json is not what docker save writes: %w", errInvalid, manifest.err)
	case manifest != nil:
		return i.fromManifest(ctx, manifest.entries)
	case repos != nil:
		return i.fromRepositories(ctx, nil)
	}
	return nil, fmt.Errorf("%w: it has neither index.json nor manifest.json nor repositories", errInvalid)
}

// checkBase looks for what an archive leaves out.
func (i *importer) checkBase() error {
	delta := i.lists.delta
	if delta == nil || delta.err != nil {
		if delta != nil {
			return delta.err
		}
		return nil
	}
	missing := 0
	for _, a := range delta.entries {
		has, err := i.lease.Has(ocispec.Descriptor{Digest: a.Digest, Size: a.Size})
		if err != nil {
			return wrongSize(err)
		}
		if !has {
			missing++
		}
	}
	if missing > 0 {
		return fmt.Errorf("%w (%d of %d layers that it leaves out are missing; its base has the list %s)", errIncomplete, missing, len(delta.entries), i.lists.since)
	}
	return nil
}

// results tells what became of each root.
func (i *importer) results(roots []blobstore.Root) ([]Image, error) {
	var out []Image
	for _, r := range roots {
		img := Image{Name: r.Name, Digest: r.Target.Digest}
		for _, d := range r.Blobs {
			b, known := i.blobs[d]
			if !known || b.size == 0 {
				size, err := i.store.Stat(d)
				if err != nil {
					return nil, err
				}
				b.size = size
			}
			if b.added && !b.told {
				img.Added += b.size
				b.told = true // for the next it is here
				i.blobs[d] = b
			} else {
				img.Reused += b.size
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
		i.note(d.Digest, d.Size, !has)
		err = errors.Join(i.notes.add(costOfBlob), i.lease.Put(ctx, d, raw))
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

// unique keeps the last root of each name, and tells of those that it replaces. Where names are
// not to be replaced it keeps none of them.
func (i *importer) unique(roots []blobstore.Root) []blobstore.Root {
	byName := make(map[string]blobstore.Root)
	refused := make(map[string]bool)
	for _, r := range roots {
		old, twice := byName[r.Name]
		byName[r.Name] = r
		if !twice || old.Target.Digest == r.Target.Digest {
			continue
		}
		if !i.options.NoReplace {
			i.options.Warn(fmt.Sprintf("the archive has %s twice: %s is taken, and not %s", printable.Line(r.Name), r.Target.Digest, old.Target.Digest))
		} else if !refused[r.Name] {
			refused[r.Name] = true
			i.fail(aboutImage(r.Name, fmt.Errorf("%w: it is %s and %s in the archive", errTwice, old.Target.Digest, r.Target.Digest)))
		}
	}
	for name := range refused {
		delete(byName, name)
	}
	return slices.SortedFunc(maps.Values(byName), func(a, b blobstore.Root) int { return strings.Compare(a.Name, b.Name) })
}

// errTwice is errReplaces for an archive that would replace its own image.
var errTwice error = twiceError{}

type twiceError struct{}

func (twiceError) Error() string        { return "the archive has another image of that name" }
func (twiceError) Is(target error) bool { return target == errReplaces }

// invalid wraps what image tells of bad documents.
func invalid(err error) error {
	if errors.Is(err, image.ErrInvalid) || errors.Is(err, image.ErrUnsupported) {
		return fmt.Errorf("%w: %w", errInvalid, err)
	}
	return err
}

// aboutImage says of which image of an archive an error is.
func aboutImage(name string, err error) error {
	return fault.About(printable.Line(name), err)
}
