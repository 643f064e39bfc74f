package stamps

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"
)

// ErrNone is wrapped by who reads a file for a Cache when the file holds nothing of interest.
var ErrNone = errors.New("nothing of interest")

// Cache keeps what the files of a folder say. Every writer, in whichever process, writes a file under
// a temporary name and renames it into the folder, or removes it: each changes the folder's time. So
// one look at the folder tells whether anything changed, and a look at the files which.
//
// Its methods may be called from several goroutines.
//
// A time says nothing while the clock that made it stands still: a second change in the same tick
// leaves it as it is. So a folder's time is believed only when the files were looked at again after
// it had stood longer than a tick, by our own clock, which never goes back; that the file system's
// may, or be another machine's, makes no difference.
type Cache[T, L any] struct {
	dir   string
	read  func(path string) (T, string, error)
	build func(values []T) *L

	mu      sync.Mutex // held while files are read: whoever waits has use for what is found
	now     *L
	folder  stamp     // at the last look
	since   time.Time // when the folder was first found so
	looked  time.Time // when the last look at the files began
	took    time.Duration
	empty   bool // now is made of nothing
	believe bool // the folder's time tells of any change since
	files   map[string]*entry[T]
}

// entry is what one file says.
type entry[T any] struct {
	at      stamp
	since   time.Time // when it was first found so
	believe bool      // what was read is what a file of this stamp says
	value   *T        // nil when it is none
	instead string    // the file that is read instead of this one where it is there; "" is none
}

// The files are looked at though the folder's time stands after anyway, or so many times what a look
// took: for file systems that keep no time of folders, and for files that something else than a store has
// changed.
const (
	anyway = 2 * time.Second
	times  = 20
)

// NewCache makes a cache of the files in dir, which need not be there. read reads one; where another
// file is to count instead of it if it is there, its name is instead. build makes of what the files
// say, in the order of their names, what Get returns: it is shared by all who ask.
func NewCache[T, L any](dir string, read func(path string) (value T, instead string, err error), build func(values []T) *L) *Cache[T, L] {
	return &Cache[T, L]{dir: dir, read: read, build: build}
}

// Get is what the files say now: the same pointer as long as none says anything else.
func (c *Cache[T, L]) Get() (*L, error) {
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
func (c *Cache[T, L]) look() error {
	began := time.Now()
	info, err := os.Stat(c.dir)
	if errors.Is(err, fs.ErrNotExist) { // no store was made yet
		if c.now == nil || !c.empty {
			c.now = c.build(nil)
		}
		c.files, c.empty, c.believe, c.looked = nil, true, false, began
		return nil
	}
	if err != nil {
		return err
	}
	at := of(info)
	if c.files == nil || at != c.folder {
		c.folder, c.since, c.believe = at, began, false
	}
	if c.believe && began.Sub(c.looked) < max(anyway, times*c.took) {
		return nil
	}
	entries, err := os.ReadDir(c.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	files, same, sound := c.readAll(entries, began)
	c.files, c.looked = files, began
	c.believe = sound && began.Sub(c.since) >= at.Tick()
	if !same || c.now == nil {
		values := listOf(files)
		c.now, c.empty = c.build(values), len(values) == 0
	}
	c.took = time.Since(began)
	return nil
}

// readAll reads those files that changed. Same reports whether all say what they said, and sound
// whether all could be read.
func (c *Cache[T, L]) readAll(entries []fs.DirEntry, began time.Time) (files map[string]*entry[T], same, sound bool) {
	files = make(map[string]*entry[T], len(entries))
	same, sound = len(entries) == len(c.files), true
	for _, file := range entries {
		old := c.files[file.Name()]
		e, err := c.readEntry(file, old, began)
		if err != nil {
			sound = false
		}
		if old == nil || e.value != old.value {
			same = false
		}
		files[file.Name()] = e
	}
	return files, same, sound
}

func (c *Cache[T, L]) readEntry(file fs.DirEntry, old *entry[T], began time.Time) (*entry[T], error) {
	path := filepath.Join(c.dir, file.Name())
	info, err := file.Info()
	if err == nil && !info.Mode().IsRegular() {
		info, err = os.Stat(path) // what a link leads to
	}
	if err != nil || !info.Mode().IsRegular() {
		return new(entry[T]), err
	}
	at := of(info)
	e := &entry[T]{at: at, since: began}
	if old != nil && old.at == at {
		if old.believe {
			return old, nil
		}
		e.since = old.since
	}
	value, instead, err := c.read(path)
	if err != nil && !errors.Is(err, ErrNone) {
		return new(entry[T]), err // it may be readable the next time
	}
	e.believe = at.Before(c.folder) || began.Sub(e.since) >= at.Tick()
	if err != nil {
		return e, nil
	}
	e.instead = instead
	if e.value = &value; old != nil && old.value != nil && reflect.DeepEqual(*old.value, value) {
		e.value = old.value
	}
	return e, nil
}

// listOf is what files say, by their names.
func listOf[T any](files map[string]*entry[T]) []T {
	out := make([]T, 0, len(files))
	for _, name := range slices.Sorted(maps.Keys(files)) {
		e := files[name]
		if e.value == nil || e.instead != "" && files[e.instead] != nil {
			continue
		}
		out = append(out, *e.value)
	}
	return out
}
