package blobstore

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"drayage/blobstore/durable"
)

// Note is a small file of who uses the store, by its name; nil when there is none.
func (s *Store) Note(name string) []byte {
	raw, err := os.ReadFile(s.paths.State(name))
	if errors.Is(err, fs.ErrNotExist) {
		raw, err = os.ReadFile(s.paths.OldState(name))
	}
	if err != nil {
		return nil
	}
	return raw
}

// KeepNote replaces a note: after a crash it is the old one or the new one.
func (s *Store) KeepNote(name string, content []byte) error {
	unlock, err := s.lock()
	if err != nil {
		return fmt.Errorf("keeping a note: %w", err)
	}
	defer unlock()
	if err := os.MkdirAll(s.paths.States(), 0o755); err != nil {
		return fmt.Errorf("keeping a note: %w", err)
	}
	if err := s.replaceFile(s.paths.State(name), content); err != nil {
		return fmt.Errorf("keeping a note: %w", err)
	}
	return nil
}

// Notes lists the names of notes that begin with a prefix.
func (s *Store) Notes(prefix string) ([]string, error) {
	entries, err := os.ReadDir(s.paths.States())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing notes: %w", err)
	}
	var out []string
	for _, e := range entries {
		name, err := url.QueryUnescape(e.Name())
		if err == nil && (filepath.Base(s.paths.State(name)) == e.Name() || filepath.Base(s.paths.OldState(name)) == e.Name()) && !slices.Contains(out, name) && strings.HasPrefix(name, prefix) && !strings.HasSuffix(name, durable.TempSuffix) {
			out = append(out, name)
		}
	}
	return out, nil
}

// Claim is an advisory lock on the store for one purpose, which ends when the file is
// closed, or with the process. It reports whether nobody else has it.
func (s *Store) Claim(purpose string) (*os.File, bool, error) {
	if err := os.MkdirAll(s.paths.States(), 0o755); err != nil {
		return nil, false, fmt.Errorf("claiming the store: %w", err)
	}
	f, err := durable.OpenPlain(s.paths.State(purpose+".lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, false, fmt.Errorf("claiming the store: %w", err)
	}
	won, err := durable.TryLock(f)
	if err != nil || !won {
		f.Close()
	}
	return f, won && err == nil, err
}
