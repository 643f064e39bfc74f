package engine_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"drayage/blobstore"
	"drayage/engine"
	"drayage/engine/compose"
	"drayage/engine/event"
	"drayage/engine/image"
	"drayage/engine/reference"
	"drayage/engine/registry"
	"drayage/engine/registry/registrytest"
	"drayage/tarwriter"
)

// downloads counts blobs that were downloaded and verified.
type downloads struct{ blobs, bytes atomic.Int64 }

// Observe implements event.Observer. It is called from several goroutines.
func (d *downloads) Observe(e event.Event) {
	if e, ok := e.(event.Fetched); ok && !e.Reused {
		d.blobs.Add(1)
		d.bytes.Add(e.Size)
	}
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// example has a registry with an image of two layers, an empty store, and the options to pull.
func example() (host string, o engine.Options, end func()) {
	server := registrytest.New()
	server.Push("team/app", "1", registrytest.Build("linux/amd64", registrytest.Layer(1, 100_000), registrytest.Layer(2, 1000)))
	dir, err := os.MkdirTemp("", "store-")
	check(err)
	store, err := blobstore.Open(dir)
	check(err)
	client := registry.New(registry.Options{})
	platform, err := image.ParsePlatform("linux/amd64")
	check(err)
	o = engine.Options{Store: store, Registry: client, Platform: platform, Limits: engine.Limits{Jobs: 4, PerHost: 4}}
	return server.Host(), o, func() { client.Close(); server.Close(); os.RemoveAll(dir) }
}

// Pull an image, and count what is downloaded by the events. The second pull of the same image
// downloads nothing.
func ExamplePull() {
	host, o, end := example()
	defer end()
	ref, err := reference.Parse(host + "/team/app:1")
	check(err)

	for range 2 {
		count := new(downloads)
		o.Observer = count
		results, err := engine.Pull(context.Background(), o, []reference.Image{ref})
		check(err)
		for _, err := range engine.Failures(results) {
			fmt.Println(err)
		}
		complete := results[0].Err == nil
		fmt.Printf("%s:%s complete: %v, %d blobs downloaded\n", ref.Repository(), ref.Tag(), complete, count.blobs.Load())
	}
	// Output:
	// team/app:1 complete: true, 3 blobs downloaded
	// team/app:1 complete: true, 0 blobs downloaded
}

// Pull an image and write it to an archive that docker load reads.
func ExamplePull_archive() {
	host, o, end := example()
	defer end()
	ref, err := reference.Parse(host + "/team/app:1")
	check(err)
	ctx := context.Background()
	results, err := engine.Pull(ctx, o, []reference.Image{ref})
	check(err)
	check(results[0].Err)

	lease, err := o.Store.Lease() // nothing that the archive needs is deleted meanwhile
	check(err)
	defer lease.Close()
	blobs := compose.InStore{Store: o.Store}
	images, err := compose.Images(ctx, lease, blobs, compose.Options{}, []compose.Named{
		{Name: "registry.example/team/app:1", RepoTag: "team/app:1", Image: results[0].Image},
	})
	check(err)
	members, err := tarwriter.Docker(images)
	check(err)
	path := filepath.Join(o.Store.Dir(), "app.tar")
	out, err := tarwriter.CreateFile(path, tarwriter.Options{})
	check(err)
	written, err := out.Write(ctx, members, blobs, func(int64) {})
	check(err)
	check(out.Close())

	info, err := os.Stat(path)
	check(err)
	fmt.Println("all of it is there:", info.Size() == written.Size)
	for _, m := range members {
		if m.Blob == "" {
			fmt.Println(m.Name)
		}
	}
	// Output:
	// all of it is there: true
	// oci-layout
	// index.json
	// manifest.json
	// repositories
}

// Plan reports what a pull would download, and downloads manifests alone.
func ExamplePlan() {
	host, o, end := example()
	defer end()
	ref, err := reference.Parse(host + "/team/app:1")
	check(err)
	results, p, err := engine.Plan(context.Background(), o, []reference.Image{ref})
	check(err)
	check(results[0].Err)
	for _, b := range p.Blobs() {
		has, err := o.Store.Has(b.Descriptor)
		check(err)
		fmt.Println(b.MediaType, "in the store:", has)
	}
	// Unordered output:
	// application/vnd.oci.image.layer.v1.tar+gzip in the store: false
	// application/vnd.oci.image.config.v1+json in the store: false
	// application/vnd.oci.image.layer.v1.tar+gzip in the store: false
}
