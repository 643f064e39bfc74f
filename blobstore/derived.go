package blobstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Derived is a blob that was made out of another, such as a layer without its
// compression, so that it needs to be made once only.
type Derived struct {
	From digest.Digest      `json:"from"`
	Form string             `json:"form"` // what was made: lower-case letters
	Blob ocispec.Descriptor `json:"blob"`
	// DiffID is the digest of what From is without compression.
	DiffID digest.Digest `json:"diffID"`
}

// derivedFile is a Derived as it lies on the disk.
type derivedFile struct {
	Version int `json:"version"`
	Derived
}

const derivedVersion = 1

// Derived finds what was made of a blob, if it is still there, and keeps it. A
// record that can't be read, or whose blob is gone, counts as absent.
func (l *Lease) Derived(from digest.Digest, form string) (Derived, bool) {
	raw, err := os.ReadFile(l.store.paths.Derived(from, form))
	if err != nil {
		return Derived{}, false
	}
	d, err := decodeDerived(raw)
	if err != nil || d.From != from || d.Form != form {
		return Derived{}, false
	}
	if d.Blob.Digest == "" { // only the diff id is told
		return d, true
	}
	has, err := l.Has(d.Blob)
	return d, err == nil && has
}

func decodeDerived(raw []byte) (Derived, error) {
	var f derivedFile
	if err := json.Unmarshal(raw, &f); err != nil {
		return Derived{}, err
	}
	if f.Version != derivedVersion || f.From.Validate() != nil || f.DiffID.Validate() != nil || f.Blob.Size < 0 ||
		f.Blob.Digest != "" && f.Blob.Digest.Validate() != nil {
		return Derived{}, errors.New("not a record of this version")
	}
	return f.Derived, nil
}

// Derive records what was made of a blob. The blob that was made should be in
// the store.
func (l *Lease) Derive(d Derived) error {
	s := l.store
	raw, err := json.Marshal(derivedFile{Version: derivedVersion, Derived: d})
	if err != nil {
		return fmt.Errorf("recording a converted layer: %w", err)
	}
	unlock, err := s.lock()
	if err != nil {
		return fmt.Errorf("recording a converted layer: %w", err)
	}
	defer unlock()
	if err := os.MkdirAll(s.paths.Deriveds(), 0o755); err != nil {
		return fmt.Errorf("recording a converted layer: %w", err)
	}
	if err := s.writeFile(s.paths.Derived(d.From, d.Form), raw); err != nil {
		return fmt.Errorf("recording a converted layer: %w", err)
	}
	return nil
}
