package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"drayage/cmd/drayage/progress"
	"drayage/engine"
	"drayage/engine/plan"
	"drayage/engine/reference"
	"drayage/tarwriter"
)

// plan is drayage pull --dry-run: it shows what the same command would do.
func (o *pullOptions) plan(ctx context.Context, s streams, opts engine.Options, display *display, refs []reference.Image, bad []error) error {
	results, p, err := engine.Plan(ctx, opts, refs)
	display.Close()
	if err != nil {
		return display.fail(failures{err})
	}
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "IMAGE\tDIGEST\tSIZE\tHERE\tTO FETCH")
	var done []engine.Result
	for _, r := range results {
		if r.Err != nil {
			continue
		}
		done = append(done, r)
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Ref, r.Image.Target().Digest,
			progress.Size(r.Fetched+r.Reused), progress.Size(r.Reused), progress.Size(r.Fetched))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := o.planTotals(s, done, p); err != nil {
		return err
	}
	return display.fail(failures(append(bad, engine.Failures(results)...)))
}

// planTotals writes what the images need together, and what the user should
// know beforehand.
func (o *pullOptions) planTotals(s streams, done []engine.Result, p *plan.Plan) error {
	t := p.Totals()
	fetch, manifests := t.Size-t.Here, int64(0)
	for _, r := range done {
		manifests += r.Image.ManifestSize()
	}
	fmt.Fprintf(s.out, "\n%s, %s: %s, of which %s are here; to fetch: %s\n", count(len(done), "image"), count(t.Blobs, "blob"),
		progress.Size(t.Size), progress.Size(t.Here), progress.Size(fetch))
	disk := fmt.Sprintf("disk needed: %s in the store", progress.Size(fetch+manifests))
	if o.any() && len(done) > 0 {
		members, err := o.layout()(archiveImages(done, o.archiveRef))
		if err != nil {
			return err
		}
		size, err := tarwriter.Size(members)
		if err != nil {
			return err
		}
		disk += fmt.Sprintf(", and an archive of %s (%d bytes)", progress.Size(size), size)
	}
	fmt.Fprintln(s.out, disk)
	if t.ZstdLayers > 0 {
		fmt.Fprintf(s.out, "warning: %s compressed with zstd, which Docker loads from version 23 on\n", count(t.ZstdLayers, "layer"))
	}
	return nil
}

// count is a number of things, with the plural where there isn't one.
func count(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}
