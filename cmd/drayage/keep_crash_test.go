package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"drayage/engine/registry/registrytest"
)

// shelfOf is a registry with images that share a layer.
func shelfOf(t *testing.T, images int) (s *registrytest.Server, names []string, all []registrytest.Image) {
	t.Helper()
	s = registrytest.New()
	t.Cleanup(s.Close)
	base := registrytest.Random(1, 400_000)
	for i := range images {
		img := registrytest.Build("linux/amd64", base, registrytest.Random(uint64(10+i), 300_000), registrytest.Random(uint64(100+i), 2000))
		names = append(names, s.Push(fmt.Sprintf("team/app%d", i), "1", img))
		all = append(all, img)
	}
	return s, names, all
}

// begin starts the program on a store, for somebody to kill.
func begin(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "drayage", args...)
	cmd.Env = append(os.Environ(), "DRAYAGE_STORE="+filepath.Join(dir, "store"), "DOCKER_CONFIG="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// whole holds a store against what its images need.
func whole(t *testing.T, dir string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "drayage", "store", "verify", "--again")
	cmd.Env = append(os.Environ(), "DRAYAGE_STORE="+filepath.Join(dir, "store"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// Sweeps, pulls and rounds of warm that are killed at any moment, beside each other, lose
// nothing that an image needs.
func TestKilledSweepsBesidePulls(t *testing.T) {
	s, names, _ := shelfOf(t, 6)
	dir := t.TempDir()
	config := filepath.Join(dir, "warm.yaml")
	text := "budget: {high: 900K, low: 700K}\ngroups:\n- {name: a, every: 1h, platforms: [linux/amd64], images: ['" + names[0] + "', '" + names[1] + "']}\n"
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	// Two pulls are certain to be beside each other; and how long one takes here tells when any
	// moment of it is.
	together := make(chan struct{})
	var arrived atomic.Int32
	s.Break("/manifests/", 2, between(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if arrived.Add(1) == 2 {
			close(together)
		}
		select {
		case <-together:
		case <-time.After(time.Minute):
		}
		next.ServeHTTP(w, r)
	}))
	begun := time.Now()
	for _, cmd := range []*exec.Cmd{begin(t, dir, "pull", "-q", "--platform", "linux/amd64", names[0]), begin(t, dir, "pull", "-q", "--platform", "linux/amd64", names[1])} {
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	longest := min(time.Second, time.Since(begun))
	const rounds = 20
	rnd := rand.New(rand.NewPCG(6, 1))
	for round := range rounds {
		var under []*exec.Cmd
		for _, args := range [][]string{
			{"pull", "-q", "--no-sync", "--platform", "linux/amd64", names[rnd.IntN(len(names))], names[rnd.IntN(len(names))]},
			{"pull", "-q", "--no-sync", "--platform", "linux/amd64", names[rnd.IntN(len(names))]},
			{"store", "gc", "-q", "--grace", "0s", "--budget", "1MB"},
			{"warm", "-q", "--no-sync", "-c", config, "--once"},
		} {
			under = append(under, begin(t, dir, args...))
		}
		time.Sleep(time.Duration(rnd.Int64N(int64(longest)))) // the fault: when they die
		for _, cmd := range under {
			if rnd.IntN(4) > 0 {
				_ = cmd.Process.Kill() // it may have ended
			}
		}
		for _, cmd := range under {
			_ = cmd.Wait() // killed, or not
		}
		if round%5 == 4 {
			whole(t, dir)
		}
	}
	whole(t, dir)
	args := append([]string{"pull", "-q", "--no-sync", "--platform", "linux/amd64", "-o", filepath.Join(dir, "out.tar")}, names...)
	if err := begin(t, dir, args...).Wait(); err != nil {
		t.Errorf("a pull of all of them: %v", err)
	}
	whole(t, dir)
	if n := s.MostAtOnce(); n < 2 {
		t.Errorf("at most %d requests at once: nothing was beside anything", n)
	}
}

// A mirror that is killed at any moment serves nothing wrong, and fetches little twice.
func TestKilledServe(t *testing.T) {
	s, _, images := shelfOf(t, 4)
	dir := t.TempDir()
	var size int64
	for _, img := range images {
		size += img.Size()
	}
	size -= 3 * 400_000 // the layer that they share
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(host, path string) ([]byte, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+host+path, nil)
		if err != nil {
			return nil, err
		}
		resp, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = errors.New(resp.Status)
		}
		return body, err
	}
	// all asks for all images, and reports how much of it came.
	all := func(host string) (came int) {
		var mu sync.Mutex
		var clients sync.WaitGroup
		for i, img := range images {
			clients.Go(func() {
				repo := fmt.Sprintf("/v2/team/app%d", i)
				if _, err := get(host, repo+"/manifests/1"); err != nil {
					return
				}
				for d, content := range img.Blobs {
					body, err := get(host, repo+"/blobs/"+d.String())
					if err != nil {
						continue
					}
					if !bytes.Equal(body, content) {
						t.Errorf("%s: %d bytes of something else", d, len(body))
					}
					mu.Lock()
					came++
					mu.Unlock()
				}
			})
		}
		clients.Wait()
		return came
	}
	const rounds = 6
	rnd := rand.New(rand.NewPCG(6, 2))
	flags := []string{"--pull-through", s.Host(), "--default-registry", s.Host()}
	other := startServe(t, t.TempDir(), flags...) // how long it takes here tells when any moment of it is
	begun := time.Now()
	all(other.host)
	longest := min(time.Second, time.Since(begun))
	other.stop(syscall.SIGKILL)
	s.Forget()
	for range rounds {
		d := startServe(t, dir, flags...)
		timer := time.AfterFunc(time.Duration(rnd.Int64N(int64(longest))), func() { _ = d.cmd.Process.Kill() })
		all(d.host)
		timer.Stop()
		d.stop(syscall.SIGKILL)
		whole(t, dir)
	}
	d := startServe(t, dir, flags...)
	if came, want := all(d.host), 4*4; came != want {
		t.Errorf("in the end %d blobs of %d come", came, want)
	}
	if status, out := d.stop(syscall.SIGTERM); status != 0 {
		t.Errorf("%d: %s", status, out)
	}
	whole(t, dir)
	if sent := s.Sent(); sent > 2*size {
		t.Errorf("upstream has sent %d bytes for %d", sent, size)
	}
}
