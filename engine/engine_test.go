package engine_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"drayage/blobstore"
	"drayage/engine"
	"drayage/engine/chaos/chaostest"
	"drayage/engine/event"
	"drayage/engine/image"
	"drayage/engine/internal/retry"
	"drayage/engine/internal/schedule"
	"drayage/engine/internal/transfer"
	"drayage/engine/plan"
	"drayage/engine/reference"
	"drayage/engine/registry"
	"drayage/engine/registry/hosts"
	"drayage/engine/registry/registrytest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var quick = retry.Policy{Tries: 3, Patience: 3 * time.Second, Backoff: retry.Backoff{Min: time.Millisecond, Max: 2 * time.Millisecond}}

type record struct {
	mu     sync.Mutex
	events []event.Event
	on     func(event.Event)
}

func (r *record) Observe(e event.Event) {
	r.mu.Lock()
	r.events = append(r.events, e)
	r.mu.Unlock()
	if r.on != nil {
		r.on(e)
	}
}

func (r *record) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return fmt.Sprintf("%+v", r.events)
}

// fixture is a registry, a store and the options to pull with.
type fixture struct {
	*registrytest.Server
	opts   engine.Options
	record *record
}

func setup(t *testing.T) *fixture {
	t.Helper()
	s := registrytest.New()
	t.Cleanup(s.Close)
	f := &fixture{Server: s, record: &record{}}
	p, err := image.ParsePlatform("linux/amd64")
	if err != nil {
		t.Fatal(err)
	}
	p.Explicit = false
	f.opts = engine.Options{
		Store: openStore(t, t.TempDir()), Platform: p, Observer: f.record,
		Limits: schedule.Limits{Jobs: 8, PerHost: 8}, Retry: quick,
	}
	client := registry.New(registry.Options{Retry: quick, Observer: f.record, Stall: time.Second})
	t.Cleanup(client.Close)
	f.opts.Registry = client
	return f
}

func openStore(t *testing.T, dir string) *blobstore.Store {
	t.Helper()
	s, err := blobstore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func refs(t *testing.T, names ...string) []reference.Image {
	t.Helper()
	var out []reference.Image
	for _, n := range names {
		ref, err := reference.Parse(n)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, ref)
	}
	return out
}

// pull pulls and returns the errors of the images that failed.
func (f *fixture) pull(t *testing.T, names ...string) ([]engine.Result, []error) {
	t.Helper()
	results, err := engine.Pull(t.Context(), f.opts, refs(t, names...))
	if err != nil {
		t.Fatal(err)
	}
	return results, engine.Failures(results)
}

func (f *fixture) mustPull(t *testing.T, names ...string) []engine.Result {
	t.Helper()
	results, failed := f.pull(t, names...)
	for _, err := range failed {
		t.Fatal(err)
	}
	f.checkStore(t)
	return results
}

// checkStore holds every file under blobs/ against its name, and wants no
// partial blobs.
func (f *fixture) checkStore(t *testing.T) {
	t.Helper()
	f.checkBlobs(t)
	if left, _ := os.ReadDir(filepath.Join(f.opts.Store.Dir(), "ingest")); len(left) > 0 {
		t.Errorf("left in ingest/: %v", left)
	}
}

// checkBlobs holds every file under blobs/ against its name.
func (f *fixture) checkBlobs(t *testing.T) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(f.opts.Store.Dir(), "blobs/sha256/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := digest.FromBytes(raw).Encoded(); got != filepath.Base(path) {
			t.Errorf("%s has the content of %s", path, got)
		}
	}
}

