//go:build unix

package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	wait "sync"
	"time"

	"drayage/bench/internal/course"
	"drayage/bench/internal/siege"
	"drayage/blobstore"
	"drayage/engine/image"

	"golang.org/x/crypto/bcrypt"
)

// hostileRegistry is the registry of a siege, and beside it one that means well. It writes their
// addresses.
func hostileRegistry(until io.Reader, names io.Writer) error {
	server, good := httptest.NewServer(siege.Upstream()), httptest.NewServer(siege.Good())
	defer server.Close()
	defer good.Close()
	fmt.Fprintf(names, "%s\n%s\n\n", server.Listener.Addr(), good.Listener.Addr())
	_, err := io.Copy(io.Discard, until)
	return err
}

// besieged is what clients that mean well notice of all attacks at once on a mirror, for a minute,
// against the same minute without.
func besieged(ctx context.Context, b bench) ([]bar, error) {
	return besiege(ctx, b, bcrypt.DefaultCost, 10*time.Second, time.Minute)
}

// besiege has a mirror, whose passwords cost as much to check, used without attacks for the time quiet
// and then under all of them for the time long.
func besiege(ctx context.Context, b bench, cost int, quiet, long time.Duration) ([]bar, error) {
	const (
		budget  = 160 << 20
		clients = 20
		every   = 100 * time.Millisecond
	)
	s, err := startSite(ctx, "4x256K")
	if err != nil {
		return nil, err
	}
	defer s.Stop()
	hostile, err := course.Serve(ctx, "-hostile")
	if err != nil {
		return nil, err
	}
	defer hostile.Stop()
	place := filepath.Join(b.scratch, "siege")
	store := filepath.Join(place, "store")
	if _, err := b.timed(ctx, b.pull(place, s.ref)); err != nil {
		return nil, err
	}
	hash, err := bcrypt.GenerateFromPassword([]byte("s3cret"), cost)
	if err != nil {
		return nil, err
	}
	users, edit, err := siege.Passwords(place, string(hash))
	if err != nil {
		return nil, err
	}
	cert, key, err := siege.Certificate(place)
	if err != nil {
		return nil, err
	}
	upstream, good := hostile.Lines[0], hostile.Lines[1]
	m, err := startServe(ctx, b, store, "--default-registry", s.host, "--pull-through", upstream+","+good, "--htpasswd", users, "--budget", fmt.Sprint(budget))
	if err != nil {
		return nil, err
	}
	defer m.stop()
	secure, err := startServe(ctx, b, store, "--default-registry", s.host, "--htpasswd", users, "--tls-cert", cert, "--tls-key", key)
	if err != nil {
		return nil, err
	}
	defer secure.stop()
	blobs, err := layersOf(store, s.ref)
	if err != nil {
		return nil, err
	}
	honest := siege.Honest{Host: m.host, User: "honest", Password: "s3cret", Repo: "bench", Tag: "1", Blobs: blobs.Manifest.Layers, Clients: clients, Every: every, FreshRepo: good + "/fresh", Secure: secure.host}
	fresh := siege.Fresh()
	run := func(d time.Duration) siege.Outcome {
		honest.Fresh = fresh
		fresh = fresh[int(d/time.Second)+1:] // one a second
		ctx, cancel := context.WithTimeout(ctx, d)
		defer cancel()
		return honest.Run(ctx)
	}
	run(time.Second) // passwords are known from then on
	before := run(quiet)
	under, stop := context.WithCancel(ctx)
	var working wait.WaitGroup
	var answers map[string]map[int]int
	target := siege.Target{Host: m.host, Upstream: upstream, User: "mallory", Password: "s3cret", Secure: secure.host, EditPasswords: edit}
	for _, d := range fresh {
		target.Fresh = append(target.Fresh, d.Digest)
	}
	working.Go(func() { answers = siege.Lay(under, target) })
	var taken int64
	working.Go(func() {
		const often = 200 * time.Millisecond
		for under.Err() == nil {
			taken = max(taken, diskOf(ctx, store))
			time.Sleep(often)
		}
	})
	during := run(long)
	stop()
	working.Wait()
	for _, name := range slices.Sorted(maps.Keys(answers)) {
		fmt.Fprintf(os.Stderr, "  %s: answers by status %v\n", name, answers[name])
	}
	return siegeBars(before, during, max(m.peak(), secure.peak()), taken, budget)
}

// siegeBars are the bars of a siege, by what honest clients saw before and during it, the program's
// peak memory, and the disk that the store took of its budget.
func siegeBars(before, during siege.Outcome, peak, taken, budget int64) ([]bar, error) {
	const most = 256 << 20
	for _, err := range during.Failed {
		fmt.Fprintf(os.Stderr, "  an honest request failed: %v\n", err)
	}
	if before.P99 == 0 || before.Failures > 0 {
		return nil, fmt.Errorf("it failed before the siege: %v", before.Failed)
	}
	ratio := float64(during.P99) / float64(before.P99)
	return []bar{
		{"serve under all attacks at once for a minute, 20 clients: requests that failed", fmt.Sprintf("%d of %d", during.Failures, during.Requests), "0", during.Failures == 0 && during.Requests > 0},
		atMost("the same: p99 of their requests / p99 without attacks", ratio, 5, fmt.Sprintf("(%.1f ms / %.1f ms)", ms(during.P99), ms(before.P99))),
		{"the same: peak memory", fmt.Sprintf("%d MiB", peak>>20), fmt.Sprintf("<= %d MiB", most>>20), peak <= most},
		{"the same: disk that the store takes, of its budget", fmt.Sprintf("%d MiB of %d", taken>>20, budget>>20), "<= the budget", taken <= budget},
	}, nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// layersOf is the manifest of an image in a store.
func layersOf(dir, ref string) (image.Document, error) {
	store, err := blobstore.Open(dir)
	if err != nil {
		return image.Document{}, err
	}
	root, err := store.Root(ref)
	if err != nil {
		return image.Document{}, err
	}
	raw, err := store.Read(root.Target.Digest, image.MaxSize)
	if err != nil {
		return image.Document{}, err
	}
	return image.DecodeVerified(raw, root.Target.Digest)
}

// diskOf is how many bytes of the disk a folder takes.
func diskOf(ctx context.Context, dir string) int64 {
	out, err := exec.CommandContext(ctx, "du", "-s", "-B1", dir).Output()
	if err != nil && len(out) == 0 {
		return 0
	}
	var n int64
	_, _ = fmt.Sscan(strings.TrimSpace(string(out)), &n) // 0 for what is no number
	return n
}
