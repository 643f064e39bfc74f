package main

import (
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"drayage/blobstore"
	"drayage/cmd/drayage/internal/warm"
	"drayage/engine/registry/registrytest"
)

// What runs on a schedule has its first round at once, reads its file again when told
// to, and ends in good order.
func TestWarmRuns(t *testing.T) {
	s := registrytest.New()
	defer s.Close()
	dir := t.TempDir()
	one := s.Push("one", "1", registrytest.Build("linux/amd64", registrytest.Random(1, 1000)))
	two := s.Push("two", "1", registrytest.Build("linux/amd64", registrytest.Random(2, 1000)))
	config := filepath.Join(dir, "warm.yaml")
	write := func(name, image string) {
		text := "groups:\n- {name: " + name + ", every: 1h, images: ['" + image + "'], platforms: [linux/amd64], hooks: []}\n"
		if name != "wrong" {
			text = "groups:\n- {name: " + name + ", every: 1h, images: ['" + image + "'], platforms: [linux/amd64], ready_file: '" + filepath.Join(dir, name) + "'}\n"
		}
		if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	wait := func(name string) {
		t.Helper()
		for range 1200 {
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
				return
			}
			time.Sleep(50 * time.Millisecond) // the test ends sooner when it comes sooner
		}
		t.Errorf("%s isn't ready", name)
	}
	write("first", one)
	d := startDaemon(t, dir, regexp.MustCompile(`(resolved|is|fetch|one)`), "warm", "-c", config, "-D")
	wait("first")
	if status, out := runProgram(t, dir, "warm", "-c", config, "--once", "--store", filepath.Join(dir, "store")); status != 1 {
		t.Errorf("a second one on the same store: %d: %s", status, out)
	}
	write("wrong", two) // is told, and left
	if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	write("second", two)
	if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	wait("second")
	if status, out := d.stop(syscall.SIGTERM); status != 0 {
		t.Errorf("it ends with %d: %s", status, out)
	}
	store, err := blobstore.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"first", "second"} {
		state := warm.ReadState(store.Note("warm/"+name), name)
		if len(state.Images) != 1 || state.Images[0].Error != "" || state.Next.IsZero() {
			t.Errorf("%s: %+v", name, state)
		}
	}
}