func TestRequestsAreTheFewestPossible(t *testing.T) {
	f := setup(t)
	var layers [][]byte
	for i := range 10 {
		layers = append(layers, registrytest.Random(uint64(i), 1000))
	}
	img := registrytest.Build("linux/amd64", layers...)
	name := f.Push("r", "1", img)

	first := f.mustPull(t, name)
	if got := len(f.Requests()); got != 12 {
		t.Errorf("an anonymous image of 10 layers took %d requests, want 12", got)
	}
	if first[0].Fetched != img.Size() || first[0].Reused != 0 {
		t.Errorf("fetched %d, reused %d, want %d and 0", first[0].Fetched, first[0].Reused, img.Size())
	}

	f.Forget()
	second := f.mustPull(t, name)
	if r := f.Requests(); len(r) != 1 || r[0].Method != "HEAD" {
		t.Errorf("a second pull took %v, want one HEAD", r)
	}
	if second[0].Fetched != 0 || second[0].Reused != img.Size() {
		t.Errorf("fetched %d, reused %d, want 0 and %d", second[0].Fetched, second[0].Reused, img.Size())
	}

	f.Forget()
	f.mustPull(t, f.Host()+"/r@"+img.Descriptor.Digest.String())
	if got := len(f.Requests()); got != 0 {
		t.Errorf("by digest, with all here, it took %d requests, want 0", got)
	}

	// One layer gone: that one is fetched.
	if err := os.Remove(filepath.Join(f.opts.Store.Dir(), "blobs/sha256", img.Layers[3].Digest.Encoded())); err != nil {
		t.Fatal(err)
	}
	f.Forget()
	f.mustPull(t, name)
	if got := f.Count("/blobs/"); got != 1 {
		t.Errorf("with one layer gone, %d were fetched", got)
	}
}

func TestAMovedTagIsFetchedAnew(t *testing.T) {
	f := setup(t)
	name := f.Push("r", "1", registrytest.Build("linux/amd64", registrytest.Random(1, 1000)))
	f.mustPull(t, name)
	moved := registrytest.Build("linux/amd64", registrytest.Random(1, 1000), registrytest.Random(2, 1000))
	f.Push("r", "1", moved)
	f.Forget()
	got := f.mustPull(t, name)
	if got[0].Image.Target().Digest != moved.Descriptor.Digest {
		t.Errorf("got %s", got[0].Image.Target().Digest)
	}
	if n := f.Count("/blobs/"); n != 2 {
		t.Errorf("%d blobs fetched, want the new layer and config", n)
	}
}

func TestDryRunFetchesNoBlobAndChangesNothing(t *testing.T) {
	f := setup(t)
	shared := registrytest.Random(1, 1000)
	a := registrytest.Build("linux/amd64", shared, registrytest.Random(2, 500))
	b := registrytest.Build("linux/amd64", shared)
	absent := filepath.Join(t.TempDir(), "absent")
	store, err := blobstore.Peek(absent)
	if err != nil {
		t.Fatal(err)
	}
	f.opts.Store = store
	results, p, err := engine.Plan(t.Context(), f.opts, refs(t, f.Push("a", "1", a), f.Push("b", "1", b), f.Host()+"/c:1"))
	if err != nil {
		t.Fatal(err)
	}
	if n := f.Count("/blobs/"); n != 0 {
		t.Errorf("%d blobs were fetched", n)
	}
	if _, err := os.Stat(absent); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it made a store: %v", err)
	}
	if !errors.Is(results[2].Err, registry.ErrNotFound) {
		t.Errorf("an image that isn't there: %v", results[2].Err)
	}
	if results[0].Fetched != a.Size() || results[1].Reused != 1000 {
		t.Errorf("plan %+v", results)
	}
	want := a.Size() + b.Size() - 1000 - a.Descriptor.Size - b.Descriptor.Size
	if got := p.Totals(); got.Size != want || got.Here != 0 {
		t.Errorf("totals %+v, want %d", got, want)
	}
}

func TestOddImages(t *testing.T) {
	f := setup(t)
	var many [][]byte
	for i := range 127 {
		many = append(many, registrytest.Random(uint64(i), 100))
	}
	twice := registrytest.Random(500, 100)
	var names []string
	for repo, layers := range map[string][][]byte{
		"many": many, "twice": {twice, registrytest.Random(501, 100), twice}, "none": nil, "empty": {{}},
	} {
		names = append(names, f.Push(repo, "1", registrytest.Build("linux/amd64", layers...)))
	}
	f.mustPull(t, names...)
	seen := map[string]int{}
	for _, r := range f.Requests() {
		if i := strings.Index(r.Path, "/blobs/"); i >= 0 {
			seen[r.Path[i:]]++
		}
	}
	for path, n := range seen {
		if n != 1 {
			t.Errorf("%s was fetched %d times", path, n)
		}
	}
	if want := 127 + 2 + 4; len(seen) != want {
		t.Errorf("%d blobs fetched, want %d: the empty one takes no request", len(seen), want)
	}
}

