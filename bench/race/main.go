// Race measures drayage beside other tools that pull images, all on this machine,
// from one registry, over the same links, in turn. `make race` runs it, and writes
// docs/benchmarks.md.
//
// Each tool is as its documentation has it for the job. What others wrote is synced
// within the time, since drayage syncs what it writes. Whether the result has every
// layer is checked by this program's own hand.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"drayage/bench/course"
)

func main() {
	program := flag.String("drayage", "bin/drayage", "the program")
	tools := flag.String("tools", ".tools", "where crane, regctl and oras are, if not on the path")
	dir := flag.String("dir", "", "where to work (default: the system's folder for temporary files)")
	only := flag.String("only", "", "only scenarios whose name has this in it")
	out := flag.String("o", "", "write the page to this file, and not to standard output")
	serve := flag.String("serve", "", "be the registry of a set of images, until standard input ends")
	flag.Parse()
	err := func() error {
		if *serve != "" {
			return serveSet(*serve, os.Stdin, os.Stdout)
		}
		return race(context.Background(), *program, *tools, *dir, *only, *out)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "race:", err)
		os.Exit(1)
	}
}

// job is what a tool has to do: these images into this folder.
type job struct {
	dir  string
	refs []string
	urls []string // of the layers, each once
}

// tool is a competitor. Its script is run by sh -e in the job's folder.
type tool struct {
	name    string
	needs   string // a program
	version []string
	script  func(j job) string
}

// each repeats a line for each image, with %[1]s for the image and %[2]d for its number.
func each(j job, line string) string {
	var b strings.Builder
	for i, r := range j.refs {
		fmt.Fprintf(&b, line+"\n", r, i)
	}
	return b.String()
}

const synced = "sync -f . \n"

func competitors(program string) []tool {
	return []tool{
		{"drayage, archive", program, []string{"version"}, func(j job) string {
			return fmt.Sprintf("%s pull -q --force --platform linux/amd64 --store store -o out.tar %s\n", program, strings.Join(j.refs, " "))
		}},
		{"drayage, store (an OCI layout)", program, []string{"version"}, func(j job) string {
			return fmt.Sprintf("%s pull -q --platform linux/amd64 --store oci %s\n", program, strings.Join(j.refs, " "))
		}},
		{"crane, tarball", "crane", []string{"version"}, func(j job) string {
			return "crane pull --insecure --platform linux/amd64 " + strings.Join(j.refs, " ") + " out.tar\n" + synced
		}},
		{"crane, OCI layout", "crane", []string{"version"}, func(j job) string {
			return "crane pull --insecure --platform linux/amd64 --format oci " + strings.Join(j.refs, " ") + " oci\n" + synced
		}},
		{"skopeo, OCI layout", "skopeo", []string{"--version"}, func(j job) string {
			return each(j, "skopeo --insecure-policy --override-arch amd64 copy -q --src-tls-verify=false docker://%[1]s oci:oci:%[2]d") + synced
		}},
		{"regctl, OCI layout", "regctl", []string{"version", "--format", "{{.VCSTag}}"}, func(j job) string {
			host, _, _ := strings.Cut(j.refs[0], "/")
			return "export REGCTL_CONFIG=$PWD/regctl.json\nregctl registry set --tls disabled " + host + " >/dev/null 2>&1\n" +
				each(j, "regctl -v error image copy %[1]s ocidir://oci:t%[2]d >/dev/null") + synced
		}},
		{"oras, OCI layout", "oras", []string{"version"}, func(j job) string {
			return each(j, "oras copy --no-tty --from-plain-http --to-oci-layout %[1]s oci:t%[2]d >/dev/null") + synced
		}},
		{"curl -Z, sha256sum", "curl", []string{"--version"}, func(j job) string {
			var b strings.Builder
			b.WriteString("mkdir -p blobs\ncurl -s -f -Z --parallel-max 8 ")
			for _, u := range j.urls {
				fmt.Fprintf(&b, "-o blobs/%s %s ", u[strings.LastIndexByte(u, ':')+1:], u)
			}
			b.WriteString("\n(cd blobs && ls | xargs -P 2 -n 8 sha256sum >/dev/null)\n")
			return b.String() + synced
		}},
	}
}

// scenario is images over a link.
type scenario struct {
	name, says string
	set        string   // by serveSet
	link       []string // flags of drayage chaos, nil for none
	rounds     int
	again      bool // the second pull is measured, of what is there
}

