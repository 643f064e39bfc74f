package main

import (
	"bytes"
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"drayage/cmd/drayage/internal/process"
	"drayage/cmd/drayage/internal/terminal"
	"drayage/engine/registry/registrytest"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// golden writes the archives of testdata/golden anew:
//
//	go test ./cmd/drayage -run Golden -golden
var golden = flag.Bool("golden", false, "write testdata/golden anew")

// The archives of a format stay the same to the byte, also in later versions: a
// change of what is in testdata/golden is a change that users see.
func TestGoldenArchives(t *testing.T) {
	s := registrytest.New()
	defer s.Close()
	layer := func(seed uint64) []byte { return registrytest.Unpacked(registrytest.Layer(seed, 2000)) }
	amd := registrytest.Build("linux/amd64", layer(2), layer(3), layer(2))
	arm := registrytest.Build("linux/arm64", layer(2), layer(4))
	names := []string{
		s.Push("library/base", "1", registrytest.BuildDocker("linux/amd64", layer(2))),
		s.PushIndex("team/app", "1", ocispec.MediaTypeImageIndex, amd, arm),
		s.Push("none", "1", registrytest.Build("linux/amd64")),
	}
	quiet := process.Standard()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = null.Close() })
	quiet.Out = terminal.New(null)
	store := filepath.Join(t.TempDir(), "store")
	var sums strings.Builder
	for _, c := range []struct {
		name string
		keep bool // the archive itself, and not only its checksum
		args []string
	}{
		{"docker.tar", true, nil},
		{"oci.tar", true, []string{"--format", "oci"}},
		{"legacy.tar", true, []string{"--format", "legacy"}},
		{"all-platforms.tar", false, []string{"--all-platforms"}},
		{"docker.tar.gz", false, nil},
		{"docker.tar.zst", false, nil},
	} {
		file := filepath.Join(t.TempDir(), c.name)
		args := append([]string{"pull", "-q", "--store", store, "--strip-registry", "--platform", "linux/amd64", "-o", file}, c.args...)
		if err := run(t.Context(), append(args, names...), quiet); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		// Whatever order the images are named in.
		slices.Reverse(names)
		again := file + "2" + filepath.Ext(file)
		args[slices.Index(args, "-o")+1] = again
		if err := run(t.Context(), append(args, names...), quiet); err != nil {
			t.Fatal(err)
		}
		if other, err := os.ReadFile(again); err != nil || !bytes.Equal(got, other) {
			t.Errorf("%s depends on the order of images (%v)", c.name, err)
		}
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(got), c.name)
		if c.keep {
			compareGolden(t, c.name, got)
		}
	}
	compareGolden(t, "SHA256SUMS", []byte(sums.String()))
}

func compareGolden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *golden {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what it was: %d bytes, and %d in testdata/golden", name, len(got), len(want))
	}
}