func TestSixtyImagesOnSharedBases(t *testing.T) {
	f := setup(t)
	f.opts.Limits = schedule.Limits{Jobs: 16, PerHost: 8}
	bases := [][]byte{registrytest.Random(1, 50_000), registrytest.Random(2, 40_000), registrytest.Random(3, 30_000)}
	var names []string
	distinct := map[digest.Digest]int64{}
	for i := range 60 {
		img := registrytest.Build("linux/amd64", bases[i%3], registrytest.Random(uint64(100+i), 2000))
		names = append(names, f.Push(fmt.Sprintf("team/app%d", i), "1", img))
		for d, b := range img.Blobs {
			distinct[d] = int64(len(b))
		}
		distinct[img.Descriptor.Digest] = img.Descriptor.Size
	}
	results := f.mustPull(t, names...)
	var want, fetched int64
	for _, n := range distinct {
		want += n
	}
	for i, r := range results {
		fetched += r.Fetched
		if r.Ref.String() != names[i] {
			t.Errorf("result %d is of %s, want %s", i, r.Ref, names[i])
		}
	}
	if fetched != want || f.Sent() != want {
		t.Errorf("fetched %d, the server sent %d, want %d", fetched, f.Sent(), want)
	}
	if most := f.MostAtOnce(); most > 8 {
		t.Errorf("%d requests at once to one host, want at most 8", most)
	}
}

func TestIndexesAreDescendedForThePlatform(t *testing.T) {
	f := setup(t)
	amd := registrytest.Build("linux/amd64", registrytest.Random(1, 100))
	arm := registrytest.BuildDocker("linux/arm64/v8", registrytest.Random(2, 100))
	for _, mediaType := range []string{ocispec.MediaTypeImageIndex, registrytest.DockerList} {
		flat := f.PushIndex("flat", "1", mediaType, amd, arm)
		inner := registrytest.Index(mediaType, amd.Descriptor, arm.Descriptor)
		f.Push("nested", "", amd)
		f.Push("nested", "", arm)
		f.PushManifest("nested", "", mediaType, inner)
		nested := f.PushManifest("nested", "1", mediaType, registrytest.Index(mediaType, registrytest.Describe(mediaType, inner)))
		for _, name := range []string{flat, nested} {
			for platform, want := range map[string]registrytest.Image{"linux/amd64": amd, "linux/arm64": arm} {
				p, err := image.ParsePlatform(platform)
				if err != nil {
					t.Fatal(err)
				}
				f.opts.Platform = p
				f.opts.Store = openStore(t, t.TempDir())
				results := f.mustPull(t, name)
				if got := results[0].Image.Main().Descriptor().Digest; got != want.Descriptor.Digest {
					t.Errorf("%s for %s: got %s, want %s", name, platform, got, want.Descriptor.Digest)
				}
			}
		}
	}
	p, err := image.ParsePlatform("linux/s390x")
	if err != nil {
		t.Fatal(err)
	}
	f.opts.Platform = p
	for _, name := range []string{f.Host() + "/flat:1", f.Host() + "/nested:1"} {
		_, failed := f.pull(t, name)
		var none *image.NoPlatformError
		if len(failed) != 1 || !errors.As(failed[0], &none) || !strings.Contains(failed[0].Error(), "linux/amd64, linux/arm64") {
			t.Errorf("%s: %v", name, failed)
		}
	}
}

func TestNestingHasAnEnd(t *testing.T) {
	f := setup(t)
	raw := registrytest.Index(ocispec.MediaTypeImageIndex)
	for range 10 {
		f.PushManifest("deep", "1", ocispec.MediaTypeImageIndex, raw)
		raw = registrytest.Index(ocispec.MediaTypeImageIndex, registrytest.Describe(ocispec.MediaTypeImageIndex, raw))
	}
	if _, failed := f.pull(t, f.Host()+"/deep:1"); len(failed) != 1 || !errors.Is(failed[0], image.ErrInvalid) {
		t.Errorf("%v", failed)
	}
}

