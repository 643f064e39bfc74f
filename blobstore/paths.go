package blobstore

import (
	"encoding/hex"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// paths is a store's folder. All of the store's names are made here:
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
type paths string

func (p paths) join(elem ...string) string {
	return filepath.Join(append([]string{string(p)}, elem...)...)
}

func (p paths) layout() string                  { return p.join(ocispec.ImageLayoutFile) }
func (p paths) index() string                   { return p.join(ocispec.ImageIndexFile) }
func (p paths) mark() string                    { return p.join("drayage.json") }
func (p paths) lock() string                    { return p.join("lock") }
func (p paths) notes() string                   { return p.join("notes") }
func (p paths) note(name string) string         { return filepath.Join(p.notes(), escape(name)) }
func (p paths) oldNote(name string) string      { return filepath.Join(p.notes(), url.QueryEscape(name)) }
func (p paths) gate() string                    { return p.join("gate") }
func (p paths) verified() string                { return p.join("verify") }
func (p paths) stamps() string                  { return p.join("stamps") }
func (p paths) hosts() string                   { return p.join("hosts") }
func (p paths) ingests() string                 { return p.join("ingest") }
func (p paths) leases() string                  { return p.join("leases") }
func (p paths) roots() string                   { return p.join("roots") }
func (p paths) blobs(a digest.Algorithm) string { return p.join(ocispec.ImageBlobsDir, a.String()) }
func (p paths) blob(d digest.Digest) string {
	return filepath.Join(p.blobs(d.Algorithm()), d.Encoded())
}
func (p paths) ingest(d digest.Digest) string {
	return p.join("ingest", d.Algorithm().String()+"-"+d.Encoded())
}
func (p paths) ingestData(d digest.Digest) string { return filepath.Join(p.ingest(d), "data") }
func (p paths) ingestJournal(d digest.Digest) string {
	return filepath.Join(p.ingest(d), journalFile)
}
func (p paths) ingestLock(d digest.Digest) string { return filepath.Join(p.ingest(d), "lock") }
func (p paths) lease(id string) string            { return filepath.Join(p.leases(), id) }

func (p paths) draft(id string) string { return p.join("ingest", "draft-"+id) }
func (p paths) quarantines() string    { return p.join("quarantine") }
func (p paths) quarantine(d digest.Digest) string {
	return p.join("quarantine", d.Algorithm().String()+"-"+d.Encoded()+"-"+randomHex(4))
}
func (p paths) deriveds() string { return p.join("derived") }
func (p paths) derived(d digest.Digest, form string) string {
	return filepath.Join(p.deriveds(), d.Algorithm().String()+"-"+d.Encoded()+"-"+form)
}

const journalFile = "journal"

// root is the file of a root. Names too long for a file are cut, and told
// apart by their digest.
func (p paths) root(name string) string {
	const most = 200 // of the 255 bytes that file systems allow
	return filepath.Join(p.roots(), shortened(name, escape(name), most))
}

// oldRoot is the file that a root had when capital letters stood in it as they are.
func (p paths) oldRoot(name string) string {
	const most = 200
	return filepath.Join(p.roots(), shortened(name, url.QueryEscape(name), most))
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
	if name, ok := strings.CutSuffix(b.String(), besideSuffix); ok {
		return name + "%2E" + strings.TrimPrefix(besideSuffix, ".")
	}
	return b.String()
}

// randomHex is n random bytes as text, for names that must not collide.
func randomHex(n int) string {
	b := make([]byte, n)
	fillRandom(b)
	return hex.EncodeToString(b)
}
