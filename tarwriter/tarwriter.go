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
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is one name for one image manifest, with all that the manifest needs.
type Image struct {
	// Name is the whole name with registry and tag, as containerd wants it
	// (docker.io/library/alpine:3), or "" for an image without a tag.
	Name string
	// RepoTag is the name as docker shows it (alpine:3), or "".
	RepoTag string

	Manifest ocispec.Descriptor // with the platform, where it is known
	Config   ocispec.Descriptor
	Layers   []ocispec.Descriptor // bottom first; one may occur twice
	// Runnable tells a container image from other artifacts, which the docker
	// format has no place for.
	Runnable bool
}

// Member is a file of an archive. Its content is Content, or the blob of Blob.
type Member struct {
	Name    string // with slashes, relative
	Size    int64  // bytes
	Content []byte
	Blob    digest.Digest
}

// Blobs is where the content of members comes from. The files are closed
// after use.
type Blobs interface {
	Open(digest.Digest) (*os.File, error)
}

// Layout says which members an archive of images has, in order.
type Layout func([]Image) ([]Member, error)

// ErrNotImage is wrapped by Docker for artifacts that are no container images.
var ErrNotImage = errors.New("not a container image")

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
	for _, img := range images {
		if !img.Runnable {
			return nil, fmt.Errorf("%s: %w, its config is %q: the docker format can't hold it, the oci format can",
				cmp.Or(img.RepoTag, img.Manifest.Digest.String()), ErrNotImage, img.Config.MediaType)
		}
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
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.RepoTag, b.RepoTag), cmp.Compare(a.Manifest.Digest, b.Manifest.Digest))
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
		d := ocispec.Descriptor{
			MediaType:    img.Manifest.MediaType,
			Digest:       img.Manifest.Digest,
			Size:         img.Manifest.Size,
			Platform:     img.Manifest.Platform,
			ArtifactType: img.Manifest.ArtifactType,
		}
		if img.Name != "" {
			// containerd and podman read the first; the tag alone is what
			// others expect of the second.
			d.Annotations = map[string]string{
				annotationImageName:       img.Name,
				ocispec.AnnotationRefName: img.Name[strings.LastIndexByte(img.Name, ':')+1:],
			}
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
		e := byManifest[img.Manifest.Digest]
		if e == nil {
			e = &dockerImage{Config: blobName(img.Config.Digest), Layers: make([]string, 0, len(img.Layers))}
			for _, l := range img.Layers {
				e.Layers = append(e.Layers, blobName(l.Digest))
			}
			byManifest[img.Manifest.Digest] = e
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
	repos := make(map[string]map[string]string)
	for _, img := range images {
		repo, tag, ok := cutTag(img.RepoTag)
		if !ok || len(img.Layers) == 0 {
			continue
		}
		if repos[repo] == nil {
			repos[repo] = make(map[string]string)
		}
		repos[repo][tag] = img.Layers[len(img.Layers)-1].Digest.Encoded()
	}
	if len(repos) == 0 {
		return Member{}, nil
	}
	return jsonMember(dockerReposFile, repos)
}

func cutTag(repoTag string) (repo, tag string, ok bool) {
	i := strings.LastIndexByte(repoTag, ':')
	if i < 0 {
		return "", "", false
	}
	return repoTag[:i], repoTag[i+1:], true
}

// blobs are the members under blobs/, each once: manifests and configs first,
// which readers need before they know what to do with layers.
func blobs(images []Image) []Member {
	var out []Member
	seen := make(map[digest.Digest]bool)
	add := func(d ocispec.Descriptor) {
		if !seen[d.Digest] {
			seen[d.Digest] = true
			out = append(out, Member{Name: blobName(d.Digest), Size: d.Size, Blob: d.Digest})
		}
	}
	for _, img := range images {
		add(img.Manifest)
		add(img.Config)
	}
	for _, img := range images {
		for _, l := range img.Layers {
			add(l)
		}
	}
	return out
}

func blobName(d digest.Digest) string {
	return ocispec.ImageBlobsDir + "/" + d.Algorithm().String() + "/" + d.Encoded()
}

func jsonMember(name string, v any) (Member, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return Member{}, fmt.Errorf("writing %s: %w", name, err)
	}
	return Member{Name: name, Size: int64(len(raw)), Content: raw}, nil
}
