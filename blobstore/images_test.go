package blobstore_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"drayage/blobstore"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// rootOf is an image of a name whose content depends on a number.
func rootOf(name string, n int) blobstore.Root {
	target := describe(fmt.Appendf(nil, "%s %d", name, n))
	return blobstore.Root{Name: name, Target: target, Blobs: []digest.Digest{target.Digest, digest.FromString(name)}}
}

func pin(t testing.TB, l *blobstore.Lease, roots ...blobstore.Root) {
	t.Helper()
	if err := l.Pin(roots...); err != nil {
		t.Fatal(err)
	}
}

// fresh is what a store says that never looked before.
func fresh(t testing.TB, dir string) []blobstore.Root {
	t.Helper()
	s, err := blobstore.Peek(dir)
	if err != nil {
		t.Fatal(err)
	}
	roots, err := s.Roots()
	if err != nil {
		t.Fatal(err)
	}
	return roots
}

func sameRoots(t *testing.T, when string, s *blobstore.Store) {
	t.Helper()
	got, err := s.Roots()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fresh(t, s.Dir()), got); diff != "" {
		t.Fatalf("%s, what was kept differs from what is there:\n%s", when, diff)
	}
}

// believed looks until a store believes its folder's time, if it ever does, so that what comes next
// happens behind its back.
func believed(t *testing.T, s *blobstore.Store) {
	t.Helper()
	for i := 0; i < 4; i++ {
		if _, err := s.Images(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(60 * time.Millisecond) // which no result depends on
	}
}

// Whatever another store value does, in whatever order and however fast, is seen by the next call.
func TestRootsAreThoseOfNow(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 1))
			dir := filepath.Join(t.TempDir(), "store")
			one, err := blobstore.OpenWith(dir, blobstore.Options{NoSync: true})
			if err != nil {
				t.Fatal(err)
			}
			other, err := blobstore.OpenWith(dir, blobstore.Options{NoSync: true})
			if err != nil {
				t.Fatal(err)
			}
			var leases []*blobstore.Lease
			for _, s := range []*blobstore.Store{one, other} {
				l, err := s.Lease()
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				leases = append(leases, l)
			}
			stores := []*blobstore.Store{one, other}
			for step := range 250 {
				at := random.IntN(2)
				name := fmt.Sprintf("r.example/App/x:%d", random.IntN(8))
				name = strings.ToLower(name[:10]) + name[10:]
				switch random.IntN(10) {
				case 0, 1, 2, 3:
					pin(t, leases[at], rootOf(name, random.IntN(2))) // of the same size, and often of the same inode as an older one
				case 4, 5:
					_ = stores[at].Remove(name) // which may not be there
				case 6:
					if err := leases[at].Extend(name, rootOf(name, random.IntN(2)).Target.Digest, digest.FromString(fmt.Sprint(step))); err != nil {
						t.Fatal(err)
					}
				case 7:
					_ = stores[at].Use(name)
				case 8:
					if step%25 == 0 {
						believed(t, one)
					}
				case 9: // as an older version wrote them, or damaged
					path := filepath.Join(dir, "roots", "r.example%2FApp%2Fx%3A"+name[len(name)-1:])
					_ = os.Remove(path)
					if random.IntN(2) == 0 {
						raw, _ := json.Marshal(map[string]any{"version": 1, "name": name, "target": rootOf(name, 7).Target, "blobs": []string{}})
						if err := os.WriteFile(path, raw[:len(raw)-random.IntN(2)], 0o644); err != nil {
							t.Fatal(err)
						}
					}
				}
				sameRoots(t, fmt.Sprintf("step %d", step), one)
			}
		})
	}
}

// A change within the same tick of the clock as the one before it is seen, also where that tick is
// two seconds: times are set to what such a file system would say.
func TestRootsOnFileSystemsWithCoarseTimes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s, l := open(t, dir)
	folder := filepath.Join(dir, "roots")
	for _, when := range []time.Time{time.Now().Truncate(2 * time.Second), time.Now().Truncate(time.Second).Add(time.Hour), time.Unix(2, 0)} {
		settle := func() { // all times are of one tick
			files, err := os.ReadDir(folder)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				if err := os.Chtimes(filepath.Join(folder, f.Name()), when, when); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chtimes(folder, when, when); err != nil {
				t.Fatal(err)
			}
		}
		for n := range 6 {
			pin(t, l, rootOf("r.example/a:1", n%2), rootOf("r.example/b:1", n))
			settle()
			sameRoots(t, "pinned", s)
			sameRoots(t, "pinned, again", s)
		}
		if err := s.Remove("r.example/b:1"); err != nil {
			t.Fatal(err)
		}
		settle()
		sameRoots(t, "removed", s)
	}
}

func TestRootsOfFoldersThatComeAndGo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s, err := blobstore.Peek(dir)
	if err != nil {
		t.Fatal(err)
	}
	sameRoots(t, "no store", s)
	_, l := open(t, dir)
	sameRoots(t, "empty", s)
	pin(t, l, rootOf("r.example/a:1", 1), rootOf("r.example/b:1", 1))
	believed(t, s)
	folder := filepath.Join(dir, "roots")
	if err := os.CopyFS(folder+".kept", os.DirFS(folder)); err != nil {
		t.Fatal(err)
	}
	pin(t, l, rootOf("r.example/c:1", 1))
	sameRoots(t, "another", s)
	believed(t, s)
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(folder+".kept", old, old); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(folder); err != nil {
		t.Fatal(err)
	}
	sameRoots(t, "gone", s)
	if err := os.Rename(folder+".kept", folder); err != nil { // which is older than what it is instead of
		t.Fatal(err)
	}
	sameRoots(t, "another folder", s)
	if got, _ := s.Roots(); len(got) != 2 {
		t.Errorf("%d roots in the folder of before", len(got))
	}
	believed(t, s)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	sameRoots(t, "no store any more", s)
}

