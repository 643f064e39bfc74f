package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"drayage/cmd/drayage/internal/images"
	"drayage/cmd/drayage/internal/output"
	"drayage/cmd/drayage/internal/status"
	"drayage/cmd/drayage/internal/terminal"
	"drayage/engine"
	"drayage/engine/reference"
)

// with are the flags that say what of an index was pulled.
func (o *pullOptions) with() string {
	var b strings.Builder
	platforms, err := o.wantedPlatforms()
	if err != nil {
		return "" // was found out before
	}
	b.WriteString(images.LockWith)
	for _, p := range platforms {
		b.WriteString(" --platform " + p.String())
	}
	if o.all {
		b.WriteString(" --all-platforms")
	}
	if o.referrers {
		b.WriteString(" --referrers")
	}
	return b.String() + "\n"
}

// pinned gives images the digests that the lock has for them.
func (o *pullOptions) pinned(refs []reference.Image) ([]reference.Image, error) {
	if o.lock == "" {
		if o.relock {
			return nil, status.Misuse(errors.New("--update-lock requires --lock FILE"))
		}
		return refs, nil
	}
	if o.relock || output.IsOutput(o.lock) {
		return refs, nil
	}
	lock, err := images.ReadLock(o.lock)
	if errors.Is(err, fs.ErrNotExist) {
		_, err := os.Stat(filepath.Dir(o.lock)) // better now than after the pull
		return refs, err
	}
	if err != nil {
		return nil, err
	}
	out := slices.Clone(refs)
	for i, ref := range refs {
		d, ok := lock[ref.At("")]
		switch {
		case ref.Digest() != "" && (!ok || d == ref.Digest()): // is pinned by its name
		case !ok:
			return nil, status.Misuse(fmt.Errorf("%s is not in lock file %s; use --update-lock to rewrite it", ref, o.lock))
		case ref.Digest() != "":
			return nil, status.Misuse(fmt.Errorf("%s has another digest in lock file %s: %s", ref, o.lock, d))
		default:
			out[i] = ref.At(d)
			if o.named == nil {
				o.named = make(map[reference.Image]reference.Image)
			}
			o.named[out[i]] = ref
		}
	}
	return out, nil
}

// writeLock writes the lock, where there is none or a new one is wanted.
func (o *pullOptions) writeLock(results []engine.Result) error {
	if o.lock == "" {
		return nil
	}
	if _, err := os.Stat(o.lock); err == nil && !o.relock && !output.IsOutput(o.lock) {
		return nil
	}
	var lines []string
	for _, r := range results {
		lines = append(lines, r.Ref.At(r.Image.Target().Digest).String()+"\n")
	}
	slices.Sort(lines)
	if err := writeText(o.lock, images.LockHead+o.with()+strings.Join(slices.Compact(lines), "")); err != nil {
		return fmt.Errorf("writing the lock file: %w", err)
	}
	return nil
}

// writeText writes a small file of text, as durable.WriteFile does.
func writeText(path, text string) error {
	return terminal.WriteFile(terminal.Escaper{}, path, func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	})
}
