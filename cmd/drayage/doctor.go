package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"text/tabwriter"

	"drayage/engine"
	"drayage/engine/doctor"
	"drayage/engine/registry"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
)

func doctorCommand(s streams) *cobra.Command {
	var q query
	cmd := &cobra.Command{
		Use:   "doctor [flags] IMAGE",
		Short: "Find out what a registry and its storage really do",
		Long: `Doctor asks a registry for an image's manifest and for small parts of one layer, in
the ways that pulls do and in some that they don't, and tells what it does with them: digests,
ranges, redirects and the life of their URLs, quota, clocks, certificates, caches.
It reads a few kilobytes. The report has no secrets, and can be put in a bug report.`,
		Example: "  drayage doctor registry.example/app:1\n  drayage doctor --json ghcr.io/org/app:1 > report.json",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return runDoctor(cmd.Context(), s, q, args[0]) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	q.add(f)
	return cmd
}

func runDoctor(ctx context.Context, s streams, q query, name string) error {
	store, err := noStore()
	if err != nil {
		return err
	}
	return q.ask(ctx, s, store, name, func(client *registry.Client, r engine.Result) error {
		blobs := variantBlobs(r.Image.Main())
		if len(blobs) == 0 {
			return errors.New("the image has no blob to ask for")
		}
		// The largest tells most about ranges.
		largest := slices.MaxFunc(blobs, func(a, b ocispec.Descriptor) int { return cmp.Compare(a.Size, b.Size) })
		report, err := doctor.Examine(ctx, client, r.Ref, r.Image.Target(), largest)
		if err != nil {
			return err
		}
		if q.json {
			enc := json.NewEncoder(s.out)
			enc.SetIndent("", "  ")
			return enc.Encode(report)
		}
		return printFindings(s, report)
	})
}

func printFindings(s streams, r *doctor.Report) error {
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "VERDICT\tWHAT\tHOST\tFOUND\tFOR PULLING")
	for _, f := range r.Findings {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", f.Verdict, f.Name, f.Host, f.Found, f.Means)
	}
	return w.Flush()
}
