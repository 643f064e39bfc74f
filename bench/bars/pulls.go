//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// loopback measures a pull of eight blobs against a bare loop with the same
// concurrency: without syncs, and with.
func loopback(ctx context.Context, b bench) ([]bar, error) {
	s, err := startSite(ctx, fmt.Sprintf("%dx%dM", blobs, blobSize>>20))
	if err != nil {
		return nil, err
	}
	defer s.Stop()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	places := []struct{ name, dir string }{{"disk", b.scratch}}
	if memory, err := os.MkdirTemp("/dev/shm", "drayage-bars-"); err == nil {
		defer os.RemoveAll(memory)
		places = append(places, struct{ name, dir string }{"memory", memory})
	}
	var out []bar
	for _, place := range places {
		for _, sync := range []bool{false, true} {
			bare := append([]string{self, "-bare", filepath.Join(place.dir, "bare"), fmt.Sprintf("-sync=%v", sync)}, s.urls...)
			pull := b.pull(place.dir, s.ref, "-j", "8", fmt.Sprintf("--no-sync=%v", !sync))
			ratio, mine, other, err := b.versus(ctx, place.dir, pull, bare)
			if err != nil {
				return nil, err
			}
			what := fmt.Sprintf("%d blobs of %d MiB, loopback to %s: pull / bare loop, ", blobs, blobSize>>20, place.name)
			detail := fmt.Sprintf("(%.2fs / %.2fs)", mine, other)
			if sync {
				out = append(out, bar{what: what + "both synced", measured: fmt.Sprintf("%.3fx %s", ratio, detail)})
			} else {
				out = append(out, atMost(what+"neither synced", ratio, 1.10, detail))
			}
		}
	}
	return out, nil
}

// versus runs two commands in turn on an empty place, and returns the median
// ratio of their times, and of the times.
func (b bench) versus(ctx context.Context, place string, mine, other []string) (ratio, m, o float64, err error) {
	var ratios, ours, theirs []float64
	for i := range b.rounds {
		times := make([]float64, 2)
		order := []int{0, 1}
		if i%2 == 1 {
			order = []int{1, 0}
		}
		for _, which := range order {
			if err := fresh(place); err != nil {
				return 0, 0, 0, err
			}
			if times[which], err = b.timed(ctx, [][]string{mine, other}[which]); err != nil {
				return 0, 0, 0, err
			}
		}
		ours, theirs = append(ours, times[0]), append(theirs, times[1])
		ratios = append(ratios, times[0]/times[1])
	}
	return median(ratios), median(ours), median(theirs), nil
}

// oneLargeBlob measures one blob of 1.5 GiB against curl and sha256sum, and how
// long after its last byte its commit begins.
func oneLargeBlob(ctx context.Context, b bench) ([]bar, error) {
	s, err := startSite(ctx, "1x1536M")
	if err != nil {
		return nil, err
	}
	defer s.Stop()
	file := filepath.Join(b.scratch, "bare")
	curl := []string{"sh", "-c", fmt.Sprintf("curl -sS '%s' | tee '%s' | sha256sum >/dev/null", s.urls[0], file)}
	ratio, mine, other, err := b.versus(ctx, b.scratch, b.pull(b.scratch, s.ref, "--no-sync"), curl)
	if err != nil {
		return nil, err
	}
	out := []bar{atMost("one blob of 1.5 GiB, loopback: pull / curl | tee | sha256sum, neither synced", ratio, 1, fmt.Sprintf("(%.2fs / %.2fs)", mine, other))}
	if err := fresh(b.scratch); err != nil {
		return nil, err
	}
	synced, err := b.timed(ctx, b.pull(b.scratch, s.ref))
	if err != nil {
		return nil, err
	}
	out = append(out, bar{what: "the same, synced", measured: fmt.Sprintf("%.2fs", synced)})
	for _, c := range []struct {
		name  string
		flags []string
	}{{"loopback", nil}, {"100 MB/s in all, 12 MB/s a connection, 40 ms", fat}} {
		tail, err := b.tail(ctx, s, c.flags)
		if err != nil {
			return nil, err
		}
		out = append(out, bar{"the same, " + c.name + ": from its last byte to its commit, of the transfer", fmt.Sprintf("%.1f %%", 100*tail), "<= 3 %", tail <= 0.03})
	}
	return out, nil
}

