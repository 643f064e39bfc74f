//go:build unix

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"drayage/bench/internal/drawing"
)

// page is docs/benchmarks.md as it grows.
type page struct {
	tools  []tool
	out    string // a file, or "" for standard output
	body   strings.Builder
	behind strings.Builder // where drayage isn't first
}

func newPage(ctx context.Context, ts []tool, out string) *page {
	p := &page{tools: ts, out: out}
	fmt.Fprintf(&p.body, `# Benchmarks

Written by `+"`make race`"+` on %s; anybody can run it. Every tool pulls the same images from the same registry on the same machine, in turn, each into an empty folder. *Seconds* are as the tool is, *and synced* with a sync of what it wrote after
that: drayage syncs by itself, the others don't, apart from containerd. CPU and memory are with the daemon's where there is one; memory is the largest process's, or of daemons the sum of their processes'. Bytes and requests are as the link, or on loopback the
registry, counted them. Each result was checked for every layer, packed or unpacked. The machine: %d cores, %s/%s, %s; what is on it has the cores together with the registry and the link.

| tool | version | as |
| --- | --- | --- |
`, time.Now().Format(time.DateOnly), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, kernel())
	for _, t := range ts {
		version := runtime.Version()
		if t.version != nil {
			out, _ := exec.CommandContext(ctx, t.needs[0], t.version...).Output() // what it says, if it does
			version, _, _ = strings.Cut(strings.TrimSpace(string(out)), "\n")
			version, _, _ = strings.Cut(version, " (")
		}
		setting := t.setting
		if setting != "" {
			setting = "<br>" + setting
		}
		fmt.Fprintf(&p.body, "| %s | %s | `%s`%s |\n", t.name, strings.Join(strings.Fields(version), " "), strings.ReplaceAll(t.shown(), "|", "\\|"), setting)
	}
	return p
}

func kernel() string {
	raw, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "kernel unknown"
	}
	return "kernel " + strings.TrimSpace(string(raw))
}

// figures are a tool's in one scenario: of its rounds, the medians.
type figures struct {
	tool                               string
	wall, low, high, synced, cpu, peak float64
	sent, requests                     float64
	rounds                             int
	failed                             string
}

func figuresOf(t tool, rs []result) figures {
	f := figures{tool: t.name, rounds: len(rs)}
	for _, r := range rs {
		if r.failed != "" {
			f.failed = r.failed
			return f
		}
	}
	of := func(get func(result) float64) []float64 {
		var xs []float64
		for _, r := range rs {
			xs = append(xs, get(r))
		}
		slices.Sort(xs)
		return xs
	}
	mid := func(get func(result) float64) float64 { return of(get)[len(rs)/2] }
	walls := of(func(r result) float64 { return r.wall })
	f.wall, f.low, f.high = walls[len(walls)/2], walls[0], walls[len(walls)-1]
	f.synced = mid(func(r result) float64 { return r.wall + r.sync })
	f.cpu = mid(func(r result) float64 { return r.cpu })
	f.peak = mid(func(r result) float64 { return float64(r.peak) })
	f.sent = mid(func(r result) float64 { return float64(r.sent) })
	f.requests = mid(func(r result) float64 { return float64(r.requests) })
	return f
}

// scenario adds a scenario's results.
func (p *page) scenario(sc scenario, results [][]result) error {
	rounds := "one run each"
	if sc.rounds > 1 {
		rounds = fmt.Sprintf("medians of %d runs, and the shortest and longest", sc.rounds)
	}
	title := strings.ToUpper(sc.name[:1]) + sc.name[1:]
	fmt.Fprintf(&p.body, "\n## %s\n\n%s; %s.\n\n", title, strings.ToUpper(sc.says[:1])+sc.says[1:], rounds)
	var all []figures
	for i, t := range p.tools {
		all = append(all, figuresOf(t, results[i]))
	}
	if err := p.plot(title, all); err != nil {
		return err
	}
	p.body.WriteString("| tool | seconds | and synced | synced, against the first | CPU seconds | peak memory | sent | requests |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n")
	base := all[0].synced
	var failed []figures
	for _, f := range all {
		if f.failed != "" {
			failed = append(failed, f)
			continue
		}
		seconds := fmt.Sprintf("%.2f", f.wall)
		if f.rounds > 1 {
			seconds += fmt.Sprintf(" (%.2f to %.2f)", f.low, f.high)
		}
		ratio := "" // where the first has failed
		if base > 0 {
			ratio = fmt.Sprintf("%.2fx", f.synced/base)
		}
		fmt.Fprintf(&p.body, "| %s | %s | %.2f | %s | %.2f | %.0f MiB | %.1f MB | %.0f |\n", f.tool, seconds, f.synced, ratio, f.cpu, f.peak/(1<<20), f.sent/1e6, f.requests)
	}
	p.body.WriteString("\n")
	for _, f := range failed {
		if f.failed == "can't" {
			fmt.Fprintf(&p.body, "- %s can't do this.\n", f.tool)
		} else {
			fmt.Fprintf(&p.body, "- **%s failed**: `%s`\n", f.tool, strings.ReplaceAll(f.failed, "`", "'"))
		}
	}
	p.compare(title, all)
	return nil
}

