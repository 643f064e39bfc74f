package mirror

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"drayage/blobstore"
	"drayage/engine/image"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// nameless reports whether a root's name is that of an image without one, which has its digest for it.
func nameless(name string) bool { return digest.Digest(name).Validate() == nil }

// view is what a store's images say, worked out once until they change. Nothing in it changes but
// what is worked out when it is first asked for.
type view struct {
	images *blobstore.Images
	refs   []reference.Image // of the images, in their order; the zero value for one without a name, or whose name can't be read

	names []string               // as the catalog has them, sorted
	repos map[string]*repository // by those names
	homes map[string][]string    // registries that have a repository, by its name in them, sorted

	registries map[string][]string // all of them, by their usual names, sorted

	listed func() map[digest.Digest][]int // which images list a digest, as indexes of refs

	mu        sync.Mutex // held while manifests are read: whoever waits wants the same
	referring map[digest.Digest][]referrer
	whole     bool // all that may refer to something could be read
	worked    time.Time
}

// repository is one in the store, with its tags.
type repository struct {
	registry, name string
	tags           []string // sorted
}

// referrer is a manifest that refers to a subject, and which images have it beside them.
type referrer struct {
	digest digest.Digest
	images []int
}

// views keeps the view of now.
type views struct {
	store    *blobstore.Store
	registry string // the default one

	mu  sync.Mutex
	now *view
}

func (v *views) get() (*view, error) {
	images, err := v.store.Images()
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.now == nil || v.now.images != images {
		v.now = v.viewOf(images, v.now)
	}
	return v.now, nil
}

// viewOf makes the view of images. What names say is taken from the one before, for most are the same.
func (v *views) viewOf(images *blobstore.Images, before *view) *view {
	roots := images.Roots
	out := &view{images: images, refs: make([]reference.Image, len(roots)), repos: make(map[string]*repository), homes: make(map[string][]string), registries: make(map[string][]string)}
	for i, old := 0, 0; i < len(roots); i++ {
		name := roots[i].Name
		for before != nil && old < len(before.refs) && before.images.Roots[old].Name < name {
			old++
		}
		switch {
		case before != nil && old < len(before.refs) && before.images.Roots[old].Name == name:
			out.refs[i] = before.refs[old]
		case !nameless(name):
			out.refs[i], _ = reference.Parse(name) // what can't be read has no name
		}
		if out.refs[i] != (reference.Image{}) {
			out.add(out.refs[i], name, v.registry)
		}
	}
	for name, r := range out.repos {
		if len(r.tags) == 0 {
			delete(out.repos, name)
			continue
		}
		slices.Sort(r.tags)
	}
	for _, lists := range []map[string][]string{out.homes, out.registries} {
		for _, registries := range lists {
			slices.Sort(registries)
		}
	}
	out.names = slices.Sorted(maps.Keys(out.repos))
	out.listed = sync.OnceValue(out.list)
	return out
}

func (v *view) add(ref reference.Image, name, registry string) {
	usual := usualName(ref.Registry())
	if !slices.Contains(v.registries[usual], ref.Registry()) {
		v.registries[usual] = append(v.registries[usual], ref.Registry())
	}
	display := displayed(ref, registry)
	r := v.repos[display]
	if r == nil {
		r = &repository{registry: ref.Registry(), name: ref.Repository()}
		v.repos[display] = r
		v.homes[ref.Repository()] = append(v.homes[ref.Repository()], ref.Registry())
	}
	if ref.Tagged() == name {
		r.tags = append(r.tags, ref.Tag())
	}
}

// displayed is a repository as a request for it has it: without the registry when that is the default.
func displayed(ref reference.Image, registry string) string {
	if ref.Registry() == registry {
		return ref.Repository()
	}
	return ref.Registry() + "/" + ref.Repository()
}

func (v *view) list() map[digest.Digest][]int {
	out := make(map[digest.Digest][]int)
	for i, r := range v.images.Roots {
		for _, d := range r.Blobs {
			if at := out[d]; len(at) == 0 || at[len(at)-1] != i {
				out[d] = append(at, i)
			}
		}
		if at := out[r.Target.Digest]; len(at) == 0 || at[len(at)-1] != i {
			out[r.Target.Digest] = append(at, i)
		}
	}
	return out
}

// mayImage reports whether a user may see an image, by its place in the view.
func (v *view) mayImage(p *Private, user string, i int) bool {
	if ref := v.refs[i]; ref != (reference.Image{}) {
		return p.May(user, ref.Registry(), ref.Repository())
	}
	return p.MayName(user, v.images.Roots[i].Name)
}

// shows reports whether an image that a user may see lists a digest.
func (v *view) shows(p *Private, user string, d digest.Digest) bool {
	return slices.ContainsFunc(v.listed()[d], func(i int) bool { return v.mayImage(p, user, i) })
}

