package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"text/tabwriter"

	"drayage/blobstore"
	"drayage/cmd/drayage/internal/display"
	"drayage/cmd/drayage/internal/output"
	"drayage/cmd/drayage/internal/phrase"
	"drayage/cmd/drayage/internal/process"
	"drayage/cmd/drayage/internal/progress"
	"drayage/cmd/drayage/internal/status"
	"drayage/engine"
	"drayage/engine/compose"
	"drayage/engine/plan"
	"drayage/engine/printable"
	"drayage/engine/reference"
	"drayage/tarwriter"
	"drayage/tarwriter/compress"
)

// plan is drayage pull --dry-run: it shows what the same command would do.
func (o *pullOptions) plan(ctx context.Context, s process.Streams, opts engine.Options, display *display.Display, refs []reference.Image, bad []error) error {
	results, p, err := engine.Plan(ctx, opts, refs)
	display.Close()
	if err != nil {
		return display.Fail(status.Failures{err})
	}
	w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	printable.Fprintf(w, "IMAGE\tDIGEST\tSIZE\tHERE\tTO FETCH\n")
	var done []engine.Result
	var shared int64 // bytes that several images need
	for _, r := range results {
		if r.Err != nil {
			continue
		}
		done = append(done, r)
		shared += r.Shared
		printable.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Ref, r.Image.Target().Digest,
			progress.Size(r.Fetched+r.Reused), progress.Size(r.Reused-r.Shared), progress.Size(r.Fetched))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if shared > 0 {
		printable.Fprintf(s.Out, "blobs shared by several images, %s more, are downloaded with the first of them\n", progress.Size(shared))
	}
	if err := o.planTotals(s, opts.Store, done, p); err != nil {
		return err
	}
	failed := status.Failures(append(bad, engine.Failures(results)...))
	if err := o.wouldExist(); err != nil { // as the same command would say
		failed = append(failed, err)
	}
	return display.Fail(failed)
}

// wouldExist refuses outputs that are there already.
func (o *pullOptions) wouldExist() error {
	if info, err := os.Stat(o.out.File); o.out.File != "" && !o.out.Force && err == nil && info.Mode().IsRegular() && !o.out.IsOpen() {
		return fmt.Errorf("output %s: %w", o.out.File, tarwriter.ErrExists)
	}
	return nil
}

// planTotals writes what the images need together, and what the user should
// know beforehand.
func (o *pullOptions) planTotals(s process.Streams, store *blobstore.Store, done []engine.Result, p *plan.Plan) error {
	t := p.Totals()
	fetch, manifests := t.Size-t.Here, int64(0)
	for _, r := range done {
		manifests += r.Image.ManifestSize()
	}
	printable.Fprintf(s.Out, "\n%s, %s: %s, of which %s are here; to fetch: %s\n", phrase.Count(len(done), "image"), phrase.Count(t.Blobs, "blob"),
		progress.Size(t.Size), progress.Size(t.Here), progress.Size(fetch))
	if t.Excluded > 0 {
		printable.Fprintf(s.Out, "omitted, contained in --since: layers of %s\n", progress.Size(t.Excluded))
	}
	disk := fmt.Sprintf("disk needed: %s in the store", progress.Size(fetch+manifests))
	if o.out.Any() && len(done) > 0 {
		size, exact, err := o.archiveSize(done, store)
		switch {
		case err != nil:
			return err
		case exact:
			disk += fmt.Sprintf(", and an archive of %s (%d bytes)", progress.Size(size), size)
		default:
			disk += fmt.Sprintf(", and an archive of about %s", progress.Size(size))
		}
	}
	printable.Fprintf(s.Out, "%s\n", disk)
	if t.ZstdLayers > 0 {
		printable.Fprintf(s.Out, "warning: %s compressed with zstd, which Docker loads from version 23 on\n", phrase.Count(t.ZstdLayers, "layer"))
	}
	return nil
}

// archiveSize is how large the archive of images gets. It is exact unless layers
// are to be converted, configs to be made or read that aren't here, or the archive to be
// compressed.
func (o *pullOptions) archiveSize(done []engine.Result, store *blobstore.Store) (size int64, exact bool, err error) {
	compression, err := o.out.Compression()
	if err != nil {
		return 0, false, err
	}
	a := &output.Archive{Flags: &o.out, Estimate: true, Base: slices.Collect(maps.Keys(o.base))}
	images, exact, err := compose.Expected(store, o.out.Format == "legacy", a.Named(done))
	if err != nil {
		return 0, false, err
	}
	members, err := a.Members(images)
	if err != nil {
		return 0, false, err
	}
	size, err = tarwriter.Size(members)
	return size, exact && o.out.Layers == "keep" && compression == compress.None, err
}
