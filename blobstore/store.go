package blobstore

import (
	_ "crypto/sha256" // the algorithms of blobs' digests
	_ "crypto/sha512"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"drayage/blobstore/durable"
	"drayage/blobstore/internal/files"
	"drayage/blobstore/internal/layout"
	"drayage/blobstore/internal/space"
	"drayage/blobstore/internal/stamps"
	"drayage/engine/fault"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var (
	// ErrNotFound is wrapped when a blob or a root is not in the store.
	ErrNotFound = fault.New(fault.NotFound, "not in the store")
	// ErrDamaged is wrapped when a blob is no longer what was verified.
	ErrDamaged = fault.New(fault.Content, "damaged on disk")
	// ErrNotStore is wrapped when a folder is no store and can't become one.
	ErrNotStore = fault.New(fault.Local, "not a drayage store")
)

// SizeError says that a descriptor's size is not that of the verified blob of
// its digest: whoever wrote the descriptor lied or was lied to.
type SizeError struct {
	Digest     digest.Digest
	Want, Have int64 // bytes: what the descriptor says, what the blob has
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("%s: its descriptor says %d bytes, and the blob has %d", e.Digest, e.Want, e.Have)
}

// FaultKind is its kind: see fault.Of.
func (*SizeError) FaultKind() fault.Kind { return fault.Content }

// Store is an open store. Its methods may be called from several goroutines.
type Store struct {
	paths      layout.Dir
	disk       durable.Disk
	boot       string // tells this run of the system from others
	sync       bool
	partialAge time.Duration
	folder     *files.FolderSync // of blobs/sha256, where nearly all blobs are
	stamps     *stamps.Store
	images     *stamps.Cache[Root, Images]
	coming     space.Coming
	hashing    sync.Mutex // held while a blob is hashed that is to be given on
}

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
// A folder that holds anything else is refused with ErrNotStore.
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
		s.boot = durable.Boot()
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

// Dir is the folder that the store is in.
func (s *Store) Dir() string { return string(s.paths) }

// OthersMay reports what users besides the owner may do in the store by the mode of its folder:
// "change it", "read it", or "" for nothing.
func (s *Store) OthersMay() string { return files.OthersMay(s.Dir()) }

// Stat is the size of a blob in bytes. The error wraps ErrNotFound when the
// store doesn't have it.
func (s *Store) Stat(d digest.Digest) (int64, error) {
	if err := d.Validate(); err != nil {
		return 0, fmt.Errorf("looking for blob %q: %w", d, err)
	}
	info, err := os.Stat(s.paths.Blob(d))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("blob %s: %w", d, ErrNotFound)
	}
	if err != nil {
		return 0, fmt.Errorf("looking for blob: %w", err)
	}
	if !info.Mode().IsRegular() {
		return 0, fmt.Errorf("blob %s: %s is not a regular file", d, s.paths.Blob(d))
	}
	return info.Size(), nil
}

// Has reports whether the store has the blob of a descriptor. Where it has one
// of another size the error is a *SizeError.
func (s *Store) Has(desc ocispec.Descriptor) (bool, error) {
	size, err := s.Stat(desc.Digest)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if size != desc.Size {
		return false, &SizeError{Digest: desc.Digest, Want: desc.Size, Have: size}
	}
	return true, nil
}

// Open opens a blob for reading; the caller closes it. The error wraps
// ErrNotFound when the store doesn't have it.
func (s *Store) Open(d digest.Digest) (*os.File, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("opening blob %q: %w", d, err)
	}
	f, err := os.Open(s.paths.Blob(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s: %w", d, ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("opening blob: %w", err)
	}
	return f, nil
}

// OpenSound is as Open for content that is given on without being looked at again. A blob whose
// file was changed since it was verified is hashed first: one that is damaged is moved to
// quarantine, and is as if absent.
func (s *Store) OpenSound(d digest.Digest) (*os.File, error) {
	f, err := s.Open(d)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && s.stamps.Same(d, info) {
		return f, nil
	}
	s.hashing.Lock() // whoever asks for the same meanwhile needn't hash it again
	defer s.hashing.Unlock()
	if err == nil && s.stamps.Same(d, info) {
		return f, nil
	}
	gone, err := s.quarantine(d)
	switch {
	case err != nil:
		return nil, errors.Join(err, f.Close())
	case gone:
		return nil, errors.Join(fmt.Errorf("blob %s: %w", d, ErrNotFound), f.Close())
	}
	s.stamps.Put(d, info)
	return f, nil
}

// quarantine moves a blob out of the way whose content isn't that of its name any
// more, so that it is fetched anew and a person can look at what was there. It reports
// whether it was so.
func (s *Store) quarantine(d digest.Digest) (bool, error) {
	f, err := s.Open(d)
	if errors.Is(err, ErrNotFound) {
		return true, nil // another process was faster
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	hash := d.Algorithm().Hash()
	// What can't be read is as good as damaged.
	if _, err := io.Copy(hash, f); err == nil && digest.NewDigest(d.Algorithm(), hash) == d {
		return false, nil
	}
	if err := os.MkdirAll(s.paths.Quarantines(), 0o755); err != nil {
		return false, err
	}
	path, away := s.paths.Blob(d), s.paths.Quarantine(d, files.RandomHex(4))
	if !durable.StillNamed(f, path) {
		return true, nil // another process was faster
	}
	err = os.Rename(path, away)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return false, fmt.Errorf("moving a damaged blob away: %w", err)
	case !durable.StillNamed(f, away): // it was fetched anew just now
		return true, os.Rename(away, path)
	}
	return true, nil
}

// Read reads a whole blob of at most limit bytes, such as a manifest, and
// checks it against its digest again: what is to be parsed should be what was
// verified, whatever happened to the disk since.
func (s *Store) Read(d digest.Digest, limit int64) ([]byte, error) {
	f, err := s.Open(d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading blob: %w", err)
	}
	if int64(len(raw)) > limit {
		return nil, fmt.Errorf("reading blob %s: larger than %d bytes", d, limit)
	}
	if d.Algorithm().FromBytes(raw) != d {
		return nil, fmt.Errorf("reading blob %s: %w", d, ErrDamaged)
	}
	return raw, nil
}

// check reports whether the folder is a store. The error is fs.ErrNotExist
// when it is none but may become one.
func (s *Store) check() error {
	err := s.paths.Check()
	if problem, ok := errors.AsType[layout.Problem](err); ok {
		return fmt.Errorf("%w%s", ErrNotStore, string(problem))
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
