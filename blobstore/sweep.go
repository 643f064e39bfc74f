package blobstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"drayage/blobstore/internal/garbage"
	"drayage/blobstore/internal/layout"

	"github.com/opencontainers/go-digest"
)

// Keep says what a sweep leaves, beside what living processes hold. The zero value
// leaves every image, and for a day what nothing needs.
type Keep struct {
	// Unused is how long an image is kept that nobody uses; 0 is for ever.
	Unused time.Duration
	// Budget is how many bytes the blobs may take, partial ones included: of these go those
	// that nobody is at and that were continued longest ago, and then those images that were used
	// longest ago, until that is so. 0 is no bound. What living processes hold counts and stays.
	Budget int64
	// Pinned reports images that stay, whatever the above says; nil is none.
	Pinned func(name string) bool
	// Coming are blobs on their way, or whole by now, that stay and aren't counted.
	Coming map[digest.Digest]bool
	// Spare, if not zero, has images stay that were used since.
	Spare time.Time
	// Grace is how long a blob is kept that no image needs and that no image was removed
	// with: it may be of a pull that was broken off. 0 means a day, less than that none.
	Grace time.Duration
	// Partials is how long partial blobs are kept that nobody continues; 0 is as long
	// as the store keeps them by itself, less than that none.
	Partials time.Duration
	// Quarantined has what verifying found damaged removed, too.
	Quarantined bool
}

// Garbage is what a sweep is going to remove. Sizes are bytes of the disk.
type Garbage struct {
	Images      []Root   // that go for being unused, or for the budget
	Blobs       []Stored // whole ones that nothing needs then
	Partials    []Stored // of partial blobs
	Quarantined []Stored
	Derived     int   // records of conversions whose blobs are gone or going
	Left        int64 // bytes of the whole blobs that stay
	LeftPartial int64 // of the partial ones that stay
	Young       int   // blobs among them that nothing needs, and that stay for their age
	YoungBytes  int64

	found time.Time // images that were used since stay
}

// Stored is a file of the store.
type Stored struct {
	Digest digest.Digest // "" for a file that has none
	Size   int64
	path   string
}

// Bytes is how many bytes of the disk all of it takes.
func (g Garbage) Bytes() int64 {
	var n int64
	for _, list := range [][]Stored{g.Blobs, g.Partials, g.Quarantined} {
		for _, x := range list {
			n += x.Size
		}
	}
	return n
}

// FindGarbage works out what a sweep would remove. It changes nothing, and may run beside anything.
func (s *Store) FindGarbage(ctx context.Context, k Keep) (Garbage, error) {
	in := garbage.Input{Now: time.Now(), Coming: k.Coming}
	var err error
	// Leases before roots: what a pull records meanwhile is in one of them.
	if in.Kept, err = s.Leased(); err != nil {
		return Garbage{}, err
	}
	roots, err := s.allRoots()
	if err != nil {
		return Garbage{}, err
	}
	for _, r := range roots {
		used := s.lastUse(r.Name)
		stays := k.Pinned != nil && k.Pinned(r.Name) || !k.Spare.IsZero() && used.After(k.Spare)
		in.Images = append(in.Images, garbage.Image{Blobs: r.all(), Used: used, Stays: stays})
	}
	blobs, err := s.paths.ListBlobs(ctx)
	if err != nil {
		return Garbage{}, err
	}
	blobs = slices.DeleteFunc(blobs, func(b layout.File) bool { return k.Coming[b.Digest] })
	in.Conversions = made(s.conversions())
	partials := slices.DeleteFunc(s.paths.ListPartials(), func(b layout.File) bool { return k.Coming[b.Digest] })
	in.Blobs, in.Partials = planned(blobs), planned(partials)
	plan := garbage.Find(in, garbage.Policy{
		Unused: k.Unused, Budget: k.Budget,
		Grace: cmp.Or(k.Grace, 24*time.Hour), Partials: cmp.Or(k.Partials, s.partialAge),
	})
	g := Garbage{
		Images: picked(roots, plan.Images), Blobs: stored(picked(blobs, plan.Blobs)), Partials: stored(picked(partials, plan.Partials)),
		Derived: plan.Derived, Left: plan.Left, LeftPartial: plan.LeftPartial, Young: plan.Young, YoungBytes: plan.YoungBytes,
		found: in.Now,
	}
	if k.Quarantined {
		g.Quarantined = stored(s.paths.ListQuarantined())
	}
	return g, nil
}

// made are conversions as a plan has them.
func made(conversions []Derived) []garbage.Conversion {
	out := make([]garbage.Conversion, 0, len(conversions))
	for _, c := range conversions {
		out = append(out, garbage.Conversion{From: c.From, Made: c.Blob.Digest})
	}
	return out
}

// planned are files as a plan has them.
func planned(list []layout.File) []garbage.Blob {
	out := make([]garbage.Blob, 0, len(list))
	for _, f := range list {
		out = append(out, garbage.Blob{Digest: f.Digest, Size: f.Size, Modified: f.Modified})
	}
	return out
}

func stored(list []layout.File) []Stored {
	out := make([]Stored, 0, len(list))
	for _, f := range list {
		out = append(out, Stored{f.Digest, f.Size, f.Path})
	}
	return out
}

func picked[T any](list []T, places []int) (out []T) {
	for _, i := range places {
		out = append(out, list[i])
	}
	return out
}

