package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
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
	"drayage/cmd/drayage/internal/stores"
	"drayage/engine/image"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/pflag"
)

// pullOptions are the flags of pull, as given.
type pullOptions struct {
	out  output.Flags
	show display.Flags
	net  network.Flags

	list        string
	arch        string
	platforms   []string
	all         bool
	referrers   bool
	foreign     bool
	store       string
	lock        string
	relock      bool
	connections connectionLimits
	giveUp      time.Duration
	base        map[digest.Digest]bool // what --since carried
	stdin       io.Reader
	keepGoing   bool
	failed      string
	report      string
	record      *history.Recorder // for the report, or nil
	dryRun      bool

	named map[reference.Image]reference.Image // what was asked for, by what a lock made of it
}

// add adds the flags to those of a command.
func (o *pullOptions) add(f *pflag.FlagSet) {
	f.SortFlags = false
	o.out.Add(f)
	f.StringVarP(&o.list, "file", "f", "", "read images from `LIST`, one per line (-: standard input)")
	f.StringVarP(&o.arch, "architecture", "r", "", "select linux/`ARCH`, same as --platform linux/ARCH")
	f.StringSliceVar(&o.platforms, "platform", nil, "select `OS/ARCH[/VARIANT]` from multi-platform images (repeatable; default "+image.DefaultPlatform().String()+")")
	f.BoolVar(&o.all, "all-platforms", false, "pull all platforms; --platform selects the one that docker load gets")
	f.BoolVar(&o.referrers, "referrers", false, "include referrers: signatures, attestations, SBOMs")
	foreignFlag(f, &o.foreign)
	f.StringVar(&o.lock, "lock", "", "write the images' digests to `FILE`, or pull those that it lists")
	f.BoolVar(&o.relock, "update-lock", false, "resolve tags again and update the lock file")
	f.StringVar(&o.store, "store", "", "store directory `DIR` (default $DRAYAGE_STORE, else $XDG_CACHE_HOME/drayage, else ~/.cache/drayage)")
	o.connections.add(f, "")
	f.DurationVar(&o.giveUp, "give-up-after", 2*time.Minute, "abort after `DUR` without progress")
	f.BoolVar(&o.out.NoSync, "no-sync", false, "don't wait for the disk; a power cut may damage store and archive")
	f.BoolVar(&o.keepGoing, "keep-going", false, "continue with the other images when one fails")
	f.StringVar(&o.failed, "failed", "", "write the names of failed images to `FILE`, for use with -f")
	f.StringVar(&o.report, "report", "", "write a JSON report of all downloads to `FILE` (for bench --replay, too)")
	f.BoolVarP(&o.dryRun, "dry-run", "n", false, "show what would be downloaded, and download no layers")
	o.net.Add(f)
	o.show.Add(f)
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
		return nil, nil, status.Misuse(errors.New("no images given; name some, or use -f LIST"))
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
			return nil, status.Misuse(errors.New("-r and --platform exclude each other"))
		}
		words = []string{"linux/" + o.arch}
	}
	if o.out.Format == "legacy" && o.referrers {
		return nil, status.Misuse(errors.New("--referrers requires --format docker or oci"))
	}
	if o.out.Format == "legacy" && (len(words) > 1 || o.all) {
		return nil, status.Misuse(errors.New("several platforms require --format docker or oci"))
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
	for _, d := range []struct {
		flag  string
		value time.Duration
	}{{"--give-up-after", o.giveUp}, {"--stall", o.net.Stall}, {"--connect-timeout", o.net.Connect}, {"--answer-timeout", o.net.FirstByte}} {
		if d.value <= 0 {
			return status.Misuse(fmt.Errorf("%s must be positive, e.g. 30s", d.flag))
		}
	}
	if err := o.out.CheckNames(refs); err != nil {
		return err
	}
	if o.report == "-" || o.report != "" && o.dryRun {
		return status.Misuse(errors.New("--report cannot be combined with --dry-run"))
	}
	if o.report != "" { // not found out when all is done
		if _, err := os.Stat(filepath.Dir(o.report)); err != nil {
			return fmt.Errorf("--report: %w", err)
		}
	}
	return o.out.Check(s)
}

func (o *pullOptions) openStore(disk durable.Disk) (*blobstore.Store, error) {
	dir, err := stores.Dir(o.store)
	if err != nil {
		return nil, err
	}
	if o.dryRun {
		return blobstore.Peek(dir)
	}
	return blobstore.OpenWith(dir, blobstore.Options{NoSync: o.out.NoSync, Disk: disk})
}
