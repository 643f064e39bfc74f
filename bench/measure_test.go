package bench_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"testing"
	"time"

	"drayage/bench"
	"drayage/blobstore"
	"drayage/engine/chaos/chaostest"
	"drayage/engine/image"
	"drayage/engine/reference"
	"drayage/engine/registry"
	"drayage/engine/registry/registrytest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// testbed is a registry with an image, and a client for it.
type testbed struct {
	server *registrytest.Server
	image  registrytest.Image
	ref    reference.Image
	client *registry.Client
}

func newTestbed(t *testing.T, server *registrytest.Server, http2 bool) *testbed {
	t.Helper()
	c := &testbed{server: server, image: registrytest.Build("linux/amd64", registrytest.Random(1, 1<<20), registrytest.Random(2, 300_000))}
	var err error
	if c.ref, err = reference.Parse(server.Push("app", "1", c.image)); err != nil {
		t.Fatal(err)
	}
	c.client = registry.New(registry.Options{TLS: &tls.Config{RootCAs: server.Roots()}, PerHost: 16, HTTP2: http2})
	t.Cleanup(c.client.Close)
	return c
}

func (c *testbed) target(t *testing.T, m bench.TargetOptions) *bench.Target {
	t.Helper()
	x, err := bench.NewTarget("app", c.image.Descriptor.Digest, c.image.Layers, func(d digest.Digest) *registry.Blob { return c.client.Blob(c.ref, d) }, m)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func measure(t *testing.T, o bench.Options, targets ...*bench.Target) *bench.Report {
	t.Helper()
	r, err := bench.Measure(t.Context(), o, targets)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Whatever the options, no more bytes than allowed are sent, and all settings with a
// sufficient share are measured.
func TestBytesAreABound(t *testing.T) {
	server := registrytest.New()
	defer server.Close()
	c := newTestbed(t, server, false)
	for _, o := range []bench.Options{
		{Connections: []int{1, 2, 4}, Rounds: 2, Bytes: 4 << 20, WarmUp: time.Second},
		{Connections: []int{4, 1}, Rounds: 1, Bytes: 700_000},
		{Connections: []int{8}, Rounds: 3, Rate: 1000, Bytes: 2 << 20},
		{Connections: []int{1, 64}, Rounds: 1, Bytes: 1 << 20},
	} {
		o.Duration = 30 * time.Second
		before := server.Sent()
		skipped := 0
		o.Progress = func(st bench.Step) {
			if st.Skipped {
				skipped++
			}
		}
		r := measure(t, o, c.target(t, bench.TargetOptions{RangeSize: 64 << 10}))
		const headers = 64 << 10
		if sent := server.Sent() - before; sent > o.Bytes+headers {
			t.Errorf("%+v: %d bytes were sent", o.Connections, sent)
		}
		wantSkipped := 0
		if o.Connections[len(o.Connections)-1] == 64 {
			wantSkipped = 1
		}
		if len(r.Results) != len(o.Connections)-wantSkipped || skipped != wantSkipped {
			t.Errorf("%+v: %d results, %d skipped", o.Connections, len(r.Results), skipped)
		}
		for _, x := range r.Results {
			if len(x.ByRound) != o.Rounds || x.Throughput.Estimate <= 0 || len(x.Errors) > 0 || x.PerConnection.Count != int64(x.Requests) {
				t.Errorf("%+v: %+v", o.Connections, x)
			}
		}
	}
}

// A benchmark ends in time, including reads in flight.
func TestDurationIsABound(t *testing.T) {
	server := registrytest.New()
	defer server.Close()
	c := newTestbed(t, server, false)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// Only the time ends it. On a busy machine nothing may be read within the shortest one.
	for within := 300 * time.Millisecond; ; within *= 2 {
		begun := time.Now()
		r, err := bench.Measure(ctx, bench.Options{Connections: []int{2}, Rounds: 1, Bytes: 1 << 40, Duration: within}, []*bench.Target{c.target(t, bench.TargetOptions{})})
		took := time.Since(begun)
		if err != nil || ctx.Err() != nil {
			t.Fatal(err, ctx.Err())
		}
		if len(r.Results) == 1 && r.Results[0].Elapsed > took.Seconds() {
			t.Errorf("it has read for longer than it took: %+v", r.Results)
		}
		if len(r.Results) == 1 && len(r.Series) > 0 && r.Series[0].Throughput > 0 {
			return
		}
	}
}

// The warm-up establishes the connections, and the report has what that took.
func TestWarmUpMakesConnections(t *testing.T) {
	server := registrytest.New()
	defer server.Close()
	c := newTestbed(t, server, false)
	o := bench.Options{Connections: []int{4}, Rounds: 2, Bytes: 16 << 20, Duration: 30 * time.Second, WarmUp: time.Second}
	r := measure(t, o, c.target(t, bench.TargetOptions{RangeSize: 16 << 10}))
	warm := r.Targets[0].WarmUp
	if warm == nil || warm.Cold.Count == 0 || r.Targets[0].All.Cold.Count < warm.Cold.Count || r.Targets[0].All.Connect.Count == 0 {
		t.Errorf("warm-up: %+v", warm)
	}
	if cold := r.Results[0].Cold.Count; cold > 1 { // one may have been lent out when it was needed
		t.Errorf("%d new connections after the warm-up", cold)
	}
}

// HTTP/2 is used and reported when it is offered.
func TestHTTP2(t *testing.T) {
	server := registrytest.NewTLS2()
	defer server.Close()
	for _, over2 := range []bool{false, true} {
		c := newTestbed(t, server, over2)
		o := bench.Options{Connections: []int{4}, Rounds: 1, Bytes: 4 << 20, Duration: 30 * time.Second}
		r := measure(t, o, c.target(t, bench.TargetOptions{RangeSize: 64 << 10, Verify: true}))
		all := r.Targets[0].All
		if (all.HTTP2 > 0) != over2 || len(all.Errors) > 0 || all.TLS.Count == 0 {
			t.Errorf("HTTP/2 %v: %d connections speak it, errors %v, %d TLS handshakes", over2, all.HTTP2, all.Errors, all.TLS.Count)
		}
	}
}

// Sizes of a mix occur as often as their weights ask for.
func TestMix(t *testing.T) {
	server := registrytest.New()
	defer server.Close()
	c := newTestbed(t, server, false)
	x := c.target(t, bench.TargetOptions{Mix: bench.Mix{{Size: 1000, Weight: 90}, {Size: 200_000, Weight: 10}, {Size: 1 << 30, Weight: 1e-9}}})
	bytes, _ := x.Reads()
	const mean = 0.9*1000 + 0.1*200_000
	if got := float64(bytes) / 4096; got < 0.9*mean || got > 1.1*mean {
		t.Errorf("the mean size is %.0f, want %.0f", got, mean)
	}
	r := measure(t, bench.Options{Connections: []int{2}, Rounds: 1, Bytes: 4 << 20, Duration: 30 * time.Second}, x)
	if len(r.Results) != 1 || r.Results[0].ErrorCount() > 0 {
		t.Errorf("%+v", r.Results)
	}
}

// Only whole blobs with the right digest are kept in the store.
func TestDisk(t *testing.T) {
	server := registrytest.New()
	defer server.Close()
	c := newTestbed(t, server, false)
	store, err := blobstore.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	lease, err := store.Lease()
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Close()
	o := bench.Options{Connections: []int{2}, Rounds: 1, Bytes: 8 << 20, Duration: 30 * time.Second}
	measure(t, o, c.target(t, bench.TargetOptions{RangeSize: 64 << 10, Store: lease}))
	for _, l := range c.image.Layers {
		if has, err := store.Has(l); has || err != nil {
			t.Errorf("%s after parts: %v, %v", l.Digest, has, err)
		}
	}
	server.SetBlob("app", c.image.Layers[1].Digest, registrytest.Random(3, 300_000))
	r := measure(t, o, c.target(t, bench.TargetOptions{Store: lease}))
	if r.Targets[0].All.Errors["wrong content"] == 0 {
		t.Errorf("errors: %v", r.Targets[0].All.Errors)
	}
	for i, want := range []bool{true, false} {
		if has, err := store.Has(c.image.Layers[i]); has != want || err != nil {
			t.Errorf("layer %d: %v, %v", i, has, err)
		}
	}
}

// A replay reads the same blobs from the same offsets.
func TestReplay(t *testing.T) {
	server := registrytest.New()
	defer server.Close()
	c := newTestbed(t, server, false)
	var reads []bench.Read
	for i, l := range c.image.Layers {
		reads = append(reads, bench.Read{Due: time.Duration(i) * 20 * time.Millisecond, Took: time.Second, Blob: l, From: int64(i) * 1000, Source: c.client.Blob(c.ref, l.Digest)})
	}
	reads = append(reads, bench.Read{Blob: c.image.Layers[0], From: c.image.Layers[0].Size, Source: c.client.Blob(c.ref, c.image.Layers[0].Digest)})
	x, err := bench.NewReplay("again", reads, bench.TargetOptions{Verify: true})
	if err != nil {
		t.Fatal(err)
	}
	bytes, within := x.Reads()
	if want := c.image.Layers[0].Size + c.image.Layers[1].Size - 1000; bytes != want || within != 20*time.Millisecond {
		t.Errorf("%d bytes in %s, want %d", bytes, within, want)
	}
	r := measure(t, bench.Options{Connections: []int{2}, Rounds: 2, Bytes: 2 * bytes, Duration: time.Minute, WarmUp: time.Second}, x)
	if len(r.Results) != 1 || r.Results[0].Requests != 4 || r.Results[0].ErrorCount() > 0 || r.Targets[0].Recorded.P50 < 0.99 {
		t.Errorf("%+v", r.Results)
	}
	if _, err := bench.NewReplay("nothing", nil, bench.TargetOptions{}); err == nil {
		t.Error("a replay without reads was made")
	}
}

// Each fault has its kind of error, is counted, and is not retried.
func TestErrorsAreCountedByKind(t *testing.T) {
	for kind, fault := range map[string]chaostest.Fault{
		"not found":  chaostest.Status(http.StatusNotFound),
		"denied":     chaostest.Status(http.StatusForbidden),
		"status 503": chaostest.Status(http.StatusServiceUnavailable),
		"quota":      chaostest.Status(http.StatusTooManyRequests),
		"cut short":  chaostest.CloseAfter(1000),
		"connection": chaostest.ResetAfter(0),
		"no ranges":  chaostest.Status(http.StatusRequestedRangeNotSatisfiable),
	} {
		t.Run(kind, func(t *testing.T) {
			server := registrytest.New()
			defer server.Close()
			c := newTestbed(t, server, false)
			const times = 1 // a registry that asks for a pause gets one each time
			server.Break("/blobs/", times, fault)
			r := measure(t, bench.Options{Connections: []int{1}, Rounds: 1, Bytes: 2 << 20, Duration: 30 * time.Second}, c.target(t, bench.TargetOptions{RangeSize: 64 << 10}))
			all := r.Targets[0].All
			if all.Errors[kind] != times || len(all.Errors) != 1 || all.Requests < 4 {
				t.Errorf("%d requests, errors %v", all.Requests, all.Errors)
			}
		})
	}
}

// Resolve selects the platform, reads each manifest once, and reports what there is
// none of.
func TestResolve(t *testing.T) {
	server := registrytest.New()
	defer server.Close()
	arm, amd := registrytest.Build("linux/arm64", registrytest.Random(1, 1000)), registrytest.Build("linux/amd64", registrytest.Random(2, 2000), registrytest.Random(3, 3000))
	name := server.PushIndex("app", "1", ocispec.MediaTypeImageIndex, arm, amd)
	ref, err := reference.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	client := registry.New(registry.Options{})
	defer client.Close()
	resolve := func(platform string) (*bench.Target, error) {
		t.Helper()
		p, err := image.ParsePlatform(platform)
		if err != nil {
			t.Fatal(err)
		}
		return bench.Resolve(t.Context(), client, ref, p, bench.TargetOptions{})
	}
	x, err := resolve("linux/amd64")
	if err != nil {
		t.Fatal(err)
	}
	if bytes, _ := x.Reads(); bytes != amd.Layers[0].Size+amd.Layers[1].Size || len(x.Blobs) != 2 || x.Name != ref.String() {
		t.Errorf("%s: %d bytes of %+v", x.Name, bytes, x.Blobs)
	}
	if n := server.Count("/blobs/"); n != 0 {
		t.Errorf("%d blobs were read", n)
	}
	var none *image.NoPlatformError
	if _, err := resolve("linux/s390x"); !errors.As(err, &none) {
		t.Errorf("no such platform: %v", err)
	}
}

// An image without layers is an error, and so is a limit below a single read.
func TestNothingToRead(t *testing.T) {
	server := registrytest.New()
	defer server.Close()
	c := newTestbed(t, server, false)
	source := func(d digest.Digest) *registry.Blob { return c.client.Blob(c.ref, d) }
	if _, err := bench.NewTarget("empty", "", nil, source, bench.TargetOptions{}); err == nil {
		t.Error("a target without blobs was made")
	}
	x := c.target(t, bench.TargetOptions{})
	if _, err := bench.Measure(t.Context(), bench.Options{Connections: []int{1}, Rounds: 1, Bytes: 1000, Duration: time.Second}, []*bench.Target{x}); err == nil {
		t.Error("a read that exceeds all bytes was measured")
	}
	if n := server.Count("/blobs/"); n != 0 {
		t.Errorf("%d requests", n)
	}
}

// A benchmark that is interrupted reports what was measured until then.
func TestMeasureIsInterrupted(t *testing.T) {
	server := registrytest.New()
	defer server.Close()
	c := newTestbed(t, server, false)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o := bench.Options{Connections: []int{1, 2}, Rounds: 2, Bytes: 8 << 20, Duration: time.Minute}
	o.Progress = func(st bench.Step) {
		if st.N == 3 {
			cancel()
		}
	}
	r, err := bench.Measure(ctx, o, []*bench.Target{c.target(t, bench.TargetOptions{RangeSize: 64 << 10})})
	if err != nil || len(r.Results) != 2 || len(r.Results[0].ByRound) != 1 || len(r.Results[1].ByRound) != 1 {
		t.Errorf("%v: %+v", err, r)
	}
}
