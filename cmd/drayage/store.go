package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"drayage/blobstore"
	"drayage/cmd/drayage/internal/display"
	"drayage/cmd/drayage/internal/images"
	"drayage/cmd/drayage/internal/output"
	"drayage/cmd/drayage/internal/platform"
	"drayage/cmd/drayage/internal/process"
	"drayage/cmd/drayage/internal/progress"
	"drayage/cmd/drayage/internal/status"
	"drayage/cmd/drayage/internal/stores"
	"drayage/cmd/drayage/internal/terminal"
	"drayage/cmd/drayage/internal/units"
	"drayage/engine"
	archives "drayage/engine/archive"
	"drayage/engine/compose"
	"drayage/engine/image"
	"drayage/engine/printable"
	"drayage/engine/reference"

	"github.com/spf13/cobra"
)

func storeCommand(s process.Streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Manage the store",
		Long: `List the images of the store, move them between it and archives, verify it and
delete unreferenced blobs. Only the repair of damaged blobs needs a network. All
commands may run at the same time as pulls and serve.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return status.Misuse(errors.New("a command is required: ls, info, verify, gc, rm, import or export"))
		},
	}
	cmd.AddCommand(storeListCommand(s), storeInfoCommand(s), storeVerifyCommand(s), storeGCCommand(s), storeRemoveCommand(s), storeImportCommand(s), storeExportCommand(s))
	return cmd
}

func storeImportCommand(s process.Streams) *cobra.Command {
	var dir string
	var noSync bool
	var opts archives.Options
	var ratio units.UnpackRatio
	cmd := &cobra.Command{
		Use:   "import [flags] FILE...",
		Short: "Import images from archives into the store",
		Long: `Import the images of archives into the store: archives of drayage in every format,
unpacked or in volumes, and those of pull --since together with what they build
on; archives of docker save, podman, skopeo, crane and ctr; uncompressed or
compressed with gzip, bzip2 or zstd. FILE may be - for standard input. Everything
is verified. Complete images are imported even if others in the archive are not;
the exit status reports that. Blobs that no imported image needs are not kept.

Standard output has one line per image: name, digest, bytes added, bytes that
were in the store.`,
		Example: "  drayage store import base.tar difference.tar.zst\n  docker save alpine:3.20 | drayage store import -",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return status.Misuse(errors.New("at least one archive is required"))
			}
			if err := ratio.Check(); err != nil {
				return err
			}
			opts.MaxRatio = ratio.Limit()
			return runImport(cmd.Context(), s, dir, noSync, opts, args)
		},
	}
	stores.AddFlag(cmd.Flags(), &dir)
	cmd.Flags().BoolVar(&opts.NoReplace, "no-replace", false, "refuse names that the store has with another digest")
	ratio.Add(cmd.Flags())
	cmd.Flags().BoolVar(&noSync, "no-sync", false, "don't wait for the disk; a power cut may damage the store")
	return cmd
}

func runImport(ctx context.Context, s process.Streams, dir string, noSync bool, opts archives.Options, files []string) error {
	dir, err := stores.Dir(dir)
	if err != nil {
		return err
	}
	store, err := blobstore.OpenWith(dir, blobstore.Options{Disk: s.Disk, NoSync: noSync})
	if err != nil {
		return err
	}
	opts.Warn = func(message string) { printable.Fprintf(s.Err, "drayage: warning: %s\n", message) }
	var failed status.Failures
	for _, f := range archives.WithoutVolumes(files) {
		images, err := archives.Import(ctx, store, f, s.In, opts)
		if errPrint := printImported(s, images); err == nil && errPrint != nil {
			return errPrint
		}
		for _, err := range separate(err) {
			err = fmt.Errorf("importing %s: %w", f, err)
			status.Report(s.Err, err, false)
			failed = append(failed, err)
		}
		if err != nil {
			break
		}
	}
	if len(failed) > 0 {
		return status.Shown(failed)
	}
	return nil
}

// separate takes joined errors apart.
func separate(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || !strings.Contains(err.Error(), "\n") { // fmt.Errorf with two causes is one error
		return []error{err}
	}
	var out []error
	for _, e := range joined.Unwrap() {
		out = append(out, separate(e)...)
	}
	return out
}

func printImported(s process.Streams, images []archives.Image) error {
	people := terminal.Is(s.Out)
	w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	for _, img := range images {
		if people {
			printable.Fprintf(w, "%s\t%s\t%s added\t%s reused\n", stores.Familiar(img.Name), img.Digest, progress.Size(img.Added), progress.Size(img.Reused))
		} else {
			printable.Fprintf(s.Out, "%s\t%s\t%d\t%d\n", stores.Familiar(img.Name), img.Digest, img.Added, img.Reused)
		}
	}
	return w.Flush()
}

// exportOptions are the flags of store export, as given.
type exportOptions struct {
	out      output.Flags
	show     display.Flags
	dir      string
	platform platform.Flag
}

func storeExportCommand(s process.Streams) *cobra.Command {
	var o exportOptions
	cmd := &cobra.Command{
		Use:   "export [flags] [IMAGE...]",
		Short: "Export images from the store to an archive",
		Long: `Export images from the store, or all of them, to an archive, as pull does, without
a network. Images have all platforms that are in the store.`,
		Example: "  drayage store export -o all.tar\n  drayage store export -l alpine:3.20",
		RunE:    func(cmd *cobra.Command, args []string) error { return runExport(cmd.Context(), s, o, args) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	o.out.Add(f)
	stores.AddFlag(cmd.Flags(), &o.dir)
	o.platform.Add(f, "platform that docker load gets of a multi-platform image")
	o.show.Add(f)
	return cmd
}

func runExport(ctx context.Context, s process.Streams, o exportOptions, args []string) error {
	if err := o.out.Check(s); err != nil {
		return err
	}
	if !o.out.Any() {
		return status.Misuse(errors.New("an output is required: -o FILE, -O, -d DIR or -l"))
	}
	platform, err := o.platform.Platform()
	if err != nil {
		return err
	}
	dir, err := stores.Dir(o.dir)
	if err != nil {
		return err
	}
	store, err := blobstore.OpenWith(dir, blobstore.Options{Disk: s.Disk})
	if err != nil {
		return err
	}
	roots, err := stores.Roots(store, args)
	if err != nil {
		return err
	}
	results, err := o.exported(ctx, s, store, roots, platform, len(args) == 0)
	if err != nil {
		return err
	}
	return o.write(ctx, s, store, results)
}

// exported are the images of roots. Incomplete ones are skipped if all that there are were asked for.
func (o *exportOptions) exported(ctx context.Context, s process.Streams, store *blobstore.Store, roots []blobstore.Root, platform image.Platform, all bool) ([]engine.Result, error) {
	var results []engine.Result
	skipped := 0
	for _, r := range roots {
		img, err := compose.Stored(ctx, store, r, platform)
		if errors.Is(err, blobstore.ErrNotFound) && all {
			skipped++
			printable.Fprintf(s.Err, "drayage: warning: %s is incomplete and was skipped\n", stores.Familiar(r.Name))
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := o.out.Accept(img); err != nil {
			return nil, fmt.Errorf("%s: %w", img.Ref, err)
		}
		results = append(results, engine.Result{Ref: img.Ref, Image: img})
	}
	if skipped > 0 && len(results) == 0 {
		return nil, fmt.Errorf("no image is complete: %w", blobstore.ErrNotFound)
	}
	return results, nil
}

// write writes images to the outputs.
func (o *exportOptions) write(ctx context.Context, s process.Streams, store *blobstore.Store, results []engine.Result) error {
	var refs []reference.Image
	for _, r := range results {
		refs = append(refs, r.Ref)
	}
	if err := o.out.CheckNames(refs); err != nil {
		return err
	}
	display, err := o.show.Start(s)
	if err != nil {
		return err
	}
	defer display.Close()
	a := &output.Archive{Flags: &o.out, Store: store, Observer: display}
	if o.out.Since != "" {
		base, refs, _, err := images.ReadSince(ctx, o.out.Since, s.In, o.out.MaxRatio.Limit())
		if err != nil {
			return fmt.Errorf("--since %s: %w", o.out.Since, err)
		}
		if a.Base = base; len(refs) > 0 {
			return status.Misuse(errors.New("--since requires an archive or a list of digests"))
		}
	}
	o.out.Recall(store)
	if a.Outs, err = o.out.Open(ctx, s, display); err != nil {
		return err
	}
	err = a.WriteStored(ctx, results)
	return errors.Join(err, a.Outs.Close())
}
