package tarwriter

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Layout turns images into the members of an archive, in order. What it returns depends on the
// images and not on their order; an image that is given twice counts once. It reads no blob.
// Docker, OCI and Legacy are layouts.
type Layout func([]Image) ([]Member, error)

const (
	annotationImageName = "io.containerd.image.name"
	dockerManifestFile  = "manifest.json"
	dockerReposFile     = "repositories"
)

// Docker is the layout that docker save has written since version 25: an OCI image layout with
// manifest.json and repositories in addition, which Docker of any version, containerd, Podman and
// skopeo load. An artifact that is not a container image is an ErrNotImage.
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

// runnable refuses what a format cannot hold.
func runnable(images []Image, format string) error {
	for _, img := range images {
		if !img.Referrer && !img.main().Runnable {
			return fmt.Errorf("%s: %w (its config is %q): the %s format cannot hold it, use the oci format",
				cmp.Or(img.RepoTag, img.Target.Digest.String()), ErrNotImage, img.main().Config.MediaType, format)
		}
	}
	return nil
}

// OCI is an OCI image layout (OCI image specification, "Image Layout") and nothing else. It holds
// artifacts of any kind.
func OCI(images []Image) ([]Member, error) {
	images = sorted(images)
	head, err := ociFiles(images)
	if err != nil {
		return nil, err
	}
	return append(head, blobs(images)...), nil
}

// sorted puts images into an order that does not depend on the caller's: by name, referrers last.
// It leaves out repetitions.
func sorted(images []Image) []Image {
	images = slices.Clone(images)
	slices.SortStableFunc(images, compare)
	return slices.CompactFunc(images, func(a, b Image) bool { return compare(a, b) == 0 })
}

// compare is the order of images in an archive.
func compare(a, b Image) int {
	last := func(i Image) int {
		if i.Referrer {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(last(a), last(b)), cmp.Compare(a.Name, b.Name), cmp.Compare(a.RepoTag, b.RepoTag),
		cmp.Compare(a.Target.Digest, b.Target.Digest),
		cmp.Compare(fmt.Sprint(a.Target.Annotations), fmt.Sprint(b.Target.Annotations))) // keys are printed in order
}

// ociFiles are oci-layout and index.json.
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
		if img.Name != "" && !img.Referrer {
			// containerd and Podman read the first; others expect the tag alone in the second.
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

// dockerImage is an entry of manifest.json (Docker image specification 1.2, "Combined Image JSON +
// Filesystem Changeset Format").
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// dockerManifest is manifest.json: an entry for each manifest, with all of its names.
func dockerManifest(images []Image) (Member, error) {
	entries := make([]*dockerImage, 0, len(images))
	byManifest := make(map[digest.Digest]*dockerImage)
	for _, img := range images {
		if img.Referrer {
			continue
		}
		m := img.main()
		e := byManifest[m.Descriptor.Digest]
		if e == nil {
			e = &dockerImage{Config: blobName(m.Config.Digest), Layers: make([]string, 0, len(m.Layers))}
			for _, l := range m.Layers {
				e.Layers = append(e.Layers, blobName(l.Digest))
			}
			byManifest[m.Descriptor.Digest] = e
			entries = append(entries, e)
		}
		if img.RepoTag != "" {
			e.RepoTags = append(e.RepoTags, img.RepoTag)
		}
	}
	return jsonMember(dockerManifestFile, entries)
}

// dockerRepositories is the file repositories: for each repository, each tag's top layer. Its size
// is 0 when no image has a tag.
func dockerRepositories(images []Image) (Member, error) {
	repos := make(repositories)
	for _, img := range images {
		if layers := img.main().Layers; len(layers) > 0 && !img.Referrer {
			repos.add(img.RepoTag, layers[len(layers)-1].Digest.Encoded())
		}
	}
	return repos.member()
}

// repositories is the content of the file of that name (Docker image specification 1.0): each
// repository's tags with the ID of the top layer.
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

// blobs are the members under blobs/, each once: indexes, manifests and configs first, since
// readers need them to know what the layers are.
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
		for _, m := range img.inOrder() {
			add(m.Descriptor, false)
			if m.Config.Digest != "" { // blobs that an index lists directly have none
				add(m.Config, false)
			}
		}
	}
	for _, img := range images {
		for _, m := range img.inOrder() {
			for _, l := range m.Layers {
				add(l, true)
			}
		}
	}
	return out
}

// inOrder are the manifests in an order that does not depend on which one is first.
func (i Image) inOrder() []Manifest {
	return slices.SortedFunc(slices.Values(i.Manifests), func(a, b Manifest) int { return byDigest(a.Descriptor, b.Descriptor) })
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