func scenarios() []scenario {
	line := []string{"--rate-per-connection", "12M", "--rate", "100M", "--latency", "40ms"}
	return []scenario{
		{"typical, loopback", "250 MB in 8 layers of 2 to 63 MB, without a limit", "typical", nil, 3, false},
		{"typical, line", "the same over 12 MB/s a connection, 100 MB/s in all, 40 ms", "typical", line, 1, false},
		{"one layer, line", "128 MiB in one layer over that line", "one", line, 1, false},
		{"small layers, line", "100 layers of 64 KiB over that line", "small", line, 1, false},
		{"many images, line", "20 images of 2 MB each on shared bases of 30 MB over that line", "many", line, 1, false},
		{"unchanged, line", "the first one again, with all of it there", "typical", line, 1, true},
		{"resets, loopback", "250 MB, each connection reset after about 8 MiB", "typical", []string{"--reset-after", "8M", "--seed", "1"}, 1, false},
	}
}

// result is what became of one run.
type result struct {
	wall, cpu float64 // seconds
	peak      int64   // bytes
	sent      int64   // by the link, -1 where there is none
	failed    string
}

func race(ctx context.Context, program, tools, dir, only, out string) error {
	abs, err := filepath.Abs(tools)
	if err != nil {
		return err
	}
	if program, err = filepath.Abs(program); err != nil {
		return err
	}
	if err := os.Setenv("PATH", os.Getenv("PATH")+string(os.PathListSeparator)+abs); err != nil {
		return err
	}
	scratch, err := os.MkdirTemp(dir, "drayage-race-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	var page strings.Builder
	ts := present(program)
	head(ctx, &page, ts)
	for _, sc := range scenarios() {
		if !strings.Contains(sc.name, only) {
			continue
		}
		fmt.Fprintln(os.Stderr, sc.name)
		if err := runScenario(ctx, &page, program, scratch, sc, ts); err != nil {
			return fmt.Errorf("%s: %w", sc.name, err)
		}
	}
	page.WriteString(tail)
	if out == "" {
		_, err = os.Stdout.WriteString(page.String())
		return err
	}
	return os.WriteFile(out, []byte(page.String()), 0o644)
}

// present are the tools that are there.
func present(program string) []tool {
	return slices.DeleteFunc(competitors(program), func(t tool) bool {
		_, err := exec.LookPath(t.needs)
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s is not there and left out\n", t.name)
		}
		return err != nil
	})
}

func runScenario(ctx context.Context, page *strings.Builder, program, scratch string, sc scenario, ts []tool) error {
	s, err := startSet(ctx, sc.set)
	if err != nil {
		return err
	}
	defer s.Stop()
	host := s.host
	var l *course.Link
	if sc.link != nil {
		if l, err = course.StartLink(ctx, program, s.host, sc.link...); err != nil {
			return err
		}
		defer l.Stop()
		host = l.Host
	}
	results := make([][]result, len(ts))
	for round := range sc.rounds {
		for n := range ts { // each round begins with another
			i := (n + round) % len(ts)
			fmt.Fprintf(os.Stderr, "  %s\n", ts[i].name)
			results[i] = append(results[i], runTool(ctx, filepath.Join(scratch, "run"), s.through(host), ts[i], l, s.layers, sc.again))
		}
	}
	table(page, sc, ts, results)
	return nil
}

// runTool runs a tool once in an empty folder, or for the second time.
func runTool(ctx context.Context, dir string, j job, t tool, l *course.Link, layers []digest.Digest, again bool) result {
	failed := func(err error) result { return result{failed: err.Error(), sent: -1} }
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return failed(err)
	}
	j.dir = dir
	if again {
		if r := measure(ctx, dir, t.script(j), nil); r.failed != "" {
			return r
		}
	}
	syscall.Sync()
	r := measure(ctx, dir, t.script(j), l)
	if r.failed == "" {
		if missing := check(dir, layers); missing > 0 {
			r.failed = fmt.Sprintf("%d of %d layers are missing or wrong, and it exited with 0", missing, len(layers))
		}
	}
	return r
}

// measure runs a script and measures it.
func measure(ctx context.Context, dir, script string, l *course.Link) result {
	const patience = 4 * time.Minute
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	before := sent(ctx, l)
	cmd := exec.CommandContext(ctx, "sh", "-e", "-c", script)
	cmd.Dir = dir
	cmd.WaitDelay = time.Second
	var errs strings.Builder
	cmd.Stderr = &errs
	start := time.Now()
	err := cmd.Run()
	r := result{wall: time.Since(start).Seconds(), sent: -1}
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		r.cpu = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
		r.peak = usage.Maxrss << 10 // of the largest child, in KiB on Linux
	}
	if before >= 0 {
		r.sent = sent(ctx, l) - before
	}
	if err != nil {
		lines := strings.Split(strings.TrimSpace(errs.String()), "\n")
		r.failed = fmt.Sprintf("%v: %.120s", err, lines[len(lines)-1])
	}
	return r
}