// tail is the part of a transfer's time that passes after the last byte.
func (b bench) tail(ctx context.Context, s *site, flags []string) (float64, error) {
	ref := s.ref
	if flags != nil {
		l, err := startLink(ctx, b, s, flags...)
		if err != nil {
			return 0, err
		}
		defer l.Stop()
		ref = s.through(l)
	}
	var tails []float64
	for range max(1, b.rounds/2) {
		if err := fresh(b.scratch); err != nil {
			return 0, err
		}
		cmd := exec.CommandContext(ctx, b.program, "pull", "-pjson", "--platform", "linux/amd64", "--store", filepath.Join(b.scratch, "store"), ref)
		var events bytes.Buffer
		cmd.Stderr = &events
		if err := cmd.Run(); err != nil {
			return 0, fmt.Errorf("%w: %s", err, events.String())
		}
		var first, last, verified time.Time
		largest := ""
		for lines := bufio.NewScanner(&events); lines.Scan(); {
			var e struct {
				Event string
				Time  time.Time
				Data  struct {
					Digest string
					Size   int64
				}
			}
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				return 0, err
			}
			switch {
			case e.Event == "fetching" && e.Data.Size > 1<<20:
				largest, first = e.Data.Digest, e.Time
			case e.Event == "progress" && e.Data.Digest == largest:
				last = e.Time
			case e.Event == "verified" && e.Data.Digest == largest:
				verified = e.Time
			}
		}
		tails = append(tails, verified.Sub(last).Seconds()/last.Sub(first).Seconds())
	}
	return median(tails), nil
}

// fat is a link that is wide, and narrow for each connection.
var fat = []string{"--rate-per-connection", "12M", "--rate", "100M", "--latency", "40ms"}

func fastLink(ctx context.Context, b bench) ([]bar, error) {
	const size, part = 1 << 30, 128 << 20
	s, err := startSite(ctx, "1x1024M")
	if err != nil {
		return nil, err
	}
	defer s.Stop()
	l, err := startLink(ctx, b, s, fat...)
	if err != nil {
		return nil, err
	}
	defer l.Stop()
	var many []float64
	for range max(1, b.rounds/2) {
		if err := fresh(b.scratch); err != nil {
			return nil, err
		}
		took, err := b.timed(ctx, b.pull(b.scratch, s.through(l), "--no-sync"))
		if err != nil {
			return nil, err
		}
		many = append(many, took)
	}
	all := median(many)

	small, err := startSite(ctx, "1x128M")
	if err != nil {
		return nil, err
	}
	defer small.Stop()
	thin, err := startLink(ctx, b, small, fat...)
	if err != nil {
		return nil, err
	}
	defer thin.Stop()
	if err := fresh(b.scratch); err != nil {
		return nil, err
	}
	one, err := b.timed(ctx, b.pull(b.scratch, small.through(thin), "--no-sync", "--per-host", "1"))
	if err != nil {
		return nil, err
	}
	one *= size / part
	faster, share := one/all, size/100e6/all
	what := "one blob of 1 GiB, 12 MB/s a connection, 100 MB/s in all, 40 ms: "
	return []bar{
		{what + "than one connection (8 x 128 MiB)", fmt.Sprintf("%.1fx faster (%.1fs / %.1fs)", faster, all, one), ">= 6x", faster >= 6},
		{what + "of the link", fmt.Sprintf("%.1f %%", 100*share), ">= 90 %", share >= 0.9},
	}, nil
}

// slowConnection measures what one slow connection of eight costs.
func slowConnection(ctx context.Context, b bench) ([]bar, error) {
	const seed = "11" // with which the fifth connection is slow, and no other of the first 24
	s, err := startSite(ctx, "1x512M")
	if err != nil {
		return nil, err
	}
	defer s.Stop()
	var times []float64
	var slow int64
	for _, flags := range [][]string{nil, {"--slow", "0.125", "--slow-rate", "600K", "--seed", seed}} {
		l, err := startLink(ctx, b, s, append(append([]string(nil), flags...), fat...)...)
		if err != nil {
			return nil, err
		}
		defer l.Stop()
		if err := fresh(b.scratch); err != nil {
			return nil, err
		}
		took, err := b.timed(ctx, b.pull(b.scratch, s.through(l), "--no-sync"))
		if err != nil {
			return nil, err
		}
		stats, err := l.Stats(ctx)
		if err != nil {
			return nil, err
		}
		slow = stats["slow"]
		times = append(times, took)
	}
	return []bar{atMost(fmt.Sprintf("one blob of 512 MiB, the same link, %d connection(s) 20 x slower / none", slow), times[1]/times[0], 1.2,
		fmt.Sprintf("(%.2fs / %.2fs)", times[1], times[0]))}, nil
}

// silentConnections measures what connections that fall silent cost, where no other is at work.
func silentConnections(ctx context.Context, b bench) ([]bar, error) {
	const most = 1.3 // times as long as without, and a second more
	var out []bar
	for _, c := range []struct {
		what, layers, after string
		line                []string
	}{
		{"one blob of 16 MiB over one connection, each silent for 20 s after about 8 MiB", "1x16M", "8M", nil},
		{"8 blobs of 32 MiB, each connection silent for 20 s after about 20 MiB", "8x32M", "20M", []string{"--rate-per-connection", "25M"}},
	} {
		s, err := startSite(ctx, c.layers)
		if err != nil {
			return nil, err
		}
		defer s.Stop()
		line := append([]string{"--latency", "20ms"}, c.line...)
		var times []float64
		for _, flags := range [][]string{line, append(slices.Clone(line), "--stall-after", c.after, "--stall-for", "20s")} {
			l, err := startLink(ctx, b, s, flags...)
			if err != nil {
				return nil, err
			}
			defer l.Stop()
			var some []float64
			for range b.rounds {
				if err := fresh(b.scratch); err != nil {
					return nil, err
				}
				took, err := b.timed(ctx, b.pull(b.scratch, s.through(l), "--no-sync"))
				if err != nil {
					return nil, err
				}
				some = append(some, took)
			}
			times = append(times, median(some))
		}
		out = append(out, bar{c.what + ", to none silent", fmt.Sprintf("%.2fs / %.2fs", times[1], times[0]), fmt.Sprintf("<= %.1fx + 1s", most), times[1] <= most*times[0]+1})
	}
	return out, nil
}

