package tarwriter

import (
	"context"
	"os"

	"drayage/engine/fault"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var (
	// ErrExists is wrapped by CreateFile and CreateDir when the output exists and is not to be
	// replaced, and by File.Write when another process has created it meanwhile.
	ErrExists = fault.WithHint(fault.Local, "already exists", "--force overwrites it")
	// errBusy is wrapped by CreateFile and CreateDir while another process is writing the same
	// output.
	errBusy = fault.New(fault.Local, "another process is writing it")
	// ErrNotImage is wrapped by the layouts Docker and Legacy for artifacts that are not container
	// images, which only OCI can hold.
	ErrNotImage = fault.WithHint(fault.Unknown, "not a container image", "--format oci")
)

// Image is one name, what it refers to, and everything of it that the archive is to contain. An
// image with several names is several Images; the archive has its blobs once.
type Image struct {
	// Name is the full name with registry and tag, as containerd uses it
	// (docker.io/library/alpine:3), or "" for an image without a tag.
	Name string
	// RepoTag is the name as Docker prints it (alpine:3), or "".
	RepoTag string

	// Target is what index.json lists under the name: a manifest, or an index of several. Its
	// platform and annotations are written unchanged.
	Target ocispec.Descriptor
	// Indexes are the indexes that the archive is to contain: Target, if it is one, and those that
	// it lists.
	Indexes []ocispec.Descriptor
	// Manifests are the manifests that the archive is to contain. The first one is the image in
	// formats that have one image per tag: manifest.json, and the legacy format.
	Manifests []Manifest
	// History replaces the manifests in the legacy format, for an image that has a schema 1
	// manifest: bottom layer first.
	History []HistoryLayer
	// Referrer marks what is not an image of its own, such as a signature: only index.json lists
	// it, and without a name that loaders would take for an image.
	Referrer bool
}

// main is the manifest that formats with one image per tag list.
func (i Image) main() Manifest {
	if len(i.Manifests) == 0 {
		return Manifest{}
	}
	return i.Manifests[0]
}

// Manifest is one manifest with the blobs that it needs.
type Manifest struct {
	Descriptor ocispec.Descriptor   // of the manifest itself
	Config     ocispec.Descriptor   // without a digest for blobs that an index lists directly
	Layers     []ocispec.Descriptor // bottom first; one may occur twice
	// Runnable is true for container images and false for other artifacts, which the docker and
	// legacy formats cannot hold.
	Runnable bool
	// ConfigContent is the config itself. Only the legacy format needs it.
	ConfigContent []byte
}

// HistoryLayer is a layer as described by a schema 1 manifest.
type HistoryLayer struct {
	ID    string // 64 hex digits
	JSON  []byte // the layer's own v1Compatibility
	Layer ocispec.Descriptor
}

// Member is a file of an archive. Its content is Content or, if Blob is not "", that blob; with a
// Link it is a symbolic link and has no content.
type Member struct {
	Name    string // relative, with slashes
	Size    int64  // bytes
	Content []byte
	Blob    digest.Digest
	Link    string
	Layer   bool // Since may leave it out
}

// Blobs is where the content of members comes from.
//
// Open returns a regular file at offset 0, with the blob and nothing else in it. It may wait for a
// blob that is still being downloaded, until ctx is done. It is called from several goroutines,
// up to 64 files are open at a time, and the caller closes each.
//
// An implementation may also have the method
//
//	Wait(ctx context.Context, d digest.Digest) error
//
// which waits until Open would return at once. Then up to 4096 blobs are waited for at a time, and
// an archive in a file makes progress as long as any of these arrives.
type Blobs interface {
	Open(ctx context.Context, d digest.Digest) (*os.File, error)
}

// Result describes an archive that was written.
type Result struct {
	Size int64 // bytes of the archive, after compression; of a directory, of its files
	Moved
}

// An Output is what an archive is written to: a file, a directory or a stream. It is for one goroutine.
type Output interface {
	// Write writes the archive and, where it is to be on disk, waits until it is. It is called once.
	// progress, if not nil, is called with numbers of bytes before compression, never from two
	// goroutines at a time; their sum is Size of the members. When ctx is done, the error is its
	// cause. After an error, nothing appears under the archive's name.
	Write(ctx context.Context, members []Member, blobs Blobs, progress func(n int64)) (Result, error)
	// Close ends it, and removes what an archive that isn't complete has left. It may be called again.
	Close() error
}

// Moved counts the bytes of blobs by how they got into an archive. The sum is the size of all
// members that are blobs.
type Moved struct {
	Cloned int64 // shared with the source: the file system stores them once
	Kernel int64 // copied by the kernel without passing through this process
	ByHand int64 // copied by this process
}

func (m *Moved) add(n Moved) {
	m.Cloned += n.Cloned
	m.Kernel += n.Kernel
	m.ByHand += n.ByHand
}
