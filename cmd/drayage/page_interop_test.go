//go:build interop

package main_test

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"drayage/engine/registry/registrytest"
)

// A real browser shows the report's pages, and the mirror's, at several widths, in light and dark, and
// prints them: nothing is fetched, nothing is beyond the edge, and with DRAYAGE_AXE
// axe has nothing serious to say.
func TestInteropPage(t *testing.T) {
	tool(t, "chromium")
	drayage := build(t)
	dir := t.TempDir()
	server := registrytest.New()
	defer server.Close()
	var refs []string
	for _, name := range []string{"team/app", "a-team-with-a-long-name/and-an-application-whose-name-is-longer-than-a-telephone-is-wide"} {
		refs = append(refs, server.Push(name, "1", registrytest.Build("linux/"+runtime.GOARCH, registrytest.Layer(1, 3<<20))))
	}
	one, several := filepath.Join(dir, "one.html"), filepath.Join(dir, "several.html")
	command(t, drayage, "bench", "-q", "--duration", "3s", "--rounds", "1", "--connections", "2", "--rate", "50", "--range", "64KiB", "--html", one, refs[0])
	command(t, drayage, "bench", "-q", "--duration", "10s", "--connections", "1,2,4", "--range", "64KiB,whole", "--html", several, refs[0], refs[1])
	shots := os.Getenv("DRAYAGE_SHOTS") // to look at them
	if shots == "" {
		shots = filepath.Join(dir, "shots")
	}
	args := []string{"-shots", shots}
	if axe := os.Getenv("DRAYAGE_AXE"); axe != "" {
		args = append(args, "-axe", axe)
	}
	t.Log(command(t, filepath.Join(os.Getenv("DRAYAGE_INTEROP"), "browser"), append(args, one, several, "http://"+serveStore(t, "--budget", "1MiB").host+"/")...))
}
