package blobstore_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"drayage/blobstore"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/time/rate"
)

// shelf is a store with images, for tests of what goes.
type shelf struct {
	t     *testing.T
	dir   string
	store *blobstore.Store
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	s, err := blobstore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return &shelf{t, dir, s}
}

// put puts a blob, and returns its descriptor.
func (s *shelf) put(l *blobstore.Lease, text string) ocispec.Descriptor {
	s.t.Helper()
	d := ocispec.Descriptor{Digest: digest.FromString(text), Size: int64(len(text))}
	if err := l.Put(s.t.Context(), d, []byte(text)); err != nil {
		s.t.Fatal(err)
	}
	return d
}

// image puts an image out of texts, the first of which is what it stands for.
func (s *shelf) image(name string, texts ...string) {
	s.t.Helper()
	l, err := s.store.Lease()
	if err != nil {
		s.t.Fatal(err)
	}
	defer l.Close()
	r := blobstore.Root{Name: name}
	for i, text := range texts {
		d := s.put(l, text)
		if i == 0 {
			r.Target = d
		}
		r.Blobs = append(r.Blobs, d.Digest)
	}
	if err := l.Pin(r); err != nil {
		s.t.Fatal(err)
	}
}

// loose puts a blob that no image needs.
func (s *shelf) loose(text string) {
	s.t.Helper()
	l, err := s.store.Lease()
	if err != nil {
		s.t.Fatal(err)
	}
	s.put(l, text)
	if err := l.Close(); err != nil {
		s.t.Fatal(err)
	}
}

// age has a blob look as if it came some time ago.
func (s *shelf) age(text string, d time.Duration) {
	s.t.Helper()
	at := time.Now().Add(-d)
	if err := os.Chtimes(filepath.Join(s.dir, "blobs/sha256", digest.FromString(text).Encoded()), at, at); err != nil {
		s.t.Fatal(err)
	}
}

func (s *shelf) sweep(k blobstore.Keep) blobstore.Garbage {
	s.t.Helper()
	g, err := s.store.FindGarbage(s.t.Context(), k)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.store.Sweep(s.t.Context(), g); err != nil {
		s.t.Fatal(err)
	}
	return g
}

// has holds which of some texts are in the store against what is wanted.
func (s *shelf) has(want map[string]bool) {
	s.t.Helper()
	for text, yes := range want {
		_, err := s.store.Stat(digest.FromString(text))
		if (err == nil) != yes {
			s.t.Errorf("%q: %v, want it there: %v", text, err, yes)
		}
	}
}

func (s *shelf) names() []string {
	s.t.Helper()
	roots, err := s.store.Roots()
	if err != nil {
		s.t.Fatal(err)
	}
	var out []string
	for _, r := range roots {
		out = append(out, r.Name)
	}
	return out
}

// A removed image's blobs that another image needs stay as they are, so that nobody hashes them
// anew.
func TestRemovingLeavesSharedBlobsAlone(t *testing.T) {
	s := newShelf(t)
	s.image("a", "manifest a", "base", "only a")
	s.image("b", "manifest b", "base")
	before := s.info("base")
	if err := s.store.Remove("a"); err != nil {
		t.Fatal(err)
	}
	if after := s.info("base"); !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("its time is %v, and was %v", after.ModTime(), before.ModTime())
	}
	if s.info("only a").ModTime().Year() != 1970 {
		t.Error("what nothing needs any more looks young to a sweep")
	}
}

func (s *shelf) info(content string) fs.FileInfo {
	s.t.Helper()
	info, err := os.Stat(filepath.Join(s.store.Dir(), "blobs", "sha256", digest.FromString(content).Encoded()))
	if err != nil {
		s.t.Fatal(err)
	}
	return info
}