// open reports whether an image lists a digest that whoever may see a repository may see as well.
func (v *view) open(p *Private, ref reference.Image, d digest.Digest) bool {
	own := p.rule(ref.Registry(), ref.Repository())
	return slices.ContainsFunc(v.listed()[d], func(i int) bool {
		other := v.refs[i]
		if other == (reference.Image{}) {
			return nameless(v.images.Roots[i].Name)
		}
		r := p.rule(other.Registry(), other.Repository())
		return r == nil || r == own
	})
}

// referrers are what refers to a subject, by digest. What couldn't be read is tried again now
// and then.
func (v *view) referrers(known *knownReferrers, subject digest.Digest) ([]referrer, error) {
	const often = 5 * time.Second
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.referring != nil && (v.whole || time.Since(v.worked) < often) {
		return v.referring[subject], nil
	}
	all, whole, err := v.refer(known)
	if err != nil {
		return nil, err
	}
	v.referring, v.whole, v.worked = all, whole, time.Now()
	return all[subject], nil
}

// refer works out what refers to what.
func (v *view) refer(known *knownReferrers) (out map[digest.Digest][]referrer, whole bool, err error) {
	beside := make(map[digest.Digest][]int)
	for i, root := range v.images.Roots {
		for _, b := range root.Beside {
			beside[b.Digest] = append(beside[b.Digest], i)
		}
	}
	out, whole = make(map[digest.Digest][]referrer), true
	for d, images := range beside {
		k, err := known.get(d)
		switch {
		case errors.Is(err, blobstore.ErrNotFound) || errors.Is(err, blobstore.ErrDamaged):
			whole = false
		case err != nil:
			return nil, false, err
		case k.subject != "":
			out[k.subject] = append(out[k.subject], referrer{d, images})
		}
	}
	for _, list := range out {
		slices.SortFunc(list, func(a, b referrer) int { return cmp.Compare(a.digest, b.digest) })
	}
	return out, whole, nil
}

// knownReferrers are manifests as lists of referrers have them. What a digest is doesn't change,
// so each is read once.
type knownReferrers struct {
	store *blobstore.Store

	mu    sync.Mutex
	all   map[digest.Digest]knownReferrer
	bytes int // about what all takes
}

type knownReferrer struct {
	desc    ocispec.Descriptor
	subject digest.Digest // "" when it refers to nothing
}

// get reads a manifest if that wasn't done. One that can't be understood refers to nothing.
func (k *knownReferrers) get(d digest.Digest) (knownReferrer, error) {
	const most = 16 << 20 // bytes; then all are forgotten
	k.mu.Lock()
	known, ok := k.all[d]
	k.mu.Unlock()
	if ok {
		return known, nil
	}
	raw, err := k.store.Read(d, image.MaxSize)
	if err != nil {
		return knownReferrer{}, err
	}
	known = referrerOf(raw, d)
	size := sizeOf(known.desc)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.all == nil || k.bytes+size > most {
		k.all, k.bytes = make(map[digest.Digest]knownReferrer), 0
	}
	if _, ok := k.all[d]; !ok {
		k.bytes += size
	}
	k.all[d] = known
	return known, nil
}

// sizeOf is about what a descriptor takes, in bytes.
func sizeOf(d ocispec.Descriptor) int {
	const fixed, each = 600, 100
	size := fixed + len(d.MediaType) + len(d.ArtifactType)
	for key, value := range d.Annotations {
		size += each + len(key) + len(value)
	}
	return size
}

// referrerOf is a manifest as a list of referrers has it, and what it refers to. Annotations that
// are too much for a list are left out of it: the manifest has them.
func referrerOf(raw []byte, d digest.Digest) knownReferrer {
	const most = 64 << 10 // bytes of annotations
	doc, err := image.DecodeVerified(raw, d)
	if err != nil {
		return knownReferrer{}
	}
	out := knownReferrer{desc: ocispec.Descriptor{MediaType: doc.Descriptor.MediaType, Digest: d, Size: int64(len(raw))}}
	var of *ocispec.Descriptor
	switch {
	case doc.Manifest != nil:
		of, out.desc.Annotations, out.desc.ArtifactType = doc.Manifest.Subject, doc.Manifest.Annotations, doc.Manifest.ArtifactType
		out.desc.ArtifactType = cmp.Or(out.desc.ArtifactType, doc.Manifest.Config.MediaType)
	case doc.Index != nil:
		of, out.desc.Annotations, out.desc.ArtifactType = doc.Index.Subject, doc.Index.Annotations, doc.Index.ArtifactType
	}
	if of != nil {
		out.subject = of.Digest
	}
	if sizeOf(out.desc) > most {
		out.desc.Annotations = nil
	}
	if len(out.desc.ArtifactType) > most {
		out.desc.ArtifactType = ""
	}
	return out
}
