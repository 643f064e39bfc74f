package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"drayage/blobstore"
	"drayage/cmd/drayage/internal/process"
	"drayage/cmd/drayage/internal/status"
	"drayage/engine/reference"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
)

// storeDir is where the store is: as given, or by default.
func storeDir(dir string) (string, error) {
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
			return "", status.Misuse(fmt.Errorf("no default store directory: %w; use --store DIR", err))
		}
	}
	return dir, nil
}

func storeFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "store", "", "store directory `DIR` (default $DRAYAGE_STORE, else $XDG_CACHE_HOME/drayage, else ~/.cache/drayage)")
}

func peekStore(given string) (*blobstore.Store, error) {
	dir, err := storeDir(given)
	if err != nil {
		return nil, err
	}
	if given != "" { // the default one may not be there yet; a name may be mistyped
		if _, err := os.Stat(dir); err != nil {
			return nil, fmt.Errorf("the store: %w", err)
		}
	}
	return blobstore.Peek(dir)
}

// noStore is an empty store, for commands that keep nothing: one that isn't there.
func noStore() (*blobstore.Store, error) {
	return blobstore.Peek(filepath.Join(os.TempDir(), "drayage-no-store-"+rand.Text()))
}

// familiar is a name as people type it.
func familiar(name string) string {
	if ref, err := reference.Parse(name); err == nil && !strings.HasPrefix(name, "sha256:") {
		return ref.String()
	}
	return name
}

// wantedRoots finds images by the names that people have for them, or all.
func wantedRoots(store *blobstore.Store, names []string) ([]blobstore.Root, error) {
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
			return nil, fmt.Errorf("%s: it has %s under that name: %w", name, r.Target.Digest, blobstore.ErrNotFound)
		}
		out = append(out, r)
	}
	return out, nil
}

// openOldStore opens a store that is there, to change it.
func openOldStore(s process.Streams, dir string) (*blobstore.Store, error) {
	peek, err := peekStore(dir)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(peek.Dir()); errors.Is(err, os.ErrNotExist) {
		return peek, nil // nothing is there, and nothing is made
	}
	return blobstore.OpenWith(peek.Dir(), blobstore.Options{Disk: s.Disk})
}
