package engine_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"drayage/blobstore"
	"drayage/blobstore/blobstoretest"
	"drayage/engine"
	"drayage/engine/chaos"
	"drayage/engine/event"
	"drayage/engine/image"
	"drayage/engine/internal/schedule"
	"drayage/engine/registry"
	"drayage/engine/registry/registrytest"
)

// The power goes at any moment, and with it whatever was not synced, in any
// order and torn. No blob is wrong then, no journal claims what is lost, and
// what was made to last is not fetched again.
func TestPowerCuts(t *testing.T) {
	rounds := uint64(60)
	if testing.Short() {
		rounds = 10
	}
	var resumed atomic.Int64
	t.Run("rounds", func(t *testing.T) {
		slots := make(chan struct{}, 4)
		for seed := range rounds {
			t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
				t.Parallel()
				slots <- struct{}{}
				defer func() { <-slots }()
				powerCut(t, seed, &resumed)
			})
		}
	})
	if resumed.Load() == 0 {
		t.Error("nothing outlasted any power cut")
	}
}

func powerCut(t *testing.T, seed uint64, resumed *atomic.Int64) {
	const cuts = 3
	r := rand.New(rand.NewPCG(seed, 0xc07))
	var layers [][]byte
	size := 0
	for range 1 + r.IntN(4) {
		n := []int{r.IntN(200 << 10), r.IntN(4 << 20)}[r.IntN(2)]
		layers = append(layers, registrytest.Random(r.Uint64(), n))
		size += n
	}
	b := behind(t, chaos.Options{Seed: seed, Rate: 40e6})
	name := b.push("app", "1", registrytest.Build("linux/amd64", layers...))
	dir := t.TempDir()
	for cut := range cuts + 1 {
		disk := blobstoretest.NewForgetful()
		store, err := blobstore.OpenWith(dir, blobstore.Options{Disk: disk, Boot: fmt.Sprint("boot ", cut)})
		if err != nil {
			t.Fatal(err)
		}
		f := &fixture{record: &record{}}
		f.opts = pullOptions(t, store, f.record)
		ctx, cancel := context.WithCancel(t.Context())
		left := int64(r.IntN(size/2 + 1))
		f.record.on = func(e event.Event) {
			switch e := e.(type) {
			case event.Progress:
				if atomic.AddInt64(&left, -e.N) < 0 && cut < cuts {
					cancel()
				}
			case event.Resumed:
				resumed.Add(e.N)
			case event.Warned:
				if strings.Contains(e.Message, "damaged") {
					t.Errorf("cut %d: the journal claimed what was lost: %s", cut, e.Message)
				}
			}
		}
		results, err := engine.Pull(ctx, f.opts, refs(t, name))
		cancel()
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if cut == cuts {
			for _, err := range engine.Failures(results) {
				t.Error(err)
			}
			f.checkStore(t)
			return
		}
		after := t.TempDir()
		if err := disk.Cut(dir, after, r); err != nil {
			t.Fatal(err)
		}
		dir = after
		if store, err = blobstore.Open(dir); err != nil {
			t.Fatal(err)
		}
		f.opts.Store = store
		f.checkBlobs(t)
	}
}

func pullOptions(t *testing.T, store *blobstore.Store, o event.Observer) engine.Options {
	t.Helper()
	platform, err := image.ParsePlatform("linux/amd64")
	if err != nil {
		t.Fatal(err)
	}
	client := registry.New(registry.Options{Retry: quick, Observer: o, Stall: time.Second})
	t.Cleanup(client.Close)
	return engine.Options{
		Store: store, Registry: client, Platform: platform, Observer: o, Retry: quick,
		Limits: schedule.Limits{Jobs: 8, PerHost: 8}, Checkpoint: 10 * time.Millisecond,
	}
}

// A pull that is interrupted goes on within its blobs, also when it is a file
// that was damaged meanwhile, and says so.
func TestAnInterruptedPullGoesOnWithinItsBlobs(t *testing.T) {
	const size = 4 << 20
	layer := registrytest.Random(1, size)
	b := behind(t, chaos.Options{Rate: 30e6})
	name := b.push("app", "1", registrytest.Build("linux/amd64", layer))
	dir := t.TempDir()
	pull := func(stopAfter int64) (*record, []engine.Result) {
		store, err := blobstore.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		rec := &record{}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		left := stopAfter
		rec.on = func(e event.Event) {
			if p, ok := e.(event.Progress); ok && stopAfter > 0 && atomic.AddInt64(&left, -p.N) < 0 {
				cancel()
			}
		}
		results, err := engine.Pull(ctx, pullOptions(t, store, rec), refs(t, name))
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		return rec, results
	}
	pull(size / 2)
	rec, results := pull(0)
	if failed := engine.Failures(results); len(failed) > 0 {
		t.Fatal(failed)
	}
	var resumed int64
	for _, e := range rec.events {
		if e, ok := e.(event.Resumed); ok {
			resumed += e.N
		}
	}
	if resumed < size/2 {
		t.Errorf("%d bytes were taken over from the first pull, want half at least", resumed)
	}
	if r := results[0]; r.Fetched+resumed < size || r.Fetched > size-resumed+10_000 || r.Fetched+r.Reused < size {
		t.Errorf("%d bytes count as fetched and %d as reused, of which %d were partial", r.Fetched, r.Reused, resumed)
	}
	if _, err := os.Stat(dir + "/hosts"); err != nil {
		t.Errorf("nothing was learned of the host: %v", err)
	}
}
