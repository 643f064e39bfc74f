// Package layout makes the names of a store's files and folders.
package layout

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"drayage/blobstore/internal/disk"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Dir is a store's folder. All of the store's names are made here:
//
//	oci-layout  index.json        of the OCI image layout; index.json is derived from roots/
//	blobs/sha256/<hex>            whole and verified; appears by rename
//	drayage.json                  marks the folder as a store, with its version
//	lock                          held while roots/ and index.json change
//	ingest/sha256-<hex>/data      as long as the blob; holds what the journal says, maybe more
//	                    /journal  what has arrived of it; appended to
//	                    /lock     held by the process at work on it
//	ingest/draft-<random>         content whose digest isn't known yet; held locked by its writer
//	derived/sha256-<hex>-<form>   what was made of a blob
//	quarantine/sha256-<hex>-<random>  blobs that the disk has damaged
//	hosts                         what was learned of registries' hosts
//	notes/<escaped name>          what users of the store keep with it
//	gate                          shared by who writes to a lease, held alone by a sweep
//	stamps                        how blobs' files were when they were last verified
//	verify                        how far an interrupted verification has come
//	leases/<id>                   digests kept by a living process, which holds it locked
//	roots/<escaped name>          a pulled image and the digests it needs
type Dir string

// Join is a path below the store.
func (d Dir) Join(elem ...string) string {
	return filepath.Join(append([]string{string(d)}, elem...)...)
}

// Layout is the file oci-layout.
func (d Dir) Layout() string { return d.Join(ocispec.ImageLayoutFile) }

// Index is the file index.json.
func (d Dir) Index() string { return d.Join(ocispec.ImageIndexFile) }

// Mark is the file that marks a folder as a store.
func (d Dir) Mark() string { return d.Join("drayage.json") }

// Lock is the lock of roots/ and index.json.
func (d Dir) Lock() string { return d.Join("lock") }

// States is the folder of users' state files.
func (d Dir) States() string { return d.Join("notes") }

// State is the state file of a name.
func (d Dir) State(name string) string { return filepath.Join(d.States(), escape(name)) }

// OldState is where a state file was when capital letters stood in its name as they are.
func (d Dir) OldState(name string) string { return filepath.Join(d.States(), url.QueryEscape(name)) }

// Gate is the lock between writers of leases and sweeps.
func (d Dir) Gate() string { return d.Join("gate") }

// Verified is the state of an interrupted verification.
func (d Dir) Verified() string { return d.Join("verify") }

// Stamps is the file of package stamps.
func (d Dir) Stamps() string { return d.Join("stamps") }

// Hosts is what was learned of hosts.
func (d Dir) Hosts() string { return d.Join("hosts") }

// Ingests is the folder of blobs on their way.
func (d Dir) Ingests() string { return d.Join("ingest") }

// Leases is the folder of leases.
func (d Dir) Leases() string { return d.Join("leases") }

// Roots is the folder of images' records.
func (d Dir) Roots() string { return d.Join("roots") }

// Blobs is the folder of the blobs of an algorithm.
func (d Dir) Blobs(a digest.Algorithm) string { return d.Join(ocispec.ImageBlobsDir, a.String()) }

// Blob is the file of a blob.
func (d Dir) Blob(of digest.Digest) string {
	return filepath.Join(d.Blobs(of.Algorithm()), of.Encoded())
}

// Ingest is the folder of a blob on its way.
func (d Dir) Ingest(of digest.Digest) string {
	return d.Join("ingest", of.Algorithm().String()+"-"+of.Encoded())
}

// IngestData is what was written of a blob on its way.
func (d Dir) IngestData(of digest.Digest) string { return filepath.Join(d.Ingest(of), "data") }

// IngestJournal is its journal.
func (d Dir) IngestJournal(of digest.Digest) string {
	return filepath.Join(d.Ingest(of), journalFile)
}

// IngestLock is its lock.
func (d Dir) IngestLock(of digest.Digest) string { return filepath.Join(d.Ingest(of), "lock") }

// Lease is the file of a lease.
func (d Dir) Lease(id string) string { return filepath.Join(d.Leases(), id) }

// Draft is the file of a draft.
func (d Dir) Draft(id string) string { return d.Join("ingest", "draft-"+id) }

// Quarantines is the folder of damaged blobs.
func (d Dir) Quarantines() string { return d.Join("quarantine") }

// Quarantine is the file of a damaged blob; id tells apart those of one digest.
func (d Dir) Quarantine(of digest.Digest, id string) string {
	return d.Join("quarantine", of.Algorithm().String()+"-"+of.Encoded()+"-"+id)
}

// Deriveds is the folder of records of conversions.
func (d Dir) Deriveds() string { return d.Join("derived") }

// Derived is the record of what was made of a blob.
func (d Dir) Derived(of digest.Digest, form string) string {
	return filepath.Join(d.Deriveds(), of.Algorithm().String()+"-"+of.Encoded()+"-"+form)
}

// journalFile is the name of an ingest's journal in its folder.
const journalFile = "journal"

// Root is the file of a root. Names too long for a file are cut, and told
// apart by their digest.
func (d Dir) Root(name string) string {
	const most = 200 // of the 255 bytes that file systems allow
	return filepath.Join(d.Roots(), shortened(name, escape(name), most))
}

// OldRoot is the file that a root had when capital letters stood in it as they are.
func (d Dir) OldRoot(name string) string {
	const most = 200
	return filepath.Join(d.Roots(), shortened(name, url.QueryEscape(name), most))
}

func shortened(name, escaped string, most int) string {
	if len(escaped) > most {
		sum := digest.FromString(name).Encoded()
		escaped = escaped[:most-len(sum)-1] + "-" + sum
	}
	return escaped
}

// escape makes a name one of a file. Capital letters are escaped, too: names that differ in
// nothing else are two files also where the file system doesn't tell capitals apart.
func escape(name string) string {
	var b strings.Builder
	escaped := url.QueryEscape(name)
	for i := 0; i < len(escaped); i++ {
		c := escaped[i]
		hex := i >= 1 && escaped[i-1] == '%' || i >= 2 && escaped[i-2] == '%'
		if c >= 'A' && c <= 'Z' && !hex {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	// The suffix is for files that are being written: x is, while x.tmp is a name as good as any.
	if name, ok := strings.CutSuffix(b.String(), disk.TempSuffix); ok {
		return name + "%2E" + strings.TrimPrefix(disk.TempSuffix, ".")
	}
	return b.String()
}

// ApartName is what names the files of a blob that is added apart.
func ApartName(desc ocispec.Descriptor) digest.Digest {
	return digest.FromString(fmt.Sprintf("%s of %d bytes", desc.Digest, desc.Size))
}