// What callers do with the roots that they were given is nothing to others.
func TestRootsAreTheCallersOwn(t *testing.T) {
	s, l := open(t, filepath.Join(t.TempDir(), "store"))
	r := rootOf("r.example/a:1", 1)
	r.Target.Annotations, r.Target.Platform = map[string]string{"k": "v"}, &ocispec.Platform{OS: "linux", OSFeatures: []string{"f"}}
	r.Target.URLs, r.Target.Data = []string{"u"}, []byte("data")
	r.Beside = []ocispec.Descriptor{{Digest: r.Blobs[1], Annotations: map[string]string{"k": "v"}}}
	pin(t, l, r, rootOf("r.example/b:1", 1))
	believed(t, s)
	got, err := s.Roots()
	if err != nil {
		t.Fatal(err)
	}
	_ = append(got[0].Blobs, "x") //nolint:gocritic // it must not reach the next root's
	got[0].Blobs[0], got[0].Name = "changed", "changed"
	got[0].Target.Annotations["k"], got[0].Target.Platform.OS, got[0].Target.Platform.OSFeatures[0] = "changed", "changed", "changed"
	got[0].Target.URLs[0], got[0].Target.Data[0] = "changed", 'x'
	got[0].Beside[0].Digest, got[0].Beside[0].Annotations["k"] = "changed", "changed"
	slices.Reverse(got)
	sameRoots(t, "changed by a caller", s)
}

// As long as nothing changes there is one view, and each change makes another.
func TestImagesAreOneViewUntilTheyChange(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s, l := open(t, dir)
	pin(t, l, rootOf("r.example/a:1", 1))
	images := func() *blobstore.Images {
		i, err := s.Images()
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	first := images()
	for range 3 {
		if images() != first {
			t.Error("another view of the same")
		}
		if err := s.Use("r.example/a:1"); err != nil { // touches the file, which says the same
			t.Fatal(err)
		}
	}
	pin(t, l, rootOf("r.example/a:1", 2))
	if second := images(); second == first || len(first.Roots) != 1 || first.Roots[0].Target.Digest == second.Roots[0].Target.Digest {
		t.Error("the view of before has changed")
	}
}

// An image whose name ends as files do that are being written is one as any other, also where an
// older version wrote it.
func TestRootsWithNamesOfFilesBeingWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s, l := open(t, dir)
	old := rootOf("r.example/old:1.tmp", 1)
	raw, err := json.Marshal(map[string]any{"version": 1, "name": old.Name, "target": old.Target, "blobs": old.Blobs})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "roots", "r.example%2Fold%3A1.tmp"), raw, 0o644); err != nil {
		t.Fatal(err)
	}
	pin(t, l, rootOf("r.example/a:1.tmp", 1), rootOf("r.example/a:1", 1))
	pin(t, l, rootOf("r.example/a:1", 2))
	got, err := s.Roots()
	if err != nil || len(got) != 3 || got[1].Name != "r.example/a:1.tmp" {
		t.Errorf("%v, %v", got, err)
	}
	for _, name := range []string{"r.example/a:1", "r.example/a:1.tmp", "r.example/old:1.tmp"} {
		if _, err := s.Root(name); err != nil {
			t.Error(err)
		}
	}
	pin(t, l, rootOf(old.Name, 2))
	if files, err := os.ReadDir(filepath.Join(dir, "roots")); err != nil || len(files) != 3 {
		t.Errorf("%v, %v", files, err)
	}
	if err := s.Remove("r.example/a:1.tmp", old.Name); err != nil {
		t.Error(err)
	}
	sameRoots(t, "removed", s)
}

func TestRootsByManyAtOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s, l := open(t, dir)
	_, other := open(t, dir)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			lease := l
			if i%2 == 0 {
				lease = other
			}
			for n := range 10 {
				want := rootOf(fmt.Sprintf("r.example/a:%d", i), n)
				if err := lease.Pin(want); err != nil {
					t.Error(err)
				}
				images, err := s.Images()
				if err != nil || !slices.ContainsFunc(images.Roots, func(r blobstore.Root) bool { return r.Target.Digest == want.Target.Digest }) {
					t.Errorf("what was pinned isn't there: %v", err)
				}
			}
		})
	}
	all.Wait()
	sameRoots(t, "after all", s)
}

func storeOf(b *testing.B, n int) *blobstore.Store {
	b.Helper()
	s, err := blobstore.OpenWith(filepath.Join(b.TempDir(), "store"), blobstore.Options{NoSync: true})
	if err != nil {
		b.Fatal(err)
	}
	l, err := s.Lease()
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	roots := make([]blobstore.Root, n)
	for i := range roots {
		roots[i] = rootOf(fmt.Sprintf("r.example/team-%d/app:%d", i/10, i), 0)
		for j := range 8 {
			roots[i].Blobs = append(roots[i].Blobs, digest.FromString(fmt.Sprint(i, j)))
		}
	}
	pin(b, l, roots...)
	return s
}

// The roots of 10,000 images: the first time, and when nothing has changed since; and the view
// without a copy.
func BenchmarkRoots(b *testing.B) {
	s := storeOf(b, 10_000)
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			fresh(b, s.Dir())
		}
	})
	ask := func(f func() error) func(b *testing.B) {
		return func(b *testing.B) {
			for range 2 {
				if err := f(); err != nil {
					b.Fatal(err)
				}
				time.Sleep(150 * time.Millisecond)
			}
			for b.Loop() {
				if err := f(); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	b.Run("again", ask(func() error { _, err := s.Roots(); return err }))
	b.Run("view", ask(func() error { _, err := s.Images(); return err }))
}
