//go:build linux

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A name of what the program has open, such as /dev/stdout, is written to, and never replaced.
func TestReportsGoToWhatIsOpen(t *testing.T) {
	w := newWorld(t)
	link := filepath.Join(t.TempDir(), "stdout")
	if err := os.Symlink("/proc/self/fd/1", link); err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.CommandContext(t.Context(), "drayage", "pull", "-q", "--store", t.TempDir(), "--report", link, w.image)
	cmd.Env, cmd.Stdout = w.env, out
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(out.Name()); err != nil || !strings.Contains(string(text), `"version"`) {
		t.Errorf("what was redirected has %q, %v", text, err)
	}
	if to, err := os.Readlink(link); err != nil || !strings.HasPrefix(to, "/proc/") {
		t.Errorf("the link is %q, %v", to, err)
	}
}
