package blobstore

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"drayage/blobstore/internal/layout"
	"drayage/blobstore/internal/stamps"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Images are the roots of a store at one moment, by name. They are shared by all who ask, so
// nothing in them may be changed. As long as no root changes, Store.Images gives the same
// pointer: what was worked out of them holds as long as the pointer does.
type Images struct{ Roots []Root }

// Images is Roots for who asks often, and only reads: what didn't change since the last call is
// not read again, whichever process changes it.
func (s *Store) Images() (*Images, error) {
	images, err := s.images.get()
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	return images, nil
}

// imageCache keeps what the files of roots/ say. Every writer, in whichever process, writes a root
// beside and renames it into the folder, or removes it: each changes the folder's time. So one look
// at the folder tells whether anything changed, and a look at the files which.
//
// A time says nothing while the clock that made it stands still: a second change in the same tick
// leaves it as it is. So a folder's time is believed only when the files were looked at again after
// it had stood longer than a tick, by our own clock, which never goes back; that the file system's
// may, or be another machine's, makes no difference.
type imageCache struct {
	paths layout.Dir

	mu      sync.Mutex // held while files are read: whoever waits has use for what is found
	now     *Images
	folder  stamps.Stamp // at the last look
	since   time.Time    // when the folder was first found so
	looked  time.Time    // when the last look at the files began
	took    time.Duration
	believe bool // the folder's time tells of any change since
	files   map[string]*rootEntry
}

// rootEntry is what one file says.
type rootEntry struct {
	at      stamps.Stamp
	since   time.Time // when it was first found so
	believe bool      // what was read is what a file of this stamp says
	root    *Root     // nil when it is none
	instead string    // the file that is read instead of this one where it is there; "" is none
}

// The files are looked at though the folder's time stands after anyway, or so many times what a look
// took: for file systems that keep no time of folders, and for files that something else than a store has
// changed.
const (
	anyway = 2 * time.Second
	times  = 20
)

func (c *imageCache) get() (*Images, error) {
	called := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now != nil && c.looked.After(called) { // who was before us looked after we had been called
		return c.now, nil
	}
	if err := c.look(); err != nil {
		c.now, c.files, c.believe = nil, nil, false
		return nil, err
	}
	return c.now, nil
}

// look brings what is known up to date.
func (c *imageCache) look() error {
	began := time.Now()
	info, err := os.Stat(c.paths.Roots())
	if errors.Is(err, fs.ErrNotExist) { // no store was made yet
		c.files, c.believe, c.looked = nil, false, began
		if c.now == nil || len(c.now.Roots) > 0 {
			c.now = new(Images)
		}
		return nil
	}
	if err != nil {
		return err
	}
	at := stamps.Of(info)
	if c.files == nil || at != c.folder {
		c.folder, c.since, c.believe = at, began, false
	}
	if c.believe && began.Sub(c.looked) < max(anyway, times*c.took) {
		return nil
	}
	entries, err := os.ReadDir(c.paths.Roots())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	files, same, sound := c.read(entries, began)
	c.files, c.looked = files, began
	c.believe = sound && began.Sub(c.since) >= at.Tick()
	if !same || c.now == nil {
		c.now = imagesOf(files)
	}
	c.took = time.Since(began)
	return nil
}

// read reads those files that changed. Same reports whether all say what they said, and sound
// whether all could be read.
func (c *imageCache) read(entries []fs.DirEntry, began time.Time) (files map[string]*rootEntry, same, sound bool) {
	files = make(map[string]*rootEntry, len(entries))
	same, sound = len(entries) == len(c.files), true
	for _, entry := range entries {
		old := c.files[entry.Name()]
		e, err := c.readEntry(entry, old, began)
		if err != nil {
			sound = false
		}
		if old == nil || e.root != old.root {
			same = false
		}
		files[entry.Name()] = e
	}
	return files, same, sound
}

func (c *imageCache) readEntry(entry fs.DirEntry, old *rootEntry, began time.Time) (*rootEntry, error) {
	path := filepath.Join(c.paths.Roots(), entry.Name())
	info, err := entry.Info()
	if err == nil && !info.Mode().IsRegular() {
		info, err = os.Stat(path) // what a link leads to
	}
	if err != nil || !info.Mode().IsRegular() {
		return new(rootEntry), err
	}
	at := stamps.Of(info)
	e := &rootEntry{at: at, since: began}
	if old != nil && old.at == at {
		if old.believe {
			return old, nil
		}
		e.since = old.since
	}
	r, err := readRoot(path)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return new(rootEntry), err // it may be readable the next time
	}
	e.believe = at.Before(c.folder) || began.Sub(e.since) >= at.Tick()
	if err != nil {
		return e, nil
	}
	switch entry.Name() {
	case filepath.Base(c.paths.Root(r.Name)):
	case filepath.Base(c.paths.OldRoot(r.Name)):
		e.instead = filepath.Base(c.paths.Root(r.Name))
	default:
		return e, nil // it says that it is another
	}
	if e.root = &r; old != nil && old.root != nil && reflect.DeepEqual(*old.root, r) {
		e.root = old.root
	}
	return e, nil
}

// imagesOf are the roots that files have.
func imagesOf(files map[string]*rootEntry) *Images {
	out := &Images{Roots: make([]Root, 0, len(files))}
	for _, e := range files {
		if e.root == nil || e.instead != "" && files[e.instead] != nil {
			continue
		}
		out.Roots = append(out.Roots, *e.root)
	}
	slices.SortFunc(out.Roots, func(a, b Root) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// cloned are roots that share nothing with others. The digests of all of them are in one piece of
// memory, as there are many.
func cloned(roots []Root) []Root {
	out := slices.Clone(roots)
	total := 0
	for i := range roots {
		total += len(roots[i].Blobs)
	}
	all := make([]digest.Digest, 0, total)
	for i := range out {
		r := &out[i]
		own(&r.Target)
		if r.Blobs != nil {
			from := len(all)
			all = append(all, r.Blobs...)
			r.Blobs = all[from:len(all):len(all)]
		}
		if r.Beside == nil {
			continue
		}
		r.Beside = slices.Clone(r.Beside)
		for j := range r.Beside {
			own(&r.Beside[j])
		}
	}
	return out
}

// own makes a descriptor's parts its own. Most have none.
func own(d *ocispec.Descriptor) {
	if d.URLs != nil || d.Annotations != nil || d.Data != nil {
		d.URLs, d.Annotations, d.Data = slices.Clone(d.URLs), maps.Clone(d.Annotations), slices.Clone(d.Data)
	}
	if d.Platform != nil {
		p := *d.Platform
		p.OSFeatures = slices.Clone(p.OSFeatures)
		d.Platform = &p
	}
}
