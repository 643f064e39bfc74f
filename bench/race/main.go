//go:build unix

// Race measures drayage beside other tools that pull images, all on this machine,
// from one registry, over the same links, in turn. `make race` runs it, and writes
// docs/benchmarks.md.
//
// Each tool has the settings that serve it best of those that its documentation has.
// Its time is told as it is, and with a sync of what it wrote, since drayage syncs by
// itself. Whether the result has every layer is checked by this program's own hand.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"drayage/bench/internal/course"
)

func main() {
	var o options
	flag.StringVar(&o.program, "drayage", "bin/drayage", "the program")
	flag.StringVar(&o.tools, "tools", ".tools", "where tools are that are not on the path")
	flag.StringVar(&o.containerd, "containerd", "v2.4.2", "which containerd: its programs are containerd-VERSION and ctr-VERSION")
	flag.StringVar(&o.dir, "dir", "", "where to work (default: the system's folder for temporary files)")
	flag.StringVar(&o.only, "only", "", "only scenarios whose name has this in it")
	flag.StringVar(&o.tool, "tool", "", "only drayage, and tools whose name has this in it")
	flag.StringVar(&o.out, "o", "", "write the page to this file, and its plots into a folder beside it, and not to standard output")
	serve := flag.String("serve", "", "be the registry of a set of images, until standard input ends")
	loopInto := flag.String("loop", "", "be the Go loop, which fetches the URLs that are named into this folder")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := func() error {
		defer stop()
		switch {
		case *serve != "":
			return serveSet(*serve, os.Stdin, os.Stdout)
		case *loopInto != "":
			return loop(ctx, *loopInto, flag.Args())
		}
		return race(ctx, o)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "race:", err)
		os.Exit(1)
	}
}

type options struct {
	program, tools, containerd, dir, only, tool, out string
}

// scenario is images over a link.
type scenario struct {
	name, says string
	set        string   // by imagesOf
	link       []string // flags of drayage chaos, nil for none
	rounds     int
	again      bool // the second pull is measured, of what is there
	kill       bool // it is killed in the middle, and run again
}

func scenarios() []scenario {
	line := []string{"--rate-per-connection", "12M", "--rate", "100M", "--latency", "40ms"}
	far := []string{"--rate-per-connection", "12M", "--rate", "100M", "--latency", "100ms"}
	return []scenario{
		{name: "typical, loopback", says: "250 MB in 8 layers of 2 to 63 MB, without a limit", set: "typical", rounds: 5},
		{name: "typical, line", says: "the same over 12 MB/s a connection, 100 MB/s in all, 40 ms", set: "typical", link: line, rounds: 3},
		{name: "typical, far", says: "the same with 100 ms", set: "typical", link: far, rounds: 1},
		{name: "large layer, loopback", says: "one layer of 1.5 GiB, without a limit", set: "large", rounds: 3},
		{name: "one layer, line", says: "one layer of 128 MiB over 12 MB/s a connection, 100 MB/s in all, 40 ms", set: "one", link: line, rounds: 1},
		{name: "small layers, line", says: "100 layers of 64 KiB over that line", set: "small", link: line, rounds: 3},
		{name: "many images, line", says: "60 images, each with a layer of 1 MB on two of six shared ones of 10 MB, over that line", set: "many", link: line, rounds: 1},
		{name: "zstd, loopback", says: "250 MB in 8 layers, compressed with zstd, without a limit", set: "zstd", rounds: 3},
		{name: "multi-platform, line", says: "an image for three platforms, all of them, 120 MB, over that line", set: "platforms", link: line, rounds: 1},
		{name: "unchanged, line", says: "the first image again over that line, with all of it there", set: "typical", link: line, rounds: 1, again: true},
		{name: "resets, loopback", says: "250 MB, each connection reset after about 8 MiB", set: "typical", link: []string{"--reset-after", "8M", "--seed", "1"}, rounds: 1},
		{name: "killed, line", says: "250 MB over that line; when half of it was sent the tool, and its daemon, are killed with -9, and it is run again: both runs together", set: "typical", link: line, rounds: 1, kill: true},
	}
}

func race(ctx context.Context, o options) error {
	abs, err := filepath.Abs(o.tools)
	if err != nil {
		return err
	}
	if o.program, err = filepath.Abs(o.program); err != nil {
		return err
	}
	if err := os.Setenv("PATH", os.Getenv("PATH")+string(os.PathListSeparator)+abs); err != nil {
		return err
	}
	scratch, err := os.MkdirTemp(o.dir, "drayage-race-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	ts := present(o.program, o.containerd, o.tool)
	p := newPage(ctx, ts, o.out)
	for _, sc := range scenarios() {
		if !strings.Contains(sc.name, o.only) {
			continue
		}
		fmt.Fprintln(os.Stderr, sc.name)
		results, err := runScenario(ctx, o.program, filepath.Join(scratch, "run"), sc, ts)
		if err != nil {
			return fmt.Errorf("%s: %w", sc.name, err)
		}
		if err := p.scenario(sc, results); err != nil {
			return err
		}
	}
	return p.write()
}

// runScenario runs all tools over the rounds, and returns the results of each.
func runScenario(ctx context.Context, program, dir string, sc scenario, ts []tool) ([][]result, error) {
	s, err := startSet(ctx, sc.set)
	if err != nil {
		return nil, err
	}
	defer s.Stop()
	r := &runner{scenario: sc, site: s, dir: dir}
	if sc.link != nil {
		if r.link, err = course.StartLink(ctx, program, s.host, sc.link...); err != nil {
			return nil, err
		}
		defer r.link.Stop()
	}
	results := make([][]result, len(ts))
	for round := range sc.rounds {
		for n := range ts { // each round begins with another
			i := (n + round) % len(ts)
			x := r.run(ctx, ts[i])
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			fmt.Fprintf(os.Stderr, "  %-32s %7.2f s + %.2f s, %d MiB%s\n", ts[i].name, x.wall, x.sync, x.peak>>20, strings.TrimRight("  "+x.failed, " "))
			results[i] = append(results[i], x)
		}
	}
	return results, nil
}
