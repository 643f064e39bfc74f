package tarwriter

import (
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// DeltaFile is the member by which an archive says that it leaves out layers
// that an earlier one carried.
const DeltaFile = "drayage-since.json"

// Delta is the content of DeltaFile.
type Delta struct {
	Version int `json:"version"` // 1
	// Since tells what the archive builds on: the digest of that one's list of
	// blobs, as ListDigest makes it.
	Since digest.Digest `json:"since"`
	// Absent are the layers left out, sorted by digest.
	Absent []Absent `json:"absent"`
}

// Absent is a layer that is left out.
type Absent struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"` // bytes
}

// DeltaVersion is the version of Delta that this package writes.
const DeltaVersion = 1

// ListDigest identifies a set of blobs: the SHA-256 of their digests, sorted,
// each once and with a newline after it.
func ListDigest(list []digest.Digest) digest.Digest {
	list = slices.Clone(list)
	slices.Sort(list)
	var text strings.Builder
	for _, d := range slices.Compact(list) {
		text.WriteString(d.String() + "\n")
	}
	return digest.FromString(text.String())
}

// Since leaves out of a layout's members the layers that base has, and adds a
// DeltaFile that says so. Manifests and configs stay: loaders need them to know
// what they have.
func Since(members []Member, base []digest.Digest) ([]Member, Delta, error) {
	has := make(map[digest.Digest]bool, len(base))
	for _, d := range base {
		has[d] = true
	}
	delta := Delta{Version: DeltaVersion, Since: ListDigest(base), Absent: []Absent{}}
	var head, tail []Member
	for _, m := range members {
		switch {
		case m.Layer && has[m.Blob]:
			delta.Absent = append(delta.Absent, Absent{Digest: m.Blob, Size: m.Size})
		case m.Blob == "" && tail == nil:
			head = append(head, m)
		default:
			tail = append(tail, m)
		}
	}
	slices.SortFunc(delta.Absent, func(a, b Absent) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	file, err := jsonMember(DeltaFile, delta)
	return append(append(head, file), tail...), delta, err
}
