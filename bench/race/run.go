//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"drayage/bench/internal/course"

	"github.com/opencontainers/go-digest"
)

// result is what became of one run.
type result struct {
	wall     float64 // seconds
	sync     float64 // that a sync of all it wrote took then
	cpu      float64 // seconds, with its daemon's
	peak     int64   // bytes, with its daemon's
	sent     int64   // bytes, by the link where there is one, else by the registry
	requests int64
	failed   string
}

// runner runs tools in one scenario.
type runner struct {
	scenario scenario
	site     *site
	link     *course.Link // nil for loopback
	dir      string       // where they are run
}

// patience is how long a tool may take.
const patience = 5 * time.Minute

// host is what the tools ask.
func (r *runner) host() string {
	if r.link != nil {
		return r.link.Host
	}
	return r.site.host
}

// run runs a tool once in an empty folder, or for the second time.
func (r *runner) run(ctx context.Context, t tool) result {
	j := r.site.through(r.host())
	script := t.script(j)
	if script == "" {
		return result{failed: "can't"}
	}
	fail := func(err error) result { return result{failed: err.Error()} }
	if err := errors.Join(os.RemoveAll(r.dir), os.MkdirAll(filepath.Join(r.dir, "daemon"), 0o755)); err != nil {
		return fail(err)
	}
	if err := r.start(ctx, t); err != nil {
		return fail(err)
	}
	defer func() {
		if err := r.stop(t, "-TERM"); err != nil {
			fmt.Fprintf(os.Stderr, "stopping %s: %v\n", t.name, err)
		}
	}()
	if r.scenario.again {
		if first := r.measure(ctx, script, 0); first.failed != "" {
			return first
		}
	}
	syscall.Sync()
	var out result
	if r.scenario.kill {
		out = r.killed(ctx, t, script)
	} else {
		out = r.measure(ctx, script, 0)
	}
	if out.failed == "" {
		if missing := check(r.dir, r.site.layers); missing > 0 {
			out.failed = fmt.Sprintf("%d of %d layers are missing or wrong, and it exited with 0", missing, len(r.site.layers))
		}
	}
	return out
}

// killed kills a tool, and its daemon, when half of the bytes were sent, and runs it
// once more. What both took is told.
func (r *runner) killed(ctx context.Context, t tool, script string) result {
	var size int64
	for _, l := range r.site.layers {
		size += l.size
	}
	first := r.measure(ctx, script, size/2)
	if first.failed != errKilled {
		return first // it was faster than that, or failed by itself
	}
	if err := errors.Join(r.stop(t, "-KILL"), r.start(ctx, t)); err != nil {
		return result{failed: err.Error()}
	}
	second := r.measure(ctx, script, 0)
	second.wall += first.wall
	second.cpu += first.cpu
	second.peak = max(second.peak, first.peak)
	second.sent += first.sent
	second.requests += first.requests
	return second
}

// start starts a tool's daemon, if it has one.
func (r *runner) start(ctx context.Context, t tool) error {
	if t.start == "" {
		return nil
	}
	cmd := exec.CommandContext(ctx, "sh", "-e", "-c", t.start)
	cmd.Dir = r.dir
	if err := cmd.Run(); err != nil {
		log, _ := os.ReadFile(filepath.Join(r.dir, "daemon", "log"))
		return fmt.Errorf("its daemon doesn't start: %w: %s", err, lastLine(string(log)))
	}
	return nil
}

// stop stops it with a signal.
func (r *runner) stop(t tool, signal string) error {
	if t.start == "" {
		return nil
	}
	cmd := exec.CommandContext(context.Background(), "sh", "-e", "-c", stopDaemon, "stop", signal)
	cmd.Dir = r.dir
	return cmd.Run()
}

// errKilled is what failed when a run was killed on purpose.
const errKilled = "killed"

// measure runs a script and measures it. When killAt bytes were sent, if it isn't 0, the
// script and all that it has begun are killed.
func (r *runner) measure(ctx context.Context, script string, killAt int64) result {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	d := readDaemon(r.dir)
	before, beforeErr := r.counts(ctx)
	cmd := exec.CommandContext(ctx, "sh", "-e", "-c", script)
	cmd.Dir = r.dir
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var errs strings.Builder
	cmd.Stderr = &errs
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return result{failed: err.Error()}
	}
	ended := make(chan struct{})
	var watching sync.WaitGroup
	var largest int64
	killed := false
	watching.Go(func() {
		if killAt > 0 {
			killAt += before["bytes_sent"]
		}
		largest, killed = r.watch(ctx, cmd.Process.Pid, killAt, ended)
	})
	err := cmd.Wait()
	close(ended)
	watching.Wait()
	out := result{wall: time.Since(start).Seconds(), cpu: (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()}
	cpu, peak := d.since()
	out.cpu, out.peak = out.cpu+cpu, largest+peak
	after, afterErr := r.counts(ctx)
	if beforeErr == nil && afterErr == nil {
		out.sent, out.requests = after["bytes_sent"]-before["bytes_sent"], after["requests"]-before["requests"]
	}
	switch {
	case killed:
		out.failed = errKilled
	case ctx.Err() != nil:
		out.failed = fmt.Sprintf("wasn't done after %s", patience)
	case err != nil:
		out.failed = fmt.Sprintf("%v: %.120s", err, lastLine(errs.String()))
	default:
		start = time.Now()
		if err := syncAll(r.dir); err != nil {
			out.failed = err.Error()
		}
		out.sync = time.Since(start).Seconds()
	}
	return out
}

