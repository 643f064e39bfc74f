package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"drayage/blobstore"
	"drayage/blobstore/durable"
	"drayage/cmd/drayage/internal/build"
	"drayage/cmd/drayage/internal/display"
	"drayage/cmd/drayage/internal/network"
	"drayage/cmd/drayage/internal/process"
	"drayage/cmd/drayage/internal/status"
	"drayage/cmd/drayage/internal/warm"
	"drayage/cmd/drayage/internal/web"
	"drayage/engine"
	"drayage/engine/credential"
	"drayage/engine/event"
	"drayage/engine/image"
	"drayage/engine/printable"
	"drayage/engine/reference"
	"drayage/engine/registry"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
)

// warmOptions are the flags of warm, as given.
type warmOptions struct {
	net     network.Flags
	show    display.Flags
	config  string
	dir     string
	once    bool
	groups  []string
	jobs    int
	perHost int
	giveUp  time.Duration
	foreign bool
	noSync  bool
}

func warmCommand(s process.Streams) *cobra.Command {
	var o warmOptions
	cmd := &cobra.Command{
		Use:   "warm -c FILE",
		Short: "Keep chosen images fresh in the store, on a schedule",
		Long: `Warm keeps the images that a file names fresh in the store: it looks by HEAD whether a tag has
changed, fetches what has, within times of the day and rates, drops what isn't wanted any more, and
keeps a budget of disk. docs/warm.md says what the file may have; drayage warm schema writes its JSON
Schema.

It runs until it is told to end, and reads the file again on SIGHUP, and when it has changed.
With --once it has one round of each group, for a scheduler outside; the exit status is then 0 when
all images are complete and fresh. What it knows is in the store, so that a round that was missed is
made up for.`,
		Example: `  drayage warm -c warm.yaml
  drayage warm -c warm.yaml --once --group deploys
  drayage warm status -c warm.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runWarm(cmd.Context(), s, o) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVarP(&o.config, "config", "c", "", "what to keep fresh: a `FILE` of YAML, - for standard input")
	storeFlag(cmd, &o.dir)
	f.BoolVar(&o.once, "once", false, "have one round of each group now, and end")
	f.StringSliceVar(&o.groups, "group", nil, "with --once, only these groups: `NAMES`")
	f.IntVarP(&o.jobs, "jobs", "j", 16, "connections in all, at most `N`")
	f.IntVar(&o.perHost, "per-host", 8, "connections to one host, at most `N`")
	f.DurationVar(&o.giveUp, "give-up-after", 2*time.Minute, "try the others when no byte has arrived for `DUR`")
	foreignFlag(f, &o.foreign)
	f.BoolVar(&o.noSync, "no-sync", false, "don't wait for the disk: a power cut may cost the store")
	o.net.Add(f)
	o.show.Add(f)
	cmd.AddCommand(warmStatusCommand(s), warmCheckCommand(s), warmSchemaCommand(s))
	return cmd
}

// loadWarm reads a file, and finds the store that it is for.
func loadWarm(s process.Streams, path, dir string) (*warm.Config, string, error) {
	if path == "" {
		return nil, "", status.Misuse(errors.New("say what to keep fresh: -c FILE"))
	}
	c, err := func() (*warm.Config, error) {
		if path == "-" {
			return warm.Load(s.In)
		}
		f, err := durable.OpenNamed(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return warm.Load(f)
	}()
	if status.As[*fs.PathError](err) {
		return nil, "", err
	}
	if err != nil {
		return nil, "", status.Misuse(fmt.Errorf("%s: %w", path, err))
	}
	if dir == "" {
		dir = c.Store
	}
	dir, err = storeDir(dir)
	return c, dir, err
}

func runWarm(ctx context.Context, s process.Streams, o warmOptions) error {
	config, dir, err := loadWarm(s, o.config, o.dir)
	if err != nil {
		return err
	}
	if len(o.groups) > 0 && !o.once {
		return status.Misuse(errors.New("--group goes with --once"))
	}
	if o.jobs < 1 || o.perHost < 1 || o.giveUp <= 0 {
		return status.Misuse(errors.New("--jobs and --per-host must be at least 1, and --give-up-after more than nothing"))
	}
	store, err := blobstore.OpenWith(dir, blobstore.Options{NoSync: o.noSync, Disk: s.Disk})
	if err != nil {
		return err
	}
	o.show.Calm()
	display, err := o.show.Start(s)
	if err != nil {
		return err
	}
	defer display.Close()
	credentials, err := o.net.Credentials(nil)
	if err != nil {
		return err
	}
	// What the environment and the flags have wrong is told before the first round.
	c, err := o.net.Client(credentials, nil, o.perHost, engine.Retry{}, display)
	if err != nil {
		return err
	}
	c.Close()
	lock, err := lockWarm(store)
	if err != nil {
		return err
	}
	defer lock.Close()
	w := &warmWork{o: &o, s: s, store: store, display: display, credentials: credentials}
	host, _ := os.Hostname() // without a name, jitter is that of all such
	if o.once {
		return o.round(ctx, display, warm.New(config, w, host, warm.Rate(o.net.Limit)))
	}
	return o.keep(ctx, s, config, dir, w, host)
}

// round has one round.
func (o *warmOptions) round(ctx context.Context, d *display.Display, r *warm.Runner) error {
	ready, err := r.Once(ctx, o.groups)
	if err != nil {
		if ctx.Err() == nil {
			return status.Misuse(err)
		}
		return err
	}
	if !ready {
		return notReadyError{}
	}
	if !o.show.Quiet {
		d.Say("", "all images are complete and fresh")
	}
	return nil
}

// notReadyError says that images are not what they should be.
type notReadyError struct{}

func (notReadyError) Error() string {
	return "not all images are complete and fresh: drayage warm status tells which"
}

// keep keeps the groups fresh, with the file as it is now and as it becomes. To end
// when told to is what it is for.
func (o *warmOptions) keep(ctx context.Context, s process.Streams, config *warm.Config, dir string, w *warmWork, host string) error {
	reload := make(chan os.Signal, 1)
	s.Ending.KeepHangups()
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)
	const drain = 30 * time.Second
	s.Ending.AllowDraining(drain)
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady) // false where there is no systemd
	stamp := fileStamp(o.config)
	if again, _, err := loadWarm(s, o.config, o.dir); o.config != "-" && err == nil {
		config = again // it may have changed since, before the stamp was taken
	}
	for {
		inner, cancel := context.WithCancel(ctx)
		ended := make(chan struct{})
		go func() { defer close(ended); _ = warm.New(config, w, host, warm.Rate(o.net.Limit)).Run(inner) }() // ends with inner alone
		var next *warm.Config
		next, stamp = o.changed(inner, s, w.display, reload, dir, stamp)
		cancel()
		<-ended
		if next == nil {
			_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
			return nil
		}
		config = next
		w.display.Say("", fmt.Sprintf("drayage: %s is read again", o.config))
	}
}

// fileStamp tells whether a file is the one that it was.
func fileStamp(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	return fmt.Sprint(info.ModTime().UnixNano(), info.Size())
}

// changed waits until the file has changed and can be read, and returns what it says; nil
// when ctx is done. What can't be read is told, and left.
func (o *warmOptions) changed(ctx context.Context, s process.Streams, d *display.Display, reload <-chan os.Signal, dir, stamp string) (*warm.Config, string) {
	const often = 5 * time.Second
	tick := time.NewTicker(often)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, stamp
		case <-reload:
		case <-tick.C:
			if now := fileStamp(o.config); o.config == "-" || now == stamp || now == "" {
				continue
			}
		}
		stamp = fileStamp(o.config)
		c, now, err := loadWarm(s, o.config, o.dir)
		if err == nil && now != dir {
			err = fmt.Errorf("it names another store, %s: end this and begin anew", now)
		}
		if err == nil {
			return c, stamp
		}
		d.Say("", fmt.Sprintf("drayage: what is read again can't be used, and what was read before counts on: %v", err))
	}
}

// lockWarm makes sure that one process alone keeps a store warm: two would do the same
// rounds.
func lockWarm(store *blobstore.Store) (*os.File, error) {
	f, won, err := store.Claim("warm")
	if err != nil {
		return nil, err
	}
	if !won {
		return nil, fmt.Errorf("another drayage keeps %s warm already", store.Dir())
	}
	return f, nil
}

// warmWork is what a Runner has done by the engine. It is a warm.Work.
type warmWork struct {
	o           *warmOptions
	s           process.Streams
	store       *blobstore.Store
	display     *display.Display
	credentials *credential.Set

	mu sync.Mutex // guards what is written to people
}

// client makes a client for one piece of work, so that each may have its own rate.
func (w *warmWork) client(refs []reference.Image, observer event.Observer, change func(*registry.Options)) (*registry.Client, error) {
	return w.o.net.NewClient(w.credentials, refs, engine.Retry{Patience: w.o.giveUp}, observer, w.display, func(r *registry.Options) {
		r.PerHost = w.o.perHost
		change(r)
	})
}

// Tags implements warm.Work.
func (w *warmWork) Tags(ctx context.Context, repository reference.Image) ([]string, error) {
	c, err := w.client([]reference.Image{repository}, w.display, func(*registry.Options) {})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Tags(ctx, repository)
}

// options are the engine's for a pull.
func (w *warmWork) options(p warm.Pull, c *registry.Client, observer event.Observer) engine.Options {
	platforms := p.Platforms
	if len(platforms) == 0 {
		platforms = []image.Platform{image.DefaultPlatform()}
	}
	return engine.Options{
		Store: w.store, Registry: c, Observer: observer, Retry: engine.Retry{Patience: w.o.giveUp}, KeepGoing: true,
		Platform: platforms[0], Others: platforms[1:], Referrers: p.Referrers, ForeignLayers: w.o.foreign,
		Limits: engine.Limits{Jobs: w.o.jobs, PerHost: w.o.perHost}, Hush: w.o.net.Stall / 5, Checkpoint: w.s.Checkpoint,
	}
}

// Missing implements warm.Work.
func (w *warmWork) Missing(ctx context.Context, p warm.Pull) (int64, error) {
	c, err := w.client(p.Images, w.display, func(*registry.Options) {})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	_, plan, err := engine.Plan(ctx, w.options(p, c, w.display), p.Images)
	if err != nil {
		return 0, err
	}
	var n int64
	for _, b := range plan.Blobs() {
		if !b.Here {
			n += max(0, b.Size-w.store.Partial(b.Digest))
		}
	}
	return n, nil
}

// Look implements warm.Work.
func (w *warmWork) Look(ctx context.Context, p warm.Pull) ([]warm.Outcome, error) {
	c, err := w.client(p.Images, w.display, func(*registry.Options) {})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	results, _, err := engine.Plan(ctx, w.options(p, c, w.display), p.Images)
	if err != nil {
		return nil, err
	}
	var out []warm.Outcome
	for _, r := range results {
		o := warm.Outcome{Image: r.Ref, Err: r.Err}
		if r.Err == nil {
			o.Digest = r.Image.Target().Digest
			if root, err := w.store.Root(r.Ref.Name()); err != nil || root.Target.Digest != o.Digest || !w.Complete(r.Ref.Name(), o.Digest) {
				o.Err = errors.New("it is to be fetched")
			}
			for _, d := range r.Image.Blobs() {
				if has, err := w.store.Has(d); err != nil || !has {
					o.Err = errors.New("it is to be fetched")
				}
			}
		}
		out = append(out, o)
	}
	return out, nil
}

// Complete implements warm.Work.
func (w *warmWork) Complete(name string, d digest.Digest) bool {
	return whyIncomplete(w.store, name, d.String()) == ""
}

// whyIncomplete says why not all of an image is in the store as it was found, "" when it
// is.
func whyIncomplete(store *blobstore.Store, name, d string) string {
	root, err := store.Root(name)
	if err != nil || root.Target.Digest.String() != d {
		return "not in the store as it was found"
	}
	for _, blob := range root.Blobs {
		if _, err := store.Stat(blob); err != nil {
			return "not all of it is there"
		}
	}
	return ""
}

// arrivals tells a pull's pace of bytes.
type arrivals func(int64)

// Observe implements event.Observer.
func (a arrivals) Observe(e event.Event) {
	if p, ok := e.(event.Progress); ok {
		a(p.N)
	}
}

// Pull implements warm.Work.
func (w *warmWork) Pull(ctx context.Context, p warm.Pull) ([]warm.Outcome, error) {
	observer := event.Observers{w.display}
	if p.Arrived != nil {
		observer = append(observer, arrivals(p.Arrived))
	}
	c, err := w.client(p.Images, observer, func(r *registry.Options) { r.Limit = p.Limit }) // within which --limit-rate is
	if err != nil {
		return nil, err
	}
	defer c.Close()
	results, err := engine.Pull(ctx, w.options(p, c, observer), p.Images)
	out := make([]warm.Outcome, 0, len(results))
	for _, r := range results {
		o := warm.Outcome{Image: r.Ref, Fetched: r.Fetched, Err: r.Err}
		if r.Image != nil {
			o.Digest = r.Image.Target().Digest
		}
		out = append(out, o)
	}
	return out, err
}

// Drop implements warm.Work.
func (w *warmWork) Drop(names []string) error {
	for _, name := range names {
		if err := w.store.Remove(name); err != nil && !errors.Is(err, blobstore.ErrNotFound) {
			return err
		}
	}
	return nil
}

// KeepBudget implements warm.Work.
func (w *warmWork) KeepBudget(ctx context.Context, b warm.Budget, pinned func(string) bool) error {
	u, err := w.store.Usage(ctx)
	if err != nil || u.Bytes+u.PartialSize <= b.High {
		return err
	}
	g, err := w.store.FindGarbage(ctx, blobstore.Keep{Budget: b.Low, Pinned: pinned})
	if err != nil {
		return err
	}
	if err := w.store.Sweep(ctx, g); err != nil {
		return err
	}
	w.Log("swept %s and %s: the store was over its budget", count(len(g.Images), "image"), count(len(g.Blobs), "blob"))
	return nil
}

// warmNote is the name of a group's state in the store.
func warmNote(group string) string { return "warm/" + group }

// Load implements warm.Work.
func (w *warmWork) Load(group string) []byte { return w.store.Note(warmNote(group)) }

// Save implements warm.Work.
func (w *warmWork) Save(group string, state []byte) error {
	return w.store.KeepNote(warmNote(group), state)
}

// Tell implements warm.Work.
func (w *warmWork) Tell(ctx context.Context, h warm.Hook, e warm.Event) error {
	const patience = time.Minute
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	raw, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if h.URL != "" {
		return post(ctx, h.URL, raw)
	}
	cmd := exec.CommandContext(ctx, h.Command[0], h.Command[1:]...)
	cmd.Stdin = bytes.NewReader(raw)
	cmd.WaitDelay = time.Second // what it has started may go on, and hold its output
	ownGroup(cmd)
	var out headAndTail
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = append(os.Environ(), "DRAYAGE_EVENT="+e.Event, "DRAYAGE_GROUP="+e.Group, "DRAYAGE_IMAGE="+e.Image, "DRAYAGE_DIGEST="+e.Digest)
	switch err := cmd.Run(); {
	case err == nil || errors.Is(err, exec.ErrWaitDelay) && cmd.ProcessState.Success():
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s: it takes longer than %s: %s", h.Command[0], patience, w.hookWords(&out))
	default:
		return fmt.Errorf("%s: %w: %s", h.Command[0], err, w.hookWords(&out))
	}
}

// hookWords are what a hook that failed has written, for a log: its beginning and end, each in one
// line, without what is secret.
func (w *warmWork) hookWords(out *headAndTail) string {
	head, tail := out.parts()
	line := w.hookSecrets().Line
	if tail == "" {
		return line(head)
	}
	return line(head) + " … " + line(tail)
}

func post(ctx context.Context, url string, raw []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(raw))
	if err != nil {
		return errors.New("the url is malformed") // it may have a secret
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "drayage/"+build.Version())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("POST to %s fails: %w", req.URL.Host, errors.Unwrap(err))
	}
	resp.Body.Close()
	if resp.StatusCode >= 300 {
		return fmt.Errorf("POST to %s is answered by %s", req.URL.Host, printable.Line(resp.Status))
	}
	return nil
}

// Ready implements warm.Work.
func (w *warmWork) Ready(g warm.Group, yes bool) error {
	if g.ReadyFile == "" {
		return nil
	}
	if err := durable.CheckLinks(filepath.Dir(g.ReadyFile)); err != nil {
		return err
	}
	path, err := durable.Follow(g.ReadyFile)
	if err != nil {
		return err
	}
	if !yes {
		return durable.Withdraw(path)
	}
	const mode, folderMode = 0o644, 0o755
	if err := os.MkdirAll(filepath.Dir(path), folderMode); err != nil {
		return err
	}
	return durable.Rewrite(path, mode, func(w io.Writer) error {
		_, err := io.WriteString(w, time.Now().UTC().Format(time.RFC3339)+"\n")
		return err
	})
}

// Log implements warm.Work.
func (w *warmWork) Log(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.o.show.Quiet {
		w.display.Say("", fmt.Sprintf("%s %s", time.Now().Format("15:04:05"), fmt.Sprintf(format, args...)))
	}
}

// groupStatus is a group's as status has it in JSON.
type groupStatus struct {
	Group  string        `json:"group"`
	Ready  bool          `json:"ready"`
	Last   time.Time     `json:"last,omitzero"`
	Next   time.Time     `json:"next,omitzero"`
	Images []imageStatus `json:"images"`
	Error  string        `json:"error,omitempty"`
}

type imageStatus struct {
	Image   string    `json:"image"`
	Digest  string    `json:"digest,omitempty"`
	Ready   bool      `json:"ready"`
	Why     string    `json:"why,omitempty"` // it isn't
	Checked time.Time `json:"checked,omitzero"`
	Changed time.Time `json:"changed,omitzero"`
}

// statusOfGroup works out what is complete and fresh of a group, as its state has it, and
// of what a file names besides.
func statusOfGroup(store *blobstore.Store, group string, unlooked func(warm.State) []string, now time.Time) groupStatus {
	state := warm.ReadState(store.Note(warmNote(group)), group)
	out := groupStatus{Group: group, Last: state.Ended, Next: state.Next, Error: state.Problem, Images: []imageStatus{}}
	for _, i := range state.Selected() {
		s := imageStatus{Image: familiar(i.Name), Digest: i.Digest, Checked: i.Checked, Changed: i.Changed, Why: i.Error}
		switch why := whyIncomplete(store, i.Name, i.Digest); {
		case s.Why != "":
		case why != "":
			s.Why = why
		case !state.Fresh(i, now):
			s.Why = "not looked at since the last round was due"
		}
		s.Ready = s.Why == ""
		out.Images = append(out.Images, s)
	}
	for _, name := range unlooked(state) {
		out.Images = append(out.Images, imageStatus{Image: name, Why: "not looked at yet"})
	}
	out.Ready = len(out.Images) > 0 && out.Error == "" && !slices.ContainsFunc(out.Images, func(i imageStatus) bool { return !i.Ready })
	if out.Error == "" && len(out.Images) == 0 {
		out.Error = "no round has been yet"
	}
	return out
}

// warmGroups are the groups that the store knows of, for the page.
func warmGroups(store *blobstore.Store) []web.Group {
	names, err := store.Notes("warm/")
	if err != nil {
		return nil
	}
	var out []web.Group
	for _, name := range names {
		s := statusOfGroup(store, strings.TrimPrefix(name, "warm/"), func(warm.State) []string { return nil }, time.Now())
		const forgotten = 7 * 24 * time.Hour // after its next round was due, a group that nobody keeps any more
		if !s.Next.IsZero() && time.Since(s.Next) > forgotten {
			continue
		}
		g := web.Group{Name: s.Group, Images: len(s.Images), Last: s.Last, Next: s.Next, Problem: s.Error, Ready: s.Ready}
		for _, i := range s.Images {
			g.Members = append(g.Members, web.Member{Name: i.Image, Why: i.Why})
			if i.Ready {
				g.Fresh++
			} else {
				g.Problem = cmp.Or(g.Problem, i.Image+": "+i.Why)
			}
		}
		out = append(out, g)
	}
	return out
}

// warmFreshness is what is known of images that are kept warm, by name.
func warmFreshness(store *blobstore.Store) map[string]web.Freshness {
	names, err := store.Notes("warm/")
	if err != nil {
		return nil
	}
	out := make(map[string]web.Freshness)
	for _, name := range names {
		for _, i := range warm.ReadState(store.Note(name), strings.TrimPrefix(name, "warm/")).Images {
			if out[i.Name].Checked.Before(i.Checked) {
				out[i.Name] = web.Freshness{Checked: i.Checked, Changed: i.Changed}
			}
		}
	}
	return out
}

// warmPins reports of images whether a group that is kept warm pins them.
func warmPins(store *blobstore.Store) (func(name string) bool, error) {
	names, err := store.Notes("warm/")
	if err != nil {
		return nil, err
	}
	var states []warm.State
	for _, name := range names {
		states = append(states, warm.ReadState(store.Note(name), strings.TrimPrefix(name, "warm/")))
	}
	return warm.Pinned(states), nil
}

func warmStatusCommand(s process.Streams) *cobra.Command {
	var path, dir string
	var asJSON bool
	var groups []string
	cmd := &cobra.Command{
		Use:   "status -c FILE",
		Short: "Tell whether all images are complete and fresh",
		Long: `Status tells of each image whether all of it is in the store, and was found fresh since the last
round was due. The exit status is 0 when that is so of every image of every group, or of those that
are named, and else 1: a gate for a deployment.`,
		Example: "  drayage warm status -c warm.yaml && deploy\n  drayage warm status -c warm.yaml --group deploys --json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			config, dir, err := loadWarm(s, path, dir)
			if err != nil {
				return err
			}
			store, err := blobstore.Peek(dir)
			if err != nil {
				return err
			}
			for _, name := range groups {
				if !slices.ContainsFunc(config.Groups, func(g warm.Group) bool { return g.Name == name }) {
					return status.Misuse(fmt.Errorf("--group %s: the file has none of that name", name))
				}
			}
			var all []groupStatus
			for _, g := range config.Groups {
				if len(groups) == 0 || slices.Contains(groups, g.Name) {
					all = append(all, statusOfGroup(store, g.Name, g.Unlooked, time.Now()))
				}
			}
			if asJSON {
				err = printJSON(s, all)
			} else {
				err = printStatus(s, all)
			}
			if err == nil && slices.ContainsFunc(all, func(g groupStatus) bool { return !g.Ready }) {
				err = notReadyError{}
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&path, "config", "c", "", "what is to be kept fresh: a `FILE` of YAML")
	storeFlag(cmd, &dir)
	cmd.Flags().StringSliceVar(&groups, "group", nil, "only these groups: `NAMES`")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

func printStatus(s process.Streams, all []groupStatus) error {
	w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	printable.Fprintf(w, "GROUP\tIMAGE\tREADY\tCHECKED\tCHANGED\tWHY NOT\n")
	for _, g := range all {
		for _, i := range g.Images {
			ready := "no"
			if i.Ready {
				ready = "yes"
			}
			printable.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", g.Group, i.Image, ready, ago(i.Checked), ago(i.Changed), i.Why)
		}
		if g.Error != "" {
			printable.Fprintf(w, "%s\t\tno\t\t\t%s\n", g.Group, strings.ReplaceAll(g.Error, "\n", "; "))
		}
	}
	return w.Flush()
}

func warmCheckCommand(s process.Streams) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:     "check -c FILE",
		Short:   "Tell whether a file can be used, and when its rounds would be",
		Example: "  drayage warm check -c warm.yaml",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			config, _, err := loadWarm(s, path, os.TempDir())
			if err != nil {
				return err
			}
			for _, g := range config.Groups {
				var when []string
				at := time.Now()
				const some = 3
				for range some {
					at = config.Next(g.Name, at)
					when = append(when, at.Format("Mon 2006-01-02 15:04 MST"))
				}
				printable.Fprintf(s.Out, "%s\t%s\tnext: %s\n", g.Name, count(len(g.Images), "selector"), strings.Join(when, ", "))
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&path, "config", "c", "", "a `FILE` of YAML, - for standard input")
	return cmd
}

func warmSchemaCommand(s process.Streams) *cobra.Command {
	return &cobra.Command{
		Use:     "schema",
		Short:   "Write the JSON Schema of warm's file",
		Example: "  drayage warm schema > warm.schema.json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := io.WriteString(s.Out, warm.Schema)
			return err
		},
	}
}
