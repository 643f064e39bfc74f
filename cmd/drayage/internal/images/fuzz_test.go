package images

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"drayage/engine"
	"drayage/engine/printable/printabletest"

	"github.com/opencontainers/go-digest"
)

// FuzzLists reads any file as a list of images, as a lock, and as what was carried before.
func FuzzLists(f *testing.F) {
	hex := strings.Repeat("a", 64)
	for _, s := range []string{
		"alpine\nghcr.io/a/b:1 # comment\n", LockHead + "# with --platform linux/amd64 --referrers\nalpine:3@sha256:" + hex + "\n", "sha256:" + hex + "\nsha512:" + hex + "\n", "# with --platform\n", "# with --store=/x --all-platforms\nalpine:3@sha256:" + hex,
		"\xef\xbb\xbfalpine\r\n", "\xff\xfea\x00\n\x00", "\x00\x01", "\x1f\x8b", "a b\n", "UPPER\n", "\x1b[31m\n", strings.Repeat("x", 5000), "alpine@sha256:x", "[::1]:99999/x", "alpine:3@sha256:" + hex + "\nalpine:4@sha256:" + hex, "", "#", "\t\n\v\f\r", "a\u2028b\n", "A\x01", "\x1b://x", "a:\x1b", "a@\x1b",
	} {
		f.Add([]byte(s))
	}
	path := filepath.Join(f.TempDir(), "list.txt")
	f.Fuzz(func(t *testing.T, raw []byte) {
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		words, err := ReadList(path, nil)
		printabletest.Check(t, err)
		refs, bad := ParseNames(words)
		for _, err := range bad {
			printabletest.Check(t, err)
		}
		if len(refs)+len(bad) != len(words) {
			t.Errorf("of %d words %d are images and %d are none", len(words), len(refs), len(bad))
		}
		piped, err := ReadList("-", bytes.NewReader(raw))
		printabletest.Check(t, err)
		if len(piped) != len(words) {
			t.Errorf("%d words by a pipe, and %d in a file", len(piped), len(words))
		}
		lock, err := ReadLock(path)
		printabletest.Check(t, err)
		for ref, d := range lock {
			if d.Validate() != nil || ref.Tag() == "" {
				t.Errorf("it locks %s to %q", ref, d)
			}
		}
		for _, in := range []struct {
			path  string
			stdin io.Reader
		}{{path, nil}, {"-", bytes.NewReader(raw)}} {
			digests, refs, with, err := ReadSince(t.Context(), in.path, in.stdin, 0)
			printabletest.Check(t, err)
			if slices.ContainsFunc(digests, func(d digest.Digest) bool { return d.Validate() != nil }) {
				t.Errorf("it carried %q", digests)
			}
			if err == nil && len(refs) > 0 {
				_, err = LockedOptions(engine.Options{}, with)
				printabletest.Check(t, err)
			}
		}
	})
}
