// Package stores finds and opens the store that a command is for, and images in it by the names that
// people type.
package stores

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"drayage/blobstore"
	"drayage/blobstore/durable"
	"drayage/cmd/drayage/internal/status"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/pflag"
)

// Dir is the directory of the store: as given, or by default.
func Dir(dir string) (string, error) {
	for _, from := range []func() (string, error){
		func() (string, error) { return os.Getenv("DRAYAGE_STORE"), nil },
		func() (string, error) {
			cache, err := os.UserCacheDir()
			return filepath.Join(cache, "drayage"), err
		},
	} {
		if dir != "" {
			break
		}
		var err error
		if dir, err = from(); err != nil {
			return "", status.Misuse(fmt.Errorf("no default directory for the store: %w; name one with --store", err))
		}
	}
	return dir, nil
}

// AddFlag adds --store to a command's flags.
func AddFlag(f *pflag.FlagSet, dir *string) {
	f.StringVar(dir, "store", "", "store directory `DIR` (default $DRAYAGE_STORE, else $XDG_CACHE_HOME/drayage, else ~/.cache/drayage)")
}

// Peek opens a store for reading. One that was named must exist.
func Peek(given string) (*blobstore.Store, error) {
	dir, err := Dir(given)
	if err != nil {
		return nil, err
	}
	if given != "" { // the default one may not exist yet; a name may be mistyped
		if _, err := os.Stat(dir); err != nil {
			return nil, fmt.Errorf("opening the store: %w", err)
		}
	}
	return blobstore.Peek(dir)
}

// Empty is a store without images, for commands that keep nothing: one that does not exist.
func Empty() (*blobstore.Store, error) {
	return blobstore.Peek(filepath.Join(os.TempDir(), "drayage-no-store-"+rand.Text()))
}

// Familiar is a name as people type it: "alpine:3" for "docker.io/library/alpine:3".
func Familiar(name string) string {
	if ref, err := reference.Parse(name); err == nil && !strings.HasPrefix(name, "sha256:") {
		return ref.String()
	}
	return name
}

// Roots finds the images of names as people type them; all images for no names.
func Roots(store *blobstore.Store, names []string) ([]blobstore.Root, error) {
	if len(names) == 0 {
		roots, err := store.Roots()
		if err == nil && len(roots) == 0 {
			err = fmt.Errorf("the store has no images: %w", blobstore.ErrNotFound)
		}
		return roots, err
	}
	var out []blobstore.Root
	for _, name := range names {
		full, want := name, digest.Digest("")
		if digest.Digest(name).Validate() != nil { // an image without a name goes by its digest
			ref, err := reference.Parse(name)
			if err != nil {
				return nil, status.Misuse(err)
			}
			want = ref.Digest()
			if full = ref.Tagged(); full == "" {
				full = ref.Name()
			}
		}
		r, err := store.Root(full)
		if err != nil {
			return nil, err
		}
		if want != "" && r.Target.Digest != want {
			return nil, fmt.Errorf("%s: the store has %s under that name: %w", name, r.Target.Digest, blobstore.ErrNotFound)
		}
		out = append(out, r)
	}
	return out, nil
}

// OpenExisting opens a store to change it. One that does not exist is not created.
func OpenExisting(dir string, disk durable.Disk) (*blobstore.Store, error) {
	peek, err := Peek(dir)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(peek.Dir()); errors.Is(err, os.ErrNotExist) {
		return peek, nil // nothing exists, and nothing is created
	}
	return blobstore.OpenWith(peek.Dir(), blobstore.Options{Disk: disk})
}
