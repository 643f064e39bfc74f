package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"drayage/blobstore"
	"drayage/cmd/drayage/internal/display"
	"drayage/cmd/drayage/internal/network"
	"drayage/cmd/drayage/internal/phrase"
	"drayage/cmd/drayage/internal/process"
	"drayage/cmd/drayage/internal/progress"
	"drayage/cmd/drayage/internal/status"
	"drayage/cmd/drayage/internal/stores"
	"drayage/cmd/drayage/internal/terminal"
	"drayage/cmd/drayage/internal/units"
	"drayage/cmd/drayage/internal/warmer"
	"drayage/engine"
	"drayage/engine/fault"
	"drayage/engine/printable"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
)

// gcOptions are the flags of store gc, as given.
type gcOptions struct {
	dir         string
	dryRun      bool
	unused      units.Duration
	budget      units.Size
	pins        []string
	grace       units.Duration
	partials    units.Duration
	quarantined bool
	quiet       bool
}

func storeGCCommand(s process.Streams) *cobra.Command {
	var o gcOptions
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Delete unreferenced blobs and report what was freed",
		Long: `Delete blobs that no image references, but for those younger than a day, which
may belong to an interrupted pull, and partial downloads that were not resumed
for two weeks. With --unused and --budget images are deleted, too, the least
recently used first; for the budget, partial downloads that nothing continues go
before them. It may run at the same time as pulls and serve: blobs in use are
kept, and so are the images that drayage warm pins.

Standard output has one line per deleted image, and a summary.`,
		Example: `  drayage store gc -n
  drayage store gc --budget 200GiB --pin 'registry.example/base/*'
  drayage store gc --unused 30d`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runGC(cmd.Context(), s, o) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	stores.AddFlag(cmd.Flags(), &o.dir)
	f.BoolVarP(&o.dryRun, "dry-run", "n", false, "show what would be deleted, and delete nothing")
	f.Var(&o.unused, "unused", "delete images not used for `DUR`, e.g. 30d or 12h")
	f.Var(&o.budget, "budget", "delete images, least recently used first, until the store fits `SIZE`")
	f.StringArrayVar(&o.pins, "pin", nil, "keep images whose names match `PATTERN` (repeatable)")
	f.Var(&o.grace, "grace", "keep unreferenced blobs for `DUR` (default 1d)")
	f.Var(&o.partials, "partials", "keep partial downloads for `DUR` (default 14d)")
	f.BoolVar(&o.quarantined, "quarantined", false, "delete quarantined blobs, too")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "print errors only")
	return cmd
}

// pinned reports whether an image's name, as people type it or whole, matches a pattern.
func pinned(patterns []string) (func(name string) bool, error) {
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil {
			return nil, status.Misuse(fmt.Errorf("--pin %q: %w", p, err))
		}
	}
	return func(name string) bool {
		return slices.ContainsFunc(patterns, func(p string) bool { return matchName(p, name) })
	}, nil
}

// matchName matches a name against a pattern in which * is any part of a path; without
// a tag it is for every tag.
func matchName(pattern, name string) bool {
	for _, form := range []string{name, stores.Familiar(name)} {
		repository, _, _ := strings.Cut(form, "@")
		if i := strings.LastIndexByte(repository, ':'); i > strings.LastIndexByte(repository, '/') {
			repository = repository[:i]
		}
		for _, s := range []string{form, repository} {
			if ok, err := path.Match(pattern, s); err == nil && ok {
				return true
			}
		}
	}
	return false
}

func runGC(ctx context.Context, s process.Streams, o gcOptions) error {
	byPattern, err := pinned(o.pins)
	if err != nil {
		return err
	}
	store, err := stores.OpenExisting(o.dir, s.Disk)
	if err != nil {
		return err
	}
	if o.unused < 0 {
		return status.Misuse(errors.New("--unused must be positive, e.g. 30d"))
	}
	warmed, err := warmer.Pins(store)
	if err != nil {
		return err
	}
	pin := func(name string) bool { return byPattern(name) || warmed(name) }
	g, err := store.FindGarbage(ctx, blobstore.Keep{
		Unused: time.Duration(o.unused), Budget: int64(o.budget), Pinned: pin, Grace: time.Duration(o.grace), Partials: time.Duration(o.partials), Quarantined: o.quarantined,
	})
	if err != nil {
		return err
	}
	if !o.dryRun {
		if err := store.Sweep(ctx, g); err != nil {
			return err
		}
	}
	if o.quiet {
		return nil
	}
	for _, r := range g.Images {
		printable.Fprintf(s.Out, "%s\t%s\n", stores.Familiar(r.Name), r.Target.Digest)
	}
	verb := "removed"
	if o.dryRun {
		verb = "would remove"
	}
	printable.Fprintf(s.Out, "%s %s, %s and %s: %s; %s left\n", verb, phrase.Count(len(g.Images), "image"), phrase.Count(len(g.Blobs), "blob"), phrase.Count(len(g.Partials), "partial blob"),
		progress.Size(g.Bytes()), progress.Size(g.Left))
	if g.Young > 0 {
		printable.Fprintf(s.Err, "drayage: kept %s, %s, younger than %s, which an interrupted pull may resume; --grace 0s deletes them, too\n",
			phrase.Count(g.Young, "unreferenced blob"), progress.Size(g.YoungBytes), cmp.Or(o.grace.String(), "a day"))
	}
	if all := g.Left + g.LeftPartial; o.budget > 0 && all > int64(o.budget) {
		printable.Fprintf(s.Err, "drayage: still %s over the disk quota of %s (--budget): pinned and in-use images were kept\n", progress.Size(all-int64(o.budget)), progress.Size(int64(o.budget)))
	}
	return nil
}