func TestASoleManifestForAnotherPlatform(t *testing.T) {
	f := setup(t)
	img := registrytest.Build("linux/arm64", registrytest.Random(1, 100_000))
	name := f.Push("r", "1", img)

	// Asked for by name: refused, before a layer is fetched.
	f.opts.Platform.Explicit = true
	_, failed := f.pull(t, name)
	var none *image.NoPlatformError
	if len(failed) != 1 || !errors.As(failed[0], &none) || none.Have[0] != "linux/arm64" {
		t.Errorf("explicit: %v", failed)
	}
	if n := f.Count(img.Layers[0].Digest.Encoded()); n != 0 {
		t.Error("a layer was fetched")
	}
	// By default: taken, with a warning.
	f.opts.Platform.Explicit = false
	f.mustPull(t, name)
	if !strings.Contains(f.record.text(), "is for linux/arm64") {
		t.Error("no warning")
	}
	// The right one, asked for by name.
	p, err := image.ParsePlatform("linux/arm64")
	if err != nil {
		t.Fatal(err)
	}
	f.opts.Platform = p
	f.opts.Store = openStore(t, t.TempDir())
	if got := f.mustPull(t, name); got[0].Fetched != img.Size() || got[0].Reused != 0 {
		t.Errorf("fetched %d, reused %d, want %d and 0", got[0].Fetched, got[0].Reused, img.Size())
	}
}

func TestBrokenBodiesAreContinued(t *testing.T) {
	for name, fault := range map[string]chaostest.Fault{
		"reset": chaostest.ResetAfter(30_000), "closed": chaostest.CloseAfter(30_000), "flipped": chaostest.Flip(50_000),
		"stalled": chaostest.StallAfter(30_000), "500": chaostest.Status(500), "429": chaostest.Status(429, "Retry-After", "1"),
	} {
		f := setup(t)
		img := registrytest.Build("linux/amd64", registrytest.Random(1, 100_000))
		ref := f.Push("r", "1", img)
		f.Break("/blobs/"+img.Layers[0].Digest.String(), 1, fault)
		f.mustPull(t, ref)
		if slack := int64(64 << 10); name == "reset" && f.Sent() > img.Size()+slack {
			t.Errorf("%s: %d bytes sent for %d", name, f.Sent(), img.Size())
		}
	}
}

func TestWrongContentIsAnErrorAndLeavesNothing(t *testing.T) {
	img := registrytest.Build("linux/amd64", registrytest.Random(1, 10_000))
	layer := img.Layers[0]
	content := img.Blobs[layer.Digest]
	other := bytes.Clone(content)
	other[77] ^= 1
	for name, raw := range map[string][]byte{
		"other bytes": other, "shorter": content[:9999], "longer": append(bytes.Clone(content), 'x'), "empty": {},
	} {
		f := setup(t)
		ref := f.Push("r", "1", img)
		f.SetBlob("r", layer.Digest, raw)
		_, failed := f.pull(t, ref)
		var mismatch *transfer.MismatchError
		if len(failed) != 1 || !errors.As(failed[0], &mismatch) || !strings.Contains(failed[0].Error(), layer.Digest.String()) {
			t.Errorf("%s: %v", name, failed)
		}
		f.checkStore(t)
		if _, err := f.opts.Store.Stat(layer.Digest); !errors.Is(err, blobstore.ErrNotFound) {
			t.Errorf("%s: it is in the store: %v", name, err)
		}
		if roots, _ := f.opts.Store.Roots(); len(roots) != 0 {
			t.Errorf("%s: the image was pinned", name)
		}
	}
}

func TestTwoManifestsThatDifferAboutASize(t *testing.T) {
	f := setup(t)
	f.opts.KeepGoing = true
	honest := registrytest.Build("linux/amd64", registrytest.Random(1, 1000))
	good := f.Push("a", "1", honest)
	lie := bytes.Replace(honest.Manifest, []byte(`"size":1000`), []byte(`"size":1001`), 1)
	f.Push("b", "", honest)
	bad := f.PushManifest("b", "1", honest.Descriptor.MediaType, lie)
	f.mustPull(t, good)
	_, failed := f.pull(t, bad)
	var size *blobstore.SizeError
	if len(failed) != 1 || !errors.As(failed[0], &size) {
		t.Errorf("%v", failed)
	}
	f.opts.Store = openStore(t, t.TempDir())
	if _, failed := f.pull(t, good, bad); len(failed) == 0 {
		t.Error("the lie was not noticed")
	}
	f.checkStore(t)
}

func TestIndexThatLiesAboutAManifestsSize(t *testing.T) {
	f := setup(t)
	img := registrytest.Build("linux/amd64", registrytest.Random(1, 1000))
	f.Push("r", "", img)
	for _, d := range []int64{-1, 1} {
		lie := img.Descriptor
		lie.Size += d
		name := f.PushManifest("r", "1", ocispec.MediaTypeImageIndex, registrytest.Index(ocispec.MediaTypeImageIndex, lie))
		if _, failed := f.pull(t, name); len(failed) != 1 || !errors.Is(failed[0], plan.ErrSize) {
			t.Errorf("%+d: %v", d, failed)
		}
	}
}

