package blobstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"drayage/blobstore/durable"

	"github.com/opencontainers/go-digest"
)

// Keep says what a sweep leaves, beside what living processes hold. The zero value
// leaves every image, and for a day what nothing needs.
type Keep struct {
	// Unused is how long an image is kept that nobody uses; 0 is for ever.
	Unused time.Duration
	// Budget is how many bytes the blobs may take, half-fetched ones included: of these go those
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
	// Partials is how long half-fetched blobs are kept that nobody continues; 0 is as long
	// as the store keeps them by itself, less than that none.
	Partials time.Duration
	// Quarantined has what verifying found damaged removed, too.
	Quarantined bool
}

// Garbage is what a sweep is going to remove. Sizes are bytes of the disk.
type Garbage struct {
	Images      []Root   // that go for being unused, or for the budget
	Blobs       []Stored // whole ones that nothing needs then
	Partials    []Stored // of half-fetched blobs
	Quarantined []Stored
	Derived     int   // records of conversions whose blobs are gone or going
	Left        int64 // bytes of the whole blobs that stay
	LeftPartial int64 // of the half-fetched ones that stay
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

// FindGarbage works out what a sweep would remove. It changes nothing.
func (s *Store) FindGarbage(ctx context.Context, k Keep) (Garbage, error) {
	now := time.Now()
	// Leases before roots: what a pull pins meanwhile is in one of them.
	kept, err := s.Leased()
	if err != nil {
		return Garbage{}, err
	}
	roots, err := s.uses()
	if err != nil {
		return Garbage{}, err
	}
	blobs, err := s.all(ctx)
	if err != nil {
		return Garbage{}, err
	}
	blobs = slices.DeleteFunc(blobs, func(b found) bool { return k.Coming[b.Digest] })
	g := Garbage{found: now}
	stay := func(r use) bool {
		return k.Pinned != nil && k.Pinned(r.Name) || !k.Spare.IsZero() && r.used.After(k.Spare)
	}
	roots = slices.DeleteFunc(roots, func(r use) bool {
		gone := k.Unused > 0 && now.Sub(r.used) > k.Unused && !stay(r)
		if gone {
			g.Images = append(g.Images, r.Root)
		}
		return gone
	})
	conversions := s.conversions()
	grace := cmp.Or(k.Grace, 24*time.Hour)
	need := make(map[digest.Digest]bool) // by images that stay
	var partials []found                 // that stay
	partials, g.Partials = s.splitPartials(cmp.Or(k.Partials, s.partialAge), kept, k.Coming, now)
	for _, p := range partials {
		g.LeftPartial += p.Size
	}
	if k.Budget > 0 {
		c := count(blobs, roots)
		made := madeBytes(blobs, conversions, c)
		over := c.bytes + made + unneededBytes(blobs, c, kept, now.Add(-grace)) + g.LeftPartial - k.Budget
		g.dropPartials(partials, kept, over)
		k.Budget = max(1, k.Budget-g.LeftPartial) // for whole ones
		// What was made of blobs can be made again, so it goes first.
		if c.bytes+made > k.Budget {
			conversions = nil
		}
		slices.SortFunc(roots, func(a, b use) int { return b.used.Compare(a.used) }) // least recently used last
		for i := len(roots) - 1; i >= 0 && c.bytes > k.Budget; i-- {
			if stay(roots[i]) || c.own(roots[i], kept) == 0 { // its going would free nothing
				continue
			}
			c.remove(roots[i])
			g.Images = append(g.Images, roots[i].Root)
			roots = slices.Delete(roots, i, i+1)
		}
	}
	for _, r := range roots {
		for _, d := range r.all() {
			need[d] = true
		}
	}
	made := conversionsOf(conversions, need)
	released := make(map[digest.Digest]bool) // of images that go now
	for _, r := range g.Images {
		for _, d := range r.all() {
			released[d] = true
		}
	}
	stays := maps.Clone(k.Coming)
	if stays == nil {
		stays = make(map[digest.Digest]bool)
	}
	var graced []found
	for _, b := range blobs {
		switch {
		case need[b.Digest] || kept[b.Digest] || made[b.Digest]:
			g.Left += b.Size
			stays[b.Digest] = true
		case now.Sub(b.modified) < grace && !released[b.Digest]:
			graced = append(graced, b)
		default:
			g.Blobs = append(g.Blobs, b.Stored)
		}
	}
	slices.SortFunc(graced, func(a, b found) int { return b.modified.Compare(a.modified) })
	for _, b := range graced {
		if k.Budget > 0 && g.Left+b.Size > k.Budget {
			g.Blobs = append(g.Blobs, b.Stored)
			continue
		}
		g.Young, g.YoungBytes = g.Young+1, g.YoungBytes+b.Size
		g.Left += b.Size
		stays[b.Digest] = true
	}
	if k.Quarantined {
		g.Quarantined = s.quarantined()
	}
	for _, c := range s.conversions() {
		if !stays[c.From] || c.Blob.Digest != "" && !stays[c.Blob.Digest] {
			g.Derived++
		}
	}
	return g, nil
}

// dropPartials has so many bytes of half-fetched blobs go, those first that were continued longest
// ago, and of those that nobody is at.
func (g *Garbage) dropPartials(partials []found, kept map[digest.Digest]bool, over int64) {
	slices.SortFunc(partials, func(a, b found) int { return a.modified.Compare(b.modified) })
	for _, p := range partials {
		if over <= 0 {
			return
		}
		if !kept[p.Digest] {
			g.Partials = append(g.Partials, p.Stored)
			g.LeftPartial -= p.Size
			over -= p.Size
		}
	}
}

// unneededBytes is how many bytes the blobs take that no image needs, and that stay for being
// younger than a moment, or since somebody keeps them.
func unneededBytes(blobs []found, c *counts, kept map[digest.Digest]bool, young time.Time) (n int64) {
	for _, b := range blobs {
		if c.by[b.Digest] == 0 && (kept[b.Digest] || b.modified.After(young)) {
			n += b.Size
		}
	}
	return n
}

// counts are the bytes that images need, each blob once.
type counts struct {
	sizes map[digest.Digest]int64
	by    map[digest.Digest]int // how many images need a blob
	bytes int64
}

func count(blobs []found, roots []use) *counts {
	c := &counts{sizes: make(map[digest.Digest]int64, len(blobs)), by: make(map[digest.Digest]int)}
	for _, b := range blobs {
		c.sizes[b.Digest] = b.Size
	}
	for _, r := range roots {
		for _, d := range r.all() {
			if c.by[d]++; c.by[d] == 1 {
				c.bytes += c.sizes[d]
			}
		}
	}
	return c
}

// own is how many bytes an image alone needs, and nobody keeps.
func (c *counts) own(r use, kept map[digest.Digest]bool) (n int64) {
	for _, d := range r.all() {
		if c.by[d] == 1 && !kept[d] {
			n += c.sizes[d]
		}
	}
	return n
}

func (c *counts) remove(r use) {
	for _, d := range r.all() {
		if c.by[d]--; c.by[d] == 0 {
			c.bytes -= c.sizes[d]
		}
	}
}

// madeBytes is how many bytes were made of blobs that images need.
func madeBytes(blobs []found, conversions []Derived, c *counts) (n int64) {
	need := make(map[digest.Digest]bool)
	for d, k := range c.by {
		need[d] = k > 0
	}
	made := conversionsOf(conversions, need)
	for _, b := range blobs {
		if made[b.Digest] && !need[b.Digest] {
			n += b.Size
		}
	}
	return n
}

// all are the digests that a root lists, each once.
func (r Root) all() []digest.Digest {
	if slices.Contains(r.Blobs, r.Target.Digest) {
		return r.Blobs
	}
	return append(slices.Clone(r.Blobs), r.Target.Digest)
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
		s.dropPartial(p.Digest)
	}
	for _, q := range g.Quarantined {
		if err := os.Remove(q.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("sweeping: %w", err)
		}
	}
	if err := s.dropConversions(); err != nil || len(g.Blobs) == 0 {
		return err
	}
	left, err := s.all(ctx)
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
	roots, err := s.allRoots()
	if err != nil {
		return err
	}
	for _, r := range roots {
		for _, d := range r.all() {
			kept[d] = true
		}
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
		if !unused.IsZero() && s.LastUse(r.Name).After(unused) {
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

// Use notes that an image is used now.
func (s *Store) Use(name string) error {
	if err := os.Chtimes(s.rootPath(name), time.Time{}, time.Now()); err != nil {
		return fmt.Errorf("noting the use of %s: %w", name, err)
	}
	return nil
}

// use is a root with when it was last used: pulled, imported, exported or served.
type use struct {
	Root
	used time.Time
}

// LastUse is when an image was last used, the zero time when that can't be told.
func (s *Store) LastUse(name string) time.Time {
	info, err := os.Stat(s.rootPath(name))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

func (s *Store) uses() ([]use, error) {
	roots, err := s.allRoots()
	if err != nil {
		return nil, err
	}
	out := make([]use, 0, len(roots))
	for _, r := range roots {
		out = append(out, use{r, s.LastUse(r.Name)})
	}
	return out, nil
}

// found is a blob's file.
type found struct {
	Stored
	modified time.Time
}

// all lists the whole blobs. Files that have no digest for a name are none.
func (s *Store) all(ctx context.Context) ([]found, error) {
	folders, err := os.ReadDir(filepath.Dir(s.paths.Blobs(digest.SHA256)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing blobs: %w", err)
	}
	var out []found
	for _, folder := range folders {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		algorithm := digest.Algorithm(folder.Name())
		if !algorithm.Available() {
			continue
		}
		entries, err := os.ReadDir(s.paths.Blobs(algorithm))
		if err != nil {
			return nil, fmt.Errorf("listing blobs: %w", err)
		}
		for _, e := range entries {
			d := digest.NewDigestFromEncoded(algorithm, e.Name())
			info, err := e.Info()
			if err != nil || d.Validate() != nil || !info.Mode().IsRegular() {
				continue // removed meanwhile, or not ours
			}
			out = append(out, found{Stored{d, info.Size(), s.paths.Blob(d)}, info.ModTime()})
		}
	}
	return out, nil
}

// Blobs lists the whole blobs of the store, by digest.
func (s *Store) Blobs(ctx context.Context) ([]Stored, error) {
	blobs, err := s.all(ctx)
	out := make([]Stored, 0, len(blobs))
	for _, b := range blobs {
		out = append(out, b.Stored)
	}
	slices.SortFunc(out, func(a, b Stored) int { return cmp.Compare(a.Digest, b.Digest) })
	return out, err
}

// splitPartials tells half-fetched blobs that stay from those that nobody is at work on, and that
// nobody has continued for some time.
func (s *Store) splitPartials(age time.Duration, kept, coming map[digest.Digest]bool, now time.Time) (stay []found, old []Stored) {
	for _, p := range s.partials() {
		if coming[p.Digest] {
			continue
		}
		if !kept[p.Digest] && now.Sub(p.modified) > age {
			old = append(old, p.Stored)
		} else {
			stay = append(stay, p)
		}
	}
	return stay, old
}

// partials lists half-fetched blobs, with when one was last written to.
func (s *Store) partials() []found {
	entries, _ := os.ReadDir(s.paths.Ingests())
	var out []found
	for _, e := range entries {
		algorithm, hex, _ := strings.Cut(e.Name(), "-")
		d := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex)
		if d.Validate() != nil {
			continue
		}
		info, err := os.Stat(s.paths.IngestData(d))
		if err != nil {
			continue
		}
		modified := info.ModTime()
		if info, err := os.Stat(s.paths.IngestJournal(d)); err == nil { // what tells of progress
			modified = info.ModTime()
		}
		out = append(out, found{Stored{d, durable.Allocated(info), s.paths.IngestData(d)}, modified})
	}
	return out
}

// dropPartial removes a half-fetched blob, unless somebody is at work on it.
func (s *Store) dropPartial(d digest.Digest) {
	f, err := durable.OpenPlain(s.paths.IngestLock(d), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return
	}
	defer f.Close()
	if won, err := durable.TryLock(f); err == nil && won && durable.StillNamed(f, s.paths.IngestLock(d)) {
		s.removeIngest(d)
	}
}

// quarantined lists what verifying found damaged.
func (s *Store) quarantined() []Stored {
	entries, _ := os.ReadDir(s.paths.Quarantines())
	var out []Stored
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			out = append(out, Stored{Size: info.Size(), path: filepath.Join(s.paths.Quarantines(), e.Name())})
		}
	}
	return out
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

// conversionsOf are the blobs that were made of needed ones.
func conversionsOf(conversions []Derived, need map[digest.Digest]bool) map[digest.Digest]bool {
	out := make(map[digest.Digest]bool)
	for _, c := range conversions {
		if need[c.From] && c.Blob.Digest != "" {
			out[c.Blob.Digest] = true
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
