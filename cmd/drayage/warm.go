package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"drayage/blobstore"
	"drayage/blobstore/durable"
	"drayage/cmd/drayage/internal/display"
	"drayage/cmd/drayage/internal/network"
	"drayage/cmd/drayage/internal/phrase"
	"drayage/cmd/drayage/internal/process"
	"drayage/cmd/drayage/internal/status"
	"drayage/cmd/drayage/internal/stores"
	"drayage/cmd/drayage/internal/warm"
	"drayage/cmd/drayage/internal/warmer"
	"drayage/engine"
	"drayage/engine/printable"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
)

// warmOptions are the flags of warm, as given.
type warmOptions struct {
	net         network.Flags
	show        display.Flags
	config      string
	dir         string
	once        bool
	groups      []string
	connections connectionLimits
	giveUp      time.Duration
	foreign     bool
	noSync      bool
}

func warmCommand(s process.Streams) *cobra.Command {
	var o warmOptions
	cmd := &cobra.Command{
		Use:   "warm -c FILE",
		Short: "Keep images in the store fresh, on a schedule",
		Long: `Keep the images of a configuration file fresh in the store: check by HEAD whether
tags have changed, download what has, within time windows and rate limits, delete
what is no longer listed, and keep the store within a disk quota. docs/warm.md
describes the file, and "drayage warm schema" writes its JSON Schema.

Warm runs until it is stopped. It reloads the file on SIGHUP, and when it has
changed. With --once it runs each group once, e.g. from a scheduler; the exit
status is then 0 if all images are complete and fresh. Its state is kept in the
store, so that missed runs are made up for.`,
		Example: `  drayage warm -c warm.yaml
  drayage warm -c warm.yaml --once --group deploys
  drayage warm status -c warm.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runWarm(cmd.Context(), s, o) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVarP(&o.config, "config", "c", "", "configuration `FILE`, YAML (-: standard input)")
	stores.AddFlag(cmd.Flags(), &o.dir)
	f.BoolVar(&o.once, "once", false, "run each group once, then exit")
	f.StringSliceVar(&o.groups, "group", nil, "with --once, only groups `NAMES`")
	o.connections.add(f, "")
	f.DurationVar(&o.giveUp, "give-up-after", 2*time.Minute, "give up on an image after `DUR` without progress")
	foreignFlag(f, &o.foreign)
	f.BoolVar(&o.noSync, "no-sync", false, "don't wait for the disk; a power cut may damage the store")
	o.net.Add(f)
	o.show.Add(f)
	cmd.AddCommand(warmStatusCommand(s), warmCheckCommand(s), warmSchemaCommand(s))
	return cmd
}

// loadWarm reads a file, and finds the store that it is for.
func loadWarm(s process.Streams, path, dir string) (*warm.Config, string, error) {
	if path == "" {
		return nil, "", status.Misuse(errors.New("a configuration file is required: -c FILE"))
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
	dir, err = stores.Dir(dir)
	return c, dir, err
}

func runWarm(ctx context.Context, s process.Streams, o warmOptions) error {
	config, dir, err := loadWarm(s, o.config, o.dir)
	if err != nil {
		return err
	}
	if len(o.groups) > 0 && !o.once {
		return status.Misuse(errors.New("--group requires --once"))
	}
	if o.giveUp <= 0 {
		return status.Misuse(errors.New("--give-up-after must be positive, e.g. 30s"))
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
	// Errors in the environment and the flags are reported before the first run.
	c, err := o.net.Client(credentials, nil, o.connections.limits().PerHost, engine.Retry{}, display)
	if err != nil {
		return err
	}
	c.Close()
	lock, err := lockWarm(store)
	if err != nil {
		return err
	}
	defer lock.Close()
	w := &warmer.Engine{
		Net: &o.net, Quiet: o.show.Quiet, Limits: o.connections.limits(), GiveUp: o.giveUp, Foreign: o.foreign,
		Checkpoint: s.Checkpoint, Store: store, Display: display, Credentials: credentials,
	}
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
	return "some images are missing or stale; see `drayage warm status`"
}

// keep keeps the groups fresh, with the file as it is now and as it becomes. To end
// when told to is what it is for.
func (o *warmOptions) keep(ctx context.Context, s process.Streams, config *warm.Config, dir string, w *warmer.Engine, host string) error {
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
		next, stamp = o.changed(inner, s, w.Display, reload, dir, stamp)
		cancel()
		<-ended
		if next == nil {
			_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
			return nil
		}
		config = next
		w.Display.Say("", fmt.Sprintf("drayage: reloaded %s", o.config))
	}
}

// fileStamp changes when a file does.
func fileStamp(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	return fmt.Sprint(info.ModTime().UnixNano(), info.Size())
}

// changed waits until the file has changed and is valid, and returns its configuration; nil when ctx
// is done. Invalid files are reported and otherwise ignored.
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
			err = fmt.Errorf("it names another store, %s: restart to use it", now)
		}
		if err == nil {
			return c, stamp
		}
		d.Say("", fmt.Sprintf("drayage: %v; keeping the previous configuration", err))
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
		return nil, fmt.Errorf("another drayage warm is already running on the store %s", store.Dir())
	}
	return f, nil
}

func warmStatusCommand(s process.Streams) *cobra.Command {
	var path, dir string
	var asJSON bool
	var groups []string
	cmd := &cobra.Command{
		Use:   "status -c FILE",
		Short: "Show whether all images are complete and fresh",
		Long: `Show for each image whether it is complete in the store, and has been checked
since the last scheduled run. The exit status is 0 if that is true of all images,
or of those in the groups given, and 1 otherwise, e.g. as a gate for deployments.`,
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
					return status.Misuse(fmt.Errorf("--group %s: no such group in the configuration", name))
				}
			}
			var all []warmer.GroupStatus
			for _, g := range config.Groups {
				if len(groups) == 0 || slices.Contains(groups, g.Name) {
					all = append(all, warmer.StatusOf(store, g.Name, g.Unlooked, time.Now()))
				}
			}
			if asJSON {
				err = s.Out.JSON(all)
			} else {
				err = printStatus(s, all)
			}
			if err == nil && slices.ContainsFunc(all, func(g warmer.GroupStatus) bool { return !g.Ready }) {
				err = notReadyError{}
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&path, "config", "c", "", "configuration `FILE`, YAML")
	stores.AddFlag(cmd.Flags(), &dir)
	cmd.Flags().StringSliceVar(&groups, "group", nil, "only groups `NAMES`")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printStatus(s process.Streams, all []warmer.GroupStatus) error {
	w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	printable.Fprintf(w, "GROUP\tIMAGE\tREADY\tCHECKED\tCHANGED\tWHY NOT\n")
	for _, g := range all {
		for _, i := range g.Images {
			ready := "no"
			if i.Ready {
				ready = "yes"
			}
			printable.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", g.Group, i.Image, ready, phrase.Ago(i.Checked), phrase.Ago(i.Changed), i.Why)
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
		Short:   "Validate the configuration and show upcoming runs",
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
				printable.Fprintf(s.Out, "%s\t%s\tnext: %s\n", g.Name, phrase.Count(len(g.Images), "selector"), strings.Join(when, ", "))
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&path, "config", "c", "", "configuration `FILE`, YAML (-: standard input)")
	return cmd
}

func warmSchemaCommand(s process.Streams) *cobra.Command {
	return &cobra.Command{
		Use:     "schema",
		Short:   "Write the JSON Schema of the configuration",
		Example: "  drayage warm schema > warm.schema.json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := io.WriteString(s.Out, warm.Schema)
			return err
		},
	}
}
