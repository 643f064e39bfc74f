package blobstore

import (
	"fmt"
	"os"

	"drayage/blobstore/durable"
	"drayage/blobstore/internal/files"
)

// Note is a small file of who uses the store, by its name; nil when there is none.
func (s *Store) Note(name string) []byte { return s.paths.ReadState(name) }

// KeepNote replaces a note: after a crash it is the old one or the new one.
func (s *Store) KeepNote(name string, content []byte) error {
	unlock, err := s.lock()
	if err != nil {
		return fmt.Errorf("writing state file %s: %w", name, err)
	}
	defer unlock()
	if err := os.MkdirAll(s.paths.States(), 0o755); err != nil {
		return fmt.Errorf("writing state file %s: %w", name, err)
	}
	if err := s.replaceFile(s.paths.State(name), content); err != nil {
		return fmt.Errorf("writing state file %s: %w", name, err)
	}
	return nil
}

// Notes lists the names of notes that begin with a prefix.
func (s *Store) Notes(prefix string) ([]string, error) {
	names, err := s.paths.ListStates(prefix)
	if err != nil {
		return nil, fmt.Errorf("listing state files: %w", err)
	}
	return names, nil
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

// Hosts is what earlier runs have learned of registries' hosts, in the words of
// who learned it. It is empty when there is nothing, or it can't be read.
func (s *Store) Hosts() []byte {
	raw, err := os.ReadFile(s.paths.Hosts())
	if err != nil {
		return nil
	}
	return raw
}

// KeepHosts replaces what was learned of hosts by what change makes of it,
// which may be called beside other processes and loses none of theirs.
func (l *Lease) KeepHosts(change func(old []byte) []byte) error {
	s := l.store
	unlock, err := s.lock()
	if err != nil {
		return fmt.Errorf("keeping what was learned of hosts: %w", err)
	}
	defer unlock()
	// Not synced: losing it costs a little speed.
	if err := files.Replace(s.paths.Hosts(), change(s.Hosts()), false); err != nil {
		return fmt.Errorf("keeping what was learned of hosts: %w", err)
	}
	return nil
}
