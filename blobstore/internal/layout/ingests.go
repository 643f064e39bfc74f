package layout

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"drayage/blobstore/durable"
	"drayage/blobstore/internal/disk"

	"github.com/opencontainers/go-digest"
)

// Arrived is how many bytes of the disk are taken by what was fetched of a
// blob that isn't in the store yet.
func (d Dir) Arrived(of digest.Digest) int64 {
	info, err := os.Stat(d.IngestData(of))
	if err != nil {
		return 0
	}
	return disk.Allocated(info)
}

// DropPartial removes a partial blob, unless somebody is at work on it.
func (d Dir) DropPartial(of digest.Digest) {
	f, err := durable.OpenPlain(d.IngestLock(of), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return
	}
	defer f.Close()
	if won, err := durable.TryLock(f); err == nil && won && durable.StillNamed(f, d.IngestLock(of)) {
		d.RemoveIngest(of)
	}
}

// RemoveIngest clears an ingest away. The caller holds its lock. Files that it
// doesn't know keep the folder from going.
func (d Dir) RemoveIngest(of digest.Digest) {
	os.Remove(d.IngestJournal(of)) // first: data that nobody speaks for is nothing
	os.Remove(d.IngestData(of))
	os.Remove(d.IngestLock(of))
	os.Remove(d.Ingest(of))
}

// DropDeadIngests clears away the ingests that no process is at work on, when
// they hold nothing that could be continued or nobody has for long. What can't
// be removed stays for another time.
func (d Dir) DropDeadIngests(age time.Duration) {
	entries, _ := os.ReadDir(d.Ingests())
	for _, e := range entries {
		algorithm, hex, _ := strings.Cut(e.Name(), "-")
		blob := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex)
		if blob.Validate() != nil || d.worthKeeping(blob, age) {
			continue // not ours, or of use
		}
		path := d.IngestLock(blob)
		lock, err := durable.OpenPlain(path, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			continue
		}
		if won, err := durable.TryLock(lock); err == nil && won && durable.StillNamed(lock, path) && !d.worthKeeping(blob, age) {
			d.RemoveIngest(blob)
		}
		lock.Close()
	}
}

// worthKeeping reports whether an ingest may be continued.
func (d Dir) worthKeeping(of digest.Digest, age time.Duration) bool {
	if _, err := os.Stat(d.Blob(of)); err == nil {
		return false
	}
	for _, path := range []string{d.IngestData(of), d.IngestJournal(of)} {
		info, err := os.Stat(path)
		if err != nil || time.Since(info.ModTime()) > age && filepath.Base(path) == journalFile {
			return false
		}
	}
	return true
}