// G55: a blob that one repository lost is fetched from another of the run.
func TestBlobsComeFromAnyRepositoryThatHasThem(t *testing.T) {
	f := setup(t)
	f.opts.Limits = schedule.Limits{Jobs: 1, PerHost: 1} // all manifests first
	shared := registrytest.Random(1, 1000)
	a := registrytest.Build("linux/amd64", shared, registrytest.Random(2, 10))
	b := registrytest.Build("linux/amd64", shared, registrytest.Random(3, 10))
	names := []string{f.Push("a", "1", a), f.Push("b", "1", b)}
	f.DropBlob("a", a.Layers[0].Digest)
	f.mustPull(t, names...)
}

// G55 again: the image whose repository has the blob comes while the other's
// is asked for it.
func TestAnImageThatComesLateBringsItsRepository(t *testing.T) {
	f := setup(t)
	f.opts.KeepGoing = true
	shared := registrytest.Random(1, 1000)
	a := registrytest.Build("linux/amd64", shared)
	b := registrytest.Build("linux/amd64", shared, registrytest.Random(3, 10))
	names := []string{f.Push("a", "1", a), f.Push("b", "1", b)}
	layer := a.Layers[0].Digest
	f.DropBlob("a", layer)
	asked, resolved := make(chan struct{}), make(chan struct{})
	f.Break("/b/manifests/", 1, chaostest.Hold(asked))
	f.Break("/a/blobs/"+layer.String(), 1, func(next http.Handler) http.Handler {
		close(asked)
		return chaostest.Hold(resolved)(next)
	})
	f.record.on = func(e event.Event) {
		if r, ok := e.(event.Resolved); ok && r.Image == names[1] {
			close(resolved)
		}
	}
	f.mustPull(t, names...)
}

func TestImagesCanBeRefusedOnceResolved(t *testing.T) {
	f := setup(t)
	f.opts.KeepGoing = true
	odd := errors.New("odd")
	bad := f.Push("bad", "1", registrytest.Build("linux/amd64", registrytest.Random(2, 1000)))
	good := f.Push("good", "1", registrytest.Build("linux/amd64", registrytest.Random(1, 1000)))
	f.opts.Accept = func(img *plan.Image) error {
		if img.Ref.String() == bad {
			return odd
		}
		return nil
	}
	results, failed := f.pull(t, bad, good)
	if len(failed) != 1 || !errors.Is(failed[0], odd) || results[1].Err != nil || f.Count("/bad/blobs/") != 0 {
		t.Errorf("%v, %d blobs fetched in vain", failed, f.Count("/bad/blobs/"))
	}
}

func TestIndexesThatListThemselvesOverAndOver(t *testing.T) {
	f := setup(t)
	empty := registrytest.Index(ocispec.MediaTypeImageIndex)
	f.PushManifest("r", "", ocispec.MediaTypeImageIndex, empty)
	raw := empty
	for range 3 {
		children := make([]ocispec.Descriptor, 5000)
		for i := range children {
			children[i] = registrytest.Describe(ocispec.MediaTypeImageIndex, raw)
		}
		raw = registrytest.Index(ocispec.MediaTypeImageIndex, children...)
		f.PushManifest("r", "1", ocispec.MediaTypeImageIndex, raw)
	}
	var none *image.NoPlatformError
	if _, failed := f.pull(t, f.Host()+"/r:1"); len(failed) != 1 || !errors.As(failed[0], &none) {
		t.Errorf("%v", failed)
	}
	if n := len(f.Requests()); n > 4 {
		t.Errorf("%d requests", n)
	}
}

