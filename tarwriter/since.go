package tarwriter

import (
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// DeltaFile is the name of the member that lists the layers that an archive leaves out because an
// earlier one, its base archive, has them.
const DeltaFile = "drayage-since.json"

// Delta is the content of DeltaFile, in JSON.
type Delta struct {
	Version int `json:"version"` // DeltaVersion
	// Since identifies the set of blobs of the base archive: the SHA-256 of their digests, sorted,
	// each once and followed by a newline.
	Since digest.Digest `json:"since"`
	// Absent are the layers left out, sorted by digest.
	Absent []Absent `json:"absent"`
}

// Absent is a layer that an archive leaves out.
type Absent struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"` // bytes
}

// DeltaVersion is the version of Delta that this package writes.
const DeltaVersion = 1

// listDigest is Delta.Since of a set of blobs.
func listDigest(list []digest.Digest) digest.Digest {
	list = slices.Clone(list)
	slices.Sort(list)
	var text strings.Builder
	for _, d := range slices.Compact(list) {
		text.WriteString(d.String() + "\n")
	}
	return digest.FromString(text.String())
}

// Since returns a layout's members without the layers that are in base, the digests of the base
// archive's blobs in any order, and with a DeltaFile that lists those left out. Manifests and
// configs stay: loaders need them. The members that are given are not changed.
func Since(members []Member, base []digest.Digest) ([]Member, Delta, error) {
	has := make(map[digest.Digest]bool, len(base))
	for _, d := range base {
		has[d] = true
	}
	delta := Delta{Version: DeltaVersion, Since: listDigest(base), Absent: []Absent{}}
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
