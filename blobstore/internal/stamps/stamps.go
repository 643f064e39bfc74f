// Package stamps remembers how blobs' files were when they were last verified, so that what was
// not changed since needn't be hashed again.
package stamps

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"drayage/blobstore/durable"

	"github.com/opencontainers/go-digest"
)

// stamp is what tells that a blob's file was changed since it was verified. It is not proof:
// what a disk changes by itself, only Verify finds.
type stamp struct {
	size, modified, changed int64 // bytes, and nanoseconds since 1970
	inode                   uint64
}

// of is the stamp of a file that info is of.
func of(info fs.FileInfo) stamp {
	inode, changed := durable.Identity(info)
	return stamp{size: info.Size(), modified: info.ModTime().UnixNano(), changed: changed, inode: inode}
}

// Tick is at most how long the clock stands still that made a time. Those of file systems that
// keep hundredths of a second or less may stand for 2 seconds (FAT), others for a timer's tick.
func (s stamp) Tick() time.Duration {
	const (
		fine   = int64(10 * time.Millisecond)
		short  = 100 * time.Millisecond
		coarse = 2500 * time.Millisecond
	)
	if s.modified%fine == 0 || s.changed%fine == 0 && s.changed != 0 {
		return coarse
	}
	return short
}

// Before reports whether a file of this stamp was last changed more than a tick before a folder.
func (s stamp) Before(folder stamp) bool {
	tick := max(s.Tick(), folder.Tick())
	return max(s.modified, s.changed)+int64(tick) < folder.modified
}

// Store has the stamps of a store's blobs, in a file that is appended to: a line a blob, the last of
// which counts. Losing it costs the time to hash the blobs once. Its methods may be called from
// several goroutines, and several processes may append.
type Store struct {
	path string

	mu    sync.Mutex
	known map[digest.Digest]stamp
	read  int64       // bytes of the file so far
	file  fs.FileInfo // that was read
}

const (
	stampLine   = "%s %d %d %d %d\n"
	maxStamps   = 256 << 20 // bytes of the file: more than a million blobs
	maxStampLen = 256
)

// Same reports whether a blob's file is as it was when it was verified.
func (s *Store) Same(d digest.Digest, info fs.FileInfo) bool {
	now := of(info)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known[d] == now {
		return true
	}
	s.load() // another process may have added it
	return s.known[d] == now
}

// load reads what is new in the file. What can't be read is as if it weren't there.
func (s *Store) load() {
	f, err := durable.OpenPlain(s.path, os.O_RDONLY, 0)
	if err != nil {
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return
	}
	if info.Size() > maxStamps { // it is not worth that much
		_ = os.Remove(s.path)
		return
	}
	if s.known == nil || s.file == nil || !os.SameFile(s.file, info) || info.Size() < s.read {
		s.known, s.read = make(map[digest.Digest]stamp), 0
	}
	s.file = info
	raw, err := io.ReadAll(io.NewSectionReader(f, s.read, info.Size()-s.read))
	if err != nil {
		return
	}
	end := bytes.LastIndexByte(raw, '\n') + 1 // a line may be in the middle of being written
	s.read += int64(end)
	parseStamps(raw[:end], s.known)
}

// parseStamps reads lines. Those that are none are passed over.
func parseStamps(raw []byte, into map[digest.Digest]stamp) {
	for line := range bytes.Lines(raw) {
		if len(line) > maxStampLen {
			continue
		}
		if d, s, ok := parseStamp(string(line)); ok {
			into[d] = s
		}
	}
}

func parseStamp(line string) (d digest.Digest, s stamp, ok bool) {
	const parts = 5
	fields := strings.Fields(line)
	if len(fields) != parts || digest.Digest(fields[0]).Validate() != nil {
		return d, s, false
	}
	var errs [4]error
	s.size, errs[0] = strconv.ParseInt(fields[1], 10, 64)
	s.modified, errs[1] = strconv.ParseInt(fields[2], 10, 64)
	s.changed, errs[2] = strconv.ParseInt(fields[3], 10, 64)
	s.inode, errs[3] = strconv.ParseUint(fields[4], 10, 64)
	return digest.Digest(fields[0]), s, errors.Join(errs[:]...) == nil && s.size >= 0
}

// Put notes how a blob is that was just verified. What can't be noted is hashed again.
func (s *Store) Put(d digest.Digest, info fs.FileInfo) {
	now := of(info)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil {
		s.load()
	}
	if s.known == nil {
		s.known = make(map[digest.Digest]stamp)
	}
	if s.known[d] == now {
		return
	}
	f, err := durable.OpenPlain(s.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return
	}
	_, err = fmt.Fprintf(f, stampLine, d, now.size, now.modified, now.changed, now.inode)
	if errors.Join(err, f.Close()) == nil {
		s.known[d] = now
	}
}

// Compact leaves out of the file what is of blobs that are gone. Lines that another process
// adds meanwhile are lost, and found out anew. replace replaces the file.
func (s *Store) Compact(there map[digest.Digest]bool, replace func(path string, data []byte) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.load()
	var b bytes.Buffer
	gone := 0
	for d, at := range s.known {
		if !there[d] {
			gone++
			continue
		}
		fmt.Fprintf(&b, stampLine, d, at.size, at.modified, at.changed, at.inode)
	}
	if gone == 0 && s.read < 2*int64(b.Len())+4096 {
		return nil
	}
	s.file = nil
	return replace(s.path, b.Bytes())
}

// New is the stamps that the file at path holds, which need not be there.
func New(path string) *Store { return &Store{path: path} }
