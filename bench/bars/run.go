//go:build unix

package main

import (
	"context"
	"crypto/sha256"
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

	"drayage/bench/internal/course"
	"drayage/engine/registry/registrytest"
)

// site is a registry in a process of its own.
type site struct {
	*course.Server
	host, ref string
	urls      []string // of the layers
	size      int64    // of all that a pull needs
}

// startSite serves an image with such layers.
func startSite(ctx context.Context, layers string) (*site, error) {
	server, err := course.Serve(ctx, "-serve", layers)
	if err != nil {
		return nil, err
	}
	s := &site{Server: server, ref: server.Lines[0], urls: server.Lines[2:]}
	s.host, _, _ = strings.Cut(s.ref, "/")
	if s.size, err = strconv.ParseInt(server.Lines[1], 10, 64); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// through is the image's name over a link.
func (s *site) through(l *course.Link) string { return strings.Replace(s.ref, s.host, l.Host, 1) }

// registry serves an image, and writes its name, its size, the URLs of its
// layers, and an empty line.
func registry(layers string, until io.Reader, names io.Writer) error {
	if n, ok := strings.CutSuffix(layers, "tags"); ok {
		tags, err := strconv.Atoi(n)
		if err != nil {
			return err
		}
		return manyTags(tags, until, names)
	}
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

// startLink puts a link in front of a site.
func startLink(ctx context.Context, b bench, s *site, flags ...string) (*course.Link, error) {
	return course.StartLink(ctx, b.program, s.host, flags...)
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
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok && args[0] == b.program && args[1] == "pull" {
		*b.peak = max(*b.peak, int64(usage.Maxrss)<<10) // in KiB, on Linux
	}
	return took, nil
}

// killed runs a command and kills it once the link has sent so many bytes
// more. It reports whether the command was still at it.
func (b bench) killed(ctx context.Context, l *course.Link, after int64, args []string) (bool, error) {
	before, err := l.Stats(ctx)
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
		now, err := l.Stats(ctx)
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
