// Package journal records what has arrived of a blob, so that a process that died, or a system,
// leaves what the next one can go on from.
package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"drayage/blobstore/durable"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Journal is what is noted of an ingest beside its data, in the order in which
// it happened. It is only ever appended to, so that a process that dies, or a
// system, leaves a prefix of it.
//
// The file is a header, which binds it to its blob, and records:
//
//	length of the payload   uint32, little-endian, as all numbers here
//	kind                    one byte
//	payload
//	CRC-32C                 uint32, of all of the record before it
//
// A session record opens what one process wrote and says during which boot of
// the system. A note is the writer's, opaque here. A mark says that all that
// the process knew of the journal before an offset is on the disk, and so is
// the data that it speaks of.
//
// After a reboot only what is before a mark of its own boot counts: the notes
// behind it, and their data, may have been lost in part. Within one boot
// everything counts, since the system has what a process wrote, however it died.
//
// Note may be called from several goroutines, and beside Checkpoint.
type Journal struct {
	file  durable.File
	boot  string
	empty int64 // end of one without records

	mu   sync.Mutex
	end  int64 // where the next record goes
	used bool  // this process has opened its session
}

const (
	magic         = "drayage journal 1\n"
	largest       = 256 << 20 // bytes; a larger one is not ours
	recordMost    = 1 << 20   // bytes of a payload
	recordSession = 1
	recordNote    = 2
	recordMark    = 3
	recordFrame   = 4 + 1 + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func header(desc ocispec.Descriptor) []byte {
	return fmt.Appendf(nil, "%s%s %d\n", magic, desc.Digest, desc.Size)
}

// Open opens the journal of a blob and returns the notes that count. A
// file that is no journal of this blob is emptied; a tail that can't be read is
// cut off.
func Open(disk durable.Disk, path string, desc ocispec.Descriptor, boot string) (*Journal, [][]byte, error) {
	f, err := disk.Open(path)
	if err != nil {
		return nil, nil, err
	}
	raw, err := readAll(f, largest)
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	notes, end := read(raw, header(desc), boot)
	if end < int64(len(raw)) {
		err = f.Truncate(end)
	}
	j := &Journal{file: f, boot: boot, end: end, empty: int64(len(header(desc)))}
	if err == nil && end == 0 {
		err = j.write(header(desc))
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return j, notes, nil
}

// readAll reads a file, or nothing of it when it is larger than most.
func readAll(f durable.File, most int64) ([]byte, error) {
	info, err := f.Stat()
	if err != nil || info.Size() > most {
		return nil, err
	}
	raw := make([]byte, info.Size())
	n, err := f.ReadAt(raw, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return raw[:n], err
}

// read returns the notes that count during a boot, and the offset
// behind the last record that can be read; 0 when the header is not this one.
func read(raw, head []byte, boot string) (notes [][]byte, end int64) {
	if !bytes.HasPrefix(raw, head) {
		return nil, 0
	}
	type note struct {
		payload []byte
		end     int64
		boot    string
	}
	var all []note
	marked := make(map[string]int64) // by boot: before which offset notes are durable
	session, known := "", false
	end = int64(len(head))
	for {
		kind, payload, size := cutRecord(raw[end:])
		if size == 0 {
			break
		}
		end += int64(size)
		switch {
		case kind == recordSession:
			session, known = string(payload), true
		case !known: // nobody wrote this
		case kind == recordNote:
			all = append(all, note{payload, end, session})
		case kind == recordMark && len(payload) == 8:
			if before := int64(binary.LittleEndian.Uint64(payload)); before <= end {
				marked[session] = max(marked[session], before)
			}
		}
	}
	for _, n := range all {
		if n.boot == boot && boot != "" || n.end <= marked[n.boot] {
			notes = append(notes, n.payload)
		}
	}
	return notes, end
}

// cutRecord reads the record at the front of raw. The size is 0 when there is
// no whole one.
func cutRecord(raw []byte) (kind byte, payload []byte, size int) {
	if len(raw) < recordFrame {
		return 0, nil, 0
	}
	n := binary.LittleEndian.Uint32(raw)
	if n > recordMost || len(raw) < recordFrame+int(n) {
		return 0, nil, 0
	}
	body, sum := raw[:5+n], raw[5+n:]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(sum) {
		return 0, nil, 0
	}
	return raw[4], body[5:], recordFrame + int(n)
}

func appendRecord(b []byte, kind byte, payload []byte) []byte {
	from := len(b)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	b = append(b, kind)
	b = append(b, payload...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[from:], castagnoli))
}

// Note appends a note. It is not synced.
func (j *Journal) Note(payload []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.append(recordNote, payload)
}

// append appends a record, and before the first one this process's session.
// The caller holds j.mu.
func (j *Journal) append(kind byte, payload []byte) error {
	var b []byte
	if !j.used {
		b = appendRecord(b, recordSession, []byte(j.boot))
	}
	if err := j.write(appendRecord(b, kind, payload)); err != nil {
		return err
	}
	j.used = true
	return nil
}

func (j *Journal) write(b []byte) error {
	if _, err := j.file.WriteAt(b, j.end); err != nil {
		return err
	}
	j.end += int64(len(b))
	return nil
}

// Checkpoint syncs data, and then marks what the journal said before as
// durable.
func (j *Journal) Checkpoint(data durable.File) error {
	j.mu.Lock()
	before := j.end
	j.mu.Unlock()
	if err := data.SyncData(); err != nil { // not under the lock: notes go on
		return err
	}
	j.mu.Lock()
	err := j.append(recordMark, binary.LittleEndian.AppendUint64(nil, uint64(before)))
	j.mu.Unlock()
	if err != nil {
		return err
	}
	return j.file.SyncData()
}

// Reset forgets all notes, for good.
func (j *Journal) Reset(desc ocispec.Descriptor, sync bool) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.file.Truncate(0); err != nil {
		return err
	}
	j.end, j.used = 0, false
	if err := j.write(header(desc)); err != nil || !sync {
		return err
	}
	return j.file.SyncData()
}

// Empty reports whether nothing was noted. It must not be called beside Note.
func (j *Journal) Empty() bool { return j.end <= j.empty }

// Close closes the file.
func (j *Journal) Close() error { return j.file.Close() }
