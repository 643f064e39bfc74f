// Package benchmark measures registries as the options of a command ask for, and writes the reports.
// Package bench does the measuring.
package benchmark

import (
	"context"
	"drayage/bench"
	"drayage/cmd/drayage/internal/phrase"
	"drayage/cmd/drayage/internal/process"
	"drayage/cmd/drayage/internal/progress"
	"drayage/cmd/drayage/internal/status"
	"drayage/cmd/drayage/internal/terminal"
	"drayage/engine/event"
	"drayage/engine/printable"
	"drayage/engine/registry"
	"errors"
	"fmt"
	"io"
)

// Run measures what the options ask for, and writes the report.
func Run(ctx context.Context, s process.Streams, o Options, args []string) (err error) {
	if err := o.check(args); err != nil {
		return err
	}
	old, err := o.readBaseline()
	if err != nil {
		return err
	}
	display, err := o.show.Start(s)
	if err != nil {
		return err
	}
	defer display.Close()
	exchanges := new(bench.Exchanges)
	targets, err := findTargets(ctx, &o, args, event.Observers{display, exchanges}, display)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, targets.Close()) }()
	report, err := measure(ctx, s, &o, targets, exchanges)
	if err != nil {
		return err
	}
	if err := writeReports(s, &o, report); err != nil {
		return err
	}
	if ctx.Err() != nil { // what was measured until then has been written
		return context.Cause(ctx)
	}
	return judge(&o, report, old)
}

// measure measures, and announces each step.
func measure(ctx context.Context, s process.Streams, o *Options, t *targets, exchanges *bench.Exchanges) (_ *bench.Report, err error) {
	b, err := t.options(o)
	if err != nil {
		return nil, err
	}
	gauges, err := startMetrics(ctx, o.metrics)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, gauges.Close()) }()
	if gauges != nil && !o.show.Quiet {
		printable.Fprintf(s.Err, "metrics at http://%s/metrics\n", gauges.Addr())
	}
	b.Exchanges = exchanges
	b.Watch = gauges.sample
	b.Progress = func(st bench.Step) {
		gauges.step(st)
		if !o.show.Quiet {
			announceStep(s.Err, st)
		}
	}
	if !o.show.Quiet {
		announceCost(s.Err, o, b.Cost(t.targets))
	}
	report, err := bench.Measure(ctx, b, t.targets)
	if err != nil {
		return nil, status.Misuse(fmt.Errorf("--bytes: %w", err))
	}
	return report, nil
}

// announceCost prints what measuring will take at most.
func announceCost(w io.Writer, o *Options, c bench.Cost) {
	kept := "nothing is kept"
	if o.store != "" {
		kept = "whole layers are kept in " + o.store
	}
	quota := "the manifests have been read, and blobs do not count against pull rate limits"
	if o.replay != "" {
		quota = "no manifest is read, so nothing counts against pull rate limits"
	}
	printable.Fprintf(w, "reading at most %s in at most %s, about %s in %s; %s; %s\n",
		progress.Size(c.Bytes), c.Duration, phrase.Count(int(c.Requests), "request"), phrase.Count(c.Steps, "step"), kept, quota)
}

// announceStep prints what is measured next.
func announceStep(w io.Writer, st bench.Step) {
	what := fmt.Sprintf("%s, %s", st.Target, phrase.Count(st.Connections, "connection"))
	switch {
	case st.Skipped:
		printable.Fprintf(w, "%d of %d: %s, round %d: skipped, --bytes is too small for one read per connection\n", st.N, st.Of, what, st.Round)
	case st.Round == 0:
		printable.Fprintf(w, "warm-up: %s\n", what)
	default:
		printable.Fprintf(w, "%d of %d: %s, round %d\n", st.N, st.Of, what, st.Round)
	}
}

// writeReports writes the report in all formats asked for, and the table unless standard output has
// one of them. An error of one does not keep the others from being written.
func writeReports(s process.Streams, o *Options, r *bench.Report) error {
	taken := false
	var errs []error
	for _, format := range []struct {
		path  string
		write func(io.Writer) error
	}{
		{o.json, r.WriteJSON}, {o.csv, r.WriteCSV}, {o.benchstat, r.WriteBenchstat}, {o.html, r.WriteHTML},
		{o.markdown, func(w io.Writer) error { return writeTable(w, r, true) }},
	} {
		if format.path == "" {
			continue
		}
		taken = taken || format.path == "-"
		errs = append(errs, terminal.WriteFile(s.Out, format.path, format.write))
	}
	if !taken {
		errs = append(errs, writeTable(s.Out, r, false))
	}
	return errors.Join(errs...)
}

// judge returns an error if nothing was measured, or if throughput has fallen since an earlier
// report, which may be nil.
func judge(o *Options, r, old *bench.Report) error {
	if len(r.Results) == 0 {
		return errors.New("nothing was measured: --bytes or --duration is too small for one read of each image")
	}
	if failed, all := r.Failed(); all {
		return status.Unmeasured(fmt.Errorf("nothing was measured: reads failed: %s: %w", errorsOf(failed), registry.ErrUnavailable))
	}
	if old == nil {
		return nil
	}
	worse, err := r.Regressions(old, o.allowed)
	if err != nil {
		return status.Misuse(fmt.Errorf("--baseline %s: %w", o.baseline, err))
	}
	if len(worse) > 0 {
		return worseError{worse[0]}
	}
	return nil
}
