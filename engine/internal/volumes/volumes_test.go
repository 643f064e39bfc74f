package volumes_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"drayage/engine/internal/volumes"
)

// lay writes files whose content is their name, and returns their directory.
func lay(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestOf(t *testing.T) {
	for _, c := range []struct {
		there string
		name  string
		want  string
		err   string
	}{
		{"a.tar", "a.tar", "", ""},
		{"a.tar.001 a.tar.002 a.tar.003", "a.tar.001", "a.tar.001 a.tar.002 a.tar.003", ""},
		{"a.tar.001 a.tar.002", "a.tar", "a.tar.001 a.tar.002", ""},
		{"a.tar a.tar.001", "a.tar", "", ""}, // the archive itself is there
		{"a.tar.0001 a.tar.0002", "a.tar", "a.tar.0001 a.tar.0002", ""},
		{"a.tar.001 a.tar.003", "a.tar.001", "", "a.tar.002 is missing"},
		{"a.tar.002", "a.tar", "", "a.tar.001 is missing"},
		{"a.tar.001 a.tar.002", "a.tar.002", "", "name the first one"},
		{"backup.2024", "backup.2024", "", ""}, // a date
		{"a.01 a.02", "a.01", "", ""},          // too few digits
		{"", "a.tar", "", ""},
	} {
		dir := lay(t, strings.Fields(c.there)...)
		got, err := volumes.Of(filepath.Join(dir, c.name))
		for i := range got {
			got[i] = filepath.Base(got[i])
		}
		if c.err == "" && (err != nil || !slices.Equal(got, strings.Fields(c.want))) {
			t.Errorf("%s of %q: %v, %v; want %s", c.name, c.there, got, err, c.want)
		}
		if c.err != "" && (!errors.Is(err, volumes.ErrMissing) || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s of %q: %v, want %s", c.name, c.there, err, c.err)
		}
	}
}

func TestFirstOf(t *testing.T) {
	dir := lay(t, "a.tar.003", "b.2024", "c.123", "c.sha256")
	for name, want := range map[string]string{"a.tar.003": "a.tar.001", "b.2024": "", "c.123": "c.001", "a.tar": ""} {
		got := volumes.FirstOf(filepath.Join(dir, name))
		if want != "" {
			want = filepath.Join(dir, want)
		}
		if got != want {
			t.Errorf("of %s: %q, want %q", name, got, want)
		}
	}
}

func TestWithout(t *testing.T) {
	dir := lay(t, "a.tar.001", "a.tar.002", "a.tar.sha256", "b.tar")
	var all []string
	for _, name := range []string{"a.tar.001", "a.tar.002", "a.tar.sha256", "b.tar"} {
		all = append(all, filepath.Join(dir, name))
	}
	if got, want := volumes.Without(all), []string{all[0], all[3]}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestCheck(t *testing.T) {
	names := []string{"a.tar.001", "a.tar.002"}
	for what, c := range map[string]struct {
		change func(dir string) error
		want   error
	}{
		"whole":   {func(string) error { return nil }, nil},
		"missing": {func(dir string) error { return os.Remove(filepath.Join(dir, names[1])) }, volumes.ErrMissing},
		"changed": {func(dir string) error { return os.WriteFile(filepath.Join(dir, names[1]), []byte("x"), 0o600) }, volumes.ErrMismatch},
		"no list": {func(dir string) error { return os.Remove(filepath.Join(dir, "a.tar.sha256")) }, nil},
		"a list that leads elsewhere": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "a.tar.sha256"), []byte(strings.Repeat("0", 64)+"  ../a.tar.001\n"), 0o600)
		}, nil},
	} {
		dir := lay(t, names...)
		var list strings.Builder
		for _, name := range names {
			fmt.Fprintf(&list, "%x  %s\n", sha256.Sum256([]byte(name)), name)
		}
		if err := os.WriteFile(filepath.Join(dir, "a.tar.sha256"), []byte(list.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := c.change(dir); err != nil {
			t.Fatal(err)
		}
		if err := volumes.Check(t.Context(), filepath.Join(dir, names[0])); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := volumes.Check(ctx, filepath.Join(dir, names[0])); what == "whole" && !errors.Is(err, context.Canceled) {
			t.Errorf("when cancelled: %v", err)
		}
	}
}

func TestOpen(t *testing.T) {
	dir := lay(t, "one", "three")
	all, size, err := volumes.Open([]string{filepath.Join(dir, "one"), filepath.Join(dir, "three")})
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(all)
	if err := errors.Join(err, all.Close()); err != nil || string(content) != "onethree" || size != 8 {
		t.Errorf("%q, %d bytes, %v", content, size, err)
	}
	if _, _, err := volumes.Open([]string{filepath.Join(dir, "one"), filepath.Join(dir, "two")}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of one that isn't there: %v", err)
	}
}
