package blobstore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	"drayage/blobstore"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// newStore opens a store in a temporary folder.
func newStore() (store *blobstore.Store, lease *blobstore.Lease, done func()) {
	dir, err := os.MkdirTemp("", "store")
	if err != nil {
		log.Fatal(err)
	}
	if store, err = blobstore.Open(dir); err != nil {
		log.Fatal(err)
	}
	if lease, err = store.Lease(); err != nil {
		log.Fatal(err)
	}
	return store, lease, func() {
		_ = lease.Close() // an example may have closed it
		if err := os.RemoveAll(dir); err != nil {
			log.Fatal(err)
		}
	}
}

// Open a store, add a small blob, and read it back.
func Example() {
	dir, err := os.MkdirTemp("", "store")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	store, err := blobstore.Open(dir)
	if err != nil {
		log.Fatal(err)
	}
	lease, err := store.Lease() // what is added under it is not collected until Close
	if err != nil {
		log.Fatal(err)
	}
	defer lease.Close()

	content := []byte("hello")
	desc := ocispec.Descriptor{Digest: digest.FromBytes(content), Size: int64(len(content))}
	if err := lease.Put(context.Background(), desc, content); err != nil {
		log.Fatal(err)
	}
	raw, err := store.Read(desc.Digest, 1<<20)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", raw)
	// Output: hello
}

// A blob whose digest is known is written in any order, hashed, and committed.
func ExampleLease_Ingest() {
	store, lease, done := newStore()
	defer done()
	content := "a blob that arrives in two parts"
	desc := ocispec.Descriptor{Digest: digest.FromString(content), Size: int64(len(content))}

	in, err := lease.Ingest(context.Background(), desc, nil)
	if err != nil {
		log.Fatal(err) // or blobstore.ErrExists: nothing to do
	}
	defer in.Close()
	for _, at := range []int{7, 0} {
		end := min(at+len(content)-7, len(content))
		if _, err := in.WriteAt([]byte(content[at:end]), int64(at)); err != nil {
			log.Fatal(err)
		}
	}
	if err := in.Commit(nil); err != nil { // nil: it reads and hashes what was written
		log.Fatal(err)
	}
	has, err := store.Has(desc)
	fmt.Println(has, err)
	// Output: true <nil>
}

// Content that is not what its descriptor says is refused.
func ExampleIngest_Commit() {
	store, lease, done := newStore()
	defer done()
	desc := ocispec.Descriptor{Digest: digest.FromString("wanted"), Size: 6}
	in, err := lease.Ingest(context.Background(), desc, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer in.Close()
	if _, err := in.WriteAt([]byte("forged"), 0); err != nil {
		log.Fatal(err)
	}
	fmt.Println(errors.Is(in.Commit(nil), blobstore.ErrMismatch))
	_, err = store.Stat(desc.Digest)
	fmt.Println(errors.Is(err, blobstore.ErrNotFound))
	// Output:
	// true
	// true
}

// A blob whose digest is known only when all of it is written.
func ExampleLease_Draft() {
	store, lease, done := newStore()
	defer done()
	draft, err := lease.Draft(digest.Canonical)
	if err != nil {
		log.Fatal(err)
	}
	defer draft.Close()
	if _, err := io.WriteString(draft, "hello"); err != nil {
		log.Fatal(err)
	}
	desc, err := draft.Commit("")
	if err != nil {
		log.Fatal(err)
	}
	size, err := store.Stat(desc.Digest)
	fmt.Println(desc.Digest.Encoded()[:12], size, err)
	// Output: 2cf24dba5fb0 5 <nil>
}

// Blobs that no recorded image needs are collected once the lease they were added under has ended.
func ExampleStore_Sweep() {
	store, lease, done := newStore()
	defer done()
	ctx := context.Background()
	put := func(content string) ocispec.Descriptor {
		desc := ocispec.Descriptor{Digest: digest.FromString(content), Size: int64(len(content))}
		if err := lease.Put(ctx, desc, []byte(content)); err != nil {
			log.Fatal(err)
		}
		return desc
	}
	manifest, layer := put("a manifest"), put("its layer")
	put("of no image")
	image := blobstore.Root{
		Name: "registry.example/app:1", Target: manifest, Blobs: []digest.Digest{manifest.Digest, layer.Digest},
	}
	if err := lease.Pin(image); err != nil {
		log.Fatal(err)
	}

	collect := func() {
		garbage, err := store.FindGarbage(ctx, blobstore.Keep{Grace: -1}) // also what is new
		if err != nil {
			log.Fatal(err)
		}
		if err := store.Sweep(ctx, garbage); err != nil {
			log.Fatal(err)
		}
		fmt.Println("deleted:", len(garbage.Blobs), "left:", garbage.Left, "bytes")
	}
	collect() // all is kept by the lease
	if err := lease.Close(); err != nil {
		log.Fatal(err)
	}
	collect()
	// Output:
	// deleted: 0 left: 30 bytes
	// deleted: 1 left: 19 bytes
}