func TestOneFailureStopsTheOthersUnlessToldToGoOn(t *testing.T) {
	f := setup(t)
	good := f.Push("good", "1", registrytest.Build("linux/amd64", registrytest.Random(1, 1000)))
	broken := registrytest.Build("linux/amd64", registrytest.Random(2, 2000), registrytest.Random(1, 1000))
	bad := f.Push("bad", "1", broken)
	f.DropBlob("bad", broken.Layers[0].Digest)
	missing := f.Host() + "/missing:1"

	_, failed := f.pull(t, missing, good)
	if len(failed) != 1 || !errors.Is(failed[0], registry.ErrNotFound) {
		t.Errorf("without --keep-going: %v", failed)
	}

	f.opts.KeepGoing = true
	results, failed := f.pull(t, missing, bad, good)
	if len(failed) != 2 || results[2].Err != nil {
		t.Errorf("with --keep-going: %v; %v", failed, results[2].Err)
	}
	for _, err := range failed {
		var img *engine.ImageError
		if !errors.As(err, &img) || !errors.Is(err, registry.ErrNotFound) {
			t.Errorf("%v", err)
		}
	}
	if roots, err := f.opts.Store.Roots(); err != nil || len(roots) != 1 || roots[0].Name != good {
		t.Errorf("pinned: %v, %v", roots, err)
	}
	f.checkStore(t)
}

func TestTwoPullsOnOneStoreFetchEachBlobOnce(t *testing.T) {
	f := setup(t)
	var names []string
	for i := range 10 {
		names = append(names, f.Push(fmt.Sprintf("r%d", i), "1", registrytest.Build("linux/amd64",
			registrytest.Random(1, 100_000), registrytest.Random(uint64(10+i), 10_000))))
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			opts := f.opts
			opts.Store = openStore(t, f.opts.Store.Dir()) // each its own, as processes have
			results, err := engine.Pull(context.Background(), opts, refs(t, names...))
			for _, err := range append(engine.Failures(results), err) {
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	f.checkStore(t)
	if got, want := f.Count("/blobs/"), 10+10+1; got != want {
		t.Errorf("%d blobs were fetched, want %d", got, want)
	}
}

func TestCancellationEndsAPull(t *testing.T) {
	for name, fault := range map[string]chaostest.Fault{
		"no answer": chaostest.Hold(nil), "silence": chaostest.StallAfter(100), "told to wait": chaostest.Status(503, "Retry-After", "2"),
	} {
		for _, where := range []string{"/manifests/", "/blobs/"} {
			f := setup(t)
			cause := errors.New("enough")
			ctx, cancel := context.WithCancelCause(t.Context())
			f.Break(where, registrytest.Always, func(next http.Handler) http.Handler {
				time.AfterFunc(50*time.Millisecond, func() { cancel(cause) })
				return fault(next)
			})
			name2 := f.Push("r", "1", registrytest.Build("linux/amd64", registrytest.Random(1, 100_000)))
			if _, err := engine.Pull(ctx, f.opts, refs(t, name2)); !errors.Is(err, cause) {
				t.Errorf("%s at %s: %v", name, where, err)
			}
			f.checkStore(t)
			f.opts.Registry.Close()
			f.Close()
		}
	}
}

// Fetching starts with the first resolved image, not the last.
func TestFetchingStartsWithTheFirstResolvedImage(t *testing.T) {
	f := setup(t)
	first := f.Push("first", "1", registrytest.Build("linux/amd64", registrytest.Random(1, 1000)))
	last := f.Push("last", "1", registrytest.Build("linux/amd64", registrytest.Random(2, 1000)))
	release := make(chan struct{})
	f.Break("/last/manifests/", 1, chaostest.Hold(release))
	var once sync.Once
	f.record.on = func(e event.Event) {
		if _, ok := e.(event.Pulled); ok {
			once.Do(func() { close(release) }) // which never comes if the first waits for the last
		}
	}
	f.mustPull(t, first, last)
}

func TestEventsAddUp(t *testing.T) {
	f := setup(t)
	img := registrytest.Build("linux/amd64", registrytest.Random(1, 100_000), registrytest.Random(2, 1000))
	name := f.Push("r", "1", img)
	f.Break("/blobs/", 1, chaostest.ResetAfter(500))
	f.mustPull(t, name)
	var queued, progress, fetched, blobs int64
	for _, e := range f.record.events {
		switch e := e.(type) {
		case event.Queued:
			queued += e.Size
		case event.Progress:
			progress += e.N
		case event.Fetched:
			fetched += e.Size
			blobs++
		}
	}
	want := img.Size() - img.Descriptor.Size
	if queued != want || progress != want || fetched != want || blobs != 3 {
		t.Errorf("queued %d, progress %d, fetched %d in %d blobs; want %d in 3", queued, progress, fetched, blobs, want)
	}
}

// What can be written is written while the rest is on its way.
func TestStreamBeginsBeforeAllIsFetched(t *testing.T) {
	f := setup(t)
	img := registrytest.Build("linux/amd64", registrytest.Layer(1, 1000), registrytest.Layer(2, 500_000))
	name := f.Push("app", "1", img)
	release := make(chan struct{})
	f.Break("/blobs/"+img.Layers[1].Digest.String(), registrytest.Always, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-release:
			case <-r.Context().Done():
			}
			next.ServeHTTP(w, r)
		})
	})
	called := 0
	f.opts.Stream = func(ctx context.Context, s *engine.Stream) error {
		called++
		for i, l := range img.Layers {
			file, err := s.Open(ctx, l.Digest)
			if err != nil {
				return err
			}
			raw, err := io.ReadAll(file)
			if err := errors.Join(err, file.Close()); err != nil || digest.FromBytes(raw) != l.Digest {
				t.Errorf("layer %d: %d bytes, %v", i, len(raw), err)
			}
			if i == 0 {
				close(release) // only now may the second come
			}
		}
		return nil
	}
	f.mustPull(t, name)
	if called != 1 {
		t.Errorf("called %d times", called)
	}
}