// watch looks at a process and those below it until they have ended: how much memory
// the largest of them ever had. (What the kernel tells of a child when it has ended is
// never less than its parent had.) When killAt bytes were sent, if it isn't 0, they are
// killed, and that is told.
func (r *runner) watch(ctx context.Context, pid int, killAt int64, ended <-chan struct{}) (largest int64, killed bool) {
	const often = 10 * time.Millisecond
	tick := time.NewTicker(often)
	defer tick.Stop()
	for {
		for _, p := range family(pid) {
			largest = max(largest, peakOf(p))
		}
		select {
		case <-ended:
			return largest, killed
		case <-tick.C:
		}
		if killAt > 0 && !killed {
			if counts, err := r.counts(ctx); err == nil && counts["bytes_sent"] >= killAt {
				killed = syscall.Kill(-pid, syscall.SIGKILL) == nil
			}
		}
	}
}

// counts are what was sent so far: by the link, which breaks off what the registry
// had begun to send, or by the registry.
func (r *runner) counts(ctx context.Context) (map[string]int64, error) {
	if r.link != nil {
		return r.link.Stats(ctx)
	}
	return r.site.counts(ctx)
}

// syncAll syncs the file system that a folder is on.
func syncAll(dir string) error {
	out, err := exec.CommandContext(context.Background(), "sync", "-f", dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("sync: %w: %s", err, out)
	}
	return nil
}

func lastLine(text string) string {
	lines := strings.FieldsFunc(strings.TrimSpace(text), func(r rune) bool { return r == '\n' || r == '\r' })
	if len(lines) == 0 {
		return ""
	}
	return lines[len(lines)-1]
}

// daemon is what a daemon and its children have used so far. Linux only: elsewhere it
// is nothing.
type daemon struct {
	pid int
	cpu float64
}

// readDaemon notes what a daemon has used, and begins to measure its memory anew.
func readDaemon(dir string) daemon {
	raw, err := os.ReadFile(filepath.Join(dir, "daemon", "pid"))
	if err != nil {
		return daemon{}
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return daemon{}
	}
	d := daemon{pid: pid}
	for _, p := range family(pid) {
		d.cpu += cpuOf(p)
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p), []byte("5"), 0) // 5 sets the peak to what is used now
	}
	return d
}

// since is what the daemon has used since: seconds of CPU, and at most so many bytes of
// memory.
func (d daemon) since() (cpu float64, peak int64) {
	if d.pid == 0 {
		return 0, 0
	}
	for _, p := range family(d.pid) {
		cpu += cpuOf(p)
		peak += peakOf(p)
	}
	return max(0, cpu-d.cpu), peak
}

// peakOf is the most memory that a process has had (proc(5), VmHWM).
func peakOf(pid int) int64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)) // it may have ended
	for line := range strings.Lines(string(status)) {
		if kib, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(kib), "kB")), 10, 64)
			return n << 10
		}
	}
	return 0
}

// family is a process with those below it.
func family(pid int) []int {
	out := []int{pid}
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		raw, _ := os.ReadFile(list) // it may have ended
		for _, word := range strings.Fields(string(raw)) {
			if child, err := strconv.Atoi(word); err == nil {
				out = append(out, family(child)...)
			}
		}
	}
	return out
}

// cpuOf is the seconds that a process, and those of its children that have ended, have
// used (proc(5), stat).
func cpuOf(pid int) float64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	const first, last, tick = 11, 14, 100 // utime to cstime, in hundredths of a second
	if len(fields) <= last {
		return 0
	}
	var ticks float64
	for _, f := range fields[first : last+1] {
		n, _ := strconv.ParseFloat(f, 64)
		ticks += n
	}
	return ticks / tick
}

// check looks for every layer in what a tool has left, in files and in tars, packed or
// unpacked, by hashing all of it, and returns how many are not there. What is only
// beside the result is left out: the store of an archive, the folder of Docker's daemon.
func check(dir string, layers []layer) int {
	found := make(map[digest.Digest]bool)
	_ = filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error { // what can't be read isn't there
		if err != nil {
			return nil
		}
		rel, _ := filepath.Rel(dir, path)
		if e.IsDir() && slices.Contains([]string{"store", "daemon/docker"}, rel) {
			return filepath.SkipDir
		}
		if !e.Type().IsRegular() {
			return nil
		}
		f, err := os.Open(path)
		if err != nil {
			return nil
		}
		defer f.Close()
		if strings.HasSuffix(path, ".tar") {
			walkTar(f, func(body io.Reader) {
				if d, err := digest.FromReader(body); err == nil {
					found[d] = true
				}
			})
		} else if d, err := digest.FromReader(f); err == nil {
			found[d] = true
		}
		return nil
	})
	missing := 0
	for _, l := range layers {
		if !found[l.packed] && !found[l.unpacked] {
			missing++
		}
	}
	return missing
}

// loop is the simplest thing that could fetch a list of blobs: 8 at once, hashed as
// they are written.
func loop(ctx context.Context, dir string, urls []string) error {
	const atOnce = 8
	errs := make(chan error, len(urls))
	places := make(chan struct{}, atOnce)
	for _, u := range urls {
		places <- struct{}{}
		go func() {
			defer func() { <-places }()
			errs <- one(ctx, dir, u)
		}()
	}
	var all error
	for range urls {
		all = errors.Join(all, <-errs)
	}
	return all
}

func one(ctx context.Context, dir, url string) error {
	want := digest.Digest(url[strings.LastIndexByte(url, '/')+1:])
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	f, err := os.Create(filepath.Join(dir, want.Encoded()))
	if err != nil {
		return err
	}
	hash := want.Verifier()
	const buffer = 256 << 10
	_, err = io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(f, hash)}, struct{ io.Reader }{resp.Body}, make([]byte, buffer))
	if err == nil && !hash.Verified() {
		err = fmt.Errorf("%s: wrong content", url)
	}
	return errors.Join(err, f.Close())
}
