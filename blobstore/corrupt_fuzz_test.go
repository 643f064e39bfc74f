package blobstore_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"drayage/blobstore"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// FuzzCorrupt puts any bytes into a file of a store, and then does to the store all that is done to
// stores. It may refuse, and must not lose what an image needs whose record is whole, or take for
// whole what isn't.
func FuzzCorrupt(f *testing.F) {
	places := []string{
		"drayage.json", "oci-layout", "index.json", "stamps", "verify", "hosts", "notes/warm", "roots/r.example%2Fother%3A1", "roots/junk", "leases/junk", "derived/junk", "derived/sha256-" + digest.FromString("layer").Encoded() + "-tar",
		"ingest/sha256-" + digest.FromString("partial").Encoded() + "/journal", "ingest/sha256-" + digest.FromString("partial").Encoded() + "/data", "ingest/junk", "blobs/sha256/" + digest.FromString("other").Encoded(), "quarantine/junk", "blobs/sha256/junk", "lock", "gate",
	}
	for n := range places {
		f.Add(uint8(n), []byte{})
		f.Add(uint8(n), []byte(`{"version":1,"name":"r.example/app:1","target":{"digest":"sha256:x"},"blobs":[null]}`))
	}
	layer := digest.FromString("layer").String()
	for n, s := range []string{
		`{"version":99}`, `{"version":"1"}`, `{"version":1,"name":"../../x","target":{"digest":"` + layer + `","size":-1},"blobs":["` + layer + `"],"beside":[{}]}`, layer + " 5 1 2 3\n" + layer + "\n", `{"version":1,"done":"` + layer + `","started":"9999-01-01T00:00:00Z"}`,
		`{"version":1,"from":"` + layer + `","form":"tar","diffID":"` + layer + `","blob":{"digest":"` + layer + `","size":9223372036854775807}}`, "\x00\xff\x1b", `[[[[`,
	} {
		f.Add(uint8(7), []byte(s))
		f.Add(uint8(3*n), []byte(s))
	}
	f.Fuzz(func(t *testing.T, place uint8, raw []byte) {
		dir := filepath.Join(t.TempDir(), "store")
		open := func() (*blobstore.Store, error) { return blobstore.OpenWith(dir, blobstore.Options{NoSync: true}) }
		store, err := open()
		if err != nil {
			t.Fatal(err)
		}
		good := fill(t, store)
		file := filepath.Join(dir, filepath.FromSlash(places[int(place)%len(places)]))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if store, err = open(); err != nil {
			return // it is no store, or a newer one
		}
		_, errImages := store.ImageUsages()
		_, errUsage := store.Usage(t.Context())
		store.Hosts()
		_, _ = store.Notes("")
		store.Partial(digest.FromString("partial"))
		if lease, err := store.Lease(); err == nil {
			lease.Derived(digest.FromString("layer"), "tar")
			if in, err := lease.Ingest(t.Context(), ocispec.Descriptor{Digest: digest.FromString("partial"), Size: 7}, nil); err == nil {
				in.Notes()
				if err := in.Commit(nil); err == nil {
					t.Error("it commits what has another digest")
				}
				_ = in.Close() // what can't be continued is begun anew
			}
			if err := lease.Close(); err != nil {
				t.Error(err)
			}
		}
		garbage, errGarbage := store.FindGarbage(t.Context(), blobstore.Keep{Grace: -1, Partials: -1, Quarantined: true})
		if errGarbage == nil {
			_ = store.Sweep(t.Context(), garbage) // it may refuse
		}
		found, errVerify := store.Verify(t.Context(), blobstore.Verification{Again: true})
		for _, err := range []error{errImages, errUsage, errGarbage, errVerify} {
			if err != nil && slices.Contains([]byte(err.Error()), '\x1b') {
				t.Errorf("not a printable line: %q", err)
			}
		}
		for _, d := range good.Blobs {
			if _, err := store.Read(d, 1<<20); err != nil {
				t.Errorf("%s of a whole image: %v", d, err)
			}
			if slices.Contains(found.Damaged, d) {
				t.Errorf("%s of a whole image is damaged", d)
			}
		}
		if r, err := store.Root(good.Name); err != nil || r.Target.Digest != good.Target.Digest {
			t.Errorf("a whole image is %v, %v", r, err)
		}
		if entries, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(entries) != 1 {
			t.Errorf("beside the store there is %v, %v", entries, err)
		}
		blobs(t, dir)
	})
}

// fill puts two images into a store, and returns one that nothing is done to.
func fill(t *testing.T, store *blobstore.Store) blobstore.Root {
	t.Helper()
	lease, err := store.Lease()
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Close()
	describe := func(text string) ocispec.Descriptor {
		return ocispec.Descriptor{Digest: digest.FromString(text), Size: int64(len(text))}
	}
	for _, text := range []string{"manifest", "layer", "other"} {
		if err := lease.Put(t.Context(), describe(text), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	good := blobstore.Root{Name: "r.example/app:1", Target: describe("manifest"), Blobs: []digest.Digest{digest.FromString("manifest"), digest.FromString("layer")}}
	other := blobstore.Root{Name: "r.example/other:1", Target: describe("other"), Blobs: []digest.Digest{digest.FromString("other")}}
	if err := lease.Pin(good, other); err != nil {
		t.Fatal(err)
	}
	return good
}

// blobs fails when a blob, after all were verified, isn't what its name says.
func blobs(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(dir, "blobs", "sha256"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if name := digest.NewDigestFromEncoded(digest.SHA256, d.Name()); err == nil && name.Validate() == nil && digest.FromBytes(raw) != name {
			t.Errorf("%s has other bytes: %q", name, raw)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