// resets measures what a line that breaks makes a pull fetch again.
func resets(ctx context.Context, b bench) ([]bar, error) {
	s, err := startSite(ctx, "5x50M")
	if err != nil {
		return nil, err
	}
	defer s.Stop()
	var out []bar
	for _, c := range []struct {
		every string
		most  float64
	}{{"8MiB", 1.02}, {"1MiB", 1.05}} {
		l, err := startLink(ctx, b, s, "--reset-after", c.every)
		if err != nil {
			return nil, err
		}
		defer l.Stop()
		if err := fresh(b.scratch); err != nil {
			return nil, err
		}
		took, err := b.timed(ctx, b.pull(b.scratch, s.through(l)))
		if err != nil {
			return nil, err
		}
		stats, err := l.Stats(ctx)
		if err != nil {
			return nil, err
		}
		out = append(out, atMost(fmt.Sprintf("250 MiB, a reset about every %s: bytes sent / needed", c.every),
			float64(stats["bytes_sent"])/float64(s.size), c.most, fmt.Sprintf("(%d resets, %.1fs)", stats["resets"], took)))
	}
	return out, nil
}

// kills measures what the death of the process makes it fetch again.
func kills(ctx context.Context, b bench) ([]bar, error) {
	var out []bar
	for _, c := range []struct {
		layers string
		kills  int
		most   float64
		flags  []string
	}{
		{"1x1536M", 1, 1.02, nil}, {"5x50M", 1, 1.02, nil}, {"5x50M", 1, 1.02, fat}, {"5x32M", 10, 1.10, nil}, {"5x32M", 10, 1.10, fat},
	} {
		s, err := startSite(ctx, c.layers)
		if err != nil {
			return nil, err
		}
		defer s.Stop()
		l, err := startLink(ctx, b, s, c.flags...)
		if err != nil {
			return nil, err
		}
		defer l.Stop()
		if err := fresh(b.scratch); err != nil {
			return nil, err
		}
		killed := 0
		for range c.kills {
			was, err := b.killed(ctx, l, s.size/int64(c.kills+1), b.pull(b.scratch, s.through(l)))
			if err != nil {
				return nil, err
			}
			if was {
				killed++
			}
		}
		took, err := b.timed(ctx, b.pull(b.scratch, s.through(l)))
		if err != nil {
			return nil, err
		}
		stats, err := l.Stats(ctx)
		if err != nil {
			return nil, err
		}
		where := "loopback"
		if c.flags != nil {
			where = "the link above"
		}
		out = append(out, atMost(fmt.Sprintf("%d MiB, %s, kill -9 %d times: bytes sent / needed", s.size>>20, where, killed),
			float64(stats["bytes_sent"])/float64(s.size), c.most, fmt.Sprintf("(the last run took %.1fs)", took)))
	}
	return out, nil
}

// smallBlobs measures what each blob costs beside its round trip.
func smallBlobs(ctx context.Context, b bench) ([]bar, error) {
	const count, connections, trip = 10000, 8, 0.020
	s, err := startSite(ctx, fmt.Sprintf("%dx4K", count))
	if err != nil {
		return nil, err
	}
	defer s.Stop()
	l, err := startLink(ctx, b, s, "--latency", "20ms")
	if err != nil {
		return nil, err
	}
	defer l.Stop()
	var out []bar
	ideal := float64(count) / connections * trip
	measure := func(flags ...string) (float64, error) {
		if err := fresh(b.scratch); err != nil {
			return 0, err
		}
		return b.timed(ctx, b.pull(b.scratch, s.through(l), flags...))
	}
	what := fmt.Sprintf("%d blobs of 4 KiB at 20 ms", count)
	for _, name := range []string{"unsynced", "synced"} {
		sync := fmt.Sprintf("--no-sync=%v", name == "unsynced")
		given, err := measure(sync, "--per-host", strconv.Itoa(connections))
		if err != nil {
			return nil, err
		}
		found, err := measure(sync)
		if err != nil {
			return nil, err
		}
		out = append(out,
			atMost(fmt.Sprintf("%s, %d connections, %s: / blobs / connections x round trip", what, connections, name),
				given/ideal, 1.3, fmt.Sprintf("(%.1fs / %.1fs)", given, ideal)),
			atMost(fmt.Sprintf("%s, as many connections as are found to be worth it, %s: / with %d", what, name, connections),
				found/given, 0.5, fmt.Sprintf("(%.1fs / %.1fs)", found, given)))
	}
	return out, nil
}
