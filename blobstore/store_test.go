package blobstore_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"drayage/blobstore"
	"drayage/blobstore/durable"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func open(t *testing.T, dir string) (*blobstore.Store, *blobstore.Lease) {
	t.Helper()
	s, err := blobstore.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.Lease()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return s, l
}

func describe(content []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromBytes(content), Size: int64(len(content))}
}

func TestOpenMakesAnOCILayout(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "store")
	s, l := open(t, dir)
	var layout ocispec.ImageLayout
	var index ocispec.Index
	for name, v := range map[string]any{"oci-layout": &layout, "index.json": &index} {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, v); err != nil {
			t.Fatal(err)
		}
	}
	if layout.Version != "1.0.0" || index.SchemaVersion != 2 || index.Manifests == nil {
		t.Errorf("layout %v, index %v", layout, index)
	}
	content := []byte("blob")
	if err := l.Put(t.Context(), describe(content), content); err != nil {
		t.Fatal(err)
	}
	again, _ := open(t, dir)
	if got, err := again.Read(describe(content).Digest, 100); err != nil || !bytes.Equal(got, content) {
		t.Errorf("after opening again: %q, %v", got, err)
	}
	for _, name := range []string{"blobs/sha256/" + describe(content).Digest.Encoded(), "index.json", "oci-layout"} {
		if info, err := os.Stat(filepath.Join(s.Dir(), name)); err != nil || info.Mode().Perm() != 0o644 {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}
}

