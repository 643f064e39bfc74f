package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"drayage/bench"
	"drayage/cmd/drayage/progress"
	"drayage/engine"
	"drayage/engine/event"
	"drayage/engine/reference"
	"drayage/engine/registry"
	"drayage/engine/retry"
	"drayage/engine/schedule"

	"github.com/opencontainers/go-digest"
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
	bytes       size
	parts       string
	whole       bool
	verify      bool

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

Several images, such as one from a registry and from its mirror, and several sizes of
--range, are read in turn in the same rounds, and a difference between them is only called one when it is
unlikely to be chance. Standard output has the table, or what is asked for with -.`,
		Example: `  drayage bench registry.example/app:1
  drayage bench --connections 8 --rounds 10 registry.example/app:1 mirror.example/app:1
  drayage bench --rate 50 --range 1MiB --json today.json registry.example/app:1
  drayage bench --baseline yesterday.json --tolerance 10% registry.example/app:1`,
		RunE: func(cmd *cobra.Command, args []string) error { return runBench(cmd.Context(), s, o, args) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.connections, "connections", "1,2,4,8,16", "how many connections at once, as a `LIST` of numbers to go through")
	f.Float64Var(&o.rate, "rate", 0, "an open loop of `N` requests a second: latency counts from when each is due (default: a closed loop)")
	f.IntVar(&o.rounds, "rounds", 0, "how often to go through all of it (default 6: with fewer, intervals are only the range of the rounds)")
	f.DurationVar(&o.duration, "duration", time.Minute, "take at most `DUR` in all")
	f.Var(&o.bytes, "bytes", "read at most `SIZE` in all (default 1GiB)")
	f.StringVar(&o.parts, "range", "4MiB", "read layers in parts of so many bytes, or `SIZES` to compare: 1MiB,4MiB,whole")
	f.BoolVar(&o.whole, "whole", false, "read whole layers, without ranges: the same as --range whole")
	f.BoolVar(&o.verify, "verify", false, "hash whole layers and hold them against their digests; with --whole")
	platformFlag(f, &o.platform, "which image of a multi-platform index")
	f.StringVar(&o.json, "json", "", "write the report as JSON to `FILE`, - for standard output")
	f.StringVar(&o.csv, "csv", "", "write the results as CSV to `FILE`, - for standard output")
	f.StringVar(&o.benchstat, "benchstat", "", "write the rounds for benchstat to `FILE`, - for standard output")
	f.StringVar(&o.markdown, "markdown", "", "write the table as Markdown to `FILE`, - for standard output")
	f.StringVar(&o.html, "html", "", "write the report with plots as one HTML page to `FILE`, - for standard output")
	f.StringVar(&o.baseline, "baseline", "", "compare with an earlier report, `FILE` of --json: exit with status 9 when throughput got worse")
	f.StringVar(&o.tolerance, "tolerance", "10%", "how much worse is no matter to --baseline, as a `SHARE`")
	o.networkFlags.add(f)
	o.displayFlags.add(f)
	return cmd
}

// worseError says that a report is worse than its baseline.
type worseError struct{ first bench.Worse }

func (e worseError) Error() string {
	return fmt.Sprintf("%s is %s/s and was %s/s: %.0f%% less", e.first.What, progress.Size(int64(e.first.Is)), progress.Size(int64(e.first.Was)), 100*e.first.Fraction)
}

// runBench is what drayage bench does.
func runBench(ctx context.Context, s streams, o benchOptions, args []string) error {
	b, refs, err := o.check(args)
	if err != nil {
		return err
	}
	old, tolerance, err := o.readBaseline()
	if err != nil {
		return err
	}
	credentials, err := o.credentials(refs)
	if err != nil {
		return err
	}
	display, err := o.display(s)
	if err != nil {
		return err
	}
	defer display.Close()
	exchanges := new(bench.Exchanges)
	const patience = 30 * time.Second
	client, err := o.watchedClient(credentials, refs, slices.Max(b.Connections), retry.Policy{Patience: patience}, event.Observers{display, exchanges}, display)
	if err != nil {
		return err
	}
	defer client.Close()
	targets, err := o.targets(ctx, s, client, refs)
	if err != nil {
		return err
	}
	o.announce(s, b, targets)
	report, err := bench.Measure(ctx, b, targets, func(step, steps int, target string, connections, round int) {
		if !o.quiet {
			fmt.Fprintf(s.err, "%d of %d: %s, %d connections, round %d\n", step, steps, target, connections, round+1)
		}
	})
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
		return errors.New("nothing was measured: --bytes is too little for one read of each")
	}
	if old != nil {
		if worse := report.Baseline(old, tolerance); len(worse) > 0 {
			return worseError{worse[0]}
		}
	}
	return nil
}

// check reads the command line.
func (o *benchOptions) check(args []string) (bench.Options, []reference.Image, error) {
	b := bench.Options{Rate: o.rate, Rounds: o.rounds, Duration: o.duration, Bytes: int64(o.bytes)}
	if len(args) == 0 {
		return b, nil, usageError{errors.New("no images named")}
	}
	refs, bad := parseNames(namedWords(args))
	if len(bad) > 0 {
		return b, nil, usageError{bad[0]}
	}
	const most = 1024
	for _, word := range strings.Split(o.connections, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil || n < 1 || n > most {
			return b, nil, usageError{fmt.Errorf("--connections %q: want numbers from 1 to %d, such as 1,4,16", o.connections, most)}
		}
		if !slices.Contains(b.Connections, n) {
			b.Connections = append(b.Connections, n)
		}
	}
	if b.Rounds == 0 {
		b.Rounds = 6 // the fewest that an interval, and a difference, take
	}
	if o.whole {
		o.parts = "whole"
	}
	for _, word := range strings.Split(o.parts, ",") {
		if _, err := partSize(word); err != nil {
			return b, nil, err
		}
	}
	switch {
	case b.Rounds < 1 || b.Duration <= 0 || b.Rate < 0:
		return b, nil, usageError{errors.New("--rounds and --duration must be more than nothing, and --rate not less")}
	case o.verify && o.parts != "whole":
		return b, nil, usageError{errors.New("--verify goes with --whole: a part has no digest")}
	}
	return b, refs, nil
}

func namedWords(args []string) []named {
	var out []named
	for _, a := range args {
		out = append(out, named{word: a})
	}
	return out
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

// targets resolves images, without a store.
func (o *benchOptions) targets(ctx context.Context, s streams, client *registry.Client, refs []reference.Image) ([]*bench.Target, error) {
	platform, err := platformOf(o.platform)
	if err != nil {
		return nil, err
	}
	store, err := noStore()
	if err != nil {
		return nil, err
	}
	results, _, err := engine.Plan(ctx, engine.Options{
		Store: store, Registry: client, Platform: platform, Limits: schedule.Limits{Jobs: 1, PerHost: 1},
	}, refs)
	if err != nil {
		return nil, err
	}
	if failed := engine.Failures(results); len(failed) > 0 {
		return nil, failures(failed)
	}
	var out []*bench.Target
	words := strings.Split(o.parts, ",")
	for _, r := range results {
		for _, word := range words {
			part, err := partSize(word)
			if err != nil {
				return nil, err
			}
			name := r.Ref.String()
			if len(words) > 1 {
				name += " by " + strings.TrimSpace(word)
			}
			t, err := bench.NewTarget(name, r.Image.Target().Digest, r.Image.Main().Layers, func(d digest.Digest) *registry.Blob {
				return client.Blob(r.Ref, d)
			}, part, o.verify)
			if err != nil {
				return nil, err
			}
			out = append(out, t)
		}
	}
	return out, nil
}

// partSize reads a size of parts; 0 is whole layers.
func partSize(word string) (int64, error) {
	if strings.TrimSpace(word) == "whole" {
		return 0, nil
	}
	n, err := parseSize(word)
	if err == nil && n < 1 {
		err = errors.New("want at least one byte")
	}
	if err != nil {
		return 0, usageError{fmt.Errorf("--range: %w", err)}
	}
	return n, nil
}

// announce says beforehand what it is going to cost.
func (o *benchOptions) announce(s streams, b bench.Options, targets []*bench.Target) {
	if o.quiet {
		return
	}
	c := b.Cost(len(targets))
	fmt.Fprintf(s.err, "reading at most %s in at most %s, in %d steps; nothing is kept, and beyond the manifests, which were read, nothing counts against a quota of pulls\n",
		progress.Size(c.Bytes), c.Duration, c.Steps)
}

// write writes the report in the forms asked for, and the table when standard output
// is free.
func (o *benchOptions) write(s streams, r *bench.Report) error {
	taken := false
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
		if err := toFile(s, form.path, form.write); err != nil {
			return err
		}
	}
	if taken {
		return nil
	}
	return benchTable(s.out, r, false)
}

// toFile writes to a file, or to standard output for "-".
func toFile(s streams, path string, write func(io.Writer) error) error {
	if path == "-" {
		return write(s.out)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// benchTable writes the report for people.
func benchTable(w io.Writer, r *bench.Report, markdown bool) error {
	for _, t := range r.Targets {
		line := fmt.Sprintf("%s: %s in %s", t.Name, progress.Size(t.Size), count(t.Blobs, "layer"))
		if t.Knee > 0 {
			line += fmt.Sprintf("; %s bring at least 95%% of the best throughput", count(t.Knee, "connection"))
		}
		fmt.Fprintln(w, line)
	}
	fmt.Fprintln(w)
	out := newTable(w, markdown)
	out.row("IMAGE", "CONNECTIONS", "THROUGHPUT", "95% INTERVAL", "FIRST BYTE p50", "p99", "WHOLE READ p50", "p99", "p99.9", "READS", "ERRORS")
	rate := func(f float64) string { return progress.Size(int64(max(0, f))) + "/s" }
	for _, x := range r.Results {
		out.row(x.Target, strconv.Itoa(x.Connections), rate(x.Throughput.Estimate), rate(x.Throughput.Low)+" to "+rate(x.Throughput.High),
			moment(x.FirstByte.P50), moment(x.FirstByte.P99), moment(x.Latency.P50), moment(x.Latency.P99), moment(x.Latency.P999), strconv.Itoa(x.Requests), errorsOf(x.Summary))
	}
	if err := out.flush(); err != nil {
		return err
	}
	if err := benchDetails(w, r, markdown); err != nil {
		return err
	}
	for _, c := range r.Comparisons {
		verdict := "no difference that could not be chance"
		if d := c.Throughput; d.Real {
			verdict = fmt.Sprintf("%.2f times the throughput (%.2f to %.2f)", d.Ratio.Estimate, d.Ratio.Low, d.Ratio.High)
		}
		fmt.Fprintf(w, "%s against %s, %s: %s\n", c.Target, c.To, count(c.Connections, "connection"), verdict)
	}
	return nil
}

// benchDetails tells where the time to the first byte went, and of the load itself.
func benchDetails(w io.Writer, r *bench.Report, markdown bool) error {
	out := newTable(w, markdown)
	fmt.Fprintln(w)
	out.row("WHAT", "HOW OFTEN", "p50", "p90", "p99", "MAX")
	line := func(what string, q bench.Quantiles) {
		if q.Count > 0 {
			out.row(what, strconv.FormatInt(q.Count, 10), moment(q.P50), moment(q.P90), moment(q.P99), moment(q.Max))
		}
	}
	for _, e := range r.Exchanges {
		line(e.Kind+" from "+e.Host, e.Quantiles)
	}
	for _, t := range r.Targets {
		x, at := t.All, t.Name+": "
		line(at+"DNS", x.DNS)
		line(at+"connect", x.Connect)
		line(at+"TLS", x.TLS)
		line(at+"first byte, new connection", x.Cold)
		line(at+"first byte, kept connection", x.Warm)
		if x.Fresh.Count > 0 && x.Again.Count > 0 {
			line(at+"first byte, read before", x.Again)
			line(at+"first byte, not read before", x.Fresh)
		}
		if r.Rate > 0 {
			line(at+"the load behind its schedule", x.Lateness)
		}
	}
	if err := out.flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	return nil
}

// moment is a time in seconds for people.
func moment(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}

func errorsOf(s bench.Summary) string {
	if len(s.Errors) == 0 {
		return "0"
	}
	var kinds []string
	for k, n := range s.Errors {
		kinds = append(kinds, fmt.Sprintf("%d %s", n, k))
	}
	slices.Sort(kinds)
	return strings.Join(kinds, ", ")
}

// table is one for people, or in Markdown.
type table struct {
	w        io.Writer
	aligned  *tabwriter.Writer
	markdown bool
	rows     int
}

func newTable(w io.Writer, markdown bool) *table {
	return &table{w: w, aligned: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0), markdown: markdown}
}

func (t *table) row(cells ...string) {
	if !t.markdown {
		fmt.Fprintln(t.aligned, strings.Join(cells, "\t"))
		return
	}
	fmt.Fprintln(t.w, "| "+strings.Join(cells, " | ")+" |")
	if t.rows++; t.rows == 1 {
		fmt.Fprintln(t.w, "|"+strings.Repeat(" --- |", len(cells)))
	}
}

func (t *table) flush() error { return t.aligned.Flush() }
