package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"drayage/bench"
	"drayage/blobstore/durable"
	"drayage/cmd/drayage/progress"
	"drayage/engine/event"
	"drayage/engine/fault"
	"drayage/engine/printable"
	"drayage/engine/registry"

	"github.com/spf13/cobra"
)

// benchOptions are the flags of bench, as given.
type benchOptions struct {
	networkFlags
	displayFlags
	platform    string
	connections string
	rate        float64
	rounds      int
	duration    time.Duration
	warmUp      time.Duration
	bytes       size
	parts       string
	profile     string
	whole       bool
	verify      bool
	http        string
	store       string
	replay      string
	from        string
	metrics     string
	given       func(flag string) bool

	json, csv, benchstat, markdown, html string
	baseline, tolerance                  string
}

func benchCommand(s streams) *cobra.Command {
	o := benchOptions{bytes: 1 << 30}
	cmd := &cobra.Command{
		Use:   "bench [flags] IMAGE...",
		Short: "Measure how fast registries deliver, by reading from them",
		Long: `Bench reads parts of the layers of images, with more and more connections, and
tells throughput, times to the first byte and latencies, with the number of
connections beyond which more bring little. It only reads, throws away what it
reads, and never takes more than --bytes and --duration in all.

Several images, such as one from a registry and from its mirror, and several values of
--range, --http and --from are read in turn in the same rounds, and a difference
between them is only called one when it is unlikely to be chance. Standard output has
the table, or what is asked for with -.`,
		Example: `  drayage bench registry.example/app:1
  drayage bench --connections 8 --rounds 10 registry.example/app:1 mirror.example/app:1
  drayage bench --http 1.1,2 --range 1MiB,whole registry.example/app:1
  drayage bench --rate 50 --range 1MiB --json today.json registry.example/app:1
  drayage bench --baseline yesterday.json --tolerance 10% registry.example/app:1
  drayage bench --replay pull.json --from registry.example,mirror.example:5000`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.given = cmd.Flags().Changed
			return runBench(cmd.Context(), s, o, args)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.connections, "connections", "1,2,4,8,16", "how many connections at once, as a `LIST` of numbers to go through")
	f.Float64Var(&o.rate, "rate", 0, "an open loop of `N` requests a second: latency counts from when each is due (default: a closed loop)")
	f.IntVar(&o.rounds, "rounds", 0, "how often to go through all of it (default 6: with fewer, intervals are only the range of the rounds)")
	f.DurationVar(&o.duration, "duration", time.Minute, "take at most `DUR` in all")
	f.DurationVar(&o.warmUp, "warm-up", 0, "of that, read for `DUR` before anything counts (default a tenth; 0s for none)")
	f.Var(&o.bytes, "bytes", "read at most `SIZE` in all (default 1GiB)")
	f.StringVar(&o.parts, "range", "", "read layers in parts of so many bytes, or `SIZES` to compare: 1MiB,4MiB,whole (default 4MiB, or what leaves each connection 4 reads a round)")
	f.BoolVar(&o.whole, "whole", false, "read whole layers, without ranges: the same as --range whole")
	f.StringVar(&o.profile, "profile", "", "read a `MIX` of sizes with their weights, in place of --range: 70*64KiB,20*1MiB,10*32MiB, or a file with one a line")
	f.BoolVar(&o.verify, "verify", false, "hash whole layers and hold them against their digests; with --whole or --replay")
	f.StringVar(&o.http, "http", "1.1", "`VERSIONS` of HTTP to offer, or to compare: 1.1,2. Over 2, connections are requests at once")
	f.StringVar(&o.store, "store", "", "write what is read to the disk, too, into the store `DIR`; whole layers are kept there")
	f.StringVar(&o.replay, "replay", "", "read again what a pull has read, at the same times: `FILE` of pull --report, in place of images")
	f.StringVar(&o.from, "from", "", "`REGISTRIES` to ask in a replay, in place of those it came from; several are compared")
	platformFlag(f, &o.platform, "which image of a multi-platform index")
	f.StringVar(&o.json, "json", "", "write the report as JSON to `FILE`, - for standard output")
	f.StringVar(&o.csv, "csv", "", "write the results as CSV to `FILE`, - for standard output")
	f.StringVar(&o.benchstat, "benchstat", "", "write the rounds for benchstat to `FILE`, - for standard output")
	f.StringVar(&o.markdown, "markdown", "", "write the table as Markdown to `FILE`, - for standard output")
	f.StringVar(&o.html, "html", "", "write the report with plots as one HTML page to `FILE`, - for standard output")
	f.StringVar(&o.baseline, "baseline", "", "compare with an earlier report, `FILE` of --json: exit with status 9 when throughput got worse")
	f.StringVar(&o.tolerance, "tolerance", "10%", "how much worse is no matter to --baseline, as a `SHARE`")
	f.StringVar(&o.metrics, "metrics-listen", "", "serve metrics for Prometheus at `HOST:PORT` while it runs, under /metrics")
	o.networkFlags.add(f)
	o.displayFlags.add(f)
	return cmd
}

// worseError says that a report is worse than its baseline.
type worseError struct{ first bench.Worse }

func (e worseError) Error() string {
	return fmt.Sprintf("%s is %s/s and was %s/s: %.0f%% less", e.first.What, progress.Size(int64(e.first.Is)), progress.Size(int64(e.first.Was)), 100*e.first.Fraction)
}

// FaultKind is its kind: see fault.Of.
func (worseError) FaultKind() fault.Kind { return fault.Worse }

