//go:build unix

// Bars measures drayage against yardsticks, both in one run on one machine,
// and prints the ratios beside what they should be. `make bench` runs it.
//
// Server, link, yardstick and drayage are processes of their own. The links are
// drayage chaos; bytes are counted there.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

const (
	blobs    = 8
	blobSize = 64 << 20
)

func main() {
	program := flag.String("drayage", "bin/drayage", "the program to measure")
	rounds := flag.Int("rounds", 5, "how often each thing is measured, where one run is not long; the median counts")
	dir := flag.String("dir", "", "where to work (default: the system's folder for temporary files)")
	only := flag.String("only", "", "measure only groups whose name has this in it: "+groupNames())
	bare := flag.String("bare", "", "be the yardstick: fetch the URLs that follow into this folder")
	sync := flag.Bool("sync", true, "as the yardstick, sync what was fetched")
	hostile := flag.Bool("hostile", false, "be the registry of a siege, until standard input ends")
	serve := flag.String("serve", "", "be the registry of an image with layers such as 8x64M, until standard input ends")
	flag.Parse()
	var err error
	switch {
	case *bare != "":
		err = bareLoop(*bare, *sync, flag.Args())
	case *hostile:
		err = hostileRegistry(os.Stdin, os.Stdout)
	case *serve != "":
		err = registry(*serve, os.Stdin, os.Stdout)
	default:
		err = run(*program, *dir, *only, *rounds)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bars:", err)
		os.Exit(1)
	}
}

// bar is a line of the table.
type bar struct {
	what, measured, want string
	met                  bool
}

// group is a set of bars that are measured together.
type group struct {
	name    string
	measure func(context.Context, bench) ([]bar, error)
}

func groups() []group {
	return []group{
		{"loopback", loopback}, {"one", oneLargeBlob}, {"link", fastLink}, {"slow", slowConnection}, {"silent", silentConnections}, {"resets", resets},
		{"kills", kills}, {"small", smallBlobs}, {"http2", http2},
		{"compose", composition}, {"archive", archives}, {"load", loadGenerator},
		{"serve", serving}, {"siege", besieged}, {"warm", warmRound}, {"after", lookingAfter},
	}
}

func groupNames() string {
	var names []string
	for _, g := range groups() {
		names = append(names, g.name)
	}
	return strings.Join(names, ", ")
}

// bench is what measuring takes.
type bench struct {
	program string
	scratch string // on disk
	rounds  int
	peak    *int64 // the largest memory of any pull so far, in bytes
}

func run(program, dir, only string, rounds int) error {
	scratch, err := os.MkdirTemp(dir, "drayage-bars-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	b := bench{program: program, scratch: scratch, rounds: rounds, peak: new(int64)}
	var bars []bar
	for _, g := range groups() {
		if !strings.Contains(g.name, only) {
			continue
		}
		fmt.Fprintln(os.Stderr, "measuring", g.name)
		more, err := g.measure(context.Background(), b)
		if err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
		bars = append(bars, more...)
	}
	if *b.peak > 0 {
		bars = append(bars, bar{"peak memory of any of these pulls", fmt.Sprintf("%d MiB", *b.peak>>20), "<= 64 MiB", *b.peak <= 64<<20})
	}

	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WHAT\tMEASURED\tBAR\t")
	missed := 0
	for _, b := range bars {
		verdict := "met"
		if b.want == "" {
			verdict = ""
		} else if !b.met {
			verdict = "MISSED"
			missed++
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", b.what, b.measured, b.want, verdict)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if missed > 0 {
		return errors.New(fmt.Sprint(missed, " missed"))
	}
	return nil
}

// atMost is a bar for a ratio that should not be larger.
func atMost(what string, ratio, most float64, detail string) bar {
	return bar{what, fmt.Sprintf("%.3fx %s", ratio, detail), fmt.Sprintf("<= %.2fx", most), ratio <= most}
}

func median(xs []float64) float64 {
	xs = slices.Sorted(slices.Values(xs))
	return xs[len(xs)/2]
}
