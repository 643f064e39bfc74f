//go:build linux

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// TestMain lets the test's binary be the servers of a measurement.
func TestMain(m *testing.M) {
	if slices.ContainsFunc(os.Args[1:], func(arg string) bool { return arg == "-hostile" || arg == "-serve" }) {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestSiege: a mirror under all attacks at once fails no client that means well, keeps to its
// memory and to its budget of the disk. `make bench` does it for a minute, and looks at the time.
func TestSiege(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes seconds")
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "drayage")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "drayage/cmd/drayage").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	bars, err := besiege(t.Context(), bench{program: program, scratch: dir, rounds: 1, peak: new(int64)}, bcrypt.MinCost, time.Second, 8*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, b := range bars {
		if strings.Contains(b.what, "p99") { // a time
			continue
		}
		checked++
		if !b.met {
			t.Errorf("%s: %s, want %s", b.what, b.measured, b.want)
		}
	}
	if checked < 3 {
		t.Errorf("only %d bars were checked", checked)
	}
}