// compare notes where another tool is ahead of the best that drayage has.
func (p *page) compare(title string, all []figures) {
	for _, c := range []struct {
		what string
		of   func(figures) float64
		near float64 // how much more is as good
		unit string
		per  float64
	}{
		{"seconds, synced", func(f figures) float64 { return f.synced }, 1, "s", 1},
		{"seconds", func(f figures) float64 { return f.wall }, 1, "s", 1},
		{"CPU", func(f figures) float64 { return f.cpu }, 1.05, "s", 1},
		{"memory", func(f figures) float64 { return f.peak }, 1.05, "MiB", 1 << 20},
	} {
		ours, found := 0.0, false
		for _, f := range all {
			if strings.HasPrefix(f.tool, "drayage") && f.failed == "" && (!found || c.of(f) < ours) {
				ours, found = c.of(f), true
			}
		}
		var ahead []string
		for _, f := range all {
			if found && f.failed == "" && !strings.HasPrefix(f.tool, "drayage") && ours > c.near*c.of(f) {
				ahead = append(ahead, fmt.Sprintf("%s %.2f %s", f.tool, c.of(f)/c.per, c.unit))
			}
		}
		if len(ahead) > 0 {
			fmt.Fprintf(&p.behind, "| %s | %s | %.2f %s | %s |\n", title, c.what, ours/c.per, c.unit, strings.Join(ahead, ", "))
		}
	}
}

// plot draws a scenario's times beside the page.
func (p *page) plot(title string, all []figures) error {
	if p.out == "" {
		return nil
	}
	var names []string
	var values []float64
	for _, f := range slices.Backward(all) { // the axis begins below
		if f.failed == "" {
			names, values = append(names, f.tool), append(values, f.synced)
		}
	}
	if len(values) == 0 {
		return nil
	}
	name := strings.NewReplacer(", ", "-", " ", "-").Replace(strings.ToLower(title)) + ".svg"
	dir := strings.TrimSuffix(p.out, filepath.Ext(p.out))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(bars(title, names, values)), 0o644); err != nil {
		return err
	}
	fmt.Fprintf(&p.body, "![%s: seconds of each tool, as in the table](%s/%s)\n\n", title, filepath.Base(dir), name)
	return nil
}

// bars is a plot of seconds, from the lowest bar up.
func bars(title string, names []string, values []float64) string {
	const width, bar, frame, thickness = 760, 28, 58, 18
	const fill, beside = "#4a7fd4", 5
	longest := slices.Max(values)
	number := func(v float64) string { return fmt.Sprintf("%.2f", v) }
	p := drawing.New(drawing.Look{Ink: "#505050", Line: "#c9c9c9"}, "", "")
	p.Title, p.Right = "seconds, with a sync", beside+drawing.Width(number(longest), drawing.Letters)
	p.Y = drawing.Axis{Min: -0.5, Max: float64(len(values)) - 0.5, Bare: true}
	for i, name := range names {
		p.Y.Ticks = append(p.Y.Ticks, drawing.Tick{Value: float64(i), Label: name})
	}
	drawing.FromZero(&p.X, longest)
	p.Add(func(c *drawing.Canvas) {
		for i, v := range values {
			y := c.Y(float64(i))
			c.Fill(fill, c.Left, y-thickness/2, c.X(v), y+thickness/2)
			c.Beside(drawing.Start, c.X(v)+beside, y, number(v))
		}
	})
	return drawing.SVG(p, width, float64(frame+bar*len(values)), title+": seconds, with a sync")
}

// write writes the page.
func (p *page) write() error {
	p.body.WriteString("\n## What to make of it\n\nLoopback shows what a tool costs; the line, what it makes of a link on which one connection is slow and round trips are long, which is what most are.\n\n")
	if p.behind.Len() > 0 {
		p.body.WriteString("Where another one is ahead of the best of drayage's, by any measure at all in time and by more than 5 % in CPU or memory:\n\n| | of what | drayage | ahead |\n| --- | --- | ---: | --- |\n" + p.behind.String() + "\n")
	}
	p.body.WriteString(reasons)
	if p.out == "" {
		_, err := os.Stdout.WriteString(p.body.String())
		return err
	}
	return os.WriteFile(p.out, []byte(p.body.String()), 0o644)
}

// reasons are what is to be said of that.
const reasons = `- With an archive, drayage keeps a store beside it, and so writes every byte twice where the file system can't share extents (XFS and Btrfs can); on loopback that is most of what it does. It is a choice: what is in the store isn't fetched again.
- It notes what arrives, so that a killed pull goes on, and syncs each blob before it gets its name; others' files are synced once, at the end, if at all.
- It begins with one connection, and takes more as they bring more: the first trips of a pull that containerd and aria2c make at full width. The plan: begin with as many as a host was worth the last time, which the store's hosts file knows, from the first blob on.
- curl, aria2c and the Go loop have no manifests to ask for, and the list of blobs is given to them.
- Memory is mostly the program's text, as far as it is used (14 of 19 MiB), and buffers of 128 KiB for each connection. There is no plan to make that less.
`
