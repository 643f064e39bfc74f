// Bars measures drayage against yardsticks, both in one run on one machine,
// and prints the ratios beside what they should be. `make bench` runs it.
//
// The yardstick of a pull is a bare loop that gets, hashes and writes the same
// blobs with the same concurrency. Server, yardstick and drayage are processes
// of their own.
package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"drayage/engine/registry/registrytest"
	"drayage/tarwriter"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	blobs    = 8
	blobSize = 64 << 20
)

func main() {
	program := flag.String("drayage", "bin/drayage", "the program to measure")
	rounds := flag.Int("rounds", 7, "how often each thing is measured; the median counts")
	dir := flag.String("dir", "", "where to work (default: the system's folder for temporary files)")
	bare := flag.String("bare", "", "be the yardstick: fetch the URLs that follow into this folder")
	serve := flag.Bool("serve", false, "be the registry, until standard input ends")
	flag.Parse()
	var err error
	switch {
	case *bare != "":
		err = bareLoop(*bare, flag.Args())
	case *serve:
		err = registry(os.Stdin, os.Stdout)
	default:
		err = run(*program, *dir, *rounds)
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

func run(program, dir string, rounds int) error {
	scratch, err := os.MkdirTemp(dir, "drayage-bars-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)

	var bars []bar
	places := map[string]string{"disk": scratch}
	if memory, err := os.MkdirTemp("/dev/shm", "drayage-bars-"); err == nil {
		defer os.RemoveAll(memory)
		places["memory"] = memory
	}
	for _, name := range []string{"disk", "memory"} {
		if place, ok := places[name]; ok {
			b, err := pulls(program, name, place, rounds)
			if err != nil {
				return err
			}
			bars = append(bars, b...)
		}
	}
	b, err := composition(scratch, rounds)
	if err != nil {
		return err
	}
	bars = append(bars, b...)

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
		return fmt.Errorf("%d missed", missed)
	}
	return nil
}

// pulls measures a pull of eight blobs against the bare loop.
func pulls(program, name, place string, rounds int) ([]bar, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	// In a process of its own: the peak memory of a child counts that of the
	// parent it was forked from.
	server := exec.CommandContext(context.Background(), self, "-serve")
	server.Stderr = os.Stderr
	stop, err := server.StdinPipe()
	if err != nil {
		return nil, err
	}
	names, err := server.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := server.Start(); err != nil {
		return nil, err
	}
	defer func() { _ = errors.Join(stop.Close(), server.Wait()) }()
	lines := bufio.NewScanner(names)
	var urls []string
	for len(urls) <= blobs && lines.Scan() {
		urls = append(urls, lines.Text())
	}
	if len(urls) <= blobs {
		return nil, errors.New("the server didn't start")
	}
	ref := urls[0]
	yardstick := append([]string{self, "-bare", filepath.Join(place, "bare")}, urls[1:]...)
	pull := []string{program, "pull", "-q", "--platform", "linux/amd64", "-j", "8", "--store", filepath.Join(place, "store"), ref}

	var ratios, ours, theirs []float64
	var peak int64
	for range rounds {
		mine, rss, err := timed(place, pull)
		if err != nil {
			return nil, err
		}
		other, _, err := timed(place, yardstick)
		if err != nil {
			return nil, err
		}
		ours, theirs = append(ours, mine), append(theirs, other)
		ratios = append(ratios, mine/other)
		peak = max(peak, rss)
	}
	r := median(ratios)
	size := fmt.Sprintf("%d blobs of %d MiB, to %s", blobs, blobSize>>20, name)
	return []bar{
		{size + ": pull / bare loop, both synced", fmt.Sprintf("%.2fx (%.2fs / %.2fs)", r, median(ours), median(theirs)), "<= 1.25x", r <= 1.25},
		{size + ": peak memory of the pull", fmt.Sprintf("%d MiB", peak>>20), "<= 64 MiB", peak <= 64<<20},
	}, nil
}

// registry serves the image to pull, and writes its name and the URLs of its
// layers, a line each.
func registry(until io.Reader, names io.Writer) error {
	server := registrytest.New()
	defer server.Close()
	var layers [][]byte
	for i := range blobs {
		layers = append(layers, registrytest.Random(uint64(i), blobSize))
	}
	img := registrytest.Build("linux/amd64", layers...)
	fmt.Fprintln(names, server.Push("bench", "1", img))
	for _, l := range img.Layers {
		fmt.Fprintln(names, "http://"+server.Host()+"/v2/bench/blobs/"+l.Digest.String())
	}
	_, err := io.Copy(io.Discard, until)
	return err
}

// timed runs a command on an empty place, and returns its wall time in seconds
// and its peak memory in bytes.
func timed(place string, args []string) (float64, int64, error) {
	for _, sub := range []string{"bare", "store"} {
		if err := os.RemoveAll(filepath.Join(place, sub)); err != nil {
			return 0, 0, err
		}
	}
	syscall.Sync() // what others left to write is not ours to wait for
	cmd := exec.CommandContext(context.Background(), args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return 0, 0, fmt.Errorf("%s: %w", args[0], err)
	}
	took := time.Since(start).Seconds()
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return took, 0, nil
	}
	return took, usage.Maxrss << 10, nil // which is in KiB, on Linux
}

// bareLoop is the yardstick: get, hash, write, sync, and nothing else.
func bareLoop(dir string, urls []string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make([]error, len(urls))
	for i, u := range urls {
		wg.Go(func() { errs[i] = bareFetch(filepath.Join(dir, fmt.Sprint(i)), u) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func bareFetch(path, url string) error {
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
	return errors.Join(err, f.Sync(), f.Close())
}

// folder is a tarwriter.Blobs of files named by digest.
type folder string

func (f folder) Open(d digest.Digest) (*os.File, error) {
	return os.Open(filepath.Join(string(f), d.Encoded()))
}

// composition measures archives of 512 MiB: here against cp, and on file
// systems that share extents.
func composition(scratch string, rounds int) ([]bar, error) {
	here := filepath.Join(scratch, "compose")
	if err := os.Mkdir(here, 0o755); err != nil {
		return nil, err
	}
	img, err := blobFiles(here)
	if err != nil {
		return nil, err
	}
	out, err := againstCopy(here, img, rounds)
	if err != nil {
		return nil, err
	}
	for _, kind := range []string{"xfs", "btrfs"} {
		b, err := onLoop(scratch, kind, rounds)
		if err != nil {
			out = append(out, bar{what: "compose 512 MiB on " + kind, measured: "not measured: " + err.Error()})
			continue
		}
		out = append(out, b)
	}
	return out, nil
}

// blobFiles writes the layers of an image of 512 MiB.
func blobFiles(dir string) (tarwriter.Image, error) {
	img := tarwriter.Image{Name: "docker.io/library/x:1", RepoTag: "x:1", Runnable: true}
	put := func(content []byte) (ocispec.Descriptor, error) {
		d := registrytest.Describe(ocispec.MediaTypeImageLayerGzip, content)
		return d, os.WriteFile(filepath.Join(dir, d.Digest.Encoded()), content, 0o644)
	}
	for i := range blobs {
		d, err := put(registrytest.Random(uint64(i), blobSize))
		if err != nil {
			return img, err
		}
		img.Layers = append(img.Layers, d)
	}
	var err error
	if img.Config, err = put([]byte("{}")); err == nil {
		img.Manifest, err = put([]byte("{ }"))
	}
	syscall.Sync()
	return img, err
}

func againstCopy(dir string, img tarwriter.Image, rounds int) ([]bar, error) {
	members, err := tarwriter.Docker([]tarwriter.Image{img})
	if err != nil {
		return nil, err
	}
	target := filepath.Join(dir, "out")
	var ours, theirs []float64
	compose := func() error {
		f, err := os.Create(target)
		if err != nil {
			return err
		}
		return errors.Join(tarwriter.Write(context.Background(), f, members, folder(dir), nil), f.Close())
	}
	same := filepath.Join(dir, "same.tar") // the archive's own bytes, for cp
	if _, err := clocked(target, compose); err != nil {
		return nil, err
	}
	if err := os.Rename(target, same); err != nil {
		return nil, err
	}
	cp := func() error { return exec.CommandContext(context.Background(), "cp", same, target).Run() }
	for i := range 3 * rounds { // short, and noisy
		first, second := compose, cp
		if i%2 == 1 {
			first, second = cp, compose // so that neither always follows the other
		}
		mine, err := clocked(target, first)
		if err != nil {
			return nil, err
		}
		other, err := clocked(target, second)
		if err != nil {
			return nil, err
		}
		if i%2 == 1 {
			mine, other = other, mine
		}
		ours, theirs = append(ours, mine), append(theirs, other)
	}
	// The best of each: both are the same system call, and what is above the
	// best is the machine's noise, which is larger than the difference.
	r := slices.Min(ours) / slices.Min(theirs)
	return []bar{{"compose 512 MiB: tarwriter / cp of the archive, neither synced", fmt.Sprintf("%.2fx (%.0f ms / %.0f ms)", r, 1000*slices.Min(ours), 1000*slices.Min(theirs)), "<= 1.00x, +-0.03 of noise", r <= 1.03}}, nil
}

// clocked times f in seconds, with target out of the way and the disk idle.
func clocked(target string, f func() error) (float64, error) {
	if err := os.RemoveAll(target); err != nil {
		return 0, err
	}
	syscall.Sync()
	start := time.Now()
	err := f()
	return time.Since(start).Seconds(), err
}

// onLoop measures composing, with its sync, on a new file system in a file.
func onLoop(scratch, kind string, rounds int) (bar, error) {
	if os.Getuid() != 0 {
		return bar{}, errors.New("mounting needs root")
	}
	disk, mount := filepath.Join(scratch, kind+".img"), filepath.Join(scratch, kind)
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		return bar{}, err
	}
	defer os.Remove(disk)
	if err := errors.Join(os.Truncate(disk, 3<<30), os.Mkdir(mount, 0o755)); err != nil {
		return bar{}, err
	}
	for _, args := range [][]string{{"mkfs." + kind, "-q", disk}, {"mount", "-o", "loop", disk, mount}} {
		if out, err := exec.CommandContext(context.Background(), args[0], args[1:]...).CombinedOutput(); err != nil {
			return bar{}, fmt.Errorf("%s: %w %s", args[0], err, strings.TrimSpace(string(out)))
		}
	}
	defer exec.CommandContext(context.Background(), "umount", mount).Run() //nolint:errcheck // nothing is left to do then
	img, err := blobFiles(mount)
	if err != nil {
		return bar{}, err
	}
	members, err := tarwriter.Docker([]tarwriter.Image{img})
	if err != nil {
		return bar{}, err
	}
	target := filepath.Join(mount, "out.tar")
	var ours []float64
	for range rounds {
		took, err := clocked(target, func() error {
			f, err := tarwriter.CreateFile(target, false)
			if err != nil {
				return err
			}
			return errors.Join(f.Write(context.Background(), members, folder(mount), nil), f.Close())
		})
		if err != nil {
			return bar{}, err
		}
		ours = append(ours, took)
	}
	ms := 1000 * median(ours)
	return bar{"compose 512 MiB on " + kind + ", synced and named", fmt.Sprintf("%.1f ms", ms), "<= 50 ms", ms <= 50}, nil
}

func median(xs []float64) float64 {
	xs = slices.Sorted(slices.Values(xs))
	return xs[len(xs)/2]
}
