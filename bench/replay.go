package bench

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"drayage/bench/internal/stats"
	"drayage/engine/registry"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Read is one read of an earlier pull: a blob, from an offset to its end.
type Read struct {
	Due    time.Duration // after the start of the pull
	Took   time.Duration // originally
	Blob   ocispec.Descriptor
	From   int64
	Source *registry.Blob // where to read it from now
}

// NewReplay makes a target of the reads of an earlier pull, each due at its original
// time. Reads of no bytes are left out.
func NewReplay(name string, reads []Read, o TargetOptions) (*Target, error) {
	reads = slices.DeleteFunc(slices.Clone(reads), func(r Read) bool { return r.From >= r.Blob.Size })
	if len(reads) == 0 {
		return nil, fmt.Errorf("%s: the pull has no reads to replay", name)
	}
	slices.SortStableFunc(reads, func(a, b Read) int { return cmp.Compare(a.Due, b.Due) })
	t := &Target{Name: name, verify: o.Verify, store: o.Store}
	took := stats.NewTimes()
	seen := make(map[digest.Digest]bool)
	for i, r := range reads {
		t.schedule = append(t.schedule, r.Due)
		t.wholes = append(t.wholes, whole{r.Blob, r.Source})
		t.parts = append(t.parts, part{i, r.From, r.Blob.Size})
		took.AddTime(r.Took)
		if !seen[r.Blob.Digest] {
			seen[r.Blob.Digest] = true
			t.Blobs = append(t.Blobs, r.Blob)
		}
	}
	q := quantiles(took)
	t.recorded = &q
	return t, nil
}
