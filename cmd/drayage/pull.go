package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"drayage/blobstore"
	"drayage/cmd/drayage/internal/display"
	"drayage/cmd/drayage/internal/history"
	"drayage/cmd/drayage/internal/images"
	"drayage/cmd/drayage/internal/output"
	"drayage/cmd/drayage/internal/process"
	"drayage/cmd/drayage/internal/status"
	"drayage/cmd/drayage/internal/terminal"
	"drayage/engine"
	"drayage/engine/event"
	"drayage/engine/image"
	"drayage/engine/plan"
	"drayage/engine/printable"
	"drayage/engine/reference"
	"drayage/engine/registry"
	"drayage/tarwriter/compress"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
)

func pullCommand(s process.Streams) *cobra.Command {
	var o pullOptions
	cmd := &cobra.Command{
		Use:   "pull [flags] IMAGE...",
		Short: "Download images into the store and write an archive",
		Long: `Download images, all at once, into the store, and write them to one archive or
directory, or load them. An IMAGE is [registry/]repository[:tag][@digest], with
Docker's defaults. Blobs that are in the store, or that images share, are
downloaded once. Without an output, the images are only kept in the store.

Standard output has one line per image: name, digest, bytes downloaded, bytes
reused. Everything else is written to standard error.`,
		Example: `  drayage pull -o images.tar alpine:3.20 ghcr.io/org/app:1.2
  drayage pull -f list.txt --keep-going --failed again.txt -o all.tar
  drayage pull -l --platform linux/arm64 alpine
  drayage pull -f list.txt --since last-week.tar -o difference.tar.zst
  drayage pull --all-platforms --referrers --format oci -o app.tar ghcr.io/org/app:1.2
  drayage pull -n -f list.txt`,
		RunE: func(cmd *cobra.Command, args []string) error { return runPull(cmd.Context(), s, o, args) },
	}
	o.add(cmd.Flags())
	return cmd
}

// runPull is what drayage pull does.
func runPull(ctx context.Context, s process.Streams, o pullOptions, args []string) error {
	o.stdin = s.In
	refs, bad, err := o.images(s, args)
	if err != nil {
		return err
	}
	want, err := o.wantedPlatforms()
	if err != nil {
		return err
	}
	if err := o.check(s, refs); err != nil {
		return err
	}
	if refs, err = o.pinned(refs); err != nil {
		return err
	}
	credentials, err := o.net.Credentials(refs)
	if err != nil {
		return err
	}
	store, err := o.openStore(s.Disk)
	if err != nil {
		return err
	}
	display, err := o.show.Start(s)
	if err != nil {
		return err
	}
	defer display.Close()
	policy := engine.Retry{Patience: o.giveUp}
	observer := event.Observers{display}
	if o.report != "" {
		o.record = history.NewRecorder()
		observer = append(observer, o.record)
	}
	client, err := o.net.NewClient(credentials, refs, policy, observer, display, func(r *registry.Options) { r.PerHost = o.connections.limits().PerHost })
	if err != nil {
		return err
	}
	defer client.Close()
	if one(o.net.Auth) {
		observer.Observe(event.Warned{Message: "credentials on the command line can be seen by others; -a env:VAR and -a file:PATH are safer"})
	}
	o.out.Recall(store)
	opts := engine.Options{
		Store: store, Registry: client, KeepGoing: o.keepGoing, Observer: observer,
		Platform: want[0], Others: want[1:], AllPlatforms: o.all, Referrers: o.referrers, ForeignLayers: o.foreign,
		Limits: o.connections.limits(), Retry: policy,
		HashAll: o.out.Verify, Accept: o.out.Acceptor(observer), Room: o.room(store), Checkpoint: s.Checkpoint, PeerStall: o.net.Stall / 5,
	}
	base, err := o.carried(ctx, opts)
	if err != nil {
		return err
	}
	if len(base) > 0 && o.out.Layers == "keep" { // else they may be needed to convert them
		opts.Carried = func(d ocispec.Descriptor) bool { return base[d.Digest] && (!o.out.Load || !image.IsZstd(d.MediaType)) }
	}
	if o.dryRun {
		opts.Accept = o.out.Accept // the plan has the warnings itself
		return o.plan(ctx, s, opts, display, refs, bad)
	}
	return o.pull(ctx, s, opts, display, refs, bad)
}

// writeReport writes the record of the run, of what went wrong, too.
func (o *pullOptions) writeReport() error {
	if o.record == nil {
		return nil
	}
	if err := terminal.WriteFile(terminal.Escaper{}, o.report, o.record.Pull().Write); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}

