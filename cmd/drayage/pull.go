package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"drayage/blobstore"
	"drayage/blobstore/durable"
	"drayage/cmd/drayage/internal/display"
	"drayage/cmd/drayage/internal/history"
	"drayage/cmd/drayage/internal/images"
	"drayage/cmd/drayage/internal/network"
	"drayage/cmd/drayage/internal/output"
	"drayage/cmd/drayage/internal/process"
	"drayage/cmd/drayage/internal/status"
	"drayage/engine"
	"drayage/engine/event"
	"drayage/engine/image"
	"drayage/engine/plan"
	"drayage/engine/printable"
	"drayage/engine/reference"
	"drayage/engine/registry"
	"drayage/tarwriter/squeeze"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
)

// pullOptions are the flags of pull, as given.
type pullOptions struct {
	out  output.Flags
	show display.Flags
	net  network.Flags

	list      string
	arch      string
	platforms []string
	all       bool
	referrers bool
	foreign   bool
	store     string
	lock      string
	relock    bool
	jobs      int
	perHost   int
	giveUp    time.Duration
	base      map[digest.Digest]bool // what --since carried
	stdin     io.Reader
	keepGoing bool
	failed    string
	report    string
	record    *history.Recorder // for the report, or nil
	dryRun    bool

	named map[reference.Image]reference.Image // what was asked for, by what a lock made of it
}