func TestOpenRefusesFoldersThatAreNoStore(t *testing.T) {
	for name, files := range map[string][]string{
		"somebody's files":     {"thesis.tex"},
		"another's OCI layout": {"oci-layout", "index.json"},
	} {
		dir := t.TempDir()
		for _, f := range files {
			if err := os.WriteFile(filepath.Join(dir, f), []byte("{}"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := blobstore.Open(dir); !errors.Is(err, blobstore.ErrNotStore) {
			t.Errorf("%s: %v, want ErrNotStore", name, err)
		}
		if entries, _ := os.ReadDir(dir); len(entries) != len(files) {
			t.Errorf("%s: something was written: %v", name, entries)
		}
	}
	newer := t.TempDir()
	if err := os.WriteFile(filepath.Join(newer, "drayage.json"), []byte(`{"drayage":{"store":2}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := blobstore.Open(newer); !errors.Is(err, blobstore.ErrNotStore) {
		t.Errorf("a store of another version: %v", err)
	}
}

func TestOpenTakesFoldersThatMayBecomeOne(t *testing.T) {
	fresh := t.TempDir()
	mounted := t.TempDir()
	if err := os.Mkdir(filepath.Join(mounted, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	begun := t.TempDir() // its maker died in the middle
	for _, f := range []string{"lock", "oci-layout"} {
		if err := os.WriteFile(filepath.Join(begun, f), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{fresh, mounted, begun} {
		open(t, dir)
	}
}

func TestPeekMakesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "absent")
	s, err := blobstore.Peek(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(digest.FromString("x")); !errors.Is(err, blobstore.ErrNotFound) {
		t.Errorf("Stat: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Peek made something: %v", err)
	}
}

func TestCommitRefusesWhatDoesNotMatch(t *testing.T) {
	content := []byte("the right content")
	right := describe(content)
	for _, c := range []struct {
		name    string
		written []byte
		hashed  []byte
	}{
		{"another digest", content, []byte("other")},
		{"one byte short", content[1:], content},
		{"one byte more", append([]byte("x"), content...), content},
		{"other bytes", []byte("the wrong content"), content[1:]},
		{"nothing", nil, content},
	} {
		s, l := open(t, t.TempDir())
		in, err := l.Ingest(t.Context(), right, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := in.WriteAt(c.written, 0); err != nil {
			t.Fatal(err)
		}
		h := in.Hash()
		h.Write(c.hashed)
		if err := in.Commit(h); !errors.Is(err, blobstore.ErrMismatch) {
			t.Errorf("%s: Commit = %v, want ErrMismatch", c.name, err)
		}
		if !bytes.Equal(c.written, content) {
			if err := in.Commit(nil); !errors.Is(err, blobstore.ErrMismatch) {
				t.Errorf("%s: Commit = %v without a hash, want ErrMismatch", c.name, err)
			}
		}
		if err := in.Close(); err != nil {
			t.Error(err)
		}
		if _, err := s.Open(right.Digest); !errors.Is(err, blobstore.ErrNotFound) {
			t.Errorf("%s: it is in the store: %v", c.name, err)
		}
		if left, _ := os.ReadDir(filepath.Join(s.Dir(), "ingest")); len(left) > 0 {
			t.Errorf("%s: left behind: %v", c.name, left)
		}
	}
}

// A digest's name is given for a hash of the ingest's own, and no other.
func TestCommitTakesNobodyElsesHash(t *testing.T) {
	content := []byte("content")
	_, l := open(t, t.TempDir())
	in, err := l.Ingest(t.Context(), describe(content), nil)
	if err != nil {
		t.Fatal(err)
	}
	other, err := l.Ingest(t.Context(), describe([]byte("another")), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.WriteAt(content, 0); err != nil {
		t.Fatal(err)
	}
	for _, h := range []hash.Hash{sha256.New(), other.Hash()} {
		h.Write(content)
		if err := in.Commit(h); err == nil {
			t.Errorf("it took a %T of somebody else", h)
		}
	}
	if err := errors.Join(in.Commit(nil), in.Close(), other.Close()); err != nil {
		t.Error(err)
	}
}

func TestPutRefusesWrongContent(t *testing.T) {
	_, l := open(t, t.TempDir())
	if err := l.Put(t.Context(), describe([]byte("abc")), []byte("abd")); !errors.Is(err, blobstore.ErrMismatch) {
		t.Errorf("Put = %v, want ErrMismatch", err)
	}
}

func TestHasTellsALyingSize(t *testing.T) {
	s, l := open(t, t.TempDir())
	content := []byte("content")
	if err := l.Put(t.Context(), describe(content), content); err != nil {
		t.Fatal(err)
	}
	lie := describe(content)
	lie.Size++
	var size *blobstore.SizeError
	if _, err := s.Has(lie); !errors.As(err, &size) || size.Have != lie.Size-1 {
		t.Errorf("Has = %v, want a SizeError", err)
	}
}

func TestInvalidDigestsNeverBecomePaths(t *testing.T) {
	s, l := open(t, t.TempDir())
	for _, d := range []digest.Digest{"", "sha256:../../../etc/passwd", "../x:abc", "sha256:", "md5:d41d8cd98f00b204e9800998ecf8427e"} {
		if _, err := s.Open(d); err == nil {
			t.Errorf("Open(%q) worked", d)
		}
		if _, err := s.Stat(d); err == nil {
			t.Errorf("Stat(%q) worked", d)
		}
		if _, err := l.Ingest(t.Context(), ocispec.Descriptor{Digest: d}, nil); err == nil {
			t.Errorf("Ingest(%q) worked", d)
		}
	}
}

func TestSHA512BlobsAreKeptToo(t *testing.T) {
	s, l := open(t, t.TempDir())
	content := []byte("long digest")
	d := ocispec.Descriptor{Digest: digest.SHA512.FromBytes(content), Size: int64(len(content))}
	if err := l.Put(t.Context(), d, content); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Read(d.Digest, 100); err != nil || !bytes.Equal(got, content) {
		t.Errorf("Read = %q, %v", got, err)
	}
}

func TestReadNoticesDamage(t *testing.T) {
	s, l := open(t, t.TempDir())
	content := []byte("manifest")
	d := describe(content)
	if err := l.Put(t.Context(), d, content); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir(), "blobs/sha256", d.Digest.Encoded()), []byte("manifesT"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(d.Digest, 100); !errors.Is(err, blobstore.ErrDamaged) {
		t.Errorf("Read = %v", err)
	}
	if _, err := s.Read(d.Digest, 7); err == nil {
		t.Error("Read passed its limit")
	}
}

func TestOneIngestAtATime(t *testing.T) {
	s, first := open(t, t.TempDir())
	content := []byte("shared")
	d := describe(content)
	in, err := first.Ingest(t.Context(), d, nil)
	if err != nil {
		t.Fatal(err)
	}
	waits := make(chan struct{})
	result := make(chan error)
	go func() {
		second, err := s.Lease()
		if err != nil {
			result <- err
			return
		}
		defer second.Close()
		_, err = second.Ingest(context.Background(), d, func() { close(waits) })
		result <- err
	}()
	<-waits
	if _, err := in.WriteAt(content, 0); err != nil {
		t.Fatal(err)
	}
	if err := in.Commit(nil); err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-result; !errors.Is(err, blobstore.ErrExists) {
		t.Errorf("who waited got %v, want ErrExists", err)
	}
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	s, first := open(t, t.TempDir())
	d := describe([]byte("x"))
	in, err := first.Ingest(t.Context(), d, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	second, err := s.Lease()
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := second.Ingest(ctx, d, cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("Ingest = %v, want Canceled", err)
	}
}

func TestManyIngestTheSameBlobsAtOnce(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	var mu sync.Mutex
	added := map[digest.Digest]int{}
	for range 8 {
		wg.Go(func() {
			s, err := blobstore.Open(dir) // each its own, as processes do
			if err != nil {
				t.Error(err)
				return
			}
			l, err := s.Lease()
			if err != nil {
				t.Error(err)
				return
			}
			defer l.Close()
			for i := range 20 {
				content := fmt.Appendf(nil, "blob %d", i)
				d := describe(content)
				in, err := l.Ingest(t.Context(), d, nil)
				if errors.Is(err, blobstore.ErrExists) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := in.WriteAt(content, 0); err != nil {
					t.Error(err)
				}
				if err := errors.Join(in.Commit(nil), in.Close()); err != nil {
					t.Error(err)
				}
				mu.Lock()
				added[d.Digest]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for d, n := range added {
		if n != 1 {
			t.Errorf("%s was added %d times", d, n)
		}
	}
	if len(added) != 20 {
		t.Errorf("%d blobs, want 20", len(added))
	}
}

func TestPinReplacesRootsAndIndex(t *testing.T) {
	s, l := open(t, t.TempDir())
	a, b := describe([]byte("a")), describe([]byte("b"))
	long := "registry.example/" + strings.Repeat("x/", 100) + "y:1"
	roots := []blobstore.Root{
		{Name: "docker.io/library/x:1", Target: a, Blobs: []digest.Digest{a.Digest}},
		{Name: long, Target: b, Blobs: []digest.Digest{b.Digest}},
	}
	if err := l.Pin(roots...); err != nil {
		t.Fatal(err)
	}
	roots[0].Target = b
	if err := l.Pin(roots[0]); err != nil {
		t.Fatal(err)
	}
	got, err := s.Roots()
	if diff := cmp.Diff(roots, got); err != nil || diff != "" {
		t.Errorf("Roots: %v %s", err, diff)
	}
	one, err := s.Root(long)
	if diff := cmp.Diff(roots[1], one); err != nil || diff != "" {
		t.Errorf("Root: %v %s", err, diff)
	}
	if _, err := s.Root("docker.io/library/x:2"); !errors.Is(err, blobstore.ErrNotFound) {
		t.Errorf("Root of what was never pulled: %v", err)
	}
	var index ocispec.Index
	raw, err := os.ReadFile(filepath.Join(s.Dir(), "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		t.Fatal(err)
	}
	if len(index.Manifests) != 2 || index.Manifests[0].Annotations[ocispec.AnnotationRefName] != "docker.io/library/x:1" ||
		index.Manifests[0].Digest != b.Digest {
		t.Errorf("index.json: %s", raw)
	}
}

func TestPinByManyLosesNone(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			_, l := open(t, dir)
			for j := range 5 {
				d := describe(fmt.Appendf(nil, "%d/%d", i, j))
				if err := l.Pin(blobstore.Root{Name: fmt.Sprintf("r/%d:%d", i, j), Target: d}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	var index ocispec.Index
	raw, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &index); err != nil || len(index.Manifests) != 40 {
		t.Errorf("%d images in index.json, want 40 (%v)", len(index.Manifests), err)
	}
}

func TestDamagedRootsAreAsIfAbsent(t *testing.T) {
	s, l := open(t, t.TempDir())
	d := describe([]byte("a"))
	if err := l.Pin(blobstore.Root{Name: "x/y:1", Target: d}); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(s.Dir(), "roots", "*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := os.WriteFile(files[0], []byte(`{"version":1,"na`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Root("x/y:1"); !errors.Is(err, blobstore.ErrNotFound) {
		t.Errorf("Root = %v", err)
	}
	if got, err := s.Roots(); err != nil || len(got) != 0 {
		t.Errorf("Roots = %v, %v", got, err)
	}
}

func TestLeasesKeepWhatTheyFoundUntilTheyEnd(t *testing.T) {
	s, l := open(t, t.TempDir())
	content := []byte("kept")
	d := describe(content)
	if err := l.Put(t.Context(), d, content); err != nil {
		t.Fatal(err)
	}
	other, err := s.Lease() // clears away the dead, and must not take the living
	if err != nil {
		t.Fatal(err)
	}
	if kept, err := s.Leased(); err != nil || !kept[d.Digest] {
		t.Errorf("while the lease lives: %v, %v", kept, err)
	}
	if err := errors.Join(l.Close(), other.Close()); err != nil {
		t.Fatal(err)
	}
	if kept, err := s.Leased(); err != nil || len(kept) != 0 {
		t.Errorf("after its end: %v, %v", kept, err)
	}
}

func TestALeaseClearsAwayWhatTheDeadLeft(t *testing.T) {
	dir := t.TempDir()
	s, l := open(t, dir)
	living := describe([]byte("living"))
	in, err := l.Ingest(t.Context(), living, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	dead := filepath.Join(dir, "ingest", "sha256-"+digest.FromString("dead").Encoded())
	if err := os.MkdirAll(dead, 0o755); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{
		filepath.Join(dead, "data"): "half", filepath.Join(dead, "lock"): "",
		filepath.Join(dir, "leases", "1-dead"): digest.FromString("dead").String() + "\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	again, err := s.Lease()
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if left, _ := os.ReadDir(filepath.Join(dir, "ingest")); len(left) != 1 {
		t.Errorf("ingests: %v, want the living one", left)
	}
	if kept, err := s.Leased(); err != nil || kept[digest.FromString("dead")] || !kept[living.Digest] {
		t.Errorf("leased: %v, %v", kept, err)
	}
}

// big is content that is large enough for a journal.
func big() []byte { return bytes.Repeat([]byte("0123456789abcdef"), 40_000) }

// What was noted of a blob that was not committed is found by the next ingest,
// as is the data; a commit leaves nothing behind.
func TestAnIngestGoesOnWhereTheLastOneStopped(t *testing.T) {
	dir := t.TempDir()
	content := big()
	desc := describe(content)
	for i := range 3 {
		_, l := open(t, dir)
		in, err := l.Ingest(t.Context(), desc, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(in.Notes()); got != i {
			t.Errorf("ingest %d: %d notes, want %d", i, got, i)
		}
		half := len(content) / 2
		if i > 0 {
			have := make([]byte, half)
			if _, err := in.ReadAt(have, 0); err != nil || !bytes.Equal(have, content[:half]) {
				t.Errorf("ingest %d: the data is gone: %v", i, err)
			}
		}
		if i == 2 {
			if _, err := in.WriteAt(content[half:], int64(half)); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(in.Commit(nil), in.Close()); err != nil {
				t.Fatal(err)
			}
			break
		}
		if _, err := in.WriteAt(content[:half], 0); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(in.Note(fmt.Append(nil, "note ", i)), in.Checkpoint(), in.Close(), l.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "ingest")); len(left) > 0 {
		t.Errorf("left in ingest/: %v", left)
	}
}

// Notes of another boot of the system count as far as they were made to last.
func TestAfterARebootOnlyCheckpointsCount(t *testing.T) {
	dir := t.TempDir()
	desc := describe(big())
	ingest := func(boot string) (*blobstore.Lease, *blobstore.Ingest) {
		s, err := blobstore.OpenWith(dir, blobstore.Options{Boot: boot})
		if err != nil {
			t.Fatal(err)
		}
		l, err := s.Lease()
		if err != nil {
			t.Fatal(err)
		}
		in, err := l.Ingest(t.Context(), desc, nil)
		if err != nil {
			t.Fatal(err)
		}
		return l, in
	}
	l, in := ingest("one")
	if err := errors.Join(in.Note([]byte("kept")), in.Checkpoint(), in.Note([]byte("lost")), in.Close(), l.Close()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		boot string
		want int
	}{{"one", 2}, {"two", 1}, {"one", 2}} {
		l, in := ingest(c.boot)
		if got := len(in.Notes()); got != c.want {
			t.Errorf("during boot %s %d notes count, want %d", c.boot, got, c.want)
		}
		if err := errors.Join(in.Close(), l.Close()); err != nil {
			t.Error(err)
		}
	}
}

// Half-fetched blobs that nobody continues are swept in time, and so is what
// can't be continued, at once; others stay.
func TestOldPartialsAreSwept(t *testing.T) {
	dir := t.TempDir()
	_, l := open(t, dir)
	content := big()
	var folders []string
	for i := range 3 {
		desc := describe(append([]byte{byte(i)}, content...))
		in, err := l.Ingest(t.Context(), desc, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(in.Note([]byte("x")), in.Close()); err != nil {
			t.Fatal(err)
		}
		folders = append(folders, filepath.Join(dir, "ingest", strings.Replace(desc.Digest.String(), ":", "-", 1)))
	}
	old := time.Now().Add(-15 * 24 * time.Hour)
	if err := errors.Join(os.Chtimes(filepath.Join(folders[0], "journal"), old, old), os.Remove(filepath.Join(folders[1], "journal"))); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
	for i, want := range []bool{false, false, true} {
		if _, err := os.Stat(folders[i]); (err == nil) != want {
			t.Errorf("partial %d is there: %v, want %v", i, err == nil, want)
		}
	}
}

func TestSpaceIsChecked(t *testing.T) {
	if err := blobstore.CheckSpace(filepath.Join(t.TempDir(), "not", "there"), 1); err != nil {
		t.Error(err)
	}
	err := blobstore.CheckSpace(t.TempDir(), 1<<60)
	var space *blobstore.SpaceError
	if !errors.As(err, &space) || !errors.Is(err, syscall.ENOSPC) || space.Need != 1<<60 || space.Free <= 0 {
		t.Errorf("%v", err)
	}
}

func TestWithoutSyncsAStoreIsTheSame(t *testing.T) {
	s, err := blobstore.OpenWith(t.TempDir(), blobstore.Options{NoSync: true, Disk: noSyncs{t: t}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.Lease()
	if err != nil {
		t.Fatal(err)
	}
	content := big()
	desc := describe(content)
	if err := errors.Join(l.Put(t.Context(), desc, content), l.Pin(blobstore.Root{Name: "x", Target: desc, Blobs: []digest.Digest{desc.Digest}}), l.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(desc.Digest, 1<<20); err != nil {
		t.Error(err)
	}
}

// noSyncs is a disk that must not be waited for.
type noSyncs struct {
	durable.OS
	t *testing.T
}

func (d noSyncs) SyncFolder(path string) error {
	d.t.Errorf("folder %s is synced", path)
	return nil
}
