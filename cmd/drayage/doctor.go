package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"drayage/engine"
	"drayage/engine/doctor"
	"drayage/engine/reference"
	"drayage/engine/retry"
	"drayage/engine/schedule"

	"github.com/spf13/cobra"
)

// doctorOptions are the flags of doctor, as given.
type doctorOptions struct {
	networkFlags
	displayFlags
	platform string
	json     bool
}

func doctorCommand(s streams) *cobra.Command {
	var o doctorOptions
	cmd := &cobra.Command{
		Use:   "doctor [flags] IMAGE",
		Short: "Find out what a registry and its storage really do",
		Long: `Doctor asks a registry for an image's manifest and for small parts of one layer, in
the ways that pulls do and in some that they don't, and tells what it does with them: digests,
ranges, redirects and the life of their URLs, quota, clocks, certificates, caches.
It reads a few kilobytes. The report has no secrets, and can be put in a bug report.`,
		Example: "  drayage doctor registry.example/app:1\n  drayage doctor --json ghcr.io/org/app:1 > report.json",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return runDoctor(cmd.Context(), s, o, args[0]) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVar(&o.json, "json", false, "as JSON")
	platformFlag(f, &o.platform, "which image of a multi-platform index")
	o.networkFlags.add(f)
	o.displayFlags.add(f)
	return cmd
}

func runDoctor(ctx context.Context, s streams, o doctorOptions, name string) error {
	ref, err := reference.Parse(name)
	if err != nil {
		return usageError{err}
	}
	platform, err := platformOf(o.platform)
	if err != nil {
		return err
	}
	refs := []reference.Image{ref}
	credentials, err := o.credentials(refs)
	if err != nil {
		return err
	}
	display, err := o.display(s)
	if err != nil {
		return err
	}
	defer display.Close()
	const patience = 30 * time.Second
	client, err := o.client(credentials, refs, 2, retry.Policy{Patience: patience}, display)
	if err != nil {
		return err
	}
	defer client.Close()
	store, err := noStore()
	if err != nil {
		return err
	}
	results, _, err := engine.Plan(ctx, engine.Options{Store: store, Registry: client, Platform: platform, Limits: schedule.Limits{Jobs: 1, PerHost: 1}}, refs)
	if err != nil {
		return err
	}
	if failed := engine.Failures(results); len(failed) > 0 {
		return failed[0]
	}
	img := results[0].Image
	blobs := variantBlobs(img.Main())
	if len(blobs) == 0 {
		return errors.New("the image has no blob to ask for")
	}
	blob := blobs[0]
	for _, b := range blobs { // the largest tells most about ranges
		if b.Size > blob.Size {
			blob = b
		}
	}
	report, err := doctor.Examine(ctx, client, ref, img.Target(), blob)
	if err != nil {
		return err
	}
	display.Close()
	if o.json {
		enc := json.NewEncoder(s.out)
		enc.SetIndent("", "  ")
		return enc.Encode(report)
	}
	return printFindings(s, report)
}

func printFindings(s streams, r *doctor.Report) error {
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "VERDICT\tWHAT\tHOST\tFOUND\tFOR PULLING")
	for _, f := range r.Findings {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", f.Verdict, f.Name, f.Host, f.Found, f.Means)
	}
	return w.Flush()
}