// runBench is what drayage bench does.
func runBench(ctx context.Context, s streams, o benchOptions, args []string) (err error) {
	if err := o.check(args); err != nil {
		return err
	}
	old, tolerance, err := o.readBaseline()
	if err != nil {
		return err
	}
	display, err := o.display(s)
	if err != nil {
		return err
	}
	defer display.Close()
	exchanges := new(bench.Exchanges)
	course, err := o.course(ctx, args, event.Observers{display, exchanges}, display)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, course.Close()) }()
	b, err := o.options(course)
	if err != nil {
		return err
	}
	gauges, err := startMetrics(ctx, o.metrics)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, gauges.Close()) }()
	if gauges != nil && !o.quiet {
		printable.Fprintf(s.err, "metrics at http://%s/metrics\n", gauges.Addr())
	}
	b.Watch = gauges.sample
	b.Progress = func(st bench.Step) {
		gauges.step(st)
		o.tell(s, st)
	}
	o.announce(s, b, course.targets)
	report, err := bench.Measure(ctx, b, course.targets)
	if err != nil {
		return usageError{err}
	}
	report.Exchanges = exchanges.Times()
	if err := o.write(s, report); err != nil {
		return err
	}
	if ctx.Err() != nil { // what was measured until then is told
		return context.Cause(ctx)
	}
	if len(report.Results) == 0 {
		return errors.New("nothing was measured: --bytes or --duration is too little for one read of each")
	}
	if failed, all := report.Failed(); all {
		return measureError{fmt.Errorf("nothing was measured: reads failed: %s: %w", errorsOf(bench.Summary{Errors: failed, Requests: bench.Count(report)}), registry.ErrUnavailable)}
	}
	if old != nil && !report.Shares(old) {
		return usageError{fmt.Errorf("--baseline %s: it has none of the settings that were measured now", o.baseline)}
	}
	if old != nil {
		if worse := report.Baseline(old, tolerance); len(worse) > 0 {
			return worseError{worse[0]}
		}
	}
	return nil
}

// tell says what is done now.
func (o *benchOptions) tell(s streams, st bench.Step) {
	switch {
	case o.quiet:
	case st.Skipped:
		printable.Fprintf(s.err, "%d of %d: %s, %s, round %d: left out, --bytes is too little for one read each\n", st.N, st.Of, st.Target, count(st.Connections, "connection"), st.Round)
	case st.Round == 0:
		printable.Fprintf(s.err, "warming up: %s, %s\n", st.Target, count(st.Connections, "connection"))
	default:
		printable.Fprintf(s.err, "%d of %d: %s, %s, round %d\n", st.N, st.Of, st.Target, count(st.Connections, "connection"), st.Round)
	}
}

func (o *benchOptions) readBaseline() (*bench.Report, float64, error) {
	text, percent := strings.CutSuffix(o.tolerance, "%")
	tolerance, err := strconv.ParseFloat(text, 64)
	if percent {
		tolerance /= 100
	}
	if err != nil || tolerance < 0 || tolerance >= 1 {
		return nil, 0, usageError{fmt.Errorf("--tolerance %q: want a share such as 10%%", o.tolerance)}
	}
	if o.baseline == "" {
		return nil, tolerance, nil
	}
	f, err := os.Open(o.baseline)
	if err != nil {
		return nil, 0, fmt.Errorf("--baseline: %w", err)
	}
	defer f.Close()
	old, err := bench.ReadReport(f)
	if err != nil {
		return nil, 0, usageError{fmt.Errorf("--baseline %s: %w", o.baseline, err)}
	}
	return old, tolerance, nil
}

// announce says beforehand what it is going to cost.
func (o *benchOptions) announce(s streams, b bench.Options, targets []*bench.Target) {
	if o.quiet {
		return
	}
	c := b.Cost(targets)
	printable.Fprintf(s.err, "reading at most %s in at most %s and about %d requests, in %s; ", progress.Size(c.Bytes), c.Duration, c.Requests, count(c.Steps, "step"))
	if o.store == "" {
		printable.Fprintf(s.err, "nothing is kept, and ")
	}
	if o.replay != "" {
		printable.Fprintf(s.err, "no manifest is read, so that nothing counts against a quota of pulls\n")
		return
	}
	printable.Fprintf(s.err, "beyond the manifests, which were read, nothing counts against a quota of pulls\n")
}

// write writes the report in the forms asked for, and the table when standard output
// is free.
func (o *benchOptions) write(s streams, r *bench.Report) error {
	taken := false
	var errs []error
	for _, form := range []struct {
		path  string
		write func(io.Writer) error
	}{
		{o.json, r.WriteJSON}, {o.csv, r.WriteCSV}, {o.benchstat, r.WriteBenchstat}, {o.html, r.WriteHTML}, {o.markdown, func(w io.Writer) error { return benchTable(w, r, true) }},
	} {
		if form.path == "" {
			continue
		}
		taken = taken || form.path == "-"
		errs = append(errs, toFile(s, form.path, form.write))
	}
	if !taken { // what was measured is told, whatever became of the files
		errs = append(errs, benchTable(s.out, r, false))
	}
	return errors.Join(errs...)
}

// toFile writes to what a user has named, as durable.WriteFile does, or to standard output for "-".
// On a terminal, text is made fit to print.
func toFile(s streams, path string, write func(io.Writer) error) error {
	if path == "-" {
		return write(s.out.document())
	}
	const mode = 0o644
	return durable.WriteFile(path, mode, func(w io.Writer) error {
		if f, ok := w.(*os.File); ok {
			w = stream{f}.document()
		}
		return write(w)
	})
}
