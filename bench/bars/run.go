package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	wait "sync"
	"syscall"
	"time"

	"drayage/engine/registry/registrytest"
)

// site is a registry in a process of its own: the peak memory of a child counts
// that of the parent it was forked from.
type site struct {
	host, ref string
	urls      []string // of the layers
	size      int64    // of all that a pull needs
	cmd       *exec.Cmd
	stdin     io.Closer
}

// startSite serves an image with such layers.
func startSite(ctx context.Context, layers string) (*site, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, "-serve", layers)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &site{cmd: cmd, stdin: stdin}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "" {
		switch text := lines.Text(); {
		case s.ref == "":
			s.ref = text
			s.host, _, _ = strings.Cut(text, "/")
		case s.size == 0:
			s.size, err = strconv.ParseInt(text, 10, 64)
		default:
			s.urls = append(s.urls, text)
		}
	}
	if err != nil || s.ref == "" {
		s.stop()
		return nil, errors.New("the server didn't start")
	}
	return s, nil
}

func (s *site) stop() { _ = errors.Join(s.stdin.Close(), s.cmd.Wait()) }

// through is the image's name over a link.
func (s *site) through(l *link) string { return strings.Replace(s.ref, s.host, l.host, 1) }

// registry serves an image, and writes its name, its size, the URLs of its
// layers, and an empty line.
func registry(layers string, until io.Reader, names io.Writer) error {
	server := registrytest.New()
	defer server.Close()
	count, size, err := parseLayers(layers)
	if err != nil {
		return err
	}
	content := make([][]byte, count)
	for i := range content {
		content[i] = registrytest.Random(uint64(i), size)
	}
	img := registrytest.Build("linux/amd64", content...)
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%d\n", server.Push("bench", "1", img), img.Size())
	for _, l := range img.Layers {
		fmt.Fprintln(&b, "http://"+server.Host()+"/v2/bench/blobs/"+l.Digest.String())
	}
	fmt.Fprintln(names, b.String())
	_, err = io.Copy(io.Discard, until)
	return err
}

// parseLayers reads 8x64M: how many layers, and of how many bytes.
func parseLayers(s string) (count, size int, err error) {
	var unit string
	if n, err := fmt.Sscanf(s, "%dx%d%s", &count, &size, &unit); n != 3 || err != nil || count < 1 {
		return 0, 0, fmt.Errorf("layers %q: want such as 8x64M", s)
	}
	per := map[string]int{"K": 1 << 10, "M": 1 << 20}[unit]
	return count, size * per, nil
}

// link is drayage chaos in front of a site.
type link struct {
	host string
	cmd  *exec.Cmd
}

func startLink(ctx context.Context, b bench, s *site, flags ...string) (*link, error) {
	cmd := exec.CommandContext(ctx, b.program, append([]string{"chaos", "--upstream", s.host}, flags...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("the link didn't start: %w", err)
	}
	return &link{strings.TrimPrefix(strings.TrimSpace(line), "http://"), cmd}, nil
}

func (l *link) stop() { _ = errors.Join(l.cmd.Process.Kill(), l.cmd.Wait()) }

// stats are the link's counters.
func (l *link) stats(ctx context.Context) (map[string]int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+l.host+"/stats", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var out map[string]int64
	return out, json.NewDecoder(resp.Body).Decode(&out)
}

// pull is the command that pulls ref into a store in place.
func (b bench) pull(place, ref string, flags ...string) []string {
	return append([]string{b.program, "pull", "-q", "--platform", "linux/amd64", "--store", filepath.Join(place, "store"), ref}, flags...)
}

// fresh empties a place, and lets what others have left to write be written.
func fresh(place string) error {
	for _, sub := range []string{"bare", "store", "out.tar"} {
		if err := os.RemoveAll(filepath.Join(place, sub)); err != nil {
			return err
		}
	}
	syscall.Sync()
	return nil
}

// timed runs a command, and returns its wall time in seconds. The memory of
// pulls is remembered.
func (b bench) timed(ctx context.Context, args []string) (float64, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	took := time.Since(start).Seconds()
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok && args[0] == b.program {
		*b.peak = max(*b.peak, usage.Maxrss<<10) // in KiB, on Linux
	}
	return took, nil
}

// killed runs a command and kills it once the link has sent so many bytes
// more. It reports whether the command was still at it.
func (b bench) killed(ctx context.Context, l *link, after int64, args []string) (bool, error) {
	before, err := l.stats(ctx)
	if err != nil {
		return false, err
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	if err := cmd.Start(); err != nil {
		return false, err
	}
	done := make(chan error, 1)
	var waiter wait.WaitGroup
	waiter.Go(func() { done <- cmd.Wait() })
	defer waiter.Wait()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return false, err
		case <-tick.C:
		}
		now, err := l.stats(ctx)
		if err != nil || now["bytes_sent"]-before["bytes_sent"] >= after {
			return true, errors.Join(err, cmd.Process.Kill())
		}
	}
}

// bareLoop is the yardstick: get, hash, write, sync, and nothing else.
func bareLoop(dir string, sync bool, urls []string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	errs := make([]error, len(urls))
	var wg wait.WaitGroup
	for i, u := range urls {
		wg.Go(func() { errs[i] = bareFetch(filepath.Join(dir, fmt.Sprint(i)), sync, u) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func bareFetch(path string, sync bool, url string) error {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	hash := sha256.New()
	buf := make([]byte, 256<<10)
	_, err = io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(hash, f)}, struct{ io.Reader }{resp.Body}, buf)
	if want := url[strings.LastIndexByte(url, ':')+1:]; err == nil && fmt.Sprintf("%x", hash.Sum(nil)) != want {
		err = errors.New("wrong content")
	}
	if err == nil && sync {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
