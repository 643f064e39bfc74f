// Package tarwriter composes archives of images out of stored blobs.
//
// A Layout turns images into members, which is where formats differ; writing
// members, to a tar or to a folder, is the same for all. The package reads no
// layer: it knows sizes and digests from descriptors, never hashes, and on
// Linux lets the kernel move the bytes. The same images give the same bytes,
// on any machine and file system, in whatever order they are named.
package tarwriter

import (
	"cmp"
	"context"
	"encoding/json"

	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"drayage/engine/fault"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is one name and what it stands for, with all that is to be carried of
// it.
type Image struct {
	// Name is the whole name with registry and tag, as containerd wants it
	// (docker.io/library/alpine:3), or "" for an image without a tag.
	Name string
	// RepoTag is the name as docker shows it (alpine:3), or "".
	RepoTag string

	// Target is what index.json lists under the name: the manifest of the one
	// variant, or an index of several. It may have a platform and annotations,
	// which are written as they are.
	Target ocispec.Descriptor
	// Indexes are the indexes to carry: Target, if it is one, and those in it.
	Indexes []ocispec.Descriptor
	// Variants are the manifests to carry. The first is the image that the
	// formats list that have one image a tag.
	Variants []Variant
	// History replaces the variants in the legacy format, for an image that
	// came with a schema 1 manifest: bottom layer first.
	History []HistoryLayer
	// Beside marks what is no image of its own, such as a signature: only the
	// OCI half lists it, and without a name that loaders would take.
	Beside bool
}

// Variant is one manifest with what it needs.
type Variant struct {
	Manifest ocispec.Descriptor
	Config   ocispec.Descriptor
	Layers   []ocispec.Descriptor // bottom first; one may occur twice
	// Runnable tells a container image from other artifacts, which the docker
	// and legacy formats have no place for.
	Runnable bool
	// ConfigContent is the config itself, which only the legacy format needs.
	ConfigContent []byte
}

// HistoryLayer is a layer as a schema 1 manifest tells of it.
type HistoryLayer struct {
	ID    string // 64 hex digits
	JSON  []byte // the layer's own v1Compatibility
	Layer ocispec.Descriptor
}

// Member is a file of an archive. Its content is Content, or the blob of Blob;
// with a Link it is a symbolic link and has none.
type Member struct {
	Name    string // with slashes, relative
	Size    int64  // bytes
	Content []byte
	Blob    digest.Digest
	Link    string
	// Layer marks what Since may leave out.
	Layer bool
}

// Blobs is where the content of members comes from. Open may wait for a blob, until
// ctx is done. The files are closed after use.
type Blobs interface {
	Open(ctx context.Context, d digest.Digest) (*os.File, error)
}

// Layout says which members an archive of images has, in order.
type Layout func([]Image) ([]Member, error)

// ErrNotImage is wrapped by layouts for artifacts that are no container images.
var ErrNotImage = fault.WithHint(fault.Unknown, "not a container image", "--format oci")

const (
	annotationImageName = "io.containerd.image.name"
	dockerManifestFile  = "manifest.json"
	dockerReposFile     = "repositories"
)

// Docker is the layout that docker save writes since version 25: an OCI layout
// that has manifest.json and repositories too, so that old and new Docker,
// containerd, Podman and skopeo load it.
func Docker(images []Image) ([]Member, error) {
	images = sorted(images)
	if err := runnable(images, "docker"); err != nil {
		return nil, err
	}
	head, err := ociFiles(images)
	if err != nil {
		return nil, err
	}
	manifest, err := dockerManifest(images)
	if err != nil {
		return nil, err
	}
	head = append(head, manifest)
	repos, err := dockerRepositories(images)
	if err != nil {
		return nil, err
	}
	if repos.Size > 0 {
		head = append(head, repos)
	}
	return append(head, blobs(images)...), nil
}

// runnable refuses what a format has no place for.
func runnable(images []Image, format string) error {
	for _, img := range images {
		if !img.Beside && !img.main().Runnable {
			return fmt.Errorf("%s: %w, its config is %q: the %s format can't hold it, the oci format can",
				cmp.Or(img.RepoTag, img.Target.Digest.String()), ErrNotImage, img.main().Config.MediaType, format)
		}
	}
	return nil
}

// main is the variant that formats with one image a tag list.
func (i Image) main() Variant {
	if len(i.Variants) == 0 {
		return Variant{}
	}
	return i.Variants[0]
}

// OCI is a plain OCI image layout.
func OCI(images []Image) ([]Member, error) {
	images = sorted(images)
	head, err := ociFiles(images)
	if err != nil {
		return nil, err
	}
	return append(head, blobs(images)...), nil
}

// sorted puts images into the one order that doesn't depend on who asked, and
// leaves out repetitions.
func sorted(images []Image) []Image {
	images = slices.Clone(images)
	key := func(a, b Image) int {
		beside := func(i Image) int {
			if i.Beside {
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(beside(a), beside(b)), cmp.Compare(a.Name, b.Name), cmp.Compare(a.RepoTag, b.RepoTag), cmp.Compare(a.Target.Digest, b.Target.Digest),
			cmp.Compare(fmt.Sprint(a.Target.Annotations), fmt.Sprint(b.Target.Annotations))) // keys are printed in order
	}
	slices.SortStableFunc(images, key)
	return slices.CompactFunc(images, func(a, b Image) bool { return key(a, b) == 0 })
}

func ociFiles(images []Image) ([]Member, error) {
	layout, err := jsonMember(ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return nil, err
	}
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: make([]ocispec.Descriptor, 0, len(images)),
	}
	for _, img := range images {
		d := img.Target
		d.Annotations = maps.Clone(d.Annotations)
		if img.Name != "" && !img.Beside {
			// containerd and podman read the first; the tag alone is what
			// others expect of the second.
			if d.Annotations == nil {
				d.Annotations = make(map[string]string)
			}
			d.Annotations[annotationImageName] = img.Name
			d.Annotations[ocispec.AnnotationRefName] = img.Name[strings.LastIndexByte(img.Name, ':')+1:]
		}
		index.Manifests = append(index.Manifests, d)
	}
	file, err := jsonMember(ocispec.ImageIndexFile, index)
	return []Member{layout, file}, err
}

// dockerImage is an entry of manifest.json, by Docker's image spec 1.2, section
// "Combined Image JSON + Filesystem Changeset Format".
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// dockerManifest is manifest.json: an entry for each manifest, with all names.
func dockerManifest(images []Image) (Member, error) {
	entries := make([]*dockerImage, 0, len(images))
	byManifest := make(map[digest.Digest]*dockerImage)
	for _, img := range images {
		if img.Beside {
			continue
		}
		v := img.main()
		e := byManifest[v.Manifest.Digest]
		if e == nil {
			e = &dockerImage{Config: blobName(v.Config.Digest), Layers: make([]string, 0, len(v.Layers))}
			for _, l := range v.Layers {
				e.Layers = append(e.Layers, blobName(l.Digest))
			}
			byManifest[v.Manifest.Digest] = e
			entries = append(entries, e)
		}
		if img.RepoTag != "" {
			e.RepoTags = append(e.RepoTags, img.RepoTag)
		}
	}
	return jsonMember(dockerManifestFile, entries)
}

// dockerRepositories is the file of that name: for each repository, each tag's
// top layer. It has no size when there is nothing to say.
func dockerRepositories(images []Image) (Member, error) {
	repos := make(repositories)
	for _, img := range images {
		if layers := img.main().Layers; len(layers) > 0 && !img.Beside {
			repos.add(img.RepoTag, layers[len(layers)-1].Digest.Encoded())
		}
	}
	return repos.member()
}

// repositories is the content of the file of that name, by Docker's image spec
// 1.0: each repository's tags with the id of the top layer.
type repositories map[string]map[string]string

func (r repositories) add(repoTag, top string) {
	repo, tag, ok := cutTag(repoTag)
	if !ok {
		return
	}
	if r[repo] == nil {
		r[repo] = make(map[string]string)
	}
	r[repo][tag] = top
}

func (r repositories) member() (Member, error) {
	if len(r) == 0 {
		return Member{}, nil
	}
	return jsonMember(dockerReposFile, r)
}

func cutTag(repoTag string) (repo, tag string, ok bool) {
	i := strings.LastIndexByte(repoTag, ':')
	if i < 0 {
		return "", "", false
	}
	return repoTag[:i], repoTag[i+1:], true
}

// blobs are the members under blobs/, each once: indexes, manifests and configs
// first, which readers need before they know what to do with layers.
func blobs(images []Image) []Member {
	var out []Member
	seen := make(map[digest.Digest]bool)
	add := func(d ocispec.Descriptor, layer bool) {
		if !seen[d.Digest] {
			seen[d.Digest] = true
			out = append(out, Member{Name: blobName(d.Digest), Size: d.Size, Blob: d.Digest, Layer: layer})
		}
	}
	for _, img := range images {
		for _, ix := range slices.SortedFunc(slices.Values(img.Indexes), byDigest) {
			add(ix, false)
		}
		for _, v := range img.inOrder() {
			add(v.Manifest, false)
			if v.Config.Digest != "" { // blobs that an index lists itself have none
				add(v.Config, false)
			}
		}
	}
	for _, img := range images {
		for _, v := range img.inOrder() {
			for _, l := range v.Layers {
				add(l, true)
			}
		}
	}
	return out
}

// inOrder are the variants in an order that doesn't depend on which is the first.
func (i Image) inOrder() []Variant {
	return slices.SortedFunc(slices.Values(i.Variants), func(a, b Variant) int { return byDigest(a.Manifest, b.Manifest) })
}

func byDigest(a, b ocispec.Descriptor) int { return cmp.Compare(a.Digest, b.Digest) }

func blobName(d digest.Digest) string {
	return ocispec.ImageBlobsDir + "/" + d.Algorithm().String() + "/" + d.Encoded()
}

func jsonMember(name string, v any) (Member, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return Member{}, fmt.Errorf("writing %s: %w", name, err)
	}
	return contentMember(name, raw), nil
}

func contentMember(name string, content []byte) Member {
	return Member{Name: name, Size: int64(len(content)), Content: content}
}
