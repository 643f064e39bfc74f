package output

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"

	"drayage/blobstore"
	"drayage/cmd/drayage/internal/status"
	"drayage/engine"
	"drayage/engine/compose"
	"drayage/engine/event"
	"drayage/engine/fault"
	"drayage/engine/image"
	"drayage/engine/plan"
	"drayage/engine/reference"
	"drayage/tarwriter"

	"github.com/opencontainers/go-digest"
)

// Archive is how a command writes images to its outputs.
type Archive struct {
	Flags    *Flags
	Outs     Outputs
	Store    *blobstore.Store
	Observer event.Observer
	Base     []digest.Digest // what --since leaves out
	Estimate bool            // it is for the plan

	asked, old bool // whether the daemons that load have been asked for their age; one is old
}

// Write composes images and writes them to every output. prefer, if not nil, is
// told in which order blobs are going to be wanted.
func (a *Archive) Write(ctx context.Context, lease *blobstore.Lease, from compose.Blobs, results []engine.Result, prefer func([]digest.Digest)) error {
	if len(a.Outs) == 0 || len(results) == 0 {
		return nil
	}
	layers, err := a.layers(ctx, results)
	if err != nil {
		return err
	}
	if prefer != nil {
		prefer(wanted(results, a.Flags.streaming()))
	}
	images, err := compose.Images(ctx, lease, from, compose.Options{
		Layers: layers, Legacy: a.Flags.Format == "legacy", MaxRatio: a.Flags.MaxRatio.Limit(),
		Made: func(name string, was, is digest.Digest, why string) {
			a.Observer.Observe(event.Converted{Image: name, From: was, To: is, Why: why})
		},
	}, a.Named(results))
	if err != nil {
		return err
	}
	members, err := a.Members(images)
	if err != nil {
		return err
	}
	if prefer != nil && a.Flags.streaming() {
		var order []digest.Digest
		for _, m := range members {
			if m.Blob != "" {
				order = append(order, m.Blob)
			}
		}
		prefer(order)
	}
	return a.writeMembers(ctx, members, from)
}

// ConvertEach prepares images one by one, so that one that can't be prepared fails
// alone. What is made is kept, and found again by write.
func (a *Archive) ConvertEach(ctx context.Context, results []engine.Result) (err error) {
	if a.Flags.Layers == "keep" && !a.Flags.Load {
		return nil
	}
	lease, err := a.Store.Lease()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lease.Close()) }()
	for i, r := range results {
		if r.Err != nil {
			continue
		}
		one := []engine.Result{r}
		layers, err := a.layers(ctx, one)
		if err != nil {
			return err
		}
		_, err = compose.Images(ctx, lease, compose.InStore{Store: a.Store}, compose.Options{Layers: layers, Legacy: a.Flags.Format == "legacy", MaxRatio: a.Flags.MaxRatio.Limit()}, a.Named(one))
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		results[i].Err = fault.Bare(err) // the result says which image
	}
	return nil
}

// WriteStored is write for images that are all in the store.
func (a *Archive) WriteStored(ctx context.Context, results []engine.Result) (err error) {
	if len(a.Outs) == 0 || len(results) == 0 {
		return nil
	}
	lease, err := a.Store.Lease()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lease.Close()) }()
	if a.Flags.Verify {
		lease.HashAll()
	}
	damaged := make(map[digest.Digest]bool)
	lease.OnDamage(func(d digest.Digest) { damaged[d] = true })
	for _, r := range results {
		for _, d := range r.Image.Blobs() {
			has, err := lease.Has(d) // keeps it
			switch {
			case err != nil:
				return err
			case damaged[d.Digest]:
				return fmt.Errorf("%s: blob %s: %w: pull the image again, or run drayage store verify --repair", r.Ref, d.Digest, blobstore.ErrDamaged)
			case !has && !slices.Contains(a.Base, d.Digest):
				return fmt.Errorf("%s: blob %s: %w", r.Ref, d.Digest, blobstore.ErrNotFound)
			}
		}
	}
	return a.Write(ctx, lease, compose.InStore{Store: a.Store}, results, nil)
}

// layers is the form of layers: what was asked for, or what the daemon reads that
// is to load them.
func (a *Archive) layers(ctx context.Context, results []engine.Result) (compose.Layers, error) {
	form, err := compose.ParseLayers(a.Flags.Layers)
	if err != nil || form != compose.Keep || !a.Flags.Load || !slices.ContainsFunc(results, hasZstd) {
		return form, err
	}
	if !a.asked {
		a.asked = true
		a.old = slices.ContainsFunc(a.Outs, func(o Destination) bool {
			l, ok := o.Output.(loader)
			return ok && !l.readsZstd(ctx)
		})
		if a.old {
			a.Observer.Observe(event.Warned{Message: "this Docker is older than version 23 and can't read layers compressed with zstd: they are loaded as plain tar"})
		}
	}
	if a.old {
		return compose.NoZstd, nil
	}
	return form, nil
}

func hasZstd(r engine.Result) bool {
	for _, d := range r.Image.Blobs() {
		if image.IsZstd(d.MediaType) {
			return true
		}
	}
	return false
}

