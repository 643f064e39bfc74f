package main

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"

	"drayage/blobstore"
	"drayage/cmd/drayage/internal/doctor"
	"drayage/cmd/drayage/internal/process"
	"drayage/cmd/drayage/internal/stores"
	"drayage/engine"
	"drayage/engine/printable"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
)

func doctorCommand(s process.Streams) *cobra.Command {
	var q query
	var dir string
	cmd := &cobra.Command{
		Use:   "doctor [flags] IMAGE",
		Short: "Diagnose a registry and its storage",
		Long: `Request the manifest of an image and small parts of one layer, in the ways that
pulls do and in some others, and report how the registry and its storage respond:
digests, ranges, redirects and how long their URLs are valid, tokens and their
scopes, rate limits, clocks, addresses, certificates, caches. It reads a few
kilobytes, and 32 MiB where HTTP/2 is offered, to compare it. Mirrors are not
used. The report has no secrets and may be put in a bug report. If there is a
store, later pulls into it use the results.`,
		Example: "  drayage doctor registry.example/app:1\n  drayage doctor --json ghcr.io/org/app:1 > report.json",
		Args:    oneImage,
		RunE:    func(cmd *cobra.Command, args []string) error { return runDoctor(cmd.Context(), s, q, dir, args[0]) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	stores.AddFlag(cmd.Flags(), &dir)
	q.add(f)
	return cmd
}

func runDoctor(ctx context.Context, s process.Streams, q query, dir, name string) error {
	kept, err := stores.Peek(dir)
	if err != nil {
		return err
	}
	store, err := stores.Empty()
	if err != nil {
		return err
	}
	return q.ask(ctx, s, store, name, func(client clientMaker, r engine.Result) error {
		blobs := variantBlobs(r.Image.Main())
		if len(blobs) == 0 {
			return errors.New("the image has no blob to ask for")
		}
		// The largest tells most about ranges.
		largest := slices.MaxFunc(blobs, func(a, b ocispec.Descriptor) int { return cmp.Compare(a.Size, b.Size) })
		report, err := doctor.Examine(ctx, doctor.Subject{Ref: r.Ref, Manifest: r.Image.Target(), Blob: largest, Client: client})
		if err != nil {
			return err
		}
		print := printFindings
		if q.json {
			print = func(s process.Streams, r *doctor.Report) error { return s.Out.JSON(r) }
		}
		if err := print(s, report); err != nil {
			return err
		}
		if err := rememberFindings(kept, r.Ref.Host(), report); err != nil {
			printable.Fprintf(s.Err, "drayage: pulls won't make use of this: %v\n", err)
		}
		return nil
	})
}

// rememberFindings keeps what pulls can make use of in the store, if there is one.
func rememberFindings(store *blobstore.Store, host string, r *doctor.Report) error {
	if _, err := os.Stat(filepath.Join(store.Dir(), "oci-layout")); err != nil || r.Ranges == nil {
		return nil // nothing is kept where nothing is
	}
	store, err := blobstore.Open(store.Dir())
	if err != nil {
		return err
	}
	return engine.Remember(store, host, *r.Ranges, r.FirstByte)
}

func printFindings(s process.Streams, r *doctor.Report) error {
	w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	printable.Fprintf(w, "VERDICT\tWHAT\tHOST\tFOUND\tFOR PULLING\n")
	for _, f := range r.Findings {
		printable.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", f.Verdict, f.Name, f.Host, f.Found, f.Means)
	}
	return w.Flush()
}
