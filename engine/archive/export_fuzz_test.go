package archive_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"drayage/blobstore"
	"drayage/engine/archive"
	"drayage/engine/compose"
	"drayage/engine/image"
	"drayage/engine/reference"
	"drayage/tarwriter"
)

// FuzzExport imports archives that were tampered with, and writes what came in anew, in all
// layouts, with layers converted. It is refused in one line, or can be imported again under the
// names that it had.
func FuzzExport(f *testing.F) {
	bases := realArchives(f)
	for base := range bases {
		f.Add(uint8(base), uint8(base), []byte{})
		f.Add(uint8(base), uint8(base+4), []byte{opJSON, uint8(4 + base%3), uint8(base), uint8(7 + base), opHeal})
	}
	layouts := []tarwriter.Layout{tarwriter.Docker, tarwriter.OCI, tarwriter.Legacy}
	layers := []compose.Layers{compose.Keep, compose.Tar, compose.Gzip}
	f.Fuzz(func(t *testing.T, base, form uint8, program []byte) {
		if len(program) > 200 {
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		open := func() *blobstore.Store {
			s, err := blobstore.OpenWith(filepath.Join(t.TempDir(), "store"), blobstore.Options{NoSync: true})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		store := open()
		raw := changed(bases[int(base)%len(bases)], program).tar()
		if _, err := archive.Import(ctx, store, "-", bytes.NewReader(raw), archive.Options{}); err != nil {
			oneLine(t, err)
		}
		roots, err := store.Roots()
		if err != nil {
			t.Fatal(err)
		}
		lease, err := store.Lease()
		if err != nil {
			t.Fatal(err)
		}
		defer lease.Close()
		for _, root := range roots {
			img, err := compose.Stored(ctx, store, root, image.DefaultPlatform())
			if err != nil {
				t.Errorf("%s was imported, and is not whole: %v", root.Name, err)
				continue
			}
			ref, err := reference.Parse(root.Name)
			if err != nil {
				continue // it has no name, and Docker's layout wants one
			}
			blobs := compose.InStore{Store: store}
			legacy := int(form)%len(layouts) == 2
			images, err := compose.Images(ctx, lease, blobs, compose.Options{Layers: layers[int(form)/len(layouts)%len(layers)], Legacy: legacy}, []compose.Named{{Name: ref.Tagged(), RepoTag: ref.RepoTag(), Image: img}})
			oneLine(t, err)
			if err != nil {
				continue
			}
			members, err := layouts[int(form)%len(layouts)](images)
			oneLine(t, err)
			if err != nil {
				continue
			}
			size, err := tarwriter.Size(members)
			if err != nil {
				t.Errorf("%s: %v", root.Name, err)
			}
			var out bytes.Buffer
			if _, err := tarwriter.Write(ctx, &out, members, blobs, func(int64) {}); err != nil || int64(out.Len()) != size {
				t.Errorf("%s: %d bytes were written, and %d are said: %v", root.Name, out.Len(), size, err)
				continue
			}
			again, err := archive.Import(ctx, open(), "-", &out, archive.Options{})
			if err != nil || len(again) == 0 || again[0].Name != ref.Tagged() {
				t.Errorf("%s comes back as %v: %v", root.Name, again, err)
			}
		}
		if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
			t.Error("it takes longer than 30 seconds")
		}
	})
}