// wanted are the blobs that composing begins with: configs and, for who reads the archive while
// it is written, layers in order. A file takes them in any order: largest first, then.
func wanted(results []engine.Result, inOrder bool) []digest.Digest {
	var out []digest.Digest
	for _, r := range results {
		for _, d := range r.Image.Configs() {
			out = append(out, d.Digest)
		}
	}
	for _, r := range results {
		if !inOrder {
			break
		}
		for _, d := range r.Image.Blobs() {
			out = append(out, d.Digest)
		}
	}
	return out
}

// Named gives images the names that they are to have.
func (a *Archive) Named(results []engine.Result) []compose.Named {
	var out []compose.Named
	for _, r := range results {
		ref := a.Flags.archiveRef(r.Ref)
		out = append(out, compose.Named{Name: ref.Tagged(), RepoTag: ref.RepoTag(), Image: r.Image})
	}
	return out
}

// Members lays images out, and leaves out what the base has.
func (a *Archive) Members(images []tarwriter.Image) ([]tarwriter.Member, error) {
	members, err := a.Flags.layout()(images)
	if err != nil || a.Flags.Since == "" || a.Estimate && a.Flags.Layers != "keep" { // converted layers have digests that aren't known yet
		return members, err
	}
	members, _, err = tarwriter.Since(members, a.Base)
	return members, err
}

// writeMembers writes every output, once there is known to be room.
func (a *Archive) writeMembers(ctx context.Context, members []tarwriter.Member, from tarwriter.Blobs) error {
	size, err := tarwriter.Size(members)
	if err != nil {
		return err
	}
	if dir := a.Flags.Folder(); dir != "" && a.Flags.kept == "" {
		compression, err := a.Flags.Compression()
		if err != nil {
			return err
		}
		if cheap, _ := a.Store.Cheap(dir); !cheap && compression == 0 {
			if err := blobstore.CheckSpace(dir, size); err != nil {
				return err
			}
		}
	}
	var errs []error
	for _, o := range a.Outs { // one that fails doesn't stop the others
		if err := a.writeOutput(ctx, o, members, size, from); err != nil {
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return errors.Join(errs...)
}

// writeOutput writes one output.
func (a *Archive) writeOutput(ctx context.Context, o Destination, members []tarwriter.Member, size int64, from tarwriter.Blobs) error {
	if k, ok := o.Output.(*kept); ok {
		size, same, err := k.isUnchanged(members)
		if err != nil {
			return err
		}
		if same {
			a.Observer.Observe(event.Written{Output: o.name, Size: size, Unchanged: true})
			return nil
		}
	}
	a.Observer.Observe(event.Composing{Output: o.name, Size: size})
	r, err := o.Write(ctx, members, from, func(n int64) { a.Observer.Observe(event.Composed{Output: o.name, N: n}) })
	if errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("%s: the reading program exited early: %w", o.name, err)
	}
	if err != nil {
		return err
	}
	a.Observer.Observe(event.Written{Output: o.name, Size: r.Size, Cloned: r.Cloned, Kernel: r.Kernel, ByHand: r.ByHand})
	if err := a.remember(o, members); err != nil {
		a.Observer.Observe(event.Warned{Message: fmt.Sprintf("%s will be written again by the next run even if nothing changes: %v", o.name, err)})
	}
	return nil
}

// CheckNames refuses images that would have one name in the archive.
func (o *Flags) CheckNames(refs []reference.Image) error {
	names := make(map[string]reference.Image)
	for _, ref := range refs {
		tag := o.archiveRef(ref).RepoTag()
		if other, ok := names[tag]; ok && tag != "" && other != ref && o.Any() {
			return status.Misuse(fmt.Errorf("%s and %s would have the same name in the archive, %s", other, ref, tag))
		}
		names[tag] = ref
	}
	return nil
}

// Accept refuses images that the outputs have no place for, before they are
// fetched.
func (o *Flags) Accept(img *plan.Image) error {
	if o.Any() && o.Format != "oci" && !img.Main().Runnable() {
		if ix := img.Main().Index; ix != nil { // of blobs alone
			return image.NotImage(ix)
		}
		return fmt.Errorf("%w, its config is %q: the %s format can't hold it", tarwriter.ErrNotImage, img.Main().Config.MediaType, o.Format)
	}
	return nil
}

// maxDockerLayers is how many layers Docker takes; with more it says "max depth exceeded".
const maxDockerLayers = 127

// Acceptor is accept, with warnings of what loaders may not take.
func (o *Flags) Acceptor(observer event.Observer) func(*plan.Image) error {
	var mu sync.Mutex
	zstd := false
	return func(img *plan.Image) error {
		if err := o.Accept(img); err != nil || !o.Any() {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if !zstd && o.Layers == "keep" && !o.Load && hasZstd(engine.Result{Image: img}) {
			zstd = true
			observer.Observe(event.Warned{Message: fmt.Sprintf("%s has zstd-compressed layers, which require Docker 23; use --layers tar for older versions", img.Ref)})
		}
		if n := len(img.Main().Layers); n > maxDockerLayers && img.Main().Runnable() {
			observer.Observe(event.Warned{Message: fmt.Sprintf("%s has %d layers; Docker supports at most %d", img.Ref, n, maxDockerLayers)})
		}
		return nil
	}
}

// archiveRef is the reference that an archive has for ref.
func (o *Flags) archiveRef(ref reference.Image) reference.Image {
	if o.strip {
		return ref.WithoutRegistry()
	}
	return ref
}