// Blobs are fetched in the order in which a stream wants them.
func TestStreamSaysWhatToFetchNext(t *testing.T) {
	f := setup(t)
	var layers [][]byte
	for i := range 12 {
		layers = append(layers, registrytest.Layer(uint64(i), 1000*(i+1)))
	}
	img := registrytest.Build("linux/amd64", layers...)
	name := f.Push("app", "1", img)
	f.opts.Limits = schedule.Limits{Jobs: 1, PerHost: 1}
	started := make(chan struct{})
	f.Break("/blobs/", 1, func(next http.Handler) http.Handler { // the first waits until the order is known
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-started:
			case <-r.Context().Done():
			}
			next.ServeHTTP(w, r)
		})
	})
	f.opts.Stream = func(_ context.Context, s *engine.Stream) error {
		var order []digest.Digest
		for _, l := range img.Layers { // the smallest first
			order = append(order, l.Digest)
		}
		s.Prefer(order)
		close(started)
		return nil
	}
	f.mustPull(t, name)
	var asked []int
	for _, r := range f.Requests() {
		for i, l := range img.Layers {
			if strings.HasSuffix(r.Path, l.Digest.String()) {
				asked = append(asked, i)
			}
		}
	}
	// What was under way before the order was known came first.
	if len(asked) != 12 || !slices.IsSorted(asked[1:]) {
		t.Errorf("asked for the layers in the order %v", asked)
	}
}

func TestAFailingStreamEndsTheRun(t *testing.T) {
	f := setup(t)
	name := f.Push("app", "1", registrytest.Build("linux/amd64", registrytest.Layer(1, 1000)))
	full := errors.New("full")
	f.opts.Stream = func(context.Context, *engine.Stream) error { return full }
	if _, err := engine.Pull(t.Context(), f.opts, refs(t, name)); !errors.Is(err, full) {
		t.Errorf("%v", err)
	}
	// And a failing blob the stream.
	img := registrytest.Build("linux/amd64", registrytest.Layer(2, 1000))
	name = f.Push("app", "2", img)
	f.DropBlob("app", img.Layers[0].Digest)
	f.opts.Stream = func(ctx context.Context, s *engine.Stream) error {
		_, err := s.Open(ctx, img.Layers[0].Digest)
		return err
	}
	results, err := engine.Pull(t.Context(), f.opts, refs(t, name))
	if failed := engine.Failures(results); err != nil || len(failed) != 1 || !errors.Is(failed[0], registry.ErrNotFound) {
		t.Errorf("%v, %v", failed, err)
	}
}

// An image that a person asked for by platform has its config looked at first, also
// when that is in the manifest itself.
func TestAnEmbeddedConfigTellsThePlatform(t *testing.T) {
	f := setup(t)
	img := registrytest.Build("linux/amd64", registrytest.Layer(1, 1000))
	f.Push("app", "", img)
	f.DropBlob("app", img.Config.Digest)
	var m ocispec.Manifest
	if err := json.Unmarshal(img.Manifest, &m); err != nil {
		t.Fatal(err)
	}
	m.Config.Data = img.Blobs[img.Config.Digest]
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	name := f.PushManifest("app", "1", ocispec.MediaTypeImageManifest, raw)
	f.opts.Platform.Explicit = true
	f.mustPull(t, name)
}

