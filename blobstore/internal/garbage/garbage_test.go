package garbage

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func named(n int) digest.Digest { return digest.FromString(fmt.Sprint(n)) }

// some is what a store may have.
func some(r *rand.Rand, now time.Time) Input {
	const blobs, hours = 20, 100
	ago := func() time.Time { return now.Add(-time.Duration(r.IntN(hours)) * time.Hour) }
	in := Input{Now: now, Kept: map[digest.Digest]bool{named(r.IntN(blobs)): true}, Coming: map[digest.Digest]bool{}}
	for n := range blobs {
		in.Blobs = append(in.Blobs, Blob{named(n), 1 + r.Int64N(100), ago()})
		if r.IntN(4) == 0 {
			in.Partials = append(in.Partials, Blob{named(100 + n), r.Int64N(100), ago()})
		}
	}
	for range r.IntN(6) {
		m := Image{Used: ago(), Stays: r.IntN(4) == 0}
		for n := range blobs {
			if r.IntN(5) == 0 {
				m.Blobs = append(m.Blobs, named(n))
			}
		}
		in.Images = append(in.Images, m)
	}
	for range r.IntN(4) {
		in.Conversions = append(in.Conversions, Conversion{From: named(r.IntN(blobs)), Made: named(r.IntN(blobs))})
	}
	return in
}

// Whatever there is: what an image that stays needs stays, and what somebody keeps; the sums are
// those of what stays; and no image goes while what may go fits.
func TestWhatIsNeededStays(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	now := time.Unix(1e9, 0)
	for range 3000 {
		in := some(r, now)
		policy := Policy{Budget: r.Int64N(1500), Grace: time.Duration(r.IntN(100)) * time.Hour, Partials: 50 * time.Hour}
		if r.IntN(2) == 0 {
			policy.Unused = time.Duration(r.IntN(100)) * time.Hour
		}
		p := Find(in, policy)
		stays := make(map[digest.Digest]bool)
		for i, m := range in.Images {
			if slices.Contains(p.Images, i) {
				if m.Stays {
					t.Fatalf("%+v, %+v: pinned image %d goes", in, policy, i)
				}
				continue
			}
			for _, d := range m.Blobs {
				stays[d] = true
			}
		}
		var left int64
		for i, b := range in.Blobs {
			if !slices.Contains(p.Blobs, i) {
				left += b.Size
			} else if stays[b.Digest] || in.Kept[b.Digest] {
				t.Fatalf("%+v, %+v: blob %d goes, which is needed", in, policy, i)
			}
		}
		if left != p.Left {
			t.Fatalf("%+v, %+v: %d bytes are left, and the plan says %d", in, policy, left, p.Left)
		}
		if policy.Budget == 0 && policy.Unused == 0 && len(p.Images) > 0 {
			t.Fatalf("%+v: images go without a reason", in)
		}
	}
}

// Of images over the budget the least recently used goes, unless its going would free nothing.
func TestLeastRecentlyUsedGoesFirst(t *testing.T) {
	now := time.Unix(1e9, 0)
	blob := func(n int) Blob { return Blob{named(n), 10, now.Add(-1000 * time.Hour)} }
	in := Input{Now: now, Blobs: []Blob{blob(1), blob(2), blob(3)}, Images: []Image{
		{Blobs: []digest.Digest{named(1), named(2)}, Used: now.Add(-1 * time.Hour)},
		{Blobs: []digest.Digest{named(1)}, Used: now.Add(-3 * time.Hour)}, // shared with the first
		{Blobs: []digest.Digest{named(3)}, Used: now.Add(-2 * time.Hour)},
	}}
	for budget, want := range map[int64][]int{0: nil, 30: nil, 29: {2}, 20: {2}, 19: {2, 0}} {
		if p := Find(in, Policy{Budget: budget}); !slices.Equal(p.Images, want) {
			t.Errorf("budget %d: images %v go, want %v", budget, p.Images, want)
		}
	}
}
