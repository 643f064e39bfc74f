package blobstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"drayage/blobstore/durable"
	"drayage/blobstore/internal/disk"
	"drayage/blobstore/internal/files"
	"drayage/blobstore/internal/layout"
	"drayage/blobstore/internal/stamps"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Options are how a store keeps what it is given. The zero value is careful.
type Options struct {
	// NoSync never waits for the disk: a power cut may then cost the store,
	// while the death of a process still does no harm.
	NoSync bool
	// PartialAge is how long what has arrived of a blob is kept when nobody
	// continues it; 0 means two weeks.
	PartialAge time.Duration
	// Disk makes the calls that bring blobs in; nil means durable.OS.
	Disk durable.Disk
	// Boot tells this run of the system from others; "" means the system's own
	// word for it.
	Boot string
}

// Open opens the store in dir, and makes one there if dir is absent or empty.
// A folder that holds anything else is refused with errNotStore.
func Open(dir string) (*Store, error) { return OpenWith(dir, Options{}) }

// OpenWith is Open with options.
func OpenWith(dir string, o Options) (*Store, error) {
	s := newStore(dir, o)
	if err := s.check(); err == nil {
		return s, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("opening store %s: %w", dir, err)
	}
	if err := s.create(); err != nil {
		return nil, fmt.Errorf("making store %s: %w", dir, err)
	}
	return s, nil
}

// Peek opens the store in dir for reading and makes nothing: where there is no
// store yet, it is empty. A folder that is no store is refused as by Open.
func Peek(dir string) (*Store, error) {
	s := newStore(dir, Options{})
	if err := s.check(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("opening store %s: %w", dir, err)
	}
	return s, nil
}

func newStore(dir string, o Options) *Store {
	const twoWeeks = 14 * 24 * time.Hour
	s := &Store{paths: layout.Dir(dir), disk: o.Disk, boot: o.Boot, sync: !o.NoSync, partialAge: o.PartialAge}
	if s.disk == nil {
		s.disk = durable.OS{}
	}
	if s.boot == "" {
		s.boot = disk.Boot()
	}
	if s.boot == "" { // then only what was synced counts for another process
		s.boot = files.RandomHex(16)
	}
	if s.partialAge <= 0 {
		s.partialAge = twoWeeks
	}
	s.stamps = stamps.New(s.paths.Stamps())
	s.images = newImages(s.paths)
	s.folder = files.NewFolderSync(s.disk, s.paths.Blobs(digest.SHA256))
	return s
}

// check reports whether the folder is a store. The error is fs.ErrNotExist
// when it is none but may become one.
func (s *Store) check() error {
	err := s.paths.Check()
	if problem, ok := errors.AsType[layout.Problem](err); ok {
		return fmt.Errorf("%w%s", errNotStore, string(problem))
	}
	return files.Whose(s.Dir(), err)
}

// create makes the folders and files of an empty store. Any number of
// processes may do so at once, and a later one finishes what a dead one began.
func (s *Store) create() error {
	if err := files.MakePrivate(s.Dir()); err != nil {
		return err
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if s.check() == nil {
		return nil // another process was faster
	}
	for _, dir := range []string{s.paths.Blobs(digest.SHA256), s.paths.Ingests(), s.paths.Roots(), s.paths.Leases()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := s.writeFile(s.paths.Layout(), []byte(`{"imageLayoutVersion":"`+ocispec.ImageLayoutVersion+`"}`)); err != nil {
		return err
	}
	if err := s.writeIndex(); err != nil {
		return err
	}
	if err := s.syncFolder(filepath.Dir(s.paths.Blobs(digest.SHA256))); err != nil {
		return err
	}
	return s.writeFile(s.paths.Mark(), []byte(layout.MarkText)) // last: now it is a store
}