func storeRemoveCommand(s process.Streams) *cobra.Command {
	var dir string
	var all, sweep bool
	cmd := &cobra.Command{
		Use:   "rm [flags] IMAGE...",
		Short: "Remove images from the store",
		Long: `Remove images from the store. Their blobs are deleted by the next gc, or at once
with --gc, unless other images need them.`,
		Example: "  drayage store rm --gc alpine:3.19\n  drayage store rm --all",
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return status.Misuse(errors.New("name the images to remove, or use --all"))
			}
			store, err := stores.OpenExisting(dir, s.Disk)
			if err != nil {
				return err
			}
			roots, err := stores.Roots(store, args)
			if all && errors.Is(err, blobstore.ErrNotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			var names []string
			for _, r := range roots {
				names = append(names, r.Name)
			}
			if err := store.Remove(names...); err != nil {
				return err
			}
			for _, r := range roots {
				printable.Fprintf(s.Out, "%s\t%s\n", stores.Familiar(r.Name), r.Target.Digest)
			}
			if sweep {
				return runGC(cmd.Context(), s, gcOptions{dir: dir})
			}
			return nil
		},
	}
	stores.AddFlag(cmd.Flags(), &dir)
	cmd.Flags().BoolVar(&all, "all", false, "remove all images")
	cmd.Flags().BoolVar(&sweep, "gc", false, "delete unreferenced blobs afterwards, as gc does")
	return cmd
}

// verifyOptions are the flags of store verify, as given.
type verifyOptions struct {
	net     network.Flags
	show    display.Flags
	dir     string
	again   bool
	repair  bool
	foreign bool
	limit   units.ByteRate
}

func storeVerifyCommand(s process.Streams) *cobra.Command {
	var o verifyOptions
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Verify the digests of all blobs",
		Long: `Read all blobs of the store, on all cores, and verify their digests. Damaged
blobs are quarantined, and fetched again by the next pull of an image that
references them, or at once with --repair. A run that was interrupted is
resumed.

Standard output has one line per damaged blob, with the images that reference
it, and a summary. The exit status is 6 when blobs are damaged or missing, and
not repaired.`,
		Example: "  drayage store verify\n  drayage store verify --read-rate 50M --repair",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runVerify(cmd.Context(), s, o) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	stores.AddFlag(cmd.Flags(), &o.dir)
	f.BoolVar(&o.again, "again", false, "start over instead of resuming an interrupted run")
	f.Var(&o.limit, "read-rate", "limit reading to `RATE` bytes per second, e.g. 50M")
	f.BoolVar(&o.repair, "repair", false, "fetch damaged and missing blobs from their registries")
	foreignFlag(f, &o.foreign)
	o.net.Add(f)
	o.show.Add(f)
	return cmd
}

// damagedError says that blobs of the store are not what they should be.
type damagedError struct{ blobs int }

func (e damagedError) Error() string {
	return fmt.Sprintf("%s damaged or missing: pull the images again, or verify with --repair", phrase.Count(e.blobs, "blob"))
}

// FaultKind is its kind: see fault.Of.
func (damagedError) FaultKind() fault.Kind { return fault.Content }