// Layers that may not be redistributed are where their descriptors say; small
// blobs may be in the manifest itself.
func TestForeignAndEmbeddedBlobs(t *testing.T) {
	f := setup(t)
	elsewhere := registrytest.New()
	defer elsewhere.Close()
	foreign := registrytest.Layer(1, 1000)
	img := registrytest.Build("linux/amd64", foreign, registrytest.Layer(2, 1000))
	f.Push("app", "", img)
	f.DropBlob("app", img.Layers[0].Digest)
	f.DropBlob("app", img.Config.Digest)
	elsewhere.PushBlob("x", foreign)
	var m ocispec.Manifest
	if err := json.Unmarshal(img.Manifest, &m); err != nil {
		t.Fatal(err)
	}
	m.Layers[0].MediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	m.Layers[0].URLs = []string{"ftp://nowhere/x", "http://" + elsewhere.Host() + "/v2/x/blobs/absent", "http://user:secret@" + elsewhere.Host() + "/v2/x/blobs/" + img.Layers[0].Digest.String()}
	m.Config.Data = img.Blobs[img.Config.Digest]
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	f.opts.ForeignLayers = true
	f.mustPull(t, f.PushManifest("app", "1", ocispec.MediaTypeImageManifest, raw))
	for _, r := range elsewhere.Requests() {
		if r.Authorization != "" {
			t.Errorf("%s with %s", r.Path, r.Authorization)
		}
	}
	// Data that doesn't fit counts for nothing.
	m.Config.Data = []byte("wrong")
	f.opts.Store = openStore(t, t.TempDir())
	if raw, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	if _, failed := f.pull(t, f.PushManifest("app", "2", ocispec.MediaTypeImageManifest, raw)); len(failed) != 1 {
		t.Errorf("%v", failed)
	}
}

// mirrored gives the fixture's client a mirror that has what the registry has.
func (f *fixture) mirrored(t *testing.T, push func(*registrytest.Server)) *registrytest.Server {
	t.Helper()
	mirror := registrytest.New()
	t.Cleanup(mirror.Close)
	push(mirror)
	u, err := url.Parse("http://" + mirror.Host())
	if err != nil {
		t.Fatal(err)
	}
	client := registry.New(registry.Options{Retry: quick, Observer: f.record, Stall: time.Second, Mirrors: []hosts.Mirror{{Registry: f.Host(), URL: u}}})
	t.Cleanup(client.Close)
	f.opts.Registry = client
	return mirror
}

// A mirror on a bad day costs no byte twice, and nothing wrong: what it began, the
// registry goes on with; what it changed, the registry gives anew.
func TestMirrorsOnABadDay(t *testing.T) {
	const size = 4 << 20
	for name, c := range map[string]struct {
		fault chaostest.Fault
		most  int64 // bytes sent by both together, beyond the image's own
	}{
		"breaks in the middle":    {chaostest.ResetAfter(size / 2), 1 << 20},
		"refuses":                 {chaostest.Status(http.StatusForbidden), 1 << 16},
		"is overloaded":           {chaostest.Status(http.StatusServiceUnavailable), 1 << 16},
		"changes what it sends":   {chaostest.Flip(1000), size + 1<<16},
		"says it has other bytes": {chaostest.Body("application/octet-stream", []byte("short")), 1 << 16},
	} {
		t.Run(name, func(t *testing.T) {
			f := setup(t)
			img := registrytest.Build("linux/amd64", registrytest.Random(1, size))
			ref := f.Push("app", "1", img)
			mirror := f.mirrored(t, func(m *registrytest.Server) { m.Push("app", "1", img) })
			mirror.Break("/blobs/"+img.Layers[0].Digest.String(), registrytest.Always, c.fault)
			f.mustPull(t, ref)
			if mirror.Count("/manifests/") == 0 || f.Count("/manifests/") != 0 {
				t.Errorf("the mirror was asked for %d manifests, the registry for %d", mirror.Count("/manifests/"), f.Count("/manifests/"))
			}
			if sent := mirror.Sent() + f.Sent(); sent > img.Size()+c.most {
				t.Errorf("%d bytes were sent for %d", sent, img.Size())
			}
		})
	}
}