// check looks for every layer in what a tool has left, in files and in tars, by
// hashing all of it, and returns how many are not there.
func check(dir string, layers []digest.Digest) int {
	found := make(map[digest.Digest]bool)
	_ = filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error { // what can't be read isn't there
		if err != nil || !e.Type().IsRegular() || strings.Contains(path, "/store/") {
			return nil
		}
		f, err := os.Open(path)
		if err != nil {
			return nil
		}
		defer f.Close()
		if strings.HasSuffix(path, ".tar") {
			members(f, found)
		} else if d, err := digest.FromReader(f); err == nil {
			found[d] = true
		}
		return nil
	})
	missing := 0
	for _, d := range layers {
		if !found[d] {
			missing++
		}
	}
	return missing
}

// table writes a scenario's results.
func table(page *strings.Builder, sc scenario, ts []tool, results [][]result) {
	fmt.Fprintf(page, "\n## %s%s\n\n%s; %s.\n\n", strings.ToUpper(sc.name[:1]), sc.name[1:], sc.says, map[bool]string{true: "the median of " + fmt.Sprint(sc.rounds), false: "one run"}[sc.rounds > 1])
	page.WriteString("| tool | seconds | against the first | CPU seconds | peak memory | bytes sent |\n| --- | ---: | ---: | ---: | ---: | ---: |\n")
	base := median(results[0], func(r result) float64 { return r.wall })
	for i, t := range ts {
		for _, r := range results[i] {
			if r.failed != "" {
				fmt.Fprintf(page, "| %s | failed: %s | | | | |\n", t.name, strings.ReplaceAll(r.failed, "|", "/"))
				break
			}
		}
		ok := slices.DeleteFunc(slices.Clone(results[i]), func(r result) bool { return r.failed != "" })
		if len(ok) < len(results[i]) {
			continue
		}
		wall := median(ok, func(r result) float64 { return r.wall })
		sent := ""
		if ok[0].sent >= 0 {
			sent = fmt.Sprintf("%.1f MB", median(ok, func(r result) float64 { return float64(r.sent) })/1e6)
		}
		fmt.Fprintf(page, "| %s | %.2f | %.2fx | %.2f | %.0f MiB | %s |\n", t.name, wall, wall/base, median(ok, func(r result) float64 { return r.cpu }),
			median(ok, func(r result) float64 { return float64(r.peak) })/(1<<20), sent)
	}
}

func median(rs []result, of func(result) float64) float64 {
	var xs []float64
	for _, r := range rs {
		xs = append(xs, of(r))
	}
	slices.Sort(xs)
	if len(xs) == 0 {
		return 0
	}
	return xs[len(xs)/2]
}

// head opens the page.
func head(ctx context.Context, page *strings.Builder, ts []tool) {
	fmt.Fprintf(page, "# Benchmarks\n\nWritten by `make race` on %s; anybody can run it. Every tool pulls the same images from the same registry on the same machine, in turn, each into an empty folder; "+
		"what others wrote is synced within their time, since drayage syncs what it writes. Bytes are as the link counted them. Each result was checked for every layer. The machine: %d cores, %s/%s; what is on it has the cores together with the registry and the link.\n\n", time.Now().Format(time.DateOnly), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH)
	page.WriteString("| tool | version | as |\n| --- | --- | --- |\n")
	example := job{refs: []string{"IMAGE"}, urls: []string{"http://REGISTRY/v2/…/blobs/sha256:…"}}
	for _, t := range ts {
		out, _ := exec.CommandContext(ctx, t.needs, t.version...).Output() // what it says, if it does
		version, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		version, _, _ = strings.Cut(version, " (")
		script := strings.ReplaceAll(strings.TrimSpace(strings.TrimSuffix(t.script(example), synced)), t.needs+" ", filepath.Base(t.needs)+" ")
		fmt.Fprintf(page, "| %s | %s | `%s` |\n", t.name, strings.Join(strings.Fields(version), " "), strings.ReplaceAll(script, "\n", "; "))
	}
}

const tail = `
## What to make of it

Loopback shows what a tool costs; the line, what it makes of a link on which one connection is slow and round trips are long, which is what most are. Where drayage isn't first:

- With an archive it keeps a store beside it, and so writes every byte twice where the file system can't share extents; on loopback that is most of what it does.
- It notes what arrives, so that a killed pull goes on, and syncs each blob before it gets its name; others' files are synced once, at the end.
- ` + "`curl -Z`" + ` has no manifests to ask for, and the list of blobs is given to it.

Not in it yet: ` + "`docker pull` and `ctr`" + `, which unpack, and kills in the middle, which ` + "`make bench`" + ` has for drayage alone.
`

// members hashes a tar's members.
func members(r io.Reader, found map[digest.Digest]bool) {
	walkTar(r, func(body io.Reader) {
		if d, err := digest.FromReader(body); err == nil {
			found[d] = true
		}
	})
}
