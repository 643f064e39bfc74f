package bench

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"drayage/blobstore"
	"drayage/engine/image"
	"drayage/engine/plan"
	"drayage/engine/reference"
	"drayage/engine/registry"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Target is what Measure reads from: the blobs of an image, or the reads of an
// earlier pull. A target may be measured several times, one after the other.
type Target struct {
	Name   string        // in reports; names of targets must differ
	Digest digest.Digest // of the image's manifest; "" for a replay
	Blobs  []ocispec.Descriptor
	HTTP   string // the version of HTTP that its client offers, "" for 1.1

	parts    []part // maybe millions: without pointers, which the garbage collector would follow
	wholes   []whole
	schedule []time.Duration // due times of the parts, for a replay
	recorded *Quantiles      // their original latencies
	verify   bool
	store    *blobstore.Lease // nil to discard what is read
	asked    atomic.Int64     // reads so far, in all steps
	seen     sync.Map         // parts that were read before
}

// part is what one read requests: a range of a blob.
type part struct {
	blob     int // index into the target's wholes
	from, to int64
}

// whole is a blob with its source.
type whole struct {
	desc   ocispec.Descriptor
	source *registry.Blob
}

// TargetOptions say how a target's blobs are read.
type TargetOptions struct {
	// RangeSize is the size of reads in bytes; 0 means whole blobs.
	RangeSize int64
	// Mix, if not empty, draws sizes of reads, in place of RangeSize.
	Mix Mix
	// Verify checks the digests of blobs that are read whole.
	Verify bool
	// Store, if not nil, is where what is read is written and synced, as in a pull. Whole
	// blobs with the right digest are kept there.
	Store *blobstore.Lease
}

// Mix is a distribution of read sizes.
type Mix []Share

// Share is a size of a Mix, in bytes, with its weight relative to the other ones.
type Share struct {
	Size   int64
	Weight float64
}

// draw returns a random size.
func (m Mix) draw(rnd *rand.Rand) int64 {
	var all float64
	for _, s := range m {
		all += s.Weight
	}
	at := rnd.Float64() * all
	for _, s := range m {
		if at -= s.Weight; at < 0 {
			return s.Size
		}
	}
	return m[len(m)-1].Size
}

// resolve makes a target of an image's layers for a platform. It reads the image's
// manifests.
func resolve(ctx context.Context, client *registry.Client, ref reference.Image, platform image.Platform, o TargetOptions) (*Target, error) {
	img, err := plan.Resolve(ctx, manifests{client}, ref, plan.Selection{Platform: platform})
	if err != nil {
		return nil, err
	}
	source := func(d digest.Digest) *registry.Blob { return client.Blob(ref, d) }
	return NewTarget(ref.String(), img.Target().Digest, img.Main().Layers, source, o)
}

// manifests reads manifests from a registry alone. It implements plan.Manifests.
type manifests struct{ *registry.Client }

func (m manifests) Size(ctx context.Context, ref reference.Image, d digest.Digest) (int64, error) {
	return m.BlobSize(ctx, ref, d)
}

// NewTarget makes a target of an image's blobs, which are read from their sources in
// an order drawn from a fixed seed. d is the digest of the image's manifest.
func NewTarget(name string, d digest.Digest, blobs []ocispec.Descriptor, source func(digest.Digest) *registry.Blob, o TargetOptions) (*Target, error) {
	t := &Target{Name: name, Digest: d, Blobs: blobs, verify: o.Verify, store: o.Store}
	for _, b := range blobs {
		if b.Size > 0 {
			t.wholes = append(t.wholes, whole{b, source(b.Digest)})
		}
	}
	if len(t.wholes) == 0 {
		return nil, fmt.Errorf("%s: the image has no layers to read", name)
	}
	rnd := rand.New(rand.NewPCG(1, uint64(len(t.wholes))))
	if len(o.Mix) > 0 {
		t.parts = t.mixed(rnd, o.Mix)
		return t, nil
	}
	for i, w := range t.wholes {
		step := o.RangeSize
		if step <= 0 {
			step = w.desc.Size
		}
		for from := int64(0); from < w.desc.Size; from += step {
			t.parts = append(t.parts, part{i, from, min(w.desc.Size, from+step)})
		}
	}
	rnd.Shuffle(len(t.parts), func(i, j int) { t.parts[i], t.parts[j] = t.parts[j], t.parts[i] })
	return t, nil
}

// mixed draws reads by their sizes, each of a blob that is large enough. A size
// beyond the largest blob is reduced to its size.
func (t *Target) mixed(rnd *rand.Rand, m Mix) []part {
	const draws = 4096 // after which they repeat
	slices.SortFunc(t.wholes, func(a, b whole) int { return cmp.Compare(a.desc.Size, b.desc.Size) })
	var out []part
	for range draws {
		size := min(m.draw(rnd), t.wholes[len(t.wholes)-1].desc.Size)
		fits, _ := slices.BinarySearchFunc(t.wholes, size, func(w whole, size int64) int { return cmp.Compare(w.desc.Size, size) })
		i := fits + rnd.IntN(len(t.wholes)-fits)
		from := rnd.Int64N(t.wholes[i].desc.Size/size) * size
		out = append(out, part{i, from, from + size})
	}
	return out
}

// Reads returns the bytes of reading each part once, and for a replay the due time
// of its last read.
func (t *Target) Reads() (bytes int64, within time.Duration) {
	for _, p := range t.parts {
		bytes += p.to - p.from
	}
	if len(t.schedule) > 0 {
		within = t.schedule[len(t.schedule)-1]
	}
	return bytes, within
}

// size is the size of all blobs.
func (t *Target) size() int64 {
	var n int64
	for _, b := range t.Blobs {
		n += b.Size
	}
	return n
}

// largestRead is the size of the largest part.
func (t *Target) largestRead() int64 {
	var n int64
	for _, p := range t.parts {
		n = max(n, p.to-p.from)
	}
	return n
}

// meanRead is the mean size of the parts.
func (t *Target) meanRead() int64 {
	bytes, _ := t.Reads()
	return bytes / int64(len(t.parts))
}
