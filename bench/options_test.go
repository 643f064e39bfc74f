package bench

import (
	"math/rand/v2"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ofParts is a target with parts of a size.
func ofParts(size int64, n int) *Target {
	t := &Target{Blobs: []ocispec.Descriptor{{Size: size * int64(n)}}}
	for i := range int64(n) {
		t.parts = append(t.parts, part{0, i * size, (i + 1) * size})
	}
	return t
}

func TestCost(t *testing.T) {
	for _, c := range []struct {
		options  Options
		targets  []*Target
		requests int64
		steps    int
	}{
		{Options{Connections: []int{1, 2}, Rounds: 3, Bytes: 1000, Duration: time.Second}, []*Target{ofParts(10, 4)}, 100, 6},
		{Options{Connections: []int{1, 2}, Rounds: 3, Bytes: 1000, Duration: time.Second}, []*Target{ofParts(10, 4), ofParts(5, 4)}, 200, 12},
		{Options{Connections: []int{4}, Rounds: 1, Bytes: 1000, Duration: 2 * time.Second, Rate: 10}, []*Target{ofParts(10, 4)}, 21, 1},
	} {
		got := c.options.Cost(c.targets)
		if want := (Cost{c.options.Bytes, c.requests, c.options.Duration, c.steps}); got != want {
			t.Errorf("%+v: %+v, want %+v", c.options, got, want)
		}
	}
}

// Whatever the options: shares never exceed what is left, a step with a share has
// enough for one read per connection, and only settings that are too expensive are
// skipped while all bytes are still there.
func TestSharesOfBytes(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 2000 {
		size := 1 + rnd.Int64N(1<<20)
		targets := []*Target{ofParts(size, 3), ofParts(1+rnd.Int64N(size), 3)}[:1+rnd.IntN(2)]
		o := Options{Rounds: 1 + rnd.IntN(6), Bytes: size * (1 + rnd.Int64N(500)), open: rnd.IntN(4) == 0}
		for n := 1; n <= 64; n *= 2 {
			if rnd.IntN(2) == 0 || n == 1 {
				o.Connections = append(o.Connections, n)
			}
		}
		b := newBudget(o, targets)
		cheapest := float64(o.Rounds * len(targets) * o.weight(1))
		left := o.Bytes
		for range o.Rounds {
			for _, n := range o.Connections {
				for _, target := range targets {
					share, ok := b.share(n, left, target.largestRead())
					if share < 0 || share > left {
						t.Fatalf("%+v: a share of %d of %d bytes", o, share, left)
					}
					if least := int64(o.weight(n)) * target.largestRead(); ok != (share >= least) && share > 0 {
						t.Fatalf("%+v: %d connections get %d of at least %d bytes: %v", o, n, share, least, ok)
					}
					if !ok && n == 1 && float64(o.Bytes)*(1-warmUpShare) >= cheapest*float64(size) && left == o.Bytes {
						t.Fatalf("%+v: skipped with one connection", o)
					}
					if ok {
						left -= rnd.Int64N(share + 1) // a step may end early
					}
				}
			}
		}
		if b.weights != 0 {
			t.Fatalf("%+v: weights of %d are left", o, b.weights)
		}
	}
}

func TestStepTime(t *testing.T) {
	if got := stepTime(100*time.Second, 10); got != 9500*time.Millisecond {
		t.Errorf("a tenth of 100 s is %s", got)
	}
	if got := stepTime(-time.Second, 3); got <= 0 {
		t.Errorf("%s would be no bound", got)
	}
}
