package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"drayage/bench"
	"drayage/cmd/drayage/internal/units"
	"drayage/engine"

	"github.com/opencontainers/go-digest"
)

// printed fails when what an error says is not one printable line.
func printed(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	const longest = 10_000 // a line of a list is shown as it is
	if text := err.Error(); text == "" || len(text) > longest || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("not a printable line: %.11000q", text)
	}
}

// FuzzLists reads any file as a list of images, as a lock, and as what was carried before.
func FuzzLists(f *testing.F) {
	hex := strings.Repeat("a", 64)
	for _, s := range []string{
		"alpine\nghcr.io/a/b:1 # comment\n", lockHead + "# with --platform linux/amd64 --referrers\nalpine:3@sha256:" + hex + "\n", "sha256:" + hex + "\nsha512:" + hex + "\n", "# with --platform\n", "# with --store=/x --all-platforms\nalpine:3@sha256:" + hex,
		"\xef\xbb\xbfalpine\r\n", "\xff\xfea\x00\n\x00", "\x00\x01", "\x1f\x8b", "a b\n", "UPPER\n", "\x1b[31m\n", strings.Repeat("x", 5000), "alpine@sha256:x", "[::1]:99999/x", "alpine:3@sha256:" + hex + "\nalpine:4@sha256:" + hex, "", "#", "\t\n\v\f\r", "a\u2028b\n", "A\x01", "\x1b://x", "a:\x1b", "a@\x1b",
	} {
		f.Add([]byte(s))
	}
	path := filepath.Join(f.TempDir(), "list.txt")
	f.Fuzz(func(t *testing.T, raw []byte) {
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		words, err := readList(path, nil)
		printed(t, err)
		refs, bad := parseNames(words)
		for _, err := range bad {
			printed(t, err)
		}
		if len(refs)+len(bad) != len(words) {
			t.Errorf("of %d words %d are images and %d are none", len(words), len(refs), len(bad))
		}
		piped, err := readList("-", bytes.NewReader(raw))
		printed(t, err)
		if len(piped) != len(words) {
			t.Errorf("%d words by a pipe, and %d in a file", len(piped), len(words))
		}
		lock, err := readLock(path)
		printed(t, err)
		for ref, d := range lock {
			if d.Validate() != nil || ref.Tag() == "" {
				t.Errorf("it locks %s to %q", ref, d)
			}
		}
		for _, in := range []struct {
			path  string
			stdin io.Reader
		}{{path, nil}, {"-", bytes.NewReader(raw)}} {
			digests, refs, with, err := readSince(t.Context(), in.path, in.stdin, 0)
			printed(t, err)
			if slices.ContainsFunc(digests, func(d digest.Digest) bool { return d.Validate() != nil }) {
				t.Errorf("it carried %q", digests)
			}
			if err == nil && len(refs) > 0 {
				_, err = lockedOptions(engine.Options{}, with)
				printed(t, err)
			}
		}
	})
}

// FuzzFlags reads words that flags have. What is taken is in bounds, and is read again as it is
// shown.
func FuzzFlags(f *testing.F) {
	for _, s := range []string{
		"20M", "1.5MiB/s", "0", "-1", "1e5", "9999999999999999999999G", "NaN", "Inf", "1..5", ".", "0.1", "30d", "1d12h", "36501d", "-5d", "106751d24h", "9223372036s", "5%", "0.05", "101%", "1e-400", "+1", "0x10", "70*64KiB,30*4MiB", "1e10*1", "*", ",", "1_000", "\x1b", "1152921504606846976", "00d", "1 K",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 200 || strings.ContainsRune(s, '/') && !strings.HasSuffix(s, "/s") {
			return // parseMix may take it for a file's name
		}
		var r units.Rate
		if err := r.Set(s); err != nil {
			printed(t, err)
		} else if again := units.Rate(0); r < 1 || again.Set(r.String()) != nil || again != r {
			t.Errorf("the rate %q is %d, and that is %d", s, r, again)
		}
		var z units.Size
		if err := z.Set(s); err != nil {
			printed(t, err)
		} else if z < 1 || z > 1<<60 {
			t.Errorf("the size %q is %d", s, z)
		}
		var b byteSize
		if err := b.Set(s); err != nil {
			printed(t, err)
		} else if b < 1 || b > 1<<60 {
			t.Errorf("the size %q is %d", s, b)
		}
		var p share
		if err := p.Set(s); err != nil {
			printed(t, err)
		} else if !(p >= 0 && p <= 1) {
			t.Errorf("the share %q is %v", s, p)
		}
		if d, err := parseDays(s); err != nil {
			printed(t, err)
		} else if d < 0 && d != -time.Nanosecond {
			t.Errorf("the time %q is %v", s, d)
		}
		mix, err := parseMix(s)
		printed(t, err)
		if err == nil && len(mix) == 0 {
			t.Errorf("the mix %q is %v", s, bench.Mix(mix))
		}
		_, err = platformOf(s)
		printed(t, err)
	})
}