func pullCommand(s process.Streams) *cobra.Command {
	var o pullOptions
	cmd := &cobra.Command{
		Use:   "pull [flags] IMAGE...",
		Short: "Download images into the store and write an archive",
		Long: `Pull downloads images, all at once, into the store, and writes them into one
archive or folder, or loads them. An image is [registry/]repository[:tag][@digest]
with Docker's defaults. Blobs that the store has, or that images share, are
fetched once. Without an output the images are in the store, for later.

Standard output has one line an image: name, digest, bytes fetched, bytes
reused. Everything else goes to standard error.`,
		Example: `  drayage pull -o images.tar alpine:3.20 ghcr.io/org/app:1.2
  drayage pull -f list.txt --keep-going --failed again.txt -o all.tar
  drayage pull -l --platform linux/arm64 alpine
  drayage pull -f list.txt --since last-week.tar -o difference.tar.zst
  drayage pull --all-platforms --referrers --format oci -o app.tar ghcr.io/org/app:1.2
  drayage pull -n -f list.txt`,
		RunE: func(cmd *cobra.Command, args []string) error { return runPull(cmd.Context(), s, o, args) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	o.out.Add(f)
	f.StringVarP(&o.list, "file", "f", "", "read images from `LIST`, one a line, # comments, - for standard input")
	f.StringVarP(&o.arch, "architecture", "r", "", "same as --platform linux/`ARCH`")
	f.StringSliceVar(&o.platforms, "platform", nil, "which image of a multi-platform index: `OS/ARCH[/VARIANT]`; may be repeated (default "+image.DefaultPlatform().String()+")")
	f.BoolVar(&o.all, "all-platforms", false, "every image of an index; --platform then says which one docker load gets")
	f.BoolVar(&o.referrers, "referrers", false, "include referrers of the images: signatures, attestations, SBOMs")
	foreignFlag(f, &o.foreign)
	f.StringVar(&o.lock, "lock", "", "pin: write to `FILE` the digest of each image, or pull those that it has")
	f.BoolVar(&o.relock, "update-lock", false, "resolve the images anew and write them to the lock")
	f.StringVar(&o.store, "store", "", "the store `DIR` (default $DRAYAGE_STORE, else $XDG_CACHE_HOME/drayage, else ~/.cache/drayage)")
	f.IntVarP(&o.jobs, "jobs", "j", 16, "connections in all, at most `N`")
	f.IntVar(&o.perHost, "per-host", 8, "connections to one host, at most `N`")
	f.DurationVar(&o.giveUp, "give-up-after", 2*time.Minute, "stop when no byte has arrived for `DUR`; while bytes arrive, it goes on")
	f.BoolVar(&o.out.NoSync, "no-sync", false, "don't wait for the disk: a power cut may cost the store and the archive")
	f.BoolVar(&o.keepGoing, "keep-going", false, "a failed image doesn't stop the others")
	f.StringVar(&o.failed, "failed", "", "write the images that failed to `FILE`, for -f to read")
	f.StringVar(&o.report, "report", "", "write to `FILE` what came when and how fast, as JSON: for people, and for bench --replay")
	f.BoolVarP(&o.dryRun, "dry-run", "n", false, "show the plan and fetch no layer")
	o.net.Add(f)
	o.show.Add(f)
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
	client, err := o.net.NewClient(credentials, refs, policy, observer, display, func(r *registry.Options) { r.PerHost = o.perHost })
	if err != nil {
		return err
	}
	defer client.Close()
	if one(o.net.Auth) {
		observer.Observe(event.Warned{Message: "credentials on the command line can be seen by others; -a env:VAR and -a file:PATH are safer"})
	}
	opts := engine.Options{
		Store: store, Registry: client, KeepGoing: o.keepGoing, Observer: observer,
		Platform: want[0], Others: want[1:], AllPlatforms: o.all, Referrers: o.referrers, ForeignLayers: o.foreign,
		Limits: engine.Limits{Jobs: o.jobs, PerHost: o.perHost}, Retry: policy,
		HashAll: o.out.Verify, Accept: o.out.Acceptor(observer), Room: o.room(store), Checkpoint: s.Checkpoint, Hush: o.net.Stall / 5,
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
	if err := toFile(process.Streams{}, o.report, o.record.Pull().Write); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}

// one reports whether -a has the credentials themselves.
func one(auth string) bool {
	return auth != "" && !strings.HasPrefix(auth, "env:") && !strings.HasPrefix(auth, "file:")
}

// images are those of the command line and of the list. Words that name none
// are an error, or with --keep-going failures among others.
func (o *pullOptions) images(s process.Streams, args []string) (refs []reference.Image, bad []error, err error) {
	words := make([]images.Word, 0, len(args))
	for _, a := range args {
		words = append(words, images.Word{Text: a})
	}
	if o.list != "" {
		listed, err := images.ReadList(o.list, s.In)
		if err != nil {
			return nil, nil, err
		}
		words = append(words, listed...)
	}
	if len(words) == 0 && o.lock != "" && !o.relock { // those that it has
		if words, err = images.ReadNames("lock file", o.lock, s.In); err != nil {
			return nil, nil, err
		}
		for i, w := range words { // as they were asked for; the lock pins them
			if ref, err := reference.Parse(w.Text); err == nil && ref.Tag() != "" {
				words[i].Text = ref.Tagged()
			}
		}
	}
	if len(words) == 0 {
		return nil, nil, status.Misuse(errors.New("no images named: give some, or a list with -f"))
	}
	refs, bad = images.ParseNames(words)
	if len(bad) > 0 && !o.keepGoing {
		return nil, nil, status.Misuse(bad[0])
	}
	return refs, bad, nil
}

// wantedPlatforms are those asked for, or else the default one.
func (o *pullOptions) wantedPlatforms() ([]image.Platform, error) {
	words := o.platforms
	if o.arch != "" {
		if len(words) > 0 {
			return nil, status.Misuse(errors.New("-r and --platform say the same thing: give one"))
		}
		words = []string{"linux/" + o.arch}
	}
	if o.out.Format == "legacy" && o.referrers {
		return nil, status.Misuse(errors.New("the legacy format has no place for referrers: use --format docker or oci"))
	}
	if o.out.Format == "legacy" && (len(words) > 1 || o.all) {
		return nil, status.Misuse(errors.New("the legacy format has one platform: use --format docker or oci"))
	}
	if len(words) == 0 {
		return []image.Platform{image.DefaultPlatform()}, nil
	}
	var out []image.Platform
	for _, w := range words {
		p, err := image.ParsePlatform(w)
		if err != nil {
			return nil, status.Misuse(err)
		}
		out = append(out, p)
	}
	return out, nil
}

// check finds what is wrong with the command line as a whole.
func (o *pullOptions) check(s process.Streams, refs []reference.Image) error {
	if o.jobs < 1 || o.perHost < 1 {
		return status.Misuse(errors.New("--jobs and --per-host must be at least 1"))
	}
	for _, d := range []struct {
		flag  string
		value time.Duration
	}{{"--give-up-after", o.giveUp}, {"--stall", o.net.Stall}, {"--connect-timeout", o.net.Connect}, {"--answer-timeout", o.net.FirstByte}} {
		if d.value <= 0 {
			return status.Misuse(fmt.Errorf("%s must be longer than nothing, such as 30s", d.flag))
		}
	}
	if err := o.out.CheckNames(refs); err != nil {
		return err
	}
	if o.report == "-" || o.report != "" && o.dryRun {
		return status.Misuse(errors.New("--report takes a file, of a pull that is done"))
	}
	if o.report != "" { // not found out when all is done
		if _, err := os.Stat(filepath.Dir(o.report)); err != nil {
			return fmt.Errorf("--report: %w", err)
		}
	}
	return o.out.Check(s)
}

func (o *pullOptions) openStore(disk durable.Disk) (*blobstore.Store, error) {
	dir, err := storeDir(o.store)
	if err != nil {
		return nil, err
	}
	if o.dryRun {
		return blobstore.Peek(dir)
	}
	return blobstore.OpenWith(dir, blobstore.Options{NoSync: o.out.NoSync, Disk: disk})
}

// storeDir is where the store is: as given, or by default.
func storeDir(dir string) (string, error) {
	for _, from := range []func() (string, error){
		func() (string, error) { return os.Getenv("DRAYAGE_STORE"), nil },
		func() (string, error) {
			cache, err := os.UserCacheDir()
			return filepath.Join(cache, "drayage"), err
		},
	} {
		if dir != "" {
			break
		}
		var err error
		if dir, err = from(); err != nil {
			return "", status.Misuse(fmt.Errorf("no place for a store: %w; name one with --store", err))
		}
	}
	return dir, nil
}

// room refuses images for which there is no room, in the store and for the
// output together, before the first byte of them is fetched.
func (o *pullOptions) room(store *blobstore.Store) func(*plan.Image, int64) error {
	out := o.out.Folder()
	cheap, same := true, false // without an output in a file, only the store takes space
	if c, err := o.out.Compression(); out != "" && (c == squeeze.None || err != nil || o.out.Dir != "") {
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
		display.Say("", fmt.Sprintf("the images are in the store %s; drayage store export -o FILE writes them into an archive", opts.Store.Dir()))
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

// isManifestMissing reports whether it is a manifest that a registry doesn't have, and no blob.
func isManifestMissing(err error) bool {
	var e *registry.Error
	return errors.Is(err, registry.ErrNotFound) && errors.As(err, &e) && strings.Contains(e.URL, "/manifests/")
}

// suggest adds to errors about tags that aren't there which similar ones there are. The registry
// is asked for a few of them.
func (o *pullOptions) suggest(ctx context.Context, c *registry.Client, failed status.Failures) status.Failures {
	const most, patience = 3, 5 * time.Second
	asked := 0
	out := slices.Clone(failed)
	for i, err := range out {
		var img *engine.ImageError
		if ctx.Err() != nil || asked == most || !errors.As(err, &img) || !isManifestMissing(err) || img.Ref.Tag() == "" || img.Ref.Digest() != "" {
			continue
		}
		asked++
		inner, cancel := context.WithTimeout(ctx, patience)
		tags, errTags := c.Tags(inner, img.Ref)
		cancel()
		if errTags != nil {
			continue
		}
		if near := nearest(img.Ref.Tag(), tags); len(near) > 0 {
			out[i] = fmt.Errorf("%w; similar tags: %s", err, strings.Join(near, ", "))
		}
	}
	return out
}

// nearest are the tags that are closest to one, at most three of them.
func nearest(tag string, tags []string) []string {
	const most = 3
	type candidate struct {
		tag  string
		away int
	}
	var all []candidate
	for _, t := range tags {
		if printable.Line(t) != t {
			continue
		}
		away := distance(tag, t)
		if strings.HasPrefix(t, tag) {
			away = min(away, 1)
		}
		if away <= max(1, len(tag)/3) {
			all = append(all, candidate{t, away})
		}
	}
	slices.SortStableFunc(all, func(a, b candidate) int { return a.away - b.away })
	var out []string
	for _, c := range all[:min(len(all), most)] {
		out = append(out, c.tag)
	}
	return out
}

// distance is how many characters it takes to make one text of another (Levenshtein's).
func distance(a, b string) int {
	const longest = 128 // of a tag
	if len(a) > longest || len(b) > longest {
		return longest
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
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
