package blobstore

import (
	"fmt"
	"os"

	"drayage/blobstore/internal/files"
)

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
