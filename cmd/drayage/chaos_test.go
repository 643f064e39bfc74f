package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"drayage/engine/registry/registrytest"
)

// get is the body of what a URL gives.
func get(t *testing.T, url string) ([]byte, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// The bad link as a user runs it: its URL on the first line, counters at /stats
// and at its end, and a pull through it.
func TestChaosIsABadLink(t *testing.T) {
	s := registrytest.New()
	defer s.Close()
	const size = 3 << 20
	name := s.Push("app", "1", registrytest.Build("linux/amd64", registrytest.Random(1, size)))
	link := exec.CommandContext(t.Context(), "drayage", "chaos", "--upstream", s.Host(), "--reset-after", "300K", "--seed", "7", "--errors", "5%", "--error-status", "502")
	out, err := link.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := link.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	base, err := lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(strings.TrimSpace(base), "http://")

	pull := exec.CommandContext(t.Context(), "drayage", "pull", "-pnone", "--platform", "linux/amd64", "--store", filepath.Join(t.TempDir(), "store"), strings.Replace(name, s.Host(), host, 1))
	if out, err := pull.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	stats := func(raw []byte) map[string]int64 {
		var m map[string]int64
		if err := json.Unmarshal(raw, &m); err != nil {
			t.Errorf("%q: %v", raw, err)
		}
		return m
	}
	raw, err := get(t, strings.TrimSpace(base)+"/stats")
	if err != nil {
		t.Fatal(err)
	}
	if m := stats(raw); m["resets"] < 5 || m["bytes_sent"] < size || m["requests"] < 5 || m["connections"] < 5 {
		t.Errorf("%s", raw)
	}
	if err := link.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	last, err := io.ReadAll(lines)
	if err != nil {
		t.Fatal(err)
	}
	if m := stats(bytes.TrimSpace(last)); m["resets"] < 5 {
		t.Errorf("at the end: %q", last)
	}
	if err := link.Wait(); err != nil {
		t.Errorf("chaos ended with %v", err)
	}
}
