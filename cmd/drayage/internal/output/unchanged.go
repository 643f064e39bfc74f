package output

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"drayage/blobstore"
	"drayage/blobstore/durable"
	"drayage/tarwriter"
	"drayage/tarwriter/compress"

	"github.com/opencontainers/go-digest"
)

// Archives that were written are remembered in a state file of the store: their fingerprints, and what
// tells that their files are untouched. An archive that would be written again as it is stays.

// archivesState is the name of the state file, and archivesVersion of what it has.
const (
	archivesState   = "archives"
	archivesVersion = 1
	mostArchives    = 200 // are remembered, those that were written last
)

type archives struct {
	Version  int       `json:"version"`
	Archives []written `json:"archives"` // the latest last
}

// written is an archive in a file.
type written struct {
	Path        string        `json:"path"` // absolute, behind links
	Fingerprint digest.Digest `json:"fingerprint"`
	Size        int64         `json:"size"`     // bytes of the file
	Modified    int64         `json:"modified"` // nanoseconds since 1970
	Changed     int64         `json:"changed"`  // as Modified, its name and mode included; 0 where that isn't known
	Inode       uint64        `json:"inode"`    // 0 where that isn't known
}

// look is what is to be remembered of the file at a path now. ok is false when there is no regular file.
func look(path string) (w written, ok bool) {
	path, err := durable.Follow(path)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return written{}, false
	}
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return written{}, false
	}
	inode, changed := durable.Identity(info)
	return written{Path: path, Size: info.Size(), Modified: info.ModTime().UnixNano(), Changed: changed, Inode: inode}, true
}

// readArchives reads the state file. It is empty where that can't be read.
func readArchives(store *blobstore.Store) archives {
	var a archives
	if err := json.Unmarshal(store.Note(archivesState), &a); err != nil || a.Version != archivesVersion {
		return archives{Version: archivesVersion}
	}
	return a
}

// Recall finds out whether FILE, which may be overwritten, is an archive that a command with this store
// has written, and that is untouched since. If the same bytes are to be written, it is left as it is.
// Call it before Open.
func (o *Flags) Recall(store *blobstore.Store) {
	if o.File == "" || !o.Force || o.Verify || o.split > 0 {
		return
	}
	now, ok := look(o.File)
	if !ok {
		return
	}
	for _, w := range readArchives(store).Archives {
		if now.Fingerprint = w.Fingerprint; now == w {
			o.kept = w.Fingerprint
		}
	}
}

// remember records an archive that was written to a file and is on disk.
func (a *Archive) remember(o Destination, members []tarwriter.Member) error {
	if o.name != a.Flags.File || a.Flags.NoSync || a.Flags.split > 0 {
		return nil
	}
	now, ok := look(o.name)
	if !ok {
		return nil
	}
	compression, err := a.Flags.Compression()
	if err != nil {
		return err
	}
	if now.Fingerprint, err = tarwriter.Fingerprint(members, compression); err != nil {
		return err
	}
	all := readArchives(a.Store)
	all.Archives = append(slices.DeleteFunc(all.Archives, func(w written) bool { return w.Path == now.Path }), now)
	if n := len(all.Archives); n > mostArchives {
		all.Archives = all.Archives[n-mostArchives:]
	}
	raw, err := json.Marshal(all)
	if err != nil {
		return err
	}
	return a.Store.KeepNote(archivesState, raw)
}

// kept is the output of an archive that exists and may be what is to be written. It is opened only if
// it is not.
type kept struct {
	path        string
	fingerprint digest.Digest
	compression compress.Format
	open        func() (tarwriter.Output, error)
}

// isUnchanged reports whether the file is what would be written, and its size in bytes.
func (k *kept) isUnchanged(members []tarwriter.Member) (size int64, same bool, err error) {
	is, err := tarwriter.Fingerprint(members, k.compression)
	if err != nil {
		return 0, false, err
	}
	now, ok := look(k.path)
	return now.Size, ok && is == k.fingerprint, nil
}

// Write implements tarwriter.Output.
func (k *kept) Write(ctx context.Context, members []tarwriter.Member, blobs tarwriter.Blobs, progress func(int64)) (tarwriter.Result, error) {
	out, err := k.open()
	if err != nil {
		return tarwriter.Result{}, err
	}
	r, err := out.Write(ctx, members, blobs, progress)
	return r, errors.Join(err, out.Close())
}

// Close implements tarwriter.Output.
func (*kept) Close() error { return nil }
