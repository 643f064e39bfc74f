package engine_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"drayage/blobstore"
	"drayage/engine"
	"drayage/engine/chaos"
	"drayage/engine/chaos/chaostest"
	"drayage/engine/image"
	"drayage/engine/internal/retry"
	"drayage/engine/internal/schedule"
	"drayage/engine/registry"
	"drayage/engine/registry/registrytest"
)

var (
	schedules = flag.Int("schedules", 200, "how many fault schedules TestAnyScheduleThatLeavesTheLinkAlive runs")
	firstSeed = flag.Uint64("seed", 1, "the seed of the first of them")
)

// badSeeds are schedules that once failed.
var badSeeds = []uint64{1323, 2056, 5324}

// badLink is what goes wrong, and what is to be pulled.
type badLink struct {
	opts   chaos.Options
	layers [][]byte
	flip   int // the layer that comes damaged once, or -1
	limits schedule.Limits
}

func drawLink(seed uint64) badLink {
	r := rand.New(rand.NewPCG(seed, 0xbad))
	sometimes := func(share float64, f func()) {
		if r.Float64() < share {
			f()
		}
	}
	l := badLink{opts: chaos.Options{Seed: seed}, flip: -1, limits: schedule.Limits{Jobs: 1 + r.IntN(12), PerHost: 1 + r.IntN(8)}}
	for range 1 + r.IntN(5) {
		size := []int{r.IntN(4096), r.IntN(300 << 10), r.IntN(2 << 20), r.IntN(8 << 20)}[r.IntN(4)]
		l.layers = append(l.layers, registrytest.Random(r.Uint64(), size))
	}
	o := &l.opts
	sometimes(0.3, func() { o.Latency = time.Duration(r.IntN(5000)) * time.Microsecond })
	sometimes(0.2, func() { o.RatePerConnection = 4<<20 + r.Int64N(32<<20) })
	sometimes(0.2, func() { o.Rate = 16<<20 + r.Int64N(64<<20) })
	sometimes(0.2, func() { o.Slow, o.SlowRate = 0.3*r.Float64(), 1<<20 })
	sometimes(0.5, func() { o.ResetAfter = 20<<10 + r.Int64N(2<<20) })
	sometimes(0.3, func() { o.CloseAfter = 20<<10 + r.Int64N(2<<20) })
	sometimes(0.15, func() { o.StallAfter, o.StallFor = 1<<20+r.Int64N(4<<20), time.Duration(r.IntN(2))*50*time.Millisecond })
	sometimes(0.2, func() { o.IgnoreRange = 0.3 * r.Float64() })
	sometimes(0.15, func() { o.WrongRange = 0.2 * r.Float64() })
	sometimes(0.3, func() {
		o.Errors, o.ErrorStatus, o.StormLength = 0.2*r.Float64(), []int{500, 502, 503, 504, 408}, 1+r.IntN(5)
	})
	sometimes(0.2, func() { o.RedirectLife = time.Duration(1+r.IntN(3000)) * time.Millisecond })
	sometimes(0.15, func() { l.flip = r.IntN(len(l.layers)) })
	return l
}

// bad is a registry behind a bad link.
type bad struct {
	*registrytest.Server
	proxy *chaos.Proxy
	addr  string
}

func behind(t *testing.T, o chaos.Options) *bad {
	t.Helper()
	s := registrytest.New()
	t.Cleanup(s.Close)
	p, err := chaos.NewProxy(s.Host(), o)
	if err != nil {
		t.Fatal(err)
	}
	host, stop, err := p.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return &bad{s, p, host}
}

func (b *bad) push(repo, tag string, img registrytest.Image) string {
	return strings.Replace(b.Push(repo, tag, img), b.Host(), b.addr, 1)
}

// Whatever goes wrong, as long as bytes come the pull ends right, and what was
// sent in vain is bounded by what each interruption may cost.
func TestAnyScheduleThatLeavesTheLinkAlive(t *testing.T) {
	n := *schedules
	if testing.Short() {
		n = min(n, 20)
	}
	slots := make(chan struct{}, 6) // most of the time is waiting
	run := func(seed uint64) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			slots <- struct{}{}
			defer func() { <-slots }()
			pullOver(t, seed)
		})
	}
	for _, seed := range badSeeds {
		run(seed)
	}
	for i := range uint64(n) {
		run(*firstSeed + i)
	}
}

func pullOver(t *testing.T, seed uint64) {
	link := drawLink(seed)
	b := behind(t, link.opts)
	img := registrytest.Build("linux/amd64", link.layers...)
	name := b.push("app", "1", img)
	if link.flip >= 0 && len(link.layers[link.flip]) > 0 {
		b.Break(string(img.Layers[link.flip].Digest), 1, chaostest.Flip(int64(len(link.layers[link.flip])/2)))
	}
	f := &fixture{Server: b.Server, record: &record{}}
	platform, err := image.ParsePlatform("linux/amd64")
	if err != nil {
		t.Fatal(err)
	}
	policy := retry.Policy{Patience: 20 * time.Second, Backoff: retry.Backoff{Min: time.Millisecond, Max: 20 * time.Millisecond}}
	store, err := blobstore.OpenWith(t.TempDir(), blobstore.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	client := registry.New(registry.Options{Retry: policy, Observer: f.record, Stall: 300 * time.Millisecond, PerHost: link.limits.PerHost})
	defer client.Close()
	f.opts = engine.Options{Store: store, Registry: client, Platform: platform, Observer: f.record, Limits: link.limits, Retry: policy}

	f.mustPull(t, name)

	stats := b.proxy.Stats()
	needed, largest := img.Size(), int64(0)
	for _, l := range link.layers {
		largest = max(largest, int64(len(l)))
	}
	if link.flip >= 0 {
		needed += int64(len(link.layers[link.flip]))
	}
	const inFlight = 1 << 20 // what the sockets hold, and one connection's buffer
	interruptions := stats.Resets.Load() + stats.Closes.Load() + stats.Stalls.Load() + stats.Slow.Load()
	whole := stats.Ignored.Load() + stats.Wrong.Load() // the server sent, or may have sent, all
	headers := 1024 * (stats.Requests.Load() + 1)
	bound := needed*105/100 + interruptions*min(inFlight, largest) + whole*largest + headers
	if sent := stats.Sent.Load(); sent > bound {
		t.Errorf("seed %d: %d bytes were sent for %d, more than %d; %d interruptions\n%+v", seed, sent, needed, bound, interruptions, link.opts)
	}
}
