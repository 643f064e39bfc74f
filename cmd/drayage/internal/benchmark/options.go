package benchmark

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"drayage/bench"
	"drayage/blobstore/durable"
	"drayage/cmd/drayage/internal/display"
	"drayage/cmd/drayage/internal/network"
	"drayage/cmd/drayage/internal/platform"
	"drayage/cmd/drayage/internal/status"
	"drayage/cmd/drayage/internal/units"

	"github.com/spf13/pflag"
)

const (
	maxConnections = 1024
	// defaultRounds is the least number for confidence intervals and significance.
	defaultRounds = 6
	// defaultBytes is 1 GiB.
	defaultBytes = 1 << 30
)

// Options are the flags of a benchmark, as given.
type Options struct {
	net         network.Flags
	show        display.Flags
	platform    platform.Flag
	connections string
	rate        float64
	rounds      int
	duration    time.Duration
	warmUp      time.Duration
	bytes       units.Size
	parts       string
	profile     string
	whole       bool
	verify      bool
	http        string
	store       string
	replay      string
	from        string
	metrics     string
	Given       func(flag string) bool // reports whether a flag was given

	json, csv, benchstat, markdown, html string
	baseline, tolerance                  string

	allowed float64 // tolerance, as check has read it
}

// Add adds the flags.
func (o *Options) Add(f *pflag.FlagSet) {
	f.SortFlags = false
	f.StringVar(&o.connections, "connections", "1,2,4,8,16", "`LIST` of connection counts to measure")
	f.Float64Var(&o.rate, "rate", 0, "start `N` requests per second, an open loop (default: closed loop)")
	f.IntVar(&o.rounds, "rounds", 0, fmt.Sprintf("measure each setting `N` times (default %d, or 1 with --replay)", defaultRounds))
	f.DurationVar(&o.duration, "duration", time.Minute, "maximum total time `DUR`")
	f.DurationVar(&o.warmUp, "warm-up", 0, "read for `DUR` before measuring, 0s for none (default: --duration/10)")
	o.bytes = defaultBytes
	f.Var(&o.bytes, "bytes", "maximum total `SIZE` of reads")
	f.Lookup("bytes").DefValue = "1GiB"
	f.StringVar(&o.parts, "range", "", "`SIZES` of reads, e.g. 1MiB,4MiB,whole (default 4MiB, less if --bytes is small)")
	f.BoolVar(&o.whole, "whole", false, "read whole layers, same as --range whole")
	f.StringVar(&o.profile, "profile", "", "weighted `MIX` of read sizes, e.g. 70*64KiB,30*4MiB, or a file with one per line")
	f.BoolVar(&o.verify, "verify", false, "verify digests of layers, with --whole or --replay")
	f.StringVar(&o.http, "http", "1.1", "HTTP `VERSIONS` to offer: 1.1, 2 or 1.1,2")
	f.StringVar(&o.store, "store", "", "write what is read to the store `DIR`, and keep whole layers")
	f.StringVar(&o.replay, "replay", "", "repeat the reads of a pull at their times, from `FILE` of pull --report")
	f.StringVar(&o.from, "from", "", "`REGISTRIES` to replay from (default: the original ones)")
	o.platform.Add(f, "platform to select from a multi-platform image")
	f.StringVar(&o.json, "json", "", "write the report as JSON to `FILE` (-: standard output)")
	f.StringVar(&o.csv, "csv", "", "write the results as CSV to `FILE` (-: standard output)")
	f.StringVar(&o.benchstat, "benchstat", "", "write the rounds for benchstat to `FILE` (-: standard output)")
	f.StringVar(&o.markdown, "markdown", "", "write the table as Markdown to `FILE` (-: standard output)")
	f.StringVar(&o.html, "html", "", "write the report with plots as HTML to `FILE` (-: standard output)")
	f.StringVar(&o.baseline, "baseline", "", "compare with `FILE` of --json, exit with status 9 on a regression")
	f.StringVar(&o.tolerance, "tolerance", "10%", "allowed regression against --baseline, as a `SHARE`")
	f.StringVar(&o.metrics, "metrics-listen", "", "serve Prometheus metrics at `HOST:PORT`/metrics during the run")
	o.net.Add(f)
	o.show.Add(f)
}

