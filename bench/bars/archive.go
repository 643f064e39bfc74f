//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"drayage/engine/registry/registrytest"

	"github.com/klauspost/compress/zstd"
)

// archives measures the output side as a whole: pulling into an archive against
// others, the archive through a pipe, memory, and the conversion of layers.
func archives(ctx context.Context, b bench) ([]bar, error) {
	var out []bar
	for _, measure := range []func(context.Context, bench) ([]bar, error){pullAndCompose, intoAPipe, conversion, unchanged} {
		more, err := measure(ctx, b)
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	return out, nil
}

// unchanged measures an archive that is as it would be written, against no archive.
func unchanged(ctx context.Context, b bench) ([]bar, error) {
	s, err := startSite(ctx, "8x64M")
	if err != nil {
		return nil, err
	}
	defer s.Stop()
	if err := fresh(b.scratch); err != nil {
		return nil, err
	}
	into := b.pull(b.scratch, s.ref, "--force", "-o", filepath.Join(b.scratch, "out.tar"))
	if _, err := b.timed(ctx, into); err != nil {
		return nil, err
	}
	syscall.Sync()
	var with, without []float64
	for range max(9, b.rounds) {
		took, err := b.timed(ctx, into)
		if err != nil {
			return nil, err
		}
		with = append(with, took)
		if took, err = b.timed(ctx, b.pull(b.scratch, s.ref)); err != nil {
			return nil, err
		}
		without = append(without, took)
	}
	a, w := median(with), median(without)
	return []bar{atMost("unchanged image of 512 MiB, with an archive that is there / without", a/w, 1.5, fmt.Sprintf("(%.0f ms / %.0f ms)", 1000*a, 1000*w))}, nil
}

// loadGenerator measures what drayage bench itself can do, on loopback.
func loadGenerator(ctx context.Context, b bench) ([]bar, error) {
	s, err := startSite(ctx, "8x64M")
	if err != nil {
		return nil, err
	}
	defer s.Stop()
	measure := func(column string, flags ...string) (float64, error) {
		args := append([]string{"bench", "-q", "--platform", "linux/amd64", "--bytes", "1TiB", "--duration", "4s", "--rounds", "1", "--json", "-", s.ref}, flags...)
		cmd := exec.CommandContext(ctx, b.program, args...)
		cmd.Stderr = os.Stderr
		raw, err := cmd.Output()
		if err != nil {
			return 0, err
		}
		var r struct {
			Results []struct {
				Requests, Elapsed float64
				Throughput        struct{ Estimate float64 }
				Lateness          map[string]float64
			}
		}
		if err := json.Unmarshal(raw, &r); err != nil || len(r.Results) != 1 {
			return 0, fmt.Errorf("reading the report: %w", err)
		}
		switch x := r.Results[0]; column {
		case "throughput":
			return x.Throughput.Estimate, nil
		case "requests":
			return x.Requests / x.Elapsed, nil
		default:
			return x.Lateness[column], nil
		}
	}
	var ratios []float64
	for range b.rounds {
		mine, err := measure("throughput", "--connections", "1", "--whole")
		if err != nil {
			return nil, err
		}
		args := []string{"-s", "-w", "%{size_download} %{time_total}\n"}
		for range 5 {
			for _, u := range s.urls {
				args = append(args, "-o", "/dev/null", u)
			}
		}
		raw, err := exec.CommandContext(ctx, "curl", args...).Output()
		if err != nil {
			return nil, err
		}
		var bytes, took float64
		for line := range strings.Lines(string(raw)) {
			var n, t float64
			if _, err := fmt.Sscan(line, &n, &t); err != nil {
				return nil, err
			}
			bytes, took = bytes+n, took+t
		}
		ratios = append(ratios, mine/(bytes/took))
	}
	small, err := measure("requests", "--connections", "16", "--range", "1KiB")
	if err != nil {
		return nil, err
	}
	late, err := measure("p99.9", "--connections", "64", "--range", "1KiB", "--rate", "1000")
	if err != nil {
		return nil, err
	}
	r := median(ratios)
	return []bar{
		{"bench of 64 MiB bodies by one connection, loopback: / curl", fmt.Sprintf("%.2fx", r), ">= 0.95x", r >= 0.95},
		{"bench of 1 KiB parts by 16 connections: requests a second, server on the same cores", fmt.Sprintf("%.0f", small), ">= 20000", small >= 20000},
		{"bench at 1,000 requests a second: 99.9 % begin no later than", fmt.Sprintf("%.2f ms", 1000*late), "<= 1 ms", late <= 1e-3},
	}, nil
}

// pullAndCompose measures 250 MB from a registry into a docker archive, with and
// without waiting for the disk. Others keep nothing beside the archive.
func pullAndCompose(ctx context.Context, b bench) ([]bar, error) {
	s, err := startSite(ctx, "8x30M")
	if err != nil {
		return nil, err
	}
	defer s.Stop()
	target := filepath.Join(b.scratch, "out.tar")
	var out []bar
	for name, args := range map[string]string{
		"crane":  "pull --insecure --platform linux/amd64 " + s.ref + " " + target,
		"skopeo": "--insecure-policy --override-arch amd64 copy -q --src-tls-verify=false docker://" + s.ref + " docker-archive:" + target + ":" + s.ref,
	} {
		what := "250 MB in 8 layers into a docker archive, loopback: pull / " + name
		path, err := b.find(name)
		if err != nil {
			out = append(out, bar{what: what, measured: "not measured: " + err.Error()})
			continue
		}
		for _, sync := range []bool{true, false} {
			mine, other, how := b.pull(b.scratch, s.ref, "-o", target), path+" "+args+" && sync "+target, ", both synced"
			if !sync {
				mine, other, how = append(mine, "--no-sync"), path+" "+args, ", neither synced"
			}
			ratio, m, o, err := b.versus(ctx, b.scratch, mine, []string{"sh", "-c", other})
			if err != nil {
				return nil, err
			}
			out = append(out, bar{what + how, fmt.Sprintf("%.2fx (%.2fs / %.2fs)", ratio, m, o), "< 1x", ratio < 1})
		}
	}
	slices.SortFunc(out, func(a, b bar) int { return strings.Compare(a.what, b.what) })
	return out, nil
}

// find finds a program on the path or among the project's tools.
func (b bench) find(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	path, err := filepath.Abs(filepath.Join(".tools", name))
	if err == nil {
		_, err = os.Stat(path)
	}
	return path, err
}

// intoAPipe measures an archive of 1 GiB into cat against cat of its blobs, and the
// memory that composing takes.
func intoAPipe(ctx context.Context, b bench) ([]bar, error) {
	if err := fresh(b.scratch); err != nil {
		return nil, err
	}
	s, err := startSite(ctx, "16x64M")
	if err != nil {
		return nil, err
	}
	defer s.Stop()
	if _, err := b.timed(ctx, b.pull(b.scratch, s.ref)); err != nil {
		return nil, err
	}
	store := filepath.Join(b.scratch, "store")
	export := b.program + " store export -q --platform linux/amd64 --store " + store
	var ours, theirs, cpu []float64
	for range 2 * b.rounds {
		took, used, err := shell(ctx, export+" -O | cat > /dev/null")
		if err != nil {
			return nil, err
		}
		other, base, err := shell(ctx, "cat "+store+"/blobs/sha256/* | cat > /dev/null")
		if err != nil {
			return nil, err
		}
		ours, theirs, cpu = append(ours, took), append(theirs, other), append(cpu, used-base)
	}
	out := []bar{atMost("1 GiB as an archive by -O into cat / cat of the blobs into cat", slices.Min(ours)/slices.Min(theirs), 1.10,
		fmt.Sprintf("(%.0f ms / %.0f ms, user CPU %+.0f ms)", 1000*slices.Min(ours), 1000*slices.Min(theirs), 1000*median(cpu)))}
	for _, how := range []string{"-O > /dev/null", "-o OUT", "-o OUT --split 100M", "-o OUT --compress gzip", "-o OUT --compress zstd"} {
		target := filepath.Join(b.scratch, "archive.tar")
		args := strings.Fields(export + " " + strings.ReplaceAll(strings.TrimSuffix(how, " > /dev/null"), "OUT", target))
		peak, err := peakOf(ctx, args)
		if err != nil {
			return nil, err
		}
		out = append(out, bar{"peak memory of composing 1 GiB, " + how, fmt.Sprintf("%d MiB", peak>>20), "<= 32 MiB", peak <= 32<<20})
		left, _ := filepath.Glob(target + "*")
		for _, f := range left {
			if err := os.Remove(f); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// shell runs a line of sh, and returns its wall time and the user CPU time of all
// that it ran, in seconds.
func shell(ctx context.Context, line string) (wall, user float64, err error) {
	cmd := exec.CommandContext(ctx, "sh", "-c", line)
	cmd.Stderr = os.Stderr
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return 0, 0, fmt.Errorf("%s: %w", line, err)
	}
	return time.Since(start).Seconds(), cmd.ProcessState.UserTime().Seconds(), nil
}

// peakOf is the largest memory of a command, in bytes.
func peakOf(ctx context.Context, args []string) (int64, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	return int64(usage.Maxrss) << 10, nil // in KiB, on Linux
}

// conversion measures --layers tar of a layer of 1 GiB against zstd -d, which
// neither hashes nor syncs nor keeps what it made.
func conversion(ctx context.Context, b bench) ([]bar, error) {
	const what = "zstd to tar of 1 GiB, hashed, kept and synced: throughput / zstd -d to a file, synced"
	if _, err := exec.LookPath("zstd"); err != nil {
		return []bar{{what: what, measured: "not measured: " + err.Error()}}, nil
	}
	if err := fresh(b.scratch); err != nil {
		return nil, err
	}
	layer, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	packed := layer.EncodeAll(prose(1<<30), nil)
	server := registrytest.New()
	ref := server.Push("z", "1", registrytest.Build("linux/amd64", packed))
	_, _, err = shell(ctx, strings.Join(b.pull(b.scratch, ref), " "))
	server.Close()
	if err != nil {
		return nil, err
	}
	file, plain := filepath.Join(b.scratch, "layer.zst"), filepath.Join(b.scratch, "layer.tar")
	if err := os.WriteFile(file, packed, 0o644); err != nil {
		return nil, err
	}
	defer os.Remove(file)
	defer os.Remove(plain)
	store := filepath.Join(b.scratch, "store")
	made := filepath.Join(b.scratch, "made")
	var ratios, ours, theirs []float64
	for range b.rounds {
		// What was made in the last round is taken away again.
		if _, _, err := shell(ctx, fmt.Sprintf("rm -rf %s/derived %s %s; cp -al %s %s; sync", store, made, plain, store, made)); err != nil {
			return nil, err
		}
		mine, _, err := shell(ctx, fmt.Sprintf("%s store export -q --platform linux/amd64 --layers tar --store %s -O > /dev/null", b.program, made))
		if err != nil {
			return nil, err
		}
		other, _, err := shell(ctx, fmt.Sprintf("zstd -q -d -f %s -o %s && sync %s", file, plain, plain))
		if err != nil {
			return nil, err
		}
		ratios, ours, theirs = append(ratios, other/mine), append(ours, mine), append(theirs, other)
	}
	if err := os.RemoveAll(made); err != nil {
		return nil, err
	}
	r := median(ratios)
	return []bar{{what, fmt.Sprintf("%.2fx (%.2fs, zstd %.2fs)", r, median(ours), median(theirs)), ">= 0.60x", r >= 0.6}}, nil
}

// prose makes n bytes that compress about as layers do, to some third.
func prose(n int) []byte {
	rnd := rand.New(rand.NewPCG(1, 2))
	words := make([][]byte, 4000)
	for i := range words {
		w := make([]byte, 3+rnd.IntN(9))
		for j := range w {
			w[j] = byte('a' + rnd.IntN(26))
		}
		words[i] = append(w, ' ')
	}
	out := make([]byte, 0, n+16)
	for len(out) < n {
		out = append(out, words[int(float64(len(words))*rnd.Float64()*rnd.Float64())]...)
	}
	return out[:n]
}