// Sweep removes garbage, but what came to be needed since it was found. It is safe
// beside pulls and whatever else reads the store.
func (s *Store) Sweep(ctx context.Context, g Garbage) error {
	if err := s.removeRoots(g.Images, g.found); err != nil {
		return err
	}
	const batch = 256 // removed while nobody else can come to need any
	for part := range slices.Chunk(g.Blobs, batch) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := s.sweepBlobs(part); err != nil {
			return err
		}
	}
	if len(g.Blobs) > 0 {
		if err := s.syncFolder(s.paths.Blobs(digest.SHA256)); err != nil {
			return fmt.Errorf("sweeping: %w", err)
		}
	}
	for _, p := range g.Partials {
		s.paths.DropPartial(p.Digest)
	}
	for _, q := range g.Quarantined {
		if err := os.Remove(q.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("sweeping: %w", err)
		}
	}
	if err := s.dropConversions(); err != nil || len(g.Blobs) == 0 {
		return err
	}
	left, err := s.paths.ListBlobs(ctx)
	if err != nil {
		return err
	}
	there := make(map[digest.Digest]bool, len(left))
	for _, b := range left {
		there[b.Digest] = true
	}
	unlock, err := s.lock()
	if err != nil {
		return fmt.Errorf("sweeping: %w", err)
	}
	defer unlock()
	if err := s.stamps.Compact(there, s.replaceFile); err != nil {
		return fmt.Errorf("sweeping: %w", err)
	}
	return nil
}

// sweepBlobs removes those of some blobs that nothing needs now.
func (s *Store) sweepBlobs(blobs []Stored) error {
	unlock, err := s.excludeKeepers()
	if err != nil {
		return fmt.Errorf("sweeping: %w", err)
	}
	defer unlock()
	kept, err := s.Leased() // before the roots, as in FindGarbage
	if err != nil {
		return err
	}
	if err := s.addListed(kept, func(string) bool { return true }); err != nil {
		return err
	}
	for _, b := range blobs {
		if kept[b.Digest] {
			continue
		}
		if err := os.Remove(b.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("sweeping: %w", err)
		}
	}
	return nil
}

// Remove takes images out of the store by their names. Their blobs stay until a sweep,
// which takes those that nothing else needs, without waiting for any to age. The error
// wraps ErrNotFound when a name is not there; then nothing is removed.
func (s *Store) Remove(names ...string) error {
	var roots []Root
	for _, name := range names {
		r, err := s.Root(name)
		if err != nil {
			return err
		}
		roots = append(roots, r)
	}
	return s.removeRoots(roots, time.Time{})
}

// removeRoots removes those of some images that are what they were, and were not used
// since a moment, if one is given.
func (s *Store) removeRoots(roots []Root, unused time.Time) error {
	if len(roots) == 0 {
		return nil
	}
	unlock, err := s.lock()
	if err != nil {
		return fmt.Errorf("removing images: %w", err)
	}
	defer unlock()
	var removed []Root
	for _, r := range roots {
		now, err := s.Root(r.Name)
		if err != nil || now.Target.Digest != r.Target.Digest {
			continue // removed, or pulled anew, meanwhile
		}
		if !unused.IsZero() && s.lastUse(r.Name).After(unused) {
			continue
		}
		if err := os.Remove(s.rootPath(r.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing %s: %w", r.Name, err)
		}
		removed = append(removed, r)
	}
	s.age(removed)
	if err := s.syncFolder(s.paths.Roots()); err != nil {
		return fmt.Errorf("removing images: %w", err)
	}
	if err := s.writeIndex(); err != nil {
		return fmt.Errorf("writing the store's index.json: %w", err)
	}
	return nil
}

// age lets a sweep take the blobs of removed images at once. Those that others need stay as
// they are: a changed file would be hashed before its next use. What fails delays a sweep.
func (s *Store) age(removed []Root) {
	left, err := s.Roots()
	if err != nil {
		return
	}
	needed := make(map[digest.Digest]bool)
	for _, r := range left {
		for _, d := range r.all() {
			needed[d] = true
		}
	}
	for _, r := range removed {
		for _, d := range r.all() {
			if !needed[d] {
				_ = os.Chtimes(s.paths.Blob(d), time.Time{}, longAgo)
			}
		}
	}
}

// longAgo is when a blob was last modified that an image was removed with.
var longAgo = time.Unix(1, 0)

// Blobs lists the whole blobs of the store, by digest.
func (s *Store) Blobs(ctx context.Context) ([]Stored, error) {
	blobs, err := s.paths.ListBlobs(ctx)
	out := stored(blobs)
	slices.SortFunc(out, func(a, b Stored) int { return cmp.Compare(a.Digest, b.Digest) })
	return out, err
}

// conversions lists the records of what was made of blobs that can be read.
func (s *Store) conversions() []Derived {
	entries, _ := os.ReadDir(s.paths.Deriveds())
	var out []Derived
	for _, e := range entries {
		raw, err := os.ReadFile(filepath.Join(s.paths.Deriveds(), e.Name()))
		if err != nil {
			continue
		}
		if d, err := decodeDerived(raw); err == nil {
			out = append(out, d)
		}
	}
	return out
}

// dropConversions removes the records of conversions whose blobs are gone.
func (s *Store) dropConversions() error {
	unlock, err := s.lock()
	if err != nil {
		return fmt.Errorf("sweeping: %w", err)
	}
	defer unlock()
	for _, c := range s.conversions() {
		_, from := s.Stat(c.From)
		var made error
		if c.Blob.Digest != "" {
			_, made = s.Stat(c.Blob.Digest)
		}
		if errors.Is(from, ErrNotFound) || errors.Is(made, ErrNotFound) {
			if err := os.Remove(s.paths.Derived(c.From, c.Form)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("sweeping: %w", err)
			}
		}
	}
	return nil
}