// check verifies that the options are consistent, and sets those with computed defaults.
func (o *Options) check(args []string) error {
	if err := o.checkConflicts(args); err != nil {
		return err
	}
	for _, path := range []string{o.json, o.csv, o.benchstat, o.markdown, o.html} {
		if path == "" || path == "-" {
			continue
		}
		if _, err := os.Stat(filepath.Dir(path)); err != nil { // rather than after all is measured
			return err
		}
	}
	if o.whole {
		o.parts = "whole"
	}
	if !o.Given("rounds") {
		o.rounds = defaultRounds
		if o.replay != "" {
			o.rounds = 1
		}
	}
	if !o.Given("warm-up") {
		o.warmUp = o.duration / 10
	}
	switch {
	case o.rounds < 1:
		return status.Misuse(fmt.Errorf("--rounds must be at least 1, not %d", o.rounds))
	case o.duration <= 0:
		return status.Misuse(fmt.Errorf("--duration must be positive, e.g. 30s, not %s", o.duration))
	case o.rate < 0:
		return status.Misuse(fmt.Errorf("--rate must not be negative: %g", o.rate))
	case o.warmUp < 0 || o.warmUp >= o.duration:
		return status.Misuse(fmt.Errorf("--warm-up must be shorter than --duration and not negative: %s", o.warmUp))
	case o.verify && o.parts != "whole" && o.replay == "":
		return status.Misuse(errors.New("--verify requires --whole or --replay: ranges have no digest"))
	}
	return o.parseTolerance()
}

// checkConflicts finds options that exclude or require each other.
func (o *Options) checkConflicts(args []string) error {
	switch {
	case o.replay != "" && len(args) > 0:
		return status.Misuse(errors.New("--replay does not take images: the pull report names them"))
	case o.replay == "" && len(args) == 0:
		return status.Misuse(errors.New("at least one image is required, or several to compare"))
	case o.from != "" && o.replay == "":
		return status.Misuse(errors.New("--from requires --replay; without it, name the image at each registry"))
	case o.replay != "" && (o.rate > 0 || o.profile != "" || o.whole || o.Given("range")):
		return status.Misuse(errors.New("--replay cannot be combined with --rate, --range, --whole or --profile"))
	case o.profile != "" && (o.whole || o.Given("range")), o.whole && o.Given("range"):
		return status.Misuse(errors.New("only one of --profile, --range and --whole can be used"))
	case o.replay != "" && o.Given("warm-up"):
		return status.Misuse(errors.New("--warm-up cannot be combined with --replay, which starts as the pull did"))
	}
	return nil
}

func (o *Options) parseTolerance() error {
	allowed, err := units.ParseShare(o.tolerance)
	if err != nil || allowed == 1 {
		return status.Misuse(fmt.Errorf("--tolerance %q: must be a share, e.g. 10%%", o.tolerance))
	}
	o.allowed = allowed
	return nil
}

// readBaseline reads the earlier report of --baseline; nil if there is none.
func (o *Options) readBaseline() (*bench.Report, error) {
	if o.baseline == "" {
		return nil, nil
	}
	f, err := durable.OpenNamed(o.baseline)
	if err != nil {
		return nil, fmt.Errorf("--baseline: %w", err)
	}
	defer f.Close()
	old, err := bench.ReadReport(f)
	if err != nil {
		return nil, status.Misuse(fmt.Errorf("--baseline %s: %w", o.baseline, err))
	}
	return old, nil
}

// numbers are the numbers of connections.
func (o *Options) numbers() ([]int, error) {
	var out []int
	for _, word := range strings.Split(o.connections, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil || n < 1 || n > maxConnections {
			return nil, status.Misuse(fmt.Errorf("--connections %q: must be numbers from 1 to %d, e.g. 1,4,16", o.connections, maxConnections))
		}
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out, nil
}

func httpVersions(list string) ([]string, error) {
	var out []string
	for _, word := range strings.Split(list, ",") {
		v := strings.TrimSpace(word)
		if v != "1.1" && v != "2" || slices.Contains(out, v) {
			return nil, status.Misuse(fmt.Errorf("--http %q: must be 1.1, 2 or 1.1,2", list))
		}
		out = append(out, v)
	}
	return out, nil
}