// room refuses images for which there is no room, in the store and for the
// output together, before the first byte of them is fetched.
func (o *pullOptions) room(store *blobstore.Store) func(*plan.Image, int64) error {
	out := o.out.Folder()
	cheap, same := true, false // without an output in a file, only the store takes space
	if c, err := o.out.Compression(); out != "" && (c == compress.None || err != nil || o.out.Dir != "") {
		cheap, same = store.Cheap(out)
	}
	free, errFree := store.Free()
	var taken int64 // by the archive, for the images before
	counted := make(map[digest.Digest]bool)
	return func(img *plan.Image, toFetch int64) error {
		archive := taken
		for _, b := range img.Blobs() {
			if !counted[b.Digest] && !cheap && !o.base[b.Digest] {
				archive += b.Size
			}
		}
		need := toFetch
		if same {
			need += archive
		} else if err := blobstore.CheckSpace(out, archive); err != nil && archive > 0 {
			return err
		}
		if errFree == nil && need > free {
			return &blobstore.SpaceError{Where: store.Dir(), Need: need, Free: free}
		}
		taken = archive
		for _, b := range img.Blobs() {
			counted[b.Digest] = true
		}
		return nil
	}
}

// pull fetches the images and writes the outputs: while blobs come, or with
// --keep-going, when it is known which images are complete.
func (o *pullOptions) pull(ctx context.Context, s process.Streams, opts engine.Options, display *display.Display, refs []reference.Image, bad []error) (err error) {
	outs, err := o.out.Open(ctx, s, display)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, outs.Close()) }()
	a := &output.Archive{Flags: &o.out, Outs: outs, Store: opts.Store, Observer: opts.Observer, Base: slices.Collect(maps.Keys(o.base))}
	if len(outs) > 0 {
		opts.Stream = func(ctx context.Context, st *engine.Stream) error {
			return a.Write(ctx, st.Lease, st, st.Results, st.Prefer)
		}
	}

	results, err := engine.Pull(ctx, opts, refs)
	if err == nil && o.keepGoing && len(outs) > 0 {
		err = a.ConvertEach(ctx, results)
	}
	failed := status.Failures(append(bad, engine.Failures(results)...))
	if listErr := o.writeFailed(failed, results); err == nil && listErr != nil {
		err = listErr
	}
	var done []engine.Result
	for _, r := range results {
		if r.Err == nil {
			done = append(done, r)
		}
	}
	if err == nil && o.keepGoing {
		err = a.WriteStored(ctx, done)
	}
	if err == nil && len(failed) == 0 {
		err = o.writeLock(done)
	}
	display.Hide() // the bars are gone before the last lines come
	if err == nil && !o.out.Stdout && len(done) > 0 {
		err = output.PrintResults(s.Out, o.unpinned(done))
	}
	display.Close()
	if err == nil && len(done) > 0 && !o.out.Any() && !display.IsSilent() {
		display.Say("", fmt.Sprintf("the images are in the store %s; drayage store export -o FILE writes them to an archive", opts.Store.Dir()))
	}
	failed = o.suggest(ctx, opts.Registry, failed)
	for _, err := range []error{err, o.writeReport()} {
		if err != nil {
			failed = append(failed, err)
		}
	}
	return display.Fail(failed)
}

// unpinned are results under the names that were asked for, also where a lock has given them
// digests.
func (o *pullOptions) unpinned(results []engine.Result) []engine.Result {
	out := slices.Clone(results)
	for i := range out {
		if ref, ok := o.named[out[i].Ref]; ok {
			out[i].Ref = ref
		}
	}
	return out
}

// writeFailed writes the list of what failed and of what was stopped, also when
// it is empty: a list from an earlier run would lie.
func (o *pullOptions) writeFailed(failed status.Failures, results []engine.Result) error {
	if o.failed == "" {
		return nil
	}
	var b strings.Builder
	for _, err := range failed {
		name := ""
		var img *engine.ImageError
		var bad images.BadName
		switch {
		case errors.As(err, &img):
			name = img.Ref.String()
		case errors.As(err, &bad):
			name = "# " + bad.Word // it would fail again
		}
		printable.Fprintf(&b, "%s # %s\n", name, strings.ReplaceAll(err.Error(), "\n", " "))
	}
	for _, r := range results {
		if errors.Is(r.Err, engine.ErrStopped) {
			printable.Fprintf(&b, "%s # %v\n", r.Ref, r.Err)
		}
	}
	if err := writeText(o.failed, b.String()); err != nil {
		return fmt.Errorf("writing the list of failures: %w", err)
	}
	return nil
}
