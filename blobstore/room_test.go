package blobstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"drayage/blobstore"
	"drayage/blobstore/quota"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// announced is a descriptor of a blob that nobody has.
func announced(name string, size int64) ocispec.Descriptor {
	return ocispec.Descriptor{Digest: digest.FromString(name), Size: size}
}

// begin begins to add a blob, and writes the start of it.
func begin(t *testing.T, l *blobstore.Lease, d ocispec.Descriptor, start []byte) *blobstore.Ingest {
	t.Helper()
	in, err := l.Ingest(t.Context(), d, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.WriteAt(start, 0); err != nil {
		t.Fatal(err)
	}
	if err := in.Note([]byte("something is there")); err != nil {
		t.Fatal(err)
	}
	return in
}

// A blob takes of the disk what has arrived of it, and little more, wherever that is in it.
func TestSpaceFollowsWhatArrives(t *testing.T) {
	s, l := open(t, filepath.Join(t.TempDir(), "store"))
	const size, most = 1 << 30, 20 << 20
	if room(t, s) < size {
		t.Skip("the disk has no room for what is announced")
	}
	d := announced("much", size)
	in := begin(t, l, d, []byte("x"))
	if got := s.Partial(d.Digest); got > most {
		t.Errorf("one byte takes %d bytes of the disk", got)
	}
	const places = 16
	for i := range int64(places) {
		if _, err := in.WriteAt([]byte("y"), i*(size/places)+12345); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.Partial(d.Digest); got > most {
		t.Errorf("%d bytes in as many places take %d bytes of the disk", places, got)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
}

// Ranges that are written together have no more reserved ahead than one would.
func TestRangesShareWhatIsReserved(t *testing.T) {
	s, l := open(t, filepath.Join(t.TempDir(), "store"))
	const size, piece, rounds = 1 << 30, 128 << 10, 8
	if room(t, s) < size {
		t.Skip("the disk has no room for what is announced")
	}
	for _, ranges := range []int64{1, 4, 64} {
		d := announced(fmt.Sprint(ranges, " ranges"), size)
		in := begin(t, l, d, nil)
		written := int64(0)
		for n := range int64(rounds * 64) {
			off := n%ranges*(size/ranges) + n/ranges*piece
			if _, err := in.WriteAt(make([]byte, piece), off); err != nil {
				t.Fatal(err)
			}
			written += piece
			if got, most := s.Partial(d.Digest), written+written/4+16<<20+1<<20; got > most {
				t.Fatalf("%d bytes in %d ranges take %d bytes of the disk, and may take %d", written, ranges, got, most)
			}
		}
		if err := errors.Join(in.Forget(), in.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// What is written is what is there, in whatever order and pieces it came.
func TestSpaceIsReservedAroundWhatIsWritten(t *testing.T) {
	s, l := open(t, filepath.Join(t.TempDir(), "store"))
	content := bytes.Repeat([]byte("0123456789abcdef"), 600_000)
	d := describe(content)
	in, err := l.Ingest(t.Context(), d, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	const piece = 128 << 10
	var offsets []int
	for off := 0; off < len(content); off += piece {
		offsets = append(offsets, off)
	}
	for n := range 5 { // every fifth, and the last ones first
		for i := len(offsets) - 1 - n; i >= 0; i -= 5 {
			off := offsets[i]
			if _, err := in.WriteAt(content[off:min(off+piece, len(content))], int64(off)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := in.Commit(nil); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Read(d.Digest, 1<<30); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// What has no room beside all that is on its way is refused before anything is written for it.
func TestRoomIsCheckedBeforeABlobIsBegun(t *testing.T) {
	s, l := open(t, filepath.Join(t.TempDir(), "store"))
	free := room(t, s)
	refused := func(d ocispec.Descriptor) {
		t.Helper()
		in, err := l.Ingest(t.Context(), d, nil)
		var space *blobstore.SpaceError
		if !errors.As(err, &space) || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%d bytes: %v", d.Size, err)
		}
		if err == nil {
			in.Close()
		}
		if _, err := os.Stat(filepath.Join(s.Dir(), "ingest", "sha256-"+d.Digest.Encoded())); err == nil {
			t.Errorf("%d bytes: there is something of it", d.Size)
		}
	}
	refused(announced("all", free*2))
	refused(announced("more than a number", 1<<63-1))
	// What is announced and doesn't come keeps nobody out, in this process or another.
	first := begin(t, l, announced("first", free/5*3), []byte("x"))
	defer first.Close()
	other, err := blobstore.Open(s.Dir())
	if err != nil {
		t.Fatal(err)
	}
	lease, err := other.Lease()
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Close()
	for _, l := range []*blobstore.Lease{l, lease} {
		if err := begin(t, l, announced("second", free/5*3), []byte("x")).Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A budget takes what nobody fetches first, oldest first, then images.
func TestBudgetTakesPartialsBeforeImages(t *testing.T) {
	s := newShelf(t)
	s.image("a.example/old:1", strings.Repeat("a", 3000))
	l, err := s.store.Lease()
	if err != nil {
		t.Fatal(err)
	}
	const part = 2 << 20
	written := bytes.Repeat([]byte("z"), part)
	for i, name := range []string{"oldest", "older", "young"} {
		if err := begin(t, l, announced(name, 4*part), written).Close(); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(time.Duration(i-5) * time.Hour)
		if err := os.Chtimes(filepath.Join(s.dir, "ingest", "sha256-"+digest.FromString(name).Encoded(), "journal"), at, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = s.store.Lease(); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	running := begin(t, l, announced("running", 4*part), written)
	defer running.Close()
	usage, err := s.store.Usage(t.Context())
	if err != nil || usage.Partial != 4 || usage.PartialSize < 4*part {
		t.Errorf("%+v, %v", usage, err)
	}
	each := usage.PartialSize / 4
	names := func(g blobstore.Garbage) (out []string) {
		for _, p := range g.Partials {
			for _, name := range []string{"oldest", "older", "young", "running"} {
				if p.Digest == digest.FromString(name) {
					out = append(out, name)
				}
			}
		}
		for _, r := range g.Images {
			out = append(out, r.Name)
		}
		return out
	}
	for _, c := range []struct {
		budget int64
		want   []string
	}{
		{0, nil},
		{5 * each, nil},
		{3*each + 4000, []string{"oldest"}},
		{2*each + 4000, []string{"oldest", "older"}},
		{each + 4000, []string{"oldest", "older", "young"}},
		{each + 2000, []string{"oldest", "older", "young", "a.example/old:1"}},
		{1, []string{"oldest", "older", "young", "a.example/old:1"}},
	} {
		g, err := s.store.FindGarbage(t.Context(), blobstore.Keep{Budget: c.budget})
		if err != nil {
			t.Fatal(err)
		}
		if got := names(g); !slices.Equal(got, c.want) {
			t.Errorf("within %d bytes %q go, want %q", c.budget, got, c.want)
		}
	}
	g, err := s.store.FindGarbage(t.Context(), blobstore.Keep{Budget: 1})
	if err == nil {
		err = s.store.Sweep(t.Context(), g)
	}
	if err != nil {
		t.Fatal(err)
	}
	if s.store.Partial(digest.FromString("young")) != 0 || s.store.Partial(digest.FromString("running")) == 0 {
		t.Error("what went is not what should")
	}
}

// A budget makes room for what is announced, and refuses what it can't make room for.
func TestBudgetMakesRoomFirst(t *testing.T) {
	s := newShelf(t)
	for i := range 10 {
		s.image(fmt.Sprintf("a.example/%d:1", i), strings.Repeat(string(rune('a'+i)), 100_000))
	}
	s.image("a.example/pinned:1", strings.Repeat("p", 100_000))
	const most = 1_200_000
	b := quota.New(s.store, most, func() (func(string) bool, error) {
		return func(name string) bool { return name == "a.example/pinned:1" }, nil
	})
	images := func() int {
		roots, err := s.store.Roots()
		if err != nil {
			t.Fatal(err)
		}
		return len(roots)
	}
	refused := func(size int64) {
		t.Helper()
		_, err := b.Begin(t.Context(), announced(fmt.Sprint("of ", size), size), "", nil)
		var over *quota.ExceededError
		if !errors.As(err, &over) || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	if err := b.Keep(t.Context()); err != nil || images() != 11 {
		t.Errorf("%d images within the budget, %v", images(), err)
	}
	refused(most + 1)
	refused(1<<63 - 1)
	if images() != 11 {
		t.Errorf("%d images after what can't fit anyhow", images())
	}
	half, err := b.Begin(t.Context(), announced("half", most/2), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if n := images(); n < 4 || n > 6 {
		t.Errorf("%d images beside a blob of half the budget", n)
	}
	refused(most / 2) // the pinned one stays
	if _, err := s.store.Root("a.example/pinned:1"); err != nil {
		t.Error(err)
	}
	half.End()
	half.End()
	again, err := b.Begin(t.Context(), announced("three quarters", most/4*3), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	again.End()
}

// What is announced and doesn't come takes no image away, and keeps nobody out; what comes does.
func TestBudgetFollowsWhatArrives(t *testing.T) {
	s := newShelf(t)
	const image, most = 4 << 20, 100 << 20
	for i := range 8 {
		s.image(fmt.Sprintf("a.example/%d:1", i), strings.Repeat(string(rune('a'+i)), image))
	}
	roots, err := filepath.Glob(filepath.Join(s.dir, "roots", "*"))
	if err != nil || len(roots) != 8 {
		t.Fatal(roots, err)
	}
	for _, path := range roots { // none of them is in use
		old := time.Now().Add(-time.Hour)
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	b := quota.New(s.store, most, nil)
	images := func() int {
		roots, err := s.store.Roots()
		if err != nil {
			t.Fatal(err)
		}
		return len(roots)
	}
	var rooms []*quota.Space
	for i := range 2 {
		r, err := b.Begin(t.Context(), announced(fmt.Sprint("much ", i), most/64*62), "", nil)
		if err != nil {
			t.Fatal(err)
		}
		rooms = append(rooms, r)
	}
	if n := images(); n != 8 {
		t.Errorf("%d images are left", n)
	}
	if err := rooms[0].Grow(t.Context(), most/3); err != nil {
		t.Error(err)
	}
	if n := images(); n > 5 || n < 3 {
		t.Errorf("%d images are left beside what came", n)
	}
	var over *quota.ExceededError
	if err := rooms[1].Grow(t.Context(), most/2); !errors.As(err, &over) {
		t.Errorf("more than there can be: %v", err)
	}
	for _, r := range rooms {
		r.End()
	}
}

// Images that were used just now don't go for blobs that are on their way, and may be anything, and
// would have most of a budget together. What was half fetched of a blob stays for it.
func TestBudgetSparesWhatIsInUse(t *testing.T) {
	s := newShelf(t)
	s.image("a.example/used:1", strings.Repeat("u", 1<<20))
	const most = 256 << 20
	b := quota.New(s.store, most, nil)
	begin := func(name string) *quota.Space {
		t.Helper()
		r, err := b.Begin(t.Context(), announced(name, most/4*3), "", nil)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first, second := begin("first"), begin("second")
	if err := errors.Join(first.Grow(t.Context(), 70<<20), second.Grow(t.Context(), 60<<20)); err != nil {
		t.Error(err)
	}
	var over *quota.ExceededError
	if err := second.Grow(t.Context(), most/4*3); !errors.As(err, &over) {
		t.Errorf("more than there is: %v", err)
	}
	if _, err := s.store.Root("a.example/used:1"); err != nil {
		t.Error(err)
	}
	second.End()
	if err := first.Grow(t.Context(), most/4*3); err != nil {
		t.Errorf("alone: %v", err)
	}
	first.End()
}

// A blob that can't fit beside what is pinned is refused before any of it comes.
func TestBudgetRefusesAheadWhatCannotFitBesideWhatIsPinned(t *testing.T) {
	s := newShelf(t)
	s.image("a.example/pinned:1", strings.Repeat("p", 10<<20))
	s.image("a.example/other:1", strings.Repeat("o", 10<<20))
	b := quota.New(s.store, 64<<20, func() (func(string) bool, error) {
		return func(name string) bool { return name == "a.example/pinned:1" }, nil
	})
	_, err := b.Begin(t.Context(), announced("large", 60<<20), "", nil)
	var over *quota.ExceededError
	if !errors.As(err, &over) || !strings.Contains(err.Error(), "disk quota exceeded: 60.0 MiB needed, 53.0 MiB of 64.0 MiB available (--budget)") {
		t.Errorf("%v", err)
	}
	if _, err := s.store.Root("a.example/other:1"); err != nil {
		t.Errorf("an image was deleted for it: %v", err)
	}
	r, err := b.Begin(t.Context(), announced("what fits", 50<<20), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.End()
}

// A blob that is whole before its room is ended counts once.
func TestBudgetCountsABlobOnce(t *testing.T) {
	s := newShelf(t)
	const each = 3 << 20
	b := quota.New(s.store, 16<<20, nil)
	content := strings.Repeat("b", each)
	r, err := b.Begin(t.Context(), describe([]byte(content)), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	s.image("a.example/b:1", content)
	if err := b.Keep(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.End()
	for i := range 4 {
		r, err := b.Begin(t.Context(), announced(fmt.Sprint("beside ", i), each), "", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer r.End()
	}
	if _, err := s.store.Root("a.example/b:1"); err != nil {
		t.Errorf("it is gone, and there was room for it: %v", err)
	}
}

// transfers are blobs of 64 MiB that are on their way, of some registries.
type transfers struct {
	t      *testing.T
	budget *quota.Quota
	gone   []string // in the order in which they gave way
}

// begin begins one, which ends when it is to give way.
func (f *transfers) begin(name, from string) (*quota.Space, error) {
	f.t.Helper()
	ctx, cancel := context.WithCancelCause(f.t.Context())
	var r *quota.Space
	r, err := f.budget.Begin(ctx, announced(name, 64<<20), from, func(why error) {
		f.gone = append(f.gone, name)
		cancel(why)
		r.End()
	})
	return r, err
}

// Transfers that have stalled give way to others, and so do those of a registry that has more of
// the budget than others. One that comes fast doesn't.
func TestBudgetStalledTransfersGiveWay(t *testing.T) {
	const from, other = "slow.example", "a.example"
	for _, c := range []struct {
		name  string
		from  string
		drips bool // and doesn't come fast
		gives bool
	}{
		{"stalled ones, to one of their registry", from, true, true},
		{"stalled ones, to one of another registry", other, true, true},
		{"fast ones, to one of their registry", from, false, false},
		{"fast ones, to one of another registry", other, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &transfers{t: t, budget: quota.New(newShelf(t).store, 160<<20, nil)}
				var rooms []*quota.Space
				defer func() {
					for _, r := range rooms {
						r.End()
					}
				}()
				arrived := make(map[*quota.Space]int64)
				for i := range 9 {
					r, err := f.begin(fmt.Sprint(i), from)
					if err != nil {
						t.Fatal(err)
					}
					rooms = append(rooms, r)
				}
				for range 20 {
					time.Sleep(200 * time.Millisecond)
					for _, r := range rooms {
						arrived[r] += 10
						if !c.drips {
							arrived[r] += 50 << 10
						}
						if err := r.Grow(t.Context(), arrived[r]); err != nil {
							t.Fatal(err)
						}
					}
				}
				r, err := f.begin("new", c.from)
				if c.gives != (err == nil) || c.gives != (len(f.gone) == 1) {
					t.Errorf("%q gave way, %v", f.gone, err)
				}
				if err == nil {
					rooms = append(rooms, r)
				}
			})
		})
	}
}

// A transfer that is asked for of another registry, too, gives way neither for what its first one has
// nor at once for having stalled.
func TestBudgetATransferForTwoRegistriesDoesNotGiveWayForOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &transfers{t: t, budget: quota.New(newShelf(t).store, 160<<20, nil)}
		for i := range 9 {
			r, err := f.begin(fmt.Sprint(i), "slow.example")
			if err != nil {
				t.Fatal(err)
			}
			if i < 8 {
				time.Sleep(time.Second)
				r.For("a.example")
			}
		}
		r, err := f.begin("new", "a.example")
		if err != nil || len(f.gone) != 1 || f.gone[0] == "7" {
			t.Errorf("%q gave way, %v", f.gone, err)
		}
		if r != nil {
			r.End()
		}
	})
}

// What a transfer frees by giving way is nobody's but who it gave way to: others that grow fast don't
// take it meanwhile.
func TestBudgetNobodyTakesWhatIsFreedForAnother(t *testing.T) {
	b := quota.New(newShelf(t).store, 160<<20, nil)
	var fast *quota.Space
	var slow []*quota.Space
	for i := range 4 {
		var r *quota.Space
		r, err := b.Begin(t.Context(), announced(fmt.Sprint(i), 150<<20), "evil.example", func(error) {
			r.End()
			const piece = 1 << 20
			for n := int64(80 << 20); n < 150<<20; n += piece { // as much as there is
				ctx, stop := context.WithCancel(t.Context())
				stop()
				if fast.Grow(ctx, n) != nil {
					break
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		slow = append(slow, r)
	}
	fast, slow = slow[0], slow[1:]
	for n := int64(0); n < 68<<20; n += 1 << 20 {
		if err := fast.Grow(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	r, err := b.Begin(t.Context(), announced("new", 14<<20), "a.example", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range append(slow, fast, r) {
		r.End()
	}
}

// Who asks while nobody can be said yet to have stalled waits until that can be.
func TestBudgetWaitsUntilOneHasStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &transfers{t: t, budget: quota.New(newShelf(t).store, 160<<20, nil)}
		for i := range 9 {
			if _, err := f.begin(fmt.Sprint(i), "slow.example"); err != nil {
				t.Fatal(err)
			}
		}
		r, err := f.begin("new", "slow.example")
		if err != nil || len(f.gone) == 0 {
			t.Fatalf("%q gave way, %v", f.gone, err)
		}
		for n := range int64(32) { // as it comes, others give way
			if err := r.Grow(t.Context(), n<<21); err != nil {
				t.Fatalf("at %d MiB, when %q have given way: %v", n<<1, f.gone, err)
			}
		}
	})
}

// Of registries that have stalled together nobody gives way for what would not fit even so.
func TestBudgetNobodyGivesWayInVain(t *testing.T) {
	s := newShelf(t)
	s.image("a.example/pinned:1", strings.Repeat("p", 40<<20))
	synctest.Test(t, func(t *testing.T) {
		f := &transfers{t: t, budget: quota.New(s.store, 84<<20, func() (func(string) bool, error) {
			return func(string) bool { return true }, nil
		})}
		// What can't give way leaves less than a beginning.
		still, err := f.budget.Begin(t.Context(), announced("stays", 28<<20), "b.example", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer still.End()
		if err := still.Grow(t.Context(), 28<<20); err != nil {
			t.Fatal(err)
		}
		small, err := f.budget.Begin(t.Context(), announced("small", 4<<20), "slow.example", func(error) { t.Error("it gave way in vain") })
		if err != nil {
			t.Fatal(err)
		}
		defer small.End()
		time.Sleep(time.Minute)
		var over *quota.ExceededError
		if _, err := f.budget.Begin(t.Context(), announced("new", 40<<20), "a.example", nil); !errors.As(err, &over) || over.Stays < 70<<20 {
			t.Errorf("%v", err)
		}
	})
}

// A descriptor with a size that is not its blob's costs a comparison, however often it comes.
func TestAWrongSizeCostsOneComparison(t *testing.T) {
	s, l := open(t, filepath.Join(t.TempDir(), "store"))
	content := bytes.Repeat([]byte("x"), 8<<20)
	d := describe(content)
	if err := l.Put(t.Context(), d, content); err != nil {
		t.Fatal(err)
	}
	before := readSoFar(t)
	const times = 100
	for i := range int64(times) {
		wrong := ocispec.Descriptor{Digest: d.Digest, Size: i}
		var size *blobstore.SizeError
		if _, err := l.Has(wrong); !errors.As(err, &size) {
			t.Fatal(err)
		}
		if _, err := l.Keep(wrong); !errors.As(err, &size) {
			t.Fatal(err)
		}
		if _, err := l.Ingest(t.Context(), wrong, nil); !errors.As(err, &size) {
			t.Fatal(err)
		}
	}
	if read := readSoFar(t) - before; read > 2*d.Size {
		t.Errorf("%d bytes were read for %d wrong sizes of %d bytes", read, times, d.Size)
	}
	if has, err := s.Has(d); err != nil || !has {
		t.Errorf("%v, %v", has, err)
	}
}

// readSoFar is how many bytes this process has read.
func readSoFar(t *testing.T) (n int64) {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Skip("here nobody tells what a process reads")
	}
	if _, err := fmt.Sscanf(string(raw), "rchar: %d", &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// An image may list many blobs.
func TestExtendWithManyBlobs(t *testing.T) {
	s := newShelf(t)
	s.image("a.example/a:1", "target")
	l, err := s.store.Lease()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const many = 50_000
	var blobs []digest.Digest
	for i := range many {
		blobs = append(blobs, digest.FromString(fmt.Sprint(i)))
	}
	for range 3 {
		if err := l.Extend("a.example/a:1", digest.FromString("target"), append(blobs, blobs...)...); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := s.store.Root("a.example/a:1"); err != nil || len(r.Blobs) != many+1 {
		t.Errorf("%d blobs, %v", len(r.Blobs), err)
	}
}

// room is how many bytes a store's disk has free.
func room(t *testing.T, s *blobstore.Store) int64 {
	t.Helper()
	free, err := s.Free()
	if err != nil {
		t.Skip("here nobody tells what is free")
	}
	return free
}