func TestSweepTakesWhatNothingNeeds(t *testing.T) {
	s := newShelf(t)
	s.image("a", "manifest a", "base", "only a")
	s.image("b", "manifest b", "base", "only b")
	s.loose("old and loose")
	s.loose("young and loose")
	s.loose("held")
	s.age("old and loose", 48*time.Hour)
	s.age("held", 48*time.Hour)
	l, err := s.store.Lease()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Has(ocispec.Descriptor{Digest: digest.FromString("held"), Size: 4}); err != nil {
		t.Fatal(err)
	}
	if err := s.store.Remove("a"); err != nil {
		t.Fatal(err)
	}
	s.sweep(blobstore.Keep{})
	s.has(map[string]bool{"manifest a": false, "only a": false, "base": true, "manifest b": true, "only b": true, "old and loose": false, "young and loose": true, "held": true})
	if got := s.names(); !slices.Equal(got, []string{"b"}) {
		t.Errorf("images: %v", got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	g := s.sweep(blobstore.Keep{Grace: -1})
	s.has(map[string]bool{"young and loose": false, "held": false, "base": true})
	if len(g.Blobs) != 2 || g.Bytes() != int64(len("young and loose")+len("held")) {
		t.Errorf("%+v", g)
	}
	if err := s.store.Remove("b", "absent"); !errors.Is(err, blobstore.ErrNotFound) {
		t.Errorf("removing what isn't there: %v", err)
	}
	if got := s.names(); !slices.Equal(got, []string{"b"}) {
		t.Errorf("images: %v", got)
	}
}

func TestSweepKeepsABudget(t *testing.T) {
	s := newShelf(t)
	blob := func(c byte) string { return string(slices.Repeat([]byte{c}, 1000)) }
	s.image("old", "1", blob('a'), blob('x'))
	s.image("pinned", "2", blob('b'))
	s.image("used", "3", blob('c'), blob('x'))
	s.image("new", "4", blob('d'))
	for i, name := range []string{"old", "pinned", "used", "new"} {
		at := time.Now().Add(-time.Duration(10-i) * time.Hour)
		if err := os.Chtimes(filepath.Join(s.dir, "roots", name), at, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.store.Use("used"); err != nil {
		t.Fatal(err)
	}
	pinned := func(name string) bool { return name == "pinned" }
	g := s.sweep(blobstore.Keep{Budget: 10_000, Pinned: pinned})
	if len(g.Images) != 0 {
		t.Errorf("under the budget %d images go", len(g.Images))
	}
	g = s.sweep(blobstore.Keep{Budget: 3100, Pinned: pinned})
	if got := s.names(); !slices.Equal(got, []string{"pinned", "used"}) || g.Left > 3100 {
		t.Errorf("left are %v with %d bytes", got, g.Left)
	}
	s.has(map[string]bool{blob('a'): false, blob('x'): true, blob('d'): false})
	s.sweep(blobstore.Keep{Unused: time.Hour, Pinned: pinned})
	if got := s.names(); !slices.Equal(got, []string{"pinned", "used"}) {
		t.Errorf("left are %v", got)
	}
	s.sweep(blobstore.Keep{Unused: time.Hour})
	if got := s.names(); !slices.Equal(got, []string{"used"}) {
		t.Errorf("left are %v", got)
	}
}

// What was made of layers goes with them, and first when space is short.
func TestSweepOfConversions(t *testing.T) {
	s := newShelf(t)
	s.image("a", "manifest", "layer")
	l, err := s.store.Lease()
	if err != nil {
		t.Fatal(err)
	}
	made := s.put(l, "made of the layer")
	if err := l.Derive(blobstore.Derived{From: digest.FromString("layer"), Form: "tar", Blob: made, DiffID: made.Digest}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s.age("made of the layer", 48*time.Hour)
	if g := s.sweep(blobstore.Keep{}); len(g.Blobs) != 0 || g.Derived != 0 {
		t.Errorf("%+v", g)
	}
	g := s.sweep(blobstore.Keep{Budget: 15})
	s.has(map[string]bool{"made of the layer": false, "layer": true})
	if g.Derived != 1 || len(g.Images) != 0 {
		t.Errorf("%+v", g)
	}
	if left, _ := os.ReadDir(filepath.Join(s.dir, "derived")); len(left) != 0 {
		t.Errorf("%d records are left", len(left))
	}
}

// Sweeps beside whoever comes to need blobs take none that somebody counts on.
func TestSweepsBesideKeepers(t *testing.T) {
	s := newShelf(t)
	const blobs, keepers, rounds = 20, 4, 150
	text := func(i int) string { return fmt.Sprintf("blob %d", i) }
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			for ctx.Err() == nil {
				g, err := s.store.FindGarbage(t.Context(), blobstore.Keep{Grace: -1})
				if err == nil {
					err = s.store.Sweep(t.Context(), g)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	var working sync.WaitGroup
	for k := range keepers {
		working.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(k), 1))
			for n := range rounds {
				if err := keepSome(t, s.store, rnd, text, blobs, fmt.Sprintf("image %d", k), n%10 == 9); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	working.Wait()
	cancel()
	all.Wait()
	// What images need is all there.
	images, err := s.store.ImageUsages()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range images {
		if len(i.Missing) > 0 {
			t.Errorf("%s lacks %d blobs", i.Name, len(i.Missing))
		}
	}
}

// keepSome finds or adds some blobs under a lease, and looks whether they stay.
func keepSome(t *testing.T, s *blobstore.Store, rnd *rand.Rand, text func(int) string, blobs int, name string, pin bool) (err error) {
	l, err := s.Lease()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	r := blobstore.Root{Name: name}
	for range 5 {
		content := text(rnd.IntN(blobs))
		d := ocispec.Descriptor{Digest: digest.FromString(content), Size: int64(len(content))}
		if has, err := l.Has(d); err != nil {
			return err
		} else if !has {
			if err := l.Put(t.Context(), d, []byte(content)); err != nil {
				return err
			}
		}
		r.Blobs, r.Target = append(r.Blobs, d.Digest), d
	}
	for _, d := range r.Blobs {
		if _, err := s.Read(d, 100); err != nil {
			return fmt.Errorf("swept from under a lease: %w", err)
		}
	}
	if pin {
		return l.Pin(r)
	}
	return nil
}

func TestVerify(t *testing.T) {
	s := newShelf(t)
	s.image("a", "manifest", "good", "bad", "also bad")
	for _, text := range []string{"bad", "also bad"} {
		path := filepath.Join(s.dir, "blobs/sha256", digest.FromString(text).Encoded())
		if err := os.WriteFile(path, []byte("something else"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.store.Verify(t.Context(), blobstore.Verification{})
	if err != nil || got.Blobs != 2 || len(got.Damaged) != 2 {
		t.Errorf("%+v, %v", got, err)
	}
	s.has(map[string]bool{"good": true, "bad": false, "also bad": false})
	images, err := s.store.ImageUsages()
	if err != nil || len(images) != 1 || len(images[0].Missing) != 2 {
		t.Errorf("%+v, %v", images, err)
	}
	u, err := s.store.Usage(t.Context())
	if err != nil || u.Quarantined != 2 || u.Blobs != 2 {
		t.Errorf("%+v, %v", u, err)
	}
	g := s.sweep(blobstore.Keep{Quarantined: true})
	if len(g.Quarantined) != 2 {
		t.Errorf("%+v", g)
	}
	if got, err := s.store.Verify(t.Context(), blobstore.Verification{}); err != nil || len(got.Damaged) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

// One that is interrupted goes on, and finds what is damaged after where it was.
func TestVerifyGoesOn(t *testing.T) {
	s := newShelf(t)
	const blobs = 400
	var all []string
	for i := range blobs {
		all = append(all, fmt.Sprintf("blob %d", i))
	}
	s.image("a", all...)
	ctx, cancel := context.WithCancel(t.Context())
	read := 0
	var mu sync.Mutex
	// Those who read take turns, by the rate: else one of them may be held up at the first blob while
	// another one reads all the rest.
	slowly := rate.NewLimiter(40_000, 16)
	_, err := s.store.Verify(ctx, blobstore.Verification{Limit: slowly, Progress: func(int64) {
		mu.Lock()
		defer mu.Unlock()
		if read++; read == blobs/2 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	got, err := s.store.Verify(t.Context(), blobstore.Verification{})
	// It goes on after the first blob that wasn't read to its end, however many were read after that.
	if err != nil || got.Blobs != blobs || got.Resumed < 1 || got.Resumed >= blobs {
		t.Errorf("%+v, %v", got, err)
	}
	got, err = s.store.Verify(t.Context(), blobstore.Verification{})
	if err != nil || got.Resumed != 0 {
		t.Errorf("after one that was whole: %+v, %v", got, err)
	}
}
