package blobstore

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Pin records images as pulled, all or those before a failure, and replaces
// roots of the same names. One with the same target keeps what it had beyond that, such as
// other platforms, and is still there. The blobs should be in the store, under this
// lease.
func (l *Lease) Pin(roots ...Root) error {
	s := l.store
	unlock, err := s.lock()
	if err != nil {
		return fmt.Errorf("pinning: %w", err)
	}
	defer unlock()
	for _, r := range roots {
		if r, err = l.joined(r); err != nil {
			return fmt.Errorf("pinning %s: %w", r.Name, err)
		}
		raw, err := json.Marshal(rootFile{Version: rootVersion, Root: r})
		if err != nil {
			return fmt.Errorf("pinning %s: %w", r.Name, err)
		}
		if old, err := os.ReadFile(s.paths.Root(r.Name)); err == nil && string(old) == string(raw) {
			if err := s.Use(r.Name); err != nil {
				return err
			}
			continue
		}
		if err := s.replaceFile(s.paths.Root(r.Name), raw); err != nil {
			return fmt.Errorf("pinning %s: %w", r.Name, err)
		}
	}
	if err := s.syncFolder(s.paths.Roots()); err != nil { // once for all of them
		return fmt.Errorf("pinning: %w", err)
	}
	for _, r := range roots {
		s.dropOldRoot(r.Name)
	}
	if err := s.writeIndex(); err != nil {
		return fmt.Errorf("writing the store's index.json: %w", err)
	}
	return nil
}

// joined adds to a root what the one that it replaces has beyond it.
func (l *Lease) joined(r Root) (Root, error) {
	old, err := l.store.Root(r.Name)
	if err != nil || old.Target.Digest != r.Target.Digest {
		return r, nil // nothing to keep
	}
	if r.From.Kind != FromRegistry && old.From.Kind == FromRegistry {
		r.From = old.From
	}
	r.Blobs, r.Beside = slices.Clone(r.Blobs), slices.Clone(r.Beside)
	listed := setOf(r.Blobs)
	for _, d := range old.Blobs {
		if listed[d] {
			continue
		}
		listed[d] = true
		if err := l.keep(d); err != nil { // before it is looked for, as in Has
			return r, err
		}
		switch _, err := l.store.Stat(d); {
		case err == nil:
			r.Blobs = append(r.Blobs, d)
		case !errors.Is(err, ErrNotFound):
			return r, err
		}
	}
	for _, b := range old.Beside {
		known := slices.ContainsFunc(r.Beside, func(o ocispec.Descriptor) bool { return o.Digest == b.Digest })
		if !known && slices.Contains(r.Blobs, b.Digest) {
			r.Beside = append(r.Beside, b)
		}
	}
	slices.SortFunc(r.Beside, func(a, b ocispec.Descriptor) int { return cmp.Compare(a.Digest, b.Digest) })
	return r, nil
}

// Extend adds blobs to what an image lists, if it is there and stands for a target, and
// does nothing if not. They should be in the store, under this lease.
func (l *Lease) Extend(name string, target digest.Digest, blobs ...digest.Digest) error {
	s := l.store
	unlock, err := s.lock()
	if err != nil {
		return fmt.Errorf("pinning: %w", err)
	}
	defer unlock()
	r, err := s.Root(name)
	if errors.Is(err, ErrNotFound) || err == nil && r.Target.Digest != target {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pinning: %w", err)
	}
	more, listed := r.Blobs, setOf(r.Blobs)
	for _, d := range blobs {
		if !listed[d] {
			listed[d] = true
			more = append(more, d)
		}
	}
	if len(more) == len(r.Blobs) {
		return nil
	}
	r.Blobs = more
	raw, err := json.Marshal(rootFile{Version: rootVersion, Root: r})
	if err != nil {
		return fmt.Errorf("pinning %s: %w", name, err)
	}
	if err := s.writeFile(s.paths.Root(name), raw); err != nil {
		return fmt.Errorf("pinning %s: %w", name, err)
	}
	return nil
}
