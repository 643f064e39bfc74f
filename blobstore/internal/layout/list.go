package layout

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"drayage/blobstore/internal/disk"

	"github.com/opencontainers/go-digest"
)

// File is a file of the store, whole or in part.
type File struct {
	Digest   digest.Digest // "" for a file that has none
	Size     int64         // bytes of the disk
	Path     string
	Modified time.Time // when it was last written to
}

// ListBlobs lists the whole blobs. Files that have no digest for a name are none.
func (d Dir) ListBlobs(ctx context.Context) ([]File, error) {
	folders, err := os.ReadDir(filepath.Dir(d.Blobs(digest.SHA256)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing blobs: %w", err)
	}
	var out []File
	for _, folder := range folders {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		algorithm := digest.Algorithm(folder.Name())
		if !algorithm.Available() {
			continue
		}
		entries, err := os.ReadDir(d.Blobs(algorithm))
		if err != nil {
			return nil, fmt.Errorf("listing blobs: %w", err)
		}
		for _, e := range entries {
			blob := digest.NewDigestFromEncoded(algorithm, e.Name())
			info, err := e.Info()
			if err != nil || blob.Validate() != nil || !info.Mode().IsRegular() {
				continue // removed meanwhile, or not ours
			}
			out = append(out, File{blob, info.Size(), d.Blob(blob), info.ModTime()})
		}
	}
	return out, nil
}

// ListPartials lists partial blobs, with when one was last written to.
func (d Dir) ListPartials() []File {
	entries, _ := os.ReadDir(d.Ingests())
	var out []File
	for _, e := range entries {
		algorithm, hex, _ := strings.Cut(e.Name(), "-")
		blob := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex)
		if blob.Validate() != nil {
			continue
		}
		info, err := os.Stat(d.IngestData(blob))
		if err != nil {
			continue
		}
		modified := info.ModTime()
		if info, err := os.Stat(d.IngestJournal(blob)); err == nil { // what tells of progress
			modified = info.ModTime()
		}
		out = append(out, File{blob, disk.Allocated(info), d.IngestData(blob), modified})
	}
	return out
}

// ListQuarantined lists what verifying found damaged.
func (d Dir) ListQuarantined() []File {
	entries, _ := os.ReadDir(d.Quarantines())
	var out []File
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			out = append(out, File{Size: info.Size(), Path: filepath.Join(d.Quarantines(), e.Name())})
		}
	}
	return out
}

// ReadState is the content of a state file, or nil when there is none.
func (d Dir) ReadState(name string) []byte {
	raw, err := os.ReadFile(d.State(name))
	if errors.Is(err, fs.ErrNotExist) {
		raw, err = os.ReadFile(d.OldState(name))
	}
	if err != nil {
		return nil
	}
	return raw
}

// ListStates lists the names of state files that begin with a prefix.
func (d Dir) ListStates(prefix string) ([]string, error) {
	entries, err := os.ReadDir(d.States())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		name, err := url.QueryUnescape(e.Name())
		if err != nil || slices.Contains(out, name) || !strings.HasPrefix(name, prefix) || strings.HasSuffix(name, disk.TempSuffix) {
			continue
		}
		if filepath.Base(d.State(name)) == e.Name() || filepath.Base(d.OldState(name)) == e.Name() {
			out = append(out, name)
		}
	}
	return out, nil
}
