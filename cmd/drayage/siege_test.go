//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"drayage/bench/siege"
	"drayage/engine/registry/registrytest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/crypto/bcrypt"
)

// TestSiege: a mirror under all attacks at once fails no client that means well, keeps to its
// memory and to its budget of the disk. `make bench` does it for a minute, and looks at the time.
func TestSiege(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes seconds")
	}
	const budget, most, long = 160 << 20, 256 << 20, 8 * time.Second
	hostile := httptest.NewServer(siege.Upstream())
	defer hostile.Close()
	defer hostile.CloseClientConnections()
	good := httptest.NewServer(siege.Good())
	defer good.Close()
	reg := registrytest.New()
	defer reg.Close()
	var blobs []ocispec.Descriptor
	img := registrytest.Build("linux/amd64", registrytest.Layer(1, 200<<10), registrytest.Layer(2, 50<<10))
	blobs = append(blobs, img.Layers...)
	dir := t.TempDir()
	name := reg.Push("app", "1", img)
	pull := exec.CommandContext(t.Context(), "drayage", "pull", "-q", "--platform", "linux/amd64", "--store", filepath.Join(dir, "store"), name)
	if out, err := pull.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte("s3cret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users, edit, err := siege.Passwords(dir, string(hash))
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := siege.Certificate(dir)
	if err != nil {
		t.Fatal(err)
	}
	upstream, from := hostile.Listener.Addr().String(), good.Listener.Addr().String()
	d := startServe(t, dir, "--default-registry", reg.Host(), "--pull-through", upstream+","+from, "--htpasswd", users, "--budget", strconv.Itoa(budget))
	defer d.stop(syscall.SIGKILL)
	secure := startServe(t, dir, "--default-registry", reg.Host(), "--htpasswd", users, "--tls-cert", cert, "--tls-key", key)
	defer secure.stop(syscall.SIGKILL)
	fresh := siege.Fresh()
	var wanted []digest.Digest
	for _, d := range fresh {
		wanted = append(wanted, d.Digest)
	}

	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	var working sync.WaitGroup
	working.Go(func() {
		siege.Lay(ctx, siege.Target{Host: d.host, Upstream: upstream, User: "mallory", Password: "s3cret", Secure: secure.host, Fresh: wanted, EditPasswords: edit})
	})
	taken := int64(0)
	working.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			taken = max(taken, allocated(filepath.Join(dir, "store")))
			<-tick.C
		}
	})
	got := siege.Honest{Host: d.host, User: "honest", Password: "s3cret", Repo: "app", Tag: "1", Blobs: blobs, Clients: 20, Every: 100 * time.Millisecond, Fresh: fresh, FreshRepo: from + "/fresh", Secure: secure.host}.Run(ctx)
	working.Wait()
	if got.Failures > 0 || got.Requests == 0 {
		t.Errorf("%d of %d requests failed: %v", got.Failures, got.Requests, got.Failed)
	}
	if taken > budget {
		t.Errorf("the store took %d MiB of the disk, of %d", taken>>20, budget>>20)
	}
	for _, d := range []*daemonProcess{d, secure} {
		checkPeak(t, d, most)
	}
	t.Logf("%d requests, %d MiB of disk", got.Requests, taken>>20)
}

// checkPeak checks how much memory a process has had at most.
func checkPeak(t *testing.T, d *daemonProcess, most int64) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+)`).FindSubmatch(status)
	if m == nil {
		t.Fatalf("no memory in %s", status)
	}
	peak, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if peak <<= 10; peak > most && !withRaceDetector() { // which takes several times as much
		t.Errorf("it took %d MiB of memory, and may take %d", peak>>20, most>>20)
	}
	t.Logf("%d MiB of memory", peak>>20)
}

// allocated is how many bytes of the disk a folder's files take.
func allocated(dir string) int64 {
	var out bytes.Buffer
	du := exec.Command("du", "-s", "-B1", dir) //nolint:noctx // it ends by itself, also when the test's time is over
	du.Stdout = &out
	_ = du.Run() // files go while it looks
	n, err := strconv.ParseInt(strings.Split(out.String(), "\t")[0], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// withRaceDetector reports whether this program was built with it.
func withRaceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return false
	}
	for _, s := range info.Settings {
		if s.Key == "-race" && s.Value == "true" {
			return true
		}
	}
	return false
}