func runVerify(ctx context.Context, s process.Streams, o verifyOptions) error {
	store, err := stores.OpenExisting(o.dir, s.Disk)
	if err != nil {
		return err
	}
	display, err := o.show.Start(s)
	if err != nil {
		return err
	}
	defer display.Close()
	var read atomic.Int64
	began := time.Now()
	v := blobstore.Verification{Limit: o.limit.Limiter(), Again: o.again, Progress: func(n int64) { read.Add(n) }}
	stop := o.tellReading(s, store, &read)
	found, err := store.Verify(ctx, v)
	stop()
	if err != nil {
		return err
	}
	images, err := store.ImageUsages()
	if err != nil {
		return err
	}
	bad, broken := brokenImages(found.Damaged, images)
	for _, d := range bad {
		var names []string
		for _, i := range broken {
			if slices.Contains(i.Missing, d) {
				names = append(names, stores.Familiar(i.Name))
			}
		}
		state := "missing"
		if slices.Contains(found.Damaged, d) {
			state = "damaged"
		}
		printable.Fprintf(s.Out, "%s\t%s\t%s\n", state, d, strings.Join(names, " "))
	}
	if n := len(incompleteImages(ctx, store, images)) - len(broken); n > 0 {
		display.Say("", fmt.Sprintf("drayage: %s incomplete: only some of it was asked for so far; pull it for the rest", phrase.Are(n, "image")))
	}
	took := time.Since(began)
	printable.Fprintf(s.Out, "verified %s, %s, in %s: %d damaged, %d missing\n", phrase.Count(found.Blobs, "blob"), progress.Size(found.Bytes), took.Round(10*time.Millisecond), len(found.Damaged), len(bad)-len(found.Damaged))
	switch {
	case len(bad) == 0:
		return nil
	case !o.repair:
		return damagedError{len(bad)}
	}
	return o.mend(ctx, s, store, display, broken, found.Damaged)
}

// brokenImages are the images that lack blobs, and those blobs with the damaged ones
// that no image needs.
func brokenImages(damaged []digest.Digest, images []blobstore.ImageUsage) (bad []digest.Digest, broken []blobstore.ImageUsage) {
	bad = slices.Clone(damaged)
	for _, i := range images {
		if len(i.Missing) > 0 {
			broken = append(broken, i)
			bad = append(bad, i.Missing...)
		}
	}
	slices.Sort(bad)
	return slices.Compact(bad), broken
}

// tellReading tells of progress, a line now and then.
func (o *verifyOptions) tellReading(s process.Streams, store *blobstore.Store, read *atomic.Int64) (stop func()) {
	u, err := store.Usage(context.Background())
	if o.show.Quiet || err != nil || o.show.Progress != "auto" && o.show.Progress != "bar" || !terminal.DrawsOver(s.Err) {
		return func() {}
	}
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		const often = time.Second
		tick := time.NewTicker(often)
		defer tick.Stop()
		for {
			select {
			case <-done:
				fmt.Fprint(s.Err.Drawn(), "\r\x1b[K")
				return
			case <-tick.C:
				fmt.Fprintf(s.Err.Drawn(), "\rread %s of %s\x1b[K", progress.Size(read.Load()), progress.Size(u.Bytes))
			}
		}
	}()
	return func() { close(done); <-ended }
}

// mend fetches what images lack from their registries.
func (o *verifyOptions) mend(ctx context.Context, s process.Streams, store *blobstore.Store, display *display.Display, broken []blobstore.ImageUsage, damaged []digest.Digest) error {
	var refs []reference.Image
	var failed status.Failures
	for _, i := range broken {
		ref, err := reference.Parse(i.Name)
		if err != nil || digest.Digest(i.Name).Validate() == nil {
			failed = append(failed, fmt.Errorf("%s has no registry to fetch from: import it again", i.Name))
			continue
		}
		refs = append(refs, ref)
	}
	credentials, err := o.net.Credentials(refs)
	if err != nil {
		return err
	}
	policy := engine.Retry{}
	client, err := o.net.Client(credentials, refs, 8, policy, display)
	if err != nil {
		return err
	}
	defer client.Close()
	opts := engine.Options{Store: store, Registry: client, Observer: display, Retry: policy, Limits: engine.Limits{Jobs: 16, PerHost: 8}, KeepGoing: true, ForeignLayers: o.foreign}
	n := 0
	for _, i := range broken {
		ref, err := reference.Parse(i.Name)
		if err != nil {
			continue
		}
		if err := engine.Repair(ctx, opts, ref, i.Root); err != nil {
			failed = append(failed, err)
			continue
		}
		n += len(i.Missing)
	}
	display.Close()
	if len(failed) > 0 {
		return display.Fail(failed)
	}
	printable.Fprintf(s.Out, "repaired %s\n", phrase.Count(n, "blob"))
	if left := len(damaged); left > 0 && len(broken) == 0 {
		printable.Fprintf(s.Out, "%s of no image: nothing to fetch\n", phrase.Count(left, "damaged blob"))
	}
	return nil
}
